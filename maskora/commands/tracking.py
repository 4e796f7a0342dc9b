"""Clicks and silhouettes of a workspace: read, stored, and made into masks."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from maskora.commands.masks import build_masks, masks_are_by_hand
from maskora.commands.origin import placement_of
from maskora.config import Config
from maskora.config.clip import Mask
from maskora.errors import UserError
from maskora.files import write_text
from maskora.masks.files import read_labels, write_labels
from maskora.masks.markup import Markup
from maskora.masks.prompts import Box, Click, Prompt, check_inside, parse_box, parse_click
from maskora.masks.silhouettes import frame_ranges
from maskora.masks.trackers import open_tracker
from maskora.masks.tracking import Tracker
from maskora.video.fit import Placement
from maskora.video.images import read_image
from maskora.workspace import Source, TrackingRecord, Workspace


def to_workspace(prompt: Prompt, placement: Placement) -> Prompt:
    """A prompt in pixels of the original as one in pixels of the workspace's frames."""
    left, top, width, height = placement.region
    across, down = placement.size[0] / width, placement.size[1] / height
    return _moved(prompt, across, down, -left * across, -top * down)


def to_original(prompt: Prompt, placement: Placement) -> Prompt:
    """The way back, to a tenth of a pixel."""
    left, top, width, height = placement.region
    moved = _moved(prompt, width / placement.size[0], height / placement.size[1], left, top)
    x, y = round(moved.x, 1), round(moved.y, 1)
    if isinstance(moved, Click):
        return replace(moved, x=x, y=y)
    return replace(moved, x=x, y=y, width=round(moved.width, 1), height=round(moved.height, 1))


def _moved(prompt: Prompt, across: float, down: float, left: float, top: float) -> Prompt:
    """Scaled, then shifted. A click is about a pixel's middle, a box about pixels' edges."""
    if isinstance(prompt, Box):
        return Box(
            prompt.frame,
            prompt.x * across + left,
            prompt.y * down + top,
            prompt.width * across,
            prompt.height * down,
            prompt.object_id,
        )
    x, y = (prompt.x + 0.5) * across + left - 0.5, (prompt.y + 0.5) * down + top - 0.5
    return Click(prompt.frame, x, y, prompt.positive, prompt.object_id)


def parse_prompts(clicks: Iterable[str], boxes: Iterable[str], source: Source) -> list[Prompt]:
    """Texts in pixels of the original as prompts in pixels of the frames. Raises UserError."""
    given: list[Prompt] = [*map(parse_box, boxes), *map(parse_click, clicks)]
    check_inside(given, source.frames, *source.original_size)
    placement = placement_of(source)
    fitted = [to_workspace(prompt, placement) for prompt in given]
    for prompt, moved in zip(given, fitted, strict=True):
        try:
            check_inside([moved], source.frames, *source.size)
        except UserError:
            raise UserError(f"{prompt}: it lies in the part that is cropped away") from None
    return fitted


def open_configured_tracker(
    config: Config, workspace: Workspace, frames_THWC: np.ndarray
) -> Tracker:
    """The tracker of [tracker], for the workspace's clip. Raises UserError."""
    settings = config.tracker
    return open_tracker(settings.type, settings.checkpoint, frames_THWC, workspace.root)


def load_frames(workspace: Workspace, source: Source) -> np.ndarray:
    """The clip, (T, H, W, 3) uint8. Raises UserError."""
    return np.stack([read_image(workspace.source_frame(n)) for n in range(source.frames)])


def load_markup(workspace: Workspace, source: Source) -> Markup:
    """What was pointed at and tracked so far; else the silhouettes that the masks came from."""
    record = workspace.read_tracking()
    if record is None:
        shown_THW = stored_silhouettes(workspace, source)
        markup = Markup(shown_THW.copy(), shown_THW)
        marked_T = shown_THW.any(axis=(1, 2))
        markup.changed.update(np.flatnonzero(marked_T).tolist())  # not in tracking/ yet
        return markup
    prompts = _stored_prompts(record, source)
    shown_THW = _labels(source, workspace.tracked)
    before_THW = shown_THW.copy()
    for frame in {prompt.frame for prompt in prompts}:
        before_THW[frame] = _label(source, workspace.tracked_before(frame))
    return Markup(before_THW, shown_THW, prompts)


def _stored_prompts(record: TrackingRecord, source: Source) -> list[Prompt]:
    """Prompts as they were stored: to a tenth of a pixel, so they may lie a little outside."""
    placement, (width, height) = placement_of(source), source.size
    prompts: list[Prompt] = []
    for item in record.prompts:
        for kind, text in item.items():
            prompt = to_workspace((parse_box if kind == "box" else parse_click)(text), placement)
            if isinstance(prompt, Click):
                x, y = min(max(prompt.x, 0.0), width - 1.0), min(max(prompt.y, 0.0), height - 1.0)
                prompt = replace(prompt, x=x, y=y)
            prompts.append(prompt)
    check_inside(prompts, source.frames, width, height)
    return prompts


def stored_silhouettes(workspace: Workspace, source: Source) -> np.ndarray:
    """The silhouettes that masks/ were made from, (T, H, W); empty where there are none."""
    return _labels(source, workspace.silhouette)


def store_markup(workspace: Workspace, source: Source, markup: Markup) -> None:
    """Write what has changed; on a full disk nothing is forgotten, and the next call tries again.

    Raises:
        OSError: the disk is full, or may not be written.
    """
    pointed = {prompt.frame for prompt in markup.prompts}
    for frame in sorted(markup.changed):
        write_labels(workspace.tracked(frame), markup.shown_THW[frame])
        if frame in pointed:
            write_labels(workspace.tracked_before(frame), markup.before_THW[frame])
    placement = placement_of(source)
    named = [
        {"box" if isinstance(prompt, Box) else "click": str(to_original(prompt, placement))}
        for prompt in markup.prompts
    ]
    record = TrackingRecord.model_validate({"prompts": named})
    write_text(workspace.tracking_record, record.model_dump_json(indent=2) + "\n")
    markup.changed.clear()


def save_masks(
    workspace: Workspace, source: Source, markup: Markup, settings: Mask, replace_by_hand: bool
) -> tuple[np.ndarray, list[str]]:
    """Silhouettes become masks/.

    Args:
        replace_by_hand: also where the person has painted in masks/ since they were made.

    Returns:
        the final labels, (T, H, W), and notes for the person.

    Raises:
        UserError: nothing is marked, or masks/ were painted by hand.
    """
    silhouettes_THW = markup.shown_THW
    if settings.shape == "full":
        silhouettes_THW = np.ones_like(silhouettes_THW)
    if not silhouettes_THW.any():
        raise UserError("nothing is marked yet: click the object, or draw a box around it")
    if not replace_by_hand:
        refuse_painted(workspace, source)
    labels_THW, notes = build_masks(workspace, silhouettes_THW, settings, source)
    return labels_THW, [*tell_absences(markup), *notes]


def refuse_painted(workspace: Workspace, source: Source) -> None:
    """Raises UserError where the person has painted in masks/ since they were made."""
    if masks_are_by_hand(workspace, source):
        raise UserError(
            f"{workspace.masks_dir} was changed by hand since it was made, and would be replaced: "
            f"move it elsewhere, or say that it may go (--overwrite)"
        )


def tell_absences(markup: Markup) -> list[str]:
    """A sentence for each object that is not seen in some frames."""
    return [
        f"object {number} is not seen in frames {frame_ranges(frames)}: click it there if it is"
        for number, frames in markup.absences().items()
    ]


def _labels(source: Source, path_of: Callable[[int], Path]) -> np.ndarray:
    return np.stack([_label(source, path_of(frame)) for frame in range(source.frames)])


def _label(source: Source, path: Path) -> np.ndarray:
    """Stored labels; nothing where there are none, or they are of another clip's size."""
    width, height = source.size
    empty_HW = np.zeros((height, width), np.uint8)
    if not path.is_file():
        return empty_HW
    labels_HW = read_labels(path)
    return labels_HW if labels_HW.shape == empty_HW.shape else empty_HW
