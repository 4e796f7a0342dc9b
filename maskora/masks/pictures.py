"""What one mask picture holds: object numbers, or black and white."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from maskora.errors import UserError
from maskora.masks import Labels

BRIGHT = 127  # brighter than this = edit, in black-and-white, grey and colour masks
MOST_GREY_LABELS = 32  # a grey picture with no higher value holds label numbers, not brightness
GREY_TINT = 16  # channels that differ by no more are grey
DARK = 16  # a palette's colour with no higher channel is its black


def _davis_palette() -> npt.NDArray[np.uint8]:
    """The 256 colours of the DAVIS and VOC annotations, all different, shape (256, 3)."""
    index = np.arange(256)
    colours = np.zeros((256, 3), np.int64)
    for level in range(8):
        for channel in range(3):
            colours[:, channel] |= ((index >> (3 * level + channel)) & 1) << (7 - level)
    return colours.astype(np.uint8)


PALETTE = _davis_palette()


def bright(pixels_HWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Where the strongest channel is bright: pure red is as much a mask as white is."""
    bright_HW: npt.NDArray[np.bool_] = pixels_HWC.max(axis=-1) > BRIGHT
    return bright_HW


def _are_grey(colours_X3: npt.NDArray[np.uint8]) -> bool:
    return bool((np.ptp(colours_X3, axis=-1) <= GREY_TINT).all())


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


def _palette(image: Image.Image) -> npt.NDArray[np.uint8]:
    """The 256 colours of an indexed picture; where its palette is too short, those of DAVIS."""
    given = image.getpalette("RGB") or []
    return np.array([*given, *PALETTE.reshape(-1)[len(given) :]], np.uint8).reshape(-1, 3)


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


def open_picture(path: Path) -> Image.Image:
    """Open and decode one picture, upright.

    Raises: UserError where the file is missing, no picture, damaged, too large or of floats.
    """
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such mask.") from error
    except UnidentifiedImageError as error:
        raise UserError(f"{path} is no image: move it out of the masks.") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read as an image ({error}): save it again.") from error
    if image.mode == "F":
        raise UserError(f"{path} holds floating-point values: save it with 8 bits per channel.")
    return image


def read_picture(image: Image.Image, cut_out: bool) -> tuple[Labels, bool]:
    """What a mask picture holds.

    Args: cut_out: a transparent picture whose visible part has one colour is read by its alpha;
        otherwise what is transparent is kept.
    Returns: (labels_HW, False); or, from a grey picture, (values_HW, True): only its neighbours
        tell whether these are object numbers or brightness.
    """
    if image.mode.startswith("I"):  # 16 bits per pixel
        deep_HW = np.asarray(image)
        if deep_HW.max() > MOST_GREY_LABELS:
            deep_HW = np.where(deep_HW > BRIGHT * 257 + 128, 255, 0)
        return deep_HW.astype(np.uint8), True
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
    colours = rgb_HWC[opaque_HW]
    if cut_out and not opaque_HW.all() and (colours == colours[:1]).all():
        return opaque_HW.astype(np.uint8), False
    return (opaque_HW & bright(rgb_HWC)).astype(np.uint8), False
