"""evaluate: how good a result is, in numbers, curves and pictures. Loads torch for CLIP alone."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from maskora import __version__
from maskora.commands.origin import placement_of
from maskora.commands.result import (
    Result,
    check_still_belongs,
    final_mask,
    find_result,
    source_frame,
)
from maskora.commands.rules import check_edit_size
from maskora.commands.truth import TruthFiles, find_truth
from maskora.errors import UserError
from maskora.evaluation.clip import PROMPTS, Rater, encode_texts, find_clip, open_pictures
from maskora.evaluation.judge import Moment, Sight, judge
from maskora.evaluation.measures import Row, gather
from maskora.evaluation.pictures import Picture, pictures
from maskora.evaluation.presence import EditColours, edit_colours
from maskora.evaluation.report import as_json, as_page, report_on, summary
from maskora.files import write_text
from maskora.video.fit import fit_image
from maskora.video.images import read_image
from maskora.workspace import Source, Workspace

CLIP, QUALITY = "--clip", "--quality"
PAGE, NUMBERS = "report.html", "report.json"


@dataclass(frozen=True)
class Judged:
    """A result, and what it is held against.

    Attributes:
        labels_THW: masks, 0 keep.
        edited: edited frames at the workspace's size, by number.
        truth: where there is one.
    """

    workspace: Workspace
    source: Source
    result: Result
    labels_THW: np.ndarray
    edited: dict[int, np.ndarray]
    truth: TruthFiles | None


def evaluate_result(
    root: Path,
    edit: str | None,
    seed: int | None,
    truth: Path | None,
    clip: str | None,
    quality: str | None,
) -> None:
    """Judge a workspace's result; report.html and report.json are written beside it.

    Args:
        truth: a folder with the truth, where it is known.
        clip: a CLIP by its hub id or folder, for similarities; None: they are left out.
        quality: a CLIP with a text side, for the quality; None: it is left out.

    Raises:
        UserError: there is no such result, or something of it is missing or of another clip.
    """
    _check_names(clip, quality)
    judged = _open(Workspace(root), edit, seed, truth)
    album: list[list[Picture]] = []
    colours = _edit_colours(judged)
    rows = _judge(judged, colours, clip, quality, album)
    title = root.resolve().name if edit is None else f"{root.resolve().name}: {edit}"
    facts = _facts(judged, edit, clip, quality)
    report = report_on(title, facts, _notes(judged, colours, clip), gather(rows))
    folder = judged.result.folder
    write_text(folder / PAGE, as_page(report, album))
    write_text(folder / NUMBERS, json.dumps(as_json(report), indent=2) + "\n")
    print("\n".join([*summary(report), str(folder / PAGE)]))


def _check_names(clip: str | None, quality: str | None) -> None:
    for key, name in ((CLIP, clip), (QUALITY, quality)):
        if name is not None and not name.strip():
            raise UserError(f"{key} names nothing: give a folder or a hub id, or leave {key} out")


def _open(workspace: Workspace, edit: str | None, seed: int | None, truth: Path | None) -> Judged:
    source = workspace.read_source()
    result = find_result(workspace, source, edit, seed)
    for path in (result.folder / PAGE, result.folder / NUMBERS):
        if path.is_dir():
            raise UserError(f"{path} is a folder, but the report goes there: move it away")
    labels_THW = np.stack([final_mask(workspace, n, source) for n in range(source.frames)])
    edits = workspace.find_edits(edit, source.frames)
    frames = (source_frame(workspace, n, source) for n in range(source.frames))
    check_still_belongs(result, frames, labels_THW, edits)
    return Judged(
        workspace,
        source,
        result,
        labels_THW,
        {frame: _edited(path, source) for frame, path in {0: edits.first, **edits.images}.items()},
        None if truth is None else find_truth(truth, source),
    )


def _edited(path: Path, source: Source) -> np.ndarray:
    picture = read_image(path)
    size = (picture.shape[1], picture.shape[0])
    check_edit_size(path, size, source)
    return picture if size == source.size else fit_image(picture, placement_of(source))


def _edit_colours(judged: Judged) -> EditColours:
    return edit_colours(
        (
            edited,
            source_frame(judged.workspace, frame, judged.source),
            judged.labels_THW[frame] > 0,
        )
        for frame, edited in judged.edited.items()
    )


def _judge(
    judged: Judged,
    colours: EditColours,
    clip: str | None,
    quality: str | None,
    album: list[list[Picture]],
) -> list[Row]:
    """Every frame's numbers; its pictures go into the album."""
    folders = {
        key: find_clip(name, key)
        for key, name in ((CLIP, clip), (QUALITY, quality))
        if name is not None
    }
    with ExitStack() as models:
        encoders = {
            folder: models.enter_context(open_pictures(folder, key))
            for key, folder in folders.items()
        }
        rater = None
        if where := folders.get(QUALITY):
            rater = Rater(encoders[where], encode_texts(where, PROMPTS, QUALITY))
        looks = encoders[folders[CLIP]] if CLIP in folders else None
        sight = Sight(_first(judged), looks, rater)
        return list(judge(_shown(_moments(judged), album), colours, sight))


def _first(judged: Judged) -> np.ndarray:
    """The edited first frame as the model was told: the outside is the source's, unless kept."""
    first_HWC = judged.edited[0]
    if judged.result.record.config.appearance.spill == "keep":
        return first_HWC
    source_HWC = source_frame(judged.workspace, 0, judged.source)
    return np.where((judged.labels_THW[0] > 0)[..., None], first_HWC, source_HWC)


def _moments(judged: Judged) -> Iterator[Moment]:
    """Frame by frame everything that is compared, at the workspace's size."""
    source, truth = judged.source, judged.truth
    bar = tqdm(judged.result.frames(), desc="evaluate", total=source.frames, unit="frame")
    for number, frame_HWC in enumerate(bar):
        source_HWC = source_frame(judged.workspace, number, source)
        inside_HW = judged.labels_THW[number] > 0
        if not judged.result.exact:
            frame_HWC = fit_image(frame_HWC, placement_of(source))
        yield Moment(
            result_HWC=frame_HWC,
            source_HWC=source_HWC,
            inside_HW=inside_HW,
            keyframe_HWC=judged.edited.get(number) if number else None,
            truth=None if truth is None else truth.frame(number, source_HWC, inside_HW),
        )


def _shown(moments: Iterator[Moment], album: list[list[Picture]]) -> Iterator[Moment]:
    for moment in moments:
        album.append(pictures(moment))
        yield moment


def _facts(
    judged: Judged, edit: str | None, clip: str | None, quality: str | None
) -> dict[str, Any]:
    source, record = judged.source, judged.result.record
    return {
        "file": str(judged.result.video.path),
        "edit": edit,
        "seed": record.seed,
        "frames": source.frames,
        "size": "x".join(map(str, source.size)),
        "lock": record.config.inference.lock,
        "truth": None if judged.truth is None else str(judged.truth.folder),
        "clip": clip,
        "quality": quality,
        "program": f"maskora {__version__}",
    }


def _notes(judged: Judged, colours: EditColours, clip: str | None) -> list[str]:
    notes = []
    if not judged.result.exact:
        notes.append(
            "Judged from edited.mp4: what H.264 loses is part of every number, outside the mask "
            "too. With inference.lossless = true there is an exact file to judge."
        )
    if not colours.change:
        notes.append("The edited first frame is its source inside the mask: nothing was edited.")
    elif not colours.telling:
        notes.append(
            "The edit has much the same colours as the source, so whether they are kept cannot be "
            "told."
        )
    if clip is None:
        notes.append("Similarities by CLIP were not taken: name one with --clip.")
    return notes
