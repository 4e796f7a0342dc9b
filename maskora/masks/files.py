"""Mask files: what a picture marks, folders of masks, and the label PNGs of a workspace.

``labels_HW`` is uint8: 0 = keep, 1..n = the objects to edit.
"""

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from maskora.errors import UserError
from maskora.files import MOST_PIXELS, PICTURES, check_ordinary, is_hidden, replacing
from maskora.frames import Frames, LazyFrames, PackedLabels
from maskora.masks import Labels

BRIGHT = 127  # brighter than this = edit, in black-and-white, grey and colour masks
MOST_GREY_LABELS = 32  # a grey picture with no higher value holds label numbers, not brightness
GREY_TINT = 16  # channels that differ by no more are grey
DARK = 16  # a palette's colour with no higher channel is its black
DEEP = 257  # levels of 16 bits per level of 8
MARKED, OPAQUE = 1, 2  # bits of a frame of a mask video
DRAWN = 32  # levels from black or from full brightness, within which a mask's colours are
Item = TypeVar("Item")
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


def read_mask_folder(folder: Path) -> Frames:
    """Read the masks of a folder in natural numeric order, or one mask from an image file.

    Indexed pictures and colour pictures in the DAVIS colours give their object numbers, grey
    pictures hold the numbers themselves where all are dark. Anything else holds one object, where
    it is bright; a picture with transparency where it is opaque (of a drawing in black and white,
    where it is bright too).

    Returns: labels_THW, each read when it is asked for; one single entry for an image file.
    Raises: UserError where the folder is missing or empty, a file in it is no image, the sizes
        differ, or a grey picture is neither labels nor a mask.
    """
    files = _mask_files(folder) if folder.is_dir() else [folder]
    found = [_looked_at(*_read_file(file, cut_out=True)) for file in files]
    greys = _agreed(files, found)
    height, width = found[0].size
    for file, one in zip(files, found, strict=True):
        if one.size != (height, width):
            raise UserError(
                f"{file} is {one.size[1]}x{one.size[0]}, but {files[0].name} is"
                f" {width}x{height}: all masks must have one size."
            )

    def read(number: int) -> Labels:
        return _to_labels(*_read_file(files[number], cut_out=True), greys)

    return LazyFrames(read, (len(files), height, width))


def read_mask_frames(frames: Iterable[npt.NDArray[np.uint8]]) -> Frames:
    """Read the decoded frames_HWC of a mask video, at least one. Returns labels_THW.

    Bright = edit; where RGBA frames are transparent somewhere, opaque = edit.
    """
    marked = PackedLabels(map(_marked, frames))
    by_alpha = not all((both_HW & OPAQUE).all() for both_HW in marked)
    bit = OPAQUE if by_alpha else MARKED
    return LazyFrames(lambda n: ((marked[n] & bit) > 0).astype(np.uint8), marked.shape)


def _marked(frame_HWC: npt.NDArray[np.uint8]) -> Labels:
    """What is bright, and what is opaque, of a frame: a bit each."""
    bright_HW = _bright(frame_HWC[..., :3])
    has_alpha = frame_HWC.shape[-1] == 4
    opaque_HW = frame_HWC[..., 3] > BRIGHT if has_alpha else np.ones_like(bright_HW)
    return np.asarray(bright_HW * MARKED + opaque_HW * OPAQUE, np.uint8)


def read_labels(path: Path) -> Labels:
    """Read a label PNG, as written here or saved again by an image editor.

    Read as `read_mask_folder` reads one file, but what was made transparent is kept.

    Returns: labels_HW.
    Raises: UserError where the file is no image, or a grey picture is neither labels nor a mask.
    """
    picture = _read_file(path, cut_out=False)
    return _to_labels(*picture, _agreed([path], [_looked_at(*picture)]))


def write_labels(path: Path, labels_HW: Labels) -> None:
    """Write labels as an indexed PNG in the DAVIS colours."""
    assert labels_HW.dtype == np.uint8
    assert labels_HW.ndim == 2
    image = Image.fromarray(labels_HW)
    image.putpalette(PALETTE.tobytes())
    with replacing(path) as scratch:
        image.save(scratch, format="PNG")


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


def _natural_key(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Sort key in which frame2 comes before frame10."""
    parts = re.split(r"(\d+)", path.name)
    key = [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
    return key, path.name


def _mask_files(folder: Path) -> list[Path]:
    """The pictures of a folder in natural order; what else there is is logged, but hidden files."""
    entries = [entry for entry in folder.iterdir() if not is_hidden(entry)]
    subfolders = sorted(entry.name for entry in entries if entry.is_dir())
    found = sorted((entry for entry in entries if not entry.is_dir()), key=_natural_key)
    Image.init()
    suffixes = {"", *(s for s, kind in Image.EXTENSION.items() if kind in (*PICTURES, "MPO"))}
    files = [file for file in found if file.suffix.lower() in suffixes]
    if not files:
        inside = f" (it has subfolders: {', '.join(subfolders)})" if subfolders else ""
        raise UserError(f"{folder} holds no masks{inside}: name the folder with the images.")
    if others := [file.name for file in found if file not in files]:
        log.warning("note: %s: no pictures, left out: %s", folder, ", ".join(others))
    if subfolders:
        log.warning("%s: subfolders are not read: %s", folder, ", ".join(subfolders))
    return files


@dataclass(frozen=True)
class _Looked:
    """What is known of a picture before its grey values are understood.

    Attributes:
        size: (height, width).
        deep: its values are wider than 8 bits.
        peak: the highest of its grey values; 0 where it has labels.
    """

    size: tuple[int, int]
    deep: bool
    peak: int


@dataclass(frozen=True)
class _Greys:
    """How grey values are read, which the pictures of a folder decide together.

    Attributes:
        deep: 16 bits are used.
        bright: they are brightness, and no object numbers.
    """

    deep: bool
    bright: bool


def _looked_at(values_HW: npt.NDArray[np.unsignedinteger], grey: bool) -> _Looked:
    height, width = values_HW.shape
    return _Looked((height, width), values_HW.dtype != np.uint8, int(values_HW.max()) * grey)


def _agreed(files: Sequence[Path], found: Sequence[_Looked]) -> _Greys:
    """How grey values are read; they hold object numbers only where none of them is bright."""
    deep = any(one.deep and one.peak > 255 for one in found)
    peaks = [one.peak // DEEP if one.deep and deep else one.peak for one in found]
    peak = max(peaks)
    if MOST_GREY_LABELS < peak <= BRIGHT:
        raise UserError(
            f"{files[peaks.index(peak)]}: a grey picture with values up to {peak} is neither object"
            f" numbers (at most {MOST_GREY_LABELS}) nor a mask (white = edit):"
            " save it as an indexed PNG, or paint what is to be edited white."
        )
    return _Greys(deep, peak > BRIGHT)


def _to_labels(values_HW: npt.NDArray[np.unsignedinteger], grey: bool, greys: _Greys) -> Labels:
    if values_HW.dtype != np.uint8 and greys.deep:
        values_HW = values_HW // DEEP
    return (values_HW > BRIGHT if grey and greys.bright else values_HW).astype(np.uint8)


def _read_file(path: Path, cut_out: bool) -> tuple[npt.NDArray[np.unsignedinteger], bool]:
    return _read_picture(*_open_picture(path), cut_out)


def _open_picture(path: Path) -> tuple[Image.Image, bool]:
    """Open and decode one picture, upright; and whether its format keeps values only roughly.

    Raises: UserError where the file is missing, no picture, damaged, too large or of floats.
    """
    check_ordinary(path)
    try:
        with Image.open(path, formats=PICTURES) as file:
            if file.width * file.height > MOST_PIXELS:
                raise UserError(f"{path}: {file.width}x{file.height} pixels are too many.")
            rough = file.format in ("JPEG", "MPO")
            image = ImageOps.exif_transpose(file)
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such mask.") from error
    except UnidentifiedImageError as error:
        raise UserError(f"{path} is no image: move it out of the masks.") from error
    except UserError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read as an image ({error}): save it again.") from error
    if image.mode == "F":
        raise UserError(f"{path} holds floating-point values: save it with 8 bits per channel.")
    return image, rough


def _read_picture(
    image: Image.Image, rough: bool, cut_out: bool
) -> tuple[npt.NDArray[np.unsignedinteger], bool]:
    """The labels or grey values of a mask picture.

    Args: rough: grey values are brightness, as a JPEG's: none are object numbers; cut_out: a
        picture with transparency is read by its alpha; otherwise what is transparent is kept.
    Returns: (labels_HW, False); or, from a grey picture, (values_HW, True): only its neighbours
        tell whether these are object numbers or brightness. Values of 16-bit pictures are wider
        than uint8, and may hold no more than 8 bits.
    """
    if image.mode.startswith("I"):  # 16 bits per pixel
        return np.asarray(image).astype(np.uint32), True
    if rough and image.mode == "L":
        return _bright(np.array(image)[..., None]).astype(np.uint8), False
    if image.mode in ("1", "L") and not image.has_transparency_data:
        return np.array(image.convert("L")), True
    rgba_HWC = np.array(image.convert("RGBA"))
    rgb_HWC, opaque_HW = rgba_HWC[..., :3], rgba_HWC[..., 3] > BRIGHT
    if image.mode == "P":
        indices_HW, palette_N3 = np.array(image, dtype=np.uint8), _palette(image)
        rgb_HWC = palette_N3[indices_HW]
        numbers = _indices_to_labels(indices_HW, palette_N3)
        if numbers is None and opaque_HW.all() and _are_grey(rgb_HWC):
            return rgb_HWC.max(axis=-1), True
    else:
        numbers = _colours_to_labels(np.where(opaque_HW[..., None], rgb_HWC, 0))
    if numbers is not None and (opaque_HW.all() or numbers[opaque_HW].any()):
        return np.where(opaque_HW, numbers, 0).astype(np.uint8), False
    if cut_out and not opaque_HW.all() and not _is_drawn(rgb_HWC[opaque_HW]):
        return opaque_HW.astype(np.uint8), False
    return (opaque_HW & _bright(rgb_HWC)).astype(np.uint8), False


def _indices_to_labels(indices_HW: Labels, palette_N3: npt.NDArray[np.uint8]) -> Labels | None:
    """By DAVIS colours, which survive a reordered palette; by index in any other label palette.

    A palette is one of labels where it has colours, or its greys are numbered 0..n from black;
    and black, where it is used, is index 0. None for the palette of a black-and-white mask.
    """
    used = np.unique(indices_HW)
    colours = palette_N3[used]
    if np.array_equal(colours, PALETTE[used]):
        return indices_HW
    labels = _colours_to_labels(colours)
    if labels is not None and labels.any():
        table = np.zeros(len(palette_N3), np.uint8)
        table[used] = labels
        return table[indices_HW]
    black: npt.NDArray[np.bool_] = colours.max(axis=-1) <= DARK
    starts_black = bool(used[0] == 0 and black[0])
    if _are_grey(colours):
        in_turn = used[-1] == len(used) - 1 <= MOST_GREY_LABELS
        return indices_HW if starts_black and in_turn else None
    return indices_HW if starts_black or not black.any() else None


def _colours_to_labels(colours_X3: npt.NDArray[np.uint8]) -> Labels | None:
    """The labels_X of DAVIS colours; None where any is another colour, or all are grey."""
    shifts = np.array([16, 8, 0])
    palette = (PALETTE.astype(np.int64) << shifts).sum(axis=-1)
    codes = (colours_X3.astype(np.int64) << shifts).sum(axis=-1)
    order = np.argsort(palette)
    place = np.minimum(np.searchsorted(palette, codes, sorter=order), len(order) - 1)
    labels = order[place]
    if not np.array_equal(palette[labels], codes) or (_are_grey(colours_X3) and labels.any()):
        return None
    return labels.astype(np.uint8)


def _is_drawn(colours_X3: npt.NDArray[np.uint8]) -> bool:
    """True for a mask in black and white (or another bright colour), as no photo is."""
    levels_X = colours_X3.max(axis=-1, initial=0)
    dark, bright = levels_X <= DRAWN, levels_X >= 255 - DRAWN
    return bool(dark.any() and bright.any() and (dark | bright).mean() > 0.95)


def _palette(image: Image.Image) -> npt.NDArray[np.uint8]:
    """The 256 colours of an indexed picture; where its palette is too short, those of DAVIS."""
    given = image.getpalette("RGB") or []
    return np.array([*given, *PALETTE.reshape(-1)[len(given) :]], np.uint8).reshape(-1, 3)


def _are_grey(colours_X3: npt.NDArray[np.uint8]) -> bool:
    return bool((np.ptp(colours_X3, axis=-1) <= GREY_TINT).all())


def _bright(pixels_HWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """True where the strongest channel is bright: pure red is as much a mask as white is."""
    bright_HW: npt.NDArray[np.bool_] = pixels_HWC.max(axis=-1) > BRIGHT
    return bright_HW
