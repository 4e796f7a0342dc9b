"""Read and write masks. ``labels_HW`` is uint8: 0 = keep, 1..n = the objects to edit."""

import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from maskora.errors import UserError
from maskora.files import is_hidden, replacing
from maskora.masks import Labels
from maskora.masks.pictures import (
    BRIGHT,
    MOST_GREY_LABELS,
    PALETTE,
    bright,
    open_picture,
    read_picture,
)

Item = TypeVar("Item")
log = logging.getLogger("maskora")


def _natural_key(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Sort key in which frame2 comes before frame10."""
    parts = re.split(r"(\d+)", path.name)
    key = [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
    return key, path.name


def _mask_files(folder: Path) -> list[Path]:
    """The files of a folder in natural order; hidden files are no frames, subfolders are told."""
    entries = [entry for entry in folder.iterdir() if not is_hidden(entry)]
    subfolders = sorted(entry.name for entry in entries if entry.is_dir())
    files = sorted((entry for entry in entries if not entry.is_dir()), key=_natural_key)
    if not files:
        inside = f" (it has subfolders: {', '.join(subfolders)})" if subfolders else ""
        raise UserError(f"{folder} holds no masks{inside}: name the folder with the images.")
    if subfolders:
        log.warning("%s: subfolders are not read: %s", folder, ", ".join(subfolders))
    return files


def _read(files: Sequence[Path], cut_out: bool) -> list[Labels]:
    """Labels of each file; grey pictures hold object numbers only where none of them is bright."""
    pictures = [read_picture(open_picture(file), cut_out) for file in files]
    peaks = [int(values_HW.max()) if grey else 0 for values_HW, grey in pictures]
    peak = max(peaks)
    if MOST_GREY_LABELS < peak <= BRIGHT:
        raise UserError(
            f"{files[peaks.index(peak)]}: a grey picture with values up to {peak} is neither object"
            f" numbers (at most {MOST_GREY_LABELS}) nor a mask (white = edit):"
            " save it as an indexed PNG, or paint what is to be edited white."
        )
    return [
        (values_HW > BRIGHT).astype(np.uint8) if grey and peak > BRIGHT else values_HW
        for values_HW, grey in pictures
    ]


def read_mask_folder(folder: Path) -> list[Labels]:
    """Read the masks of a folder in natural numeric order, or one mask from an image file.

    Indexed pictures and colour pictures in the DAVIS colours give their object numbers, grey
    pictures hold the numbers themselves where all are dark. Anything else holds one object, where
    it is bright and opaque; a transparent picture whose visible part has one colour is read by
    its alpha.

    Returns: labels_HW of each frame, all of one size; one single entry for an image file.
    Raises: UserError where the folder is missing or empty, a file in it is no image, the sizes
        differ, or a grey picture is neither labels nor a mask.
    """
    files = _mask_files(folder) if folder.is_dir() else [folder]
    labels = _read(files, cut_out=True)
    height, width = labels[0].shape
    for file, labels_HW in zip(files, labels, strict=True):
        if labels_HW.shape != (height, width):
            raise UserError(
                f"{file} is {labels_HW.shape[1]}x{labels_HW.shape[0]}, but {files[0].name} is"
                f" {width}x{height}: all masks must have one size."
            )
    return labels


def read_mask_frames(frames: Iterable[npt.NDArray[np.uint8]]) -> list[Labels]:
    """Read the decoded frames_HWC of a mask video: bright = edit. Returns labels_HW of each."""
    return [bright(frame_HWC).astype(np.uint8) for frame_HWC in frames]


def write_labels(path: Path, labels_HW: Labels) -> None:
    """Write labels as an indexed PNG in the DAVIS colours."""
    assert labels_HW.dtype == np.uint8
    assert labels_HW.ndim == 2
    image = Image.fromarray(labels_HW)
    image.putpalette(PALETTE.tobytes())
    with replacing(path) as scratch:
        image.save(scratch, format="PNG")


def read_labels(path: Path) -> Labels:
    """Read a label PNG, as written here or saved again by an image editor.

    Read as `read_mask_folder` reads one file, but what was made transparent is kept.

    Returns: labels_HW.
    Raises: UserError where the file is no image, or a grey picture is neither labels nor a mask.
    """
    return _read([path], cut_out=False)[0]


def match_length(
    labels: Sequence[Item], frames_total: int, start: int, count: int, every: int, where: str
) -> list[Item]:
    """Give each chosen frame of the clip (``start``, ``start + every``, ...) its mask.

    Args: labels: one labels_HW (or its number) per chosen frame, one per frame of the whole clip,
        or just one for all; where: the masks' folder or file, for the message.
    Returns: ``count`` of them.
    Raises: UserError where the number of masks fits none of these.
    """
    assert start + (count - 1) * every < frames_total
    if len(labels) == 1:
        return list(labels) * count
    if len(labels) == count:
        return list(labels)
    if len(labels) == frames_total:
        return list(labels[start::every][:count])
    raise UserError(
        f"masks in {where}: {len(labels)} found. Give {count} (one per chosen frame),"
        f" {frames_total} (one per frame of the whole clip, at the constant rate it is read at),"
        " or a single image for all."
    )


def check_not_empty(labels: Iterable[Labels], where: str) -> None:
    """Raises: UserError where no mask marks anything to edit."""
    if not any(labels_HW.any() for labels_HW in labels):
        raise UserError(
            f"masks in {where}: nothing is marked in any frame. Paint what is to be edited white"
            f" (brighter than {BRIGHT}), or save object numbers as an indexed PNG."
        )
