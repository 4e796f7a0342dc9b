"""The frame that is edited with its tools, a small page of its own: its component and its answers.

Every answer is the frame as it is now; an error among them. What a tool does is `maskora.retouch`,
as in `maskora edit-frame`.
"""

import base64
import html
import json
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import cv2
import gradio as gr
import numpy as np
from pydantic import TypeAdapter, ValidationError

from gui_mask import jobs, words
from gui_mask.edits import read_upload
from gui_mask.errors import caught
from gui_mask.session import Session
from gui_mask.state import AppState
from gui_mask.telling import last_time, timed
from gui_mask.viewer import key_list, outlines
from maskora.app.edit_frame import Instruction, choose, copy_frame, make_candidates, take_result
from maskora.app.retouching import FrameEdit
from maskora.errors import UserError
from maskora.retouch import AnyStep
from maskora.video.images import read_image

STEP: TypeAdapter[AnyStep] = TypeAdapter(AnyStep)
LONGEST = 2_000  # letters of an instruction


def easel(state: AppState) -> gr.HTML:
    """The easel. Its value is ``{"token": …, "edit": …, "frame": …, "stamp": …}``."""
    here, viewer = files(__name__), files("gui_mask.viewer")

    # gr.HTML marks the function that it is given.
    def use(request: dict[str, Any]) -> dict[str, Any]:
        return answer(state, request)

    def text(place: Any, *names: str) -> str:
        return "\n".join(place.joinpath(name).read_text(encoding="utf-8") for name in names)

    return gr.HTML(
        shows("", "", 0, ""),
        html_template=Template(text(here, "easel.html")).substitute(
            {name: html.escape(word) for name, word in words.EASEL.items()},
            key_list=key_list(words.EASEL_KEYS),
        ),
        css_template=text(viewer, "viewer.css") + text(here, "easel.css"),
        js_on_load=f"const words = {json.dumps(words.EASEL)};\n"
        + text(viewer, "shared.js")
        + text(here, "easel.js"),
        server_functions=[use],
        elem_id="easel",
    )


def shows(token: str, edit: str, frame: int, stamp: str) -> dict[str, object]:
    """A value for the easel: its frame; another `stamp` makes it look for what is new."""
    return {"token": token, "edit": edit, "frame": frame, "stamp": stamp}


def answer(state: AppState, request: dict[str, Any]) -> dict[str, Any]:
    """Do what is asked, and tell how the frame is then; an error comes with it."""
    with caught() as problem:
        session = state.session(str(request.get("token")))
        edit, frame = str(request.get("edit") or ""), _whole(request, "frame")
        target = FrameEdit(session.workspace, session.config, edit or None, frame)
        news: dict[str, Any] = {}
        with caught() as failed:
            news = do(state, session, target, request)
        return {**standing(session, target), **news, "error": failed.text}
    return {"error": problem.text}


def do(
    state: AppState, session: Session, target: FrameEdit, request: dict[str, Any]
) -> dict[str, Any]:
    """One use of a tool; what the page should know beside how the frame is. Raises UserError."""
    name = request.get("name")
    if name == "step":
        target.add(_step(request))
    elif name == "preview":
        return {"picture": data_url(target.picture(_step(request)))}
    elif name in ("undo", "redo"):
        target.move(-1 if name == "undo" else 1)
    elif name == "copy":
        copy_frame(target, _whole(request, "number"), request.get("edited") is True, 0, 0)
    elif name == "result":
        take_result(target)
    elif name == "picture":
        return {"sticker": target.store(read_upload(_upload(state, request, "path")))}
    elif name == "carry":
        session.release()  # the base may need the GPU's memory
        with timed("carry"):
            jobs.carry(target.workspace, target.edit, target.frame)
    elif name == "instruct":
        with timed("instruct"):
            return {"candidates": _candidates(state, session, target, request)}
    elif name == "choose":
        choose(target, _whole(request, "number"))
    elif name != "look":
        raise UserError(words.not_known(name))
    return {}


def standing(session: Session, target: FrameEdit) -> dict[str, Any]:
    """A frame as it is now: its picture, the region, and the steps."""
    width, height = session.source.size
    before_HWC = target.other(target.frame, edited=False)
    told: dict[str, Any] = {
        "frame": target.frame, "count": session.source.frames, "width": width, "height": height,
        "before": data_url(before_HWC), "picture": data_url(before_HWC), "region": [],
        "steps": [], "done": 0, "editor": target.config.editor.model != "none",
        "trained": target.config.inference.lora == "none"
        or jobs.has_lora(target.workspace, target.edit),
        "busy": {name: words.doing(name, last_time(name)) for name in ("carry", "instruct")},
    }  # fmt: skip
    with caught() as problem:
        history = target.history()
        told["region"] = outlines(target.region().astype(np.uint8))
        told |= {"picture": data_url(target.picture()), "done": history.done}
        told["steps"] = [line.split(maxsplit=1)[1] for line in history.lines()]
    return {**told, "note": problem.text}


def data_url(image_HWC: np.ndarray) -> str:
    """A picture for the page, every level as it is."""
    _, data = cv2.imencode(".png", image_HWC[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return f"data:image/png;base64,{base64.b64encode(data.tobytes()).decode()}"


def _candidates(
    state: AppState, session: Session, target: FrameEdit, request: dict[str, Any]
) -> list[str]:
    session.release()  # the model may need the GPU's memory
    reference = _upload(state, request, "reference") if request.get("reference") else None
    if reference is not None:
        read_upload(reference)  # refused before anything is loaded
    text, count = str(request.get("text"))[:LONGEST], _whole(request, "candidates")
    made = make_candidates(target, Instruction(text, reference, count, _whole(request, "seed")))
    return [data_url(read_image(path)) for path in made]


def _step(request: dict[str, Any]) -> AnyStep:
    try:
        return STEP.validate_python(request.get("step"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(words.no_step(where, first["msg"])) from None


def _upload(state: AppState, request: dict[str, Any], key: str) -> Path:
    return state.upload(str(request.get(key)))


def _whole(request: dict[str, Any], key: str) -> int:
    value = request.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise UserError(words.no_whole_number(key))
    return value
