"""Read and write masks. ``labels_HW`` is uint8: 0 = keep, 1..n = the objects to edit."""

import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from maskora.errors import UserError
from maskora.masks import Labels

BRIGHT = 127  # brighter than this = edit, in black-and-white, grey and colour masks
MOST_GREY_LABELS = 32  # a grey picture with no higher value holds label numbers, not brightness

log = logging.getLogger("maskora")


def _davis_palette() -> npt.NDArray[np.uint8]:
    """The 256 colours of the DAVIS and VOC annotations, all different, shape (256, 3)."""
    index = np.arange(256)
    colours = np.zeros((256, 3), np.int64)
    for level in range(8):
        for channel in range(3):
            colours[:, channel] |= ((index >> (3 * level + channel)) & 1) << (7 - level)
    return colours.astype(np.uint8)


PALETTE = _davis_palette()


def _bright(pixels_HWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Where the strongest channel is bright: pure red is as much a mask as white is."""
    bright_HW: npt.NDArray[np.bool_] = pixels_HWC.max(axis=-1) > BRIGHT
    return bright_HW


def mask_to_labels(image: Image.Image) -> Labels:
    """Read a mask picture as labels.

    A palette picture is read by its indices. Anything else holds one object, where it is bright
    and opaque; a transparent picture whose visible part has one colour is read by its alpha.

    Returns: labels_HW.
    """
    if image.mode == "P":
        return np.array(image, dtype=np.uint8)
    if image.mode.startswith("I"):  # 16 bits per pixel
        return (np.asarray(image) > BRIGHT * 257 + 128).astype(np.uint8)
    rgba_HWC = np.asarray(image.convert("RGBA"))
    opaque_HW = rgba_HWC[..., 3] > BRIGHT
    colours = rgba_HWC[opaque_HW][:, :3]
    if not opaque_HW.all() and (colours == colours[:1]).all():
        return opaque_HW.astype(np.uint8)
    return (opaque_HW & _bright(rgba_HWC[..., :3])).astype(np.uint8)


def _open(path: Path) -> Image.Image:
    """Open and decode one picture, upright.

    Raises: UserError where the file is missing, no picture, damaged, or in floating point.
    """
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such mask.") from error
    except UnidentifiedImageError as error:
        raise UserError(f"{path} is no image: move it out of the masks.") from error
    except (OSError, SyntaxError) as error:  # Pillow's words for a damaged picture
        raise UserError(f"{path} cannot be read as an image ({error}): save it again.") from error
    if image.mode == "F":
        raise UserError(f"{path} holds floating-point values: save it with 8 bits per channel.")
    return image


def _natural_key(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Sort key in which frame2 comes before frame10."""
    parts = re.split(r"(\d+)", path.name)
    key = [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
    return key, path.name


def _mask_files(folder: Path) -> list[Path]:
    """The files of a folder in natural order; hidden files are no frames, subfolders are told."""
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    subfolders = sorted(entry.name for entry in entries if entry.is_dir())
    files = sorted((entry for entry in entries if not entry.is_dir()), key=_natural_key)
    if not files:
        inside = f" (it has subfolders: {', '.join(subfolders)})" if subfolders else ""
        raise UserError(f"{folder} holds no masks{inside}: name the folder with the images.")
    if subfolders:
        log.warning("%s: subfolders are not read: %s", folder, ", ".join(subfolders))
    return files


def read_mask_folder(folder: Path) -> list[Labels]:
    """Read the masks of a folder in natural numeric order, or one mask from an image file.

    Returns: labels_HW of each frame, all of one size; one single entry for an image file.
    Raises: UserError where the folder is missing or empty, a file in it is no image, or the
        sizes differ.
    """
    files = _mask_files(folder) if folder.is_dir() else [folder]
    labels: list[Labels] = []
    for file in files:
        labels.append(mask_to_labels(_open(file)))
        if labels[-1].shape != labels[0].shape:
            (height, width), (first_height, first_width) = labels[-1].shape, labels[0].shape
            raise UserError(
                f"{file} is {width}x{height}, but {files[0].name} is {first_width}x{first_height}:"
                " all masks must have one size."
            )
    return labels


def read_mask_frames(frames: Iterable[npt.NDArray[np.uint8]]) -> list[Labels]:
    """Read the decoded frames_HWC of a mask video: bright = edit. Returns labels_HW of each."""
    return [_bright(frame_HWC).astype(np.uint8) for frame_HWC in frames]


def write_labels(path: Path, labels_HW: Labels) -> None:
    """Write labels as an indexed PNG in the DAVIS colours."""
    assert labels_HW.dtype == np.uint8
    assert labels_HW.ndim == 2
    image = Image.fromarray(labels_HW)
    image.putpalette(PALETTE.tobytes())
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, format="PNG")


def _colours_to_labels(colours_N3: npt.NDArray[np.uint8]) -> Labels | None:
    """The labels_N of DAVIS colours; None where any colour is not one of them."""
    shifts = np.array([16, 8, 0])
    palette = (PALETTE.astype(np.int64) << shifts).sum(axis=1)
    codes = (colours_N3.astype(np.int64) << shifts).sum(axis=1)
    order = np.argsort(palette)
    place = np.minimum(np.searchsorted(palette, codes, sorter=order), len(order) - 1)
    labels = order[place]
    return labels.astype(np.uint8) if np.array_equal(palette[labels], codes) else None


def _indexed_to_labels(image: Image.Image) -> Labels:
    """By the DAVIS colours, which survive an editor that reorders the palette; else by index."""
    indices_HW = np.array(image, dtype=np.uint8)
    palette_N3 = np.array(image.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
    used, inverse = np.unique(indices_HW, return_inverse=True)
    if used[-1] >= len(palette_N3):
        return indices_HW
    labels = _colours_to_labels(palette_N3[used])
    return indices_HW if labels is None else labels[inverse.reshape(indices_HW.shape)]


def read_labels(path: Path) -> Labels:
    """Read a label PNG, as written here or saved again by an image editor.

    Indexed pictures and colour pictures in the DAVIS colours give their object numbers (what is
    transparent is kept), dark grey pictures hold the numbers themselves, and any other picture
    is a mask with one object where it is bright.

    Returns: labels_HW.
    Raises: UserError where the file is no image, or a grey picture is neither labels nor a mask.
    """
    image = _open(path)
    if image.mode == "P":
        return _indexed_to_labels(image)
    if image.mode == "L":
        grey_HW = np.array(image)
        if grey_HW.max() <= MOST_GREY_LABELS:
            return grey_HW
        if grey_HW.max() <= BRIGHT:
            raise UserError(
                f"{path}: a grey picture with values up to {grey_HW.max()} is neither object"
                f" numbers (at most {MOST_GREY_LABELS}) nor a mask (white = edit):"
                " save it as an indexed PNG, or paint what is to be edited white."
            )
    elif image.mode in ("RGB", "RGBA"):
        rgba_HWC = np.array(image.convert("RGBA"))
        rgba_HWC[rgba_HWC[..., 3] <= BRIGHT] = 0
        labels = _colours_to_labels(rgba_HWC[..., :3].reshape(-1, 3))
        if labels is not None:
            return labels.reshape(rgba_HWC.shape[:2])
    return mask_to_labels(image)


def match_length(
    labels: Sequence[Labels], frames_total: int, start: int, count: int, every: int, where: str
) -> list[Labels]:
    """Give each chosen frame of the clip (``start``, ``start + every``, ...) its mask.

    Args: labels: one labels_HW per chosen frame, one per frame of the whole clip, or just one
        for all; where: the masks' folder or file, for the message.
    Returns: ``count`` labels_HW.
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
        f"masks in {where}: {len(labels)} found, but the clip has {count} chosen frames"
        f" (of {frames_total}). Give one mask per chosen frame, one per frame of the whole clip,"
        " or a single image for all."
    )


def check_not_empty(labels: Iterable[Labels], where: str) -> None:
    """Raises: UserError where no mask marks anything to edit."""
    if not any(labels_HW.any() for labels_HW in labels):
        raise UserError(
            f"masks in {where}: nothing is marked in any frame. Paint what is to be edited white"
            f" (brighter than {BRIGHT}), or save object numbers as an indexed PNG."
        )
