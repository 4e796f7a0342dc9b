"""Masks of a workspace: from what the person gave to silhouettes, and on to final masks."""

import json
import logging
import tempfile
from pathlib import Path

import cv2
import numpy as np

from maskora.config import Config
from maskora.config.schema import Mask
from maskora.errors import UserError
from maskora.files import digest, digest_files, write_text
from maskora.masks.files import (
    check_not_empty,
    match_length,
    read_labels,
    read_mask_folder,
    read_mask_frames,
    write_labels,
)
from maskora.masks.shapes import final_masks, static_box_labels
from maskora.video.fit import Placement, fit_labels
from maskora.video.probe import VideoInfo, probe
from maskora.video.read import read_frames
from maskora.workspace import MaskRecord, Source, Workspace

log = logging.getLogger("maskora")
IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def silhouettes(
    mask: Path | None, box: str | None, info: VideoInfo, config: Config, placement: Placement
) -> list[np.ndarray]:
    """What the person gave, as labels (H, W) uint8 on the workspace's frames.

    Raises:
        UserError: nothing was given, or what was given is empty, of the wrong length or outside.
    """
    video = config.video
    if mask is not None and box is not None:
        raise UserError("give --mask or --box, not both")
    if mask is not None:
        given = _read_mask(mask)
        chosen = match_length(given, info.frames, video.start, video.frames, video.every, str(mask))
        check_not_empty(chosen, str(mask))
        original = [_to_size(labels, info.width, info.height) for labels in chosen]
    elif box is not None:
        original = list(static_box_labels(_parse_box(box), video.frames, info.height, info.width))
    elif config.mask.shape == "full":
        original = [np.ones((info.height, info.width), np.uint8)] * video.frames
    else:
        raise UserError(
            "where is the edit? Give --box X,Y,W,H (pixels of the original) or --mask FOLDER; "
            'for the whole picture --set mask.shape="full"'
        )
    fitted = [fit_labels(labels, placement) for labels in original]
    if not any(labels.any() for labels in fitted):
        raise UserError(
            "the mask lies wholly in the part that is cropped away; try --set video.fit=pad"
        )
    return fitted


def build_masks(
    workspace: Workspace, silhouettes_THW: np.ndarray, settings: Mask, source: Source
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Write masks/: the silhouettes and the final masks made from them, as a whole or not at all.

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
        if workspace.masks_dir.exists():
            workspace.masks_dir.replace(built.root / "earlier")
        built.masks_dir.replace(workspace.masks_dir)
    return labels_THW, notes


def load_masks(workspace: Workspace, settings: Mask, source: Source) -> np.ndarray:
    """The final labels (T, H, W), made anew where [mask] or a silhouette has changed since.

    Masks that the person has changed by hand are taken as they are.
    """
    finals = [workspace.mask(n) for n in range(source.frames)]
    raws = [workspace.silhouette(n) for n in range(source.frames)]
    missing = [path for path in finals if not path.is_file()]
    if missing:
        raise UserError(f"{missing[0]} is missing: run maskora prepare again, with --overwrite")
    record = workspace.read_mask_record()
    by_hand = digest_files(finals) != record.masks
    settings_changed = _settings(settings, source) != record.settings
    if by_hand and settings_changed:
        log.warning("masks/ were changed by hand, so the new [mask] settings have no effect")
    silhouettes_changed = (
        all(p.is_file() for p in raws) and digest_files(raws) != record.silhouettes
    )
    if (settings_changed or silhouettes_changed) and not by_hand:
        log.info(
            "masks: made anew from masks/raw, because %s changed",
            "[mask]" if settings_changed else "masks/raw",
        )
        labels_THW, notes = build_masks(
            workspace, _stack([read_labels(p) for p in raws], source), settings, source
        )
        for note in notes:
            log.info("note: %s", note)
        return labels_THW
    return _stack([read_labels(path) for path in finals], source)


def _settings(settings: Mask, source: Source) -> str:
    return digest(json.dumps(settings.model_dump(), sort_keys=True), str(source.cell))


def _stack(labels: list[np.ndarray], source: Source) -> np.ndarray:
    width, height = source.size
    for number, one in enumerate(labels):
        if one.shape != (height, width):
            raise UserError(
                f"mask {number:05d}.png is {one.shape[1]}x{one.shape[0]}, "
                f"the frames are {width}x{height}"
            )
    return np.stack(labels)


def _read_mask(mask: Path) -> list[np.ndarray]:
    if mask.is_dir() or mask.suffix.lower() in IMAGES:
        return read_mask_folder(mask)
    return read_mask_frames(read_frames(probe(mask)))


def _to_size(labels_HW: np.ndarray, width: int, height: int) -> np.ndarray:
    if labels_HW.shape == (height, width):
        return labels_HW
    return np.asarray(cv2.resize(labels_HW, (width, height), interpolation=cv2.INTER_NEAREST_EXACT))


def _parse_box(text: str) -> tuple[float, float, float, float]:
    parts = text.split(",")
    try:
        x, y, width, height = (float(part) for part in parts)
    except ValueError:
        raise UserError(
            f"--box {text}: write four numbers X,Y,W,H: left, top, width, height in pixels"
        ) from None
    return x, y, width, height
