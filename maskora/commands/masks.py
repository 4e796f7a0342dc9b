"""Masks of a workspace: from what the person gave to silhouettes, and on to final masks."""

import json
import logging
import tempfile
from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np

from maskora.config import Config
from maskora.config.clip import Mask
from maskora.errors import UserError
from maskora.files import digest, digest_files, move, write_text
from maskora.masks.files import (
    check_not_empty,
    match_length,
    read_labels,
    read_mask_folder,
    read_mask_frames,
    write_labels,
)
from maskora.masks.shapes import final_masks, static_box_labels
from maskora.system import quoted
from maskora.video.fit import Placement, fit_labels
from maskora.video.images import IMAGE_SUFFIXES, read_image, write_png
from maskora.video.overview import contact_sheet
from maskora.video.probe import VideoInfo, probe
from maskora.video.read import read_frames
from maskora.workspace import MaskRecord, Source, Workspace

log = logging.getLogger("maskora")
OVERVIEW_FRAMES = 12


def silhouettes(
    mask: Path | None, box: str | None, info: VideoInfo, config: Config, placement: Placement
) -> np.ndarray | None:
    """What the person gave, as labels (T, H, W) uint8 on the workspace's frames; None: nothing.

    Raises:
        UserError: what was given is empty, of the wrong length or outside.
    """
    if mask is not None and box is not None:
        raise UserError("give --mask or --box, not both")
    frames, (width, height) = config.video.frames, placement.size
    if mask is not None:
        given = _read_mask(mask, info, config)
        check_not_empty(given, str(mask))
        fitted = [_fit(labels, placement, mask) for labels in given]
    elif box is not None:
        labels = static_box_labels(_parse_box(box), 1, info.height, info.width)[0]
        fitted = [fit_labels(labels, placement)] * frames
    elif config.mask.shape == "full":
        fitted = [np.ones((height, width), np.uint8)] * frames
    else:
        return None
    if not any(labels.any() for labels in fitted):
        raise UserError(
            "the mask lies wholly in the part that is cropped away; try --set video.fit=pad"
        )
    return np.stack(fitted)


def build_masks(
    workspace: Workspace, silhouettes_THW: np.ndarray, settings: Mask, source: Source
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Write masks/ as a whole or not at all (silhouettes and final masks), and the overview.

    Returns:
        the final labels, (T, H, W), and notes for the person.
    """
    labels_THW, notes = final_masks(
        silhouettes_THW,
        settings.shape,
        settings.margin,
        settings.smooth,
        settings.min_area,
        source.cell,
    )
    check_not_empty(labels_THW, "the mask, after specks under [mask] min_area are dropped,")
    count = range(source.frames)
    with tempfile.TemporaryDirectory(dir=workspace.root, prefix=".masks-") as scratch:
        built = Workspace(Path(scratch))
        for number in count:
            write_labels(built.silhouette(number), silhouettes_THW[number])
            write_labels(built.mask(number), labels_THW[number])
        record = MaskRecord(
            settings=_settings(settings, source),
            silhouettes=digest_files([built.silhouette(n) for n in count]),
            masks=digest_files([built.mask(n) for n in count]),
        )
        write_text(built.mask_record, record.model_dump_json(indent=2) + "\n")
        with ExitStack() as undo:
            if workspace.masks_dir.exists():
                move(workspace.masks_dir, earlier := built.root / "earlier")
                undo.callback(move, earlier, workspace.masks_dir)
            move(built.masks_dir, workspace.masks_dir)
            undo.pop_all()
    draw_overview(workspace, labels_THW)
    return labels_THW, notes


def load_masks(workspace: Workspace, settings: Mask, source: Source) -> np.ndarray:
    """The final labels (T, H, W), made anew where [mask] or a silhouette has changed since.

    Masks that the person has changed by hand are taken as they are.
    """
    finals = [workspace.mask(n) for n in range(source.frames)]
    raws = [workspace.silhouette(n) for n in range(source.frames)]
    if not workspace.mask_record.is_file():
        root = quoted(workspace.root)
        raise UserError(
            f"{workspace.masks_dir} is not there yet: where is the edit? Click it in maskora gui "
            f"{root}, or say so: maskora track {root} --click "
            f"{quoted('FRAME,X,Y,+')}"
        )
    missing = [path for path in finals if not path.is_file()]
    if missing:
        raise UserError(f"{missing[0]} is missing: run maskora prepare again, with --overwrite")
    record = workspace.read_mask_record()
    reasons = ["[mask]"] if _settings(settings, source) != record.settings else []
    if all(path.is_file() for path in raws) and digest_files(raws) != record.silhouettes:
        reasons.append("masks/raw")
    by_hand = masks_are_by_hand(workspace, source)
    if reasons and by_hand:
        log.warning(
            "note: masks/ were changed by hand, so the change of %s has no effect",
            " and ".join(reasons),
        )
    if not reasons or by_hand:
        labels_THW = _stack(finals, source)
        check_not_empty(labels_THW, str(workspace.masks_dir))
        return labels_THW
    log.info("masks: made anew from masks/raw, because %s changed", " and ".join(reasons))
    labels_THW, notes = build_masks(workspace, _stack(raws, source), settings, source)
    for note in notes:
        log.info("note: %s", note)
    return labels_THW


def masks_are_by_hand(workspace: Workspace, source: Source) -> bool:
    """Whether the person has painted in masks/ since they were made."""
    finals = [workspace.mask(n) for n in range(source.frames)]
    if not workspace.mask_record.is_file() or not all(path.is_file() for path in finals):
        return False
    return digest_files(finals) != workspace.read_mask_record().masks


def draw_overview(workspace: Workspace, labels_THW: np.ndarray) -> None:
    """Draw source/overview.png: frames spread over the clip, with the masks."""
    count = min(OVERVIEW_FRAMES, len(labels_THW))
    numbers = [int(n) for n in np.linspace(0, len(labels_THW) - 1, count).round()]
    frames = [read_image(workspace.source_frame(n)) for n in numbers]
    sheet = contact_sheet(frames, [labels_THW[n] for n in numbers], captions=numbers)
    write_png(workspace.overview, sheet)


def _settings(settings: Mask, source: Source) -> str:
    return digest(json.dumps(settings.model_dump(), sort_keys=True), str(source.cell))


def _stack(paths: list[Path], source: Source) -> np.ndarray:
    width, height = source.size
    labels = [read_labels(path) for path in paths]
    for path, one in zip(paths, labels, strict=True):
        if one.shape != (height, width):
            size = f"{one.shape[1]}x{one.shape[0]}"
            raise UserError(f"{path} is {size}; the frames are {width}x{height}")
    return np.stack(labels)


def _read_mask(mask: Path, info: VideoInfo, config: Config) -> list[np.ndarray]:
    """One mask per chosen frame; of a mask video only those frames are kept in memory."""
    video = config.video
    chosen = (info.frames, video.start, video.frames, video.every, str(mask))
    if mask.is_dir() or mask.suffix.lower() in IMAGE_SUFFIXES:
        return match_length(read_mask_folder(mask), *chosen)
    masks = probe(mask)
    numbers = match_length(range(masks.frames), *chosen)
    if len(set(numbers)) == 1:  # a video of one frame, for all
        return read_mask_frames(read_frames(masks, 0, 1)) * len(numbers)
    every = numbers[1] - numbers[0]
    return read_mask_frames(read_frames(masks, numbers[0], len(numbers), every))


def _fit(labels_HW: np.ndarray, placement: Placement, where: Path) -> np.ndarray:
    """A mask on the workspace's frame, given at its size, or at the original's in any scale."""
    size, original = labels_HW.shape[::-1], placement.original_size
    if size == placement.size != original:
        return labels_HW
    if abs(size[0] / size[1] / (original[0] / original[1]) - 1) > 0.02:
        raise UserError(
            f"{where}: a mask is {size[0]}x{size[1]}, the video {original[0]}x{original[1]}; it "
            f"must have the same shape, at any size, or the workspace's size "
            f"{placement.size[0]}x{placement.size[1]}"
        )
    if size != original:
        nearest = cv2.INTER_NEAREST_EXACT
        labels_HW = np.asarray(cv2.resize(labels_HW, original, interpolation=nearest))
    return fit_labels(labels_HW, placement)


def _parse_box(text: str) -> tuple[float, float, float, float]:
    try:
        x, y, width, height = (float(part) for part in text.split(","))
    except ValueError:
        x = y = width = height = float("nan")
    if not np.isfinite([x, y, width, height]).all():
        raise UserError(
            f"--box {text}: write four numbers X,Y,W,H: left, top, width, height in pixels"
        )
    return x, y, width, height
