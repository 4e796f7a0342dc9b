"""The picture with its timeline, a small page of its own: its component, and what it is answered.

The viewer asks what is new since a version that it knows (`view`), or for something to be done
(`act`); both are answered with plain data, an error among them.
"""

import html
import json
import math
from collections.abc import Callable, Sequence
from importlib.resources import files
from string import Template
from typing import Any

import cv2
import gradio as gr
import numpy as np
from pydantic import ValidationError

from gui_mask import words
from gui_mask.errors import caught
from gui_mask.session import Session
from gui_mask.state import AppState
from gui_mask.telling import last_time, timed
from maskora.errors import UserError
from maskora.masks import Labels
from maskora.masks.prompts import MOST_OBJECTS, Box, Click, Mark, Painting
from maskora.masks.shapes import Boxes, final_boxes, final_masks
from maskora.retouch import Paint

SLOW = ("click", "box", "follow")  # what may take seconds
Outlined = tuple[int, list[list[int]]]  # an object's number, and its lines: x0, y0, x1, y1, … each


def viewer(state: AppState) -> gr.HTML:
    """The viewer. Its value is ``{"token": …, "bump": …}``: whose clip it shows, and since when."""

    # gr.HTML marks the functions that it is given.
    def view(request: dict[str, Any]) -> dict[str, Any]:
        return answer(state, request, lambda session: None)

    def act(request: dict[str, Any]) -> dict[str, Any]:
        return answer(state, request, lambda session: do(session, request))

    return gr.HTML(
        shows("", 0),
        html_template=Template(script("viewer.html")).substitute(
            {name: html.escape(text) for name, text in words.VIEWER.items()},
            key_list=key_list(words.VIEWER_KEYS),
        ),
        css_template=script("viewer.css"),
        js_on_load="\n".join(
            [
                f"const words = {json.dumps(words.VIEWER)};",
                script("shared.js"),
                script("viewer.js"),
            ]
        ),
        server_functions=[view, act],
        elem_id="viewer",
    )


def script(name: str) -> str:
    """A file beside this one, as text."""
    return files(__name__).joinpath(name).read_text(encoding="utf-8")


def key_list(keys: Sequence[tuple[str, str]]) -> str:
    """Keys and what they do, as the items of a <dl>."""
    pairs = ((html.escape(key), html.escape(meaning)) for key, meaning in keys)
    return "".join(f"<div><dt>{key}</dt><dd>{meaning}</dd></div>" for key, meaning in pairs)


def shows(token: str, bump: int) -> dict[str, object]:
    """A value for the viewer; another `bump` makes it look for what is new."""
    return {"token": token, "bump": bump}


def answer(
    state: AppState, request: dict[str, Any], work: Callable[[Session], None]
) -> dict[str, Any]:
    """Do something, and tell what is new since then; an error comes with it."""
    with caught() as problem:
        session = state.session(str(request.get("token")))
        with caught(kept=words.KEPT) as failed, timed(_kind(session, str(request.get("name")))):
            work(session)
        news = since(session, _number(request, "version"), _number(request, "regions"))
        return {**news, "error": failed.text} if failed.text else news
    return {"error": problem.text}


def _kind(session: Session, name: str) -> str:
    """What decides how long an action takes, beside the clip."""
    opens = "" if session.is_ready else ", opening the tracker"
    return f"{name}, {session.config.tracker.type}{opens}"


def do(session: Session, request: dict[str, Any]) -> None:
    """One action of the viewer. Raises UserError."""
    frame, number = _number(request, "frame"), _number(request, "object")
    name = request.get("name")
    if frame >= session.source.frames:
        raise UserError(words.no_frame(frame, session.source.frames))
    if name == "click":
        positive = request.get("positive") is True
        session.point([Click(frame, _real(request, "x"), _real(request, "y"), positive, number)])
    elif name == "box":
        x, y, width, height = (_real(request, key) for key in ("x", "y", "width", "height"))
        session.point([Box(frame, x, y, width, height, number)])
    elif name == "paint":
        session.paint(frame, number, _stroke(request), request.get("positive") is True)
    elif name == "name":
        if not 1 <= number <= MOST_OBJECTS:
            raise UserError(words.no_object(MOST_OBJECTS))
        session.name(number, str(request.get("text")))
    elif name in ("undo", "redo"):
        session.undo() if name == "undo" else session.redo()
    elif name == "clear_frame":
        session.clear_frame(frame)
    elif name == "clear_object":
        session.clear_object(number)
    elif name == "stop":
        session.stop_tracking()
    elif name == "follow" and request.get("direction") in ("both", "forward", "backward"):
        direction = request["direction"]
        session.follow(None if direction == "both" else frame, direction)
    else:
        raise UserError(words.not_known(name))


def since(session: Session, version: int, regions: int) -> dict[str, Any]:
    """Everything that changed after a version, and after the one that the page's regions are of.

    0 stands for a page that has nothing yet.
    """
    markup, tracking = session.markup, session.tracking
    data: dict[str, Any] = {
        "token": session.token,
        "version": session.version,
        "message": session.message,
        "objects": markup.objects,
        "names": {str(number): name for number, name in session.names.items()},
        "pointed": sorted({prompt.frame for prompt in markup.prompts}),
        "took": {name: last_time(_kind(session, name)) for name in SLOW},
        "tracking": [tracking.done, tracking.total] if tracking else None,
        "frames": {
            str(frame): {
                "silhouettes": outlines(markup.shown_THW[frame]),
                "marks": marks(markup.prompts, frame),
            }
            for frame, changed in enumerate(session.versions)
            if changed > version
        },
    }
    if version == 0:
        width, height = session.source.size
        data |= {"width": width, "height": height, "count": session.source.frames}
        data["fps"] = float(session.source.rate)
    if tracking is None:  # the rest is only worked out while nothing is under way
        data["saved"] = session.is_saved
        if regions < session.version:
            data["regions"], data["notes"] = region_outlines(session)
    return data


def region_outlines(session: Session) -> tuple[list[list[Outlined]], tuple[str, ...]]:
    """Outlines of the region that would be edited, per frame, and notes for the person."""
    mask, source = session.region.within(session.config.mask), session.source
    if mask.shape != "box":
        final_THW, notes = final_masks(session.markup.shown_THW, mask, source.cell)
        return [outlines(labels_HW) for labels_HW in final_THW], notes
    boxes_NT4, object_ids, notes = session.boxes(mask.min_area)
    final_NT4 = final_boxes(boxes_NT4, mask, source.cell, *source.size)
    return [box_outlines(final_NT4, object_ids, n) for n in range(source.frames)], notes


def outlines(labels_HW: Labels) -> list[Outlined]:
    """The outer and inner outlines of each object, in whole pixels."""
    found = []
    for number in np.unique(labels_HW[labels_HW > 0]).tolist():
        lines, _ = cv2.findContours(
            (labels_HW == number).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE
        )
        thinned = [cv2.approxPolyDP(line, 0.8, True) for line in lines]
        found.append((int(number), [line.reshape(-1).tolist() for line in thinned]))
    return found


def box_outlines(boxes_NT4: Boxes, object_ids: Sequence[int], frame: int) -> list[Outlined]:
    """The boxes of one frame in the same form."""
    found = []
    for number, box_4 in zip(object_ids, boxes_NT4[:, frame], strict=True):
        if not np.isnan(box_4[0]):
            x0, y0, x1, y1 = (int(side) for side in box_4)
            found.append((number, [[x0, y0, x1, y0, x1, y1, x0, y1]]))
    return found


def marks(prompts: Sequence[Mark], frame: int) -> list[dict[str, Any]]:
    """A frame's clicks and boxes; what was painted is drawn as its silhouette alone."""
    return [
        {"x": one.x, "y": one.y, "object": one.object_id}
        | (
            {"width": one.width, "height": one.height}
            if isinstance(one, Box)
            else {"positive": one.positive}
        )
        for one in prompts
        if one.frame == frame and not isinstance(one, Painting)
    ]


def _number(request: dict[str, Any], key: str) -> int:
    """A whole number of a request; 0 where there is none, or something else."""
    value = request.get(key)
    return value if isinstance(value, int) and value >= 0 else 0


def _stroke(request: dict[str, Any]) -> Paint:
    """A stroke of the brush: its size, and where it went."""
    try:
        given = {key: request.get(key) for key in ("radius", "points")}
        return Paint.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(words.no_stroke(where, first["msg"])) from None


def _real(request: dict[str, Any], key: str) -> float:
    value = request.get(key)
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(words.no_number(key))
    return float(value)
