"""Single pictures on disk."""

import io
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps

from maskora.errors import UserError
from maskora.files import MOST_PIXELS, PICTURES, check_ordinary, write_bytes

ALIKE = 2  # levels by which a profile may differ from sRGB and is sRGB all the same
log = logging.getLogger("maskora")
_SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "MPO": ".jpg", "WEBP": ".webp"}  # MPO: two JPEGs


def natural_key(path: Path) -> tuple[tuple[int, str], ...]:
    """A sort key in which frame2 comes before frame10."""
    parts = re.findall(r"\d+|\D+", path.name.lower())
    return tuple((int(p), "") if p.isdecimal() else (-1, p) for p in parts)


@contextmanager
def _opened(path: Path, formats: tuple[str, ...] = PICTURES) -> Iterator[Image.Image]:
    """An image file; whatever turns out to be wrong while it is open is a UserError."""
    check_ordinary(path)
    try:
        image = Image.open(path, formats=formats)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: not a readable image ({error})") from None
    with image:
        if image.width * image.height > MOST_PIXELS:
            raise UserError(f"{path}: {image.width}x{image.height} pixels are too many")
        try:
            yield image
        except (OSError, SyntaxError, ValueError) as error:
            raise UserError(f"{path}: damaged image ({error})") from None


def image_size(path: Path) -> tuple[int, int]:
    """Displayed (width, height).

    Raises:
        UserError: the file is missing, damaged or no image.
    """
    with _opened(path) as image:
        turned = image.getexif().get(0x0112, 1) >= 5
        return (image.height, image.width) if turned else image.size


def has_transparency(path: Path) -> bool:
    """Whether a picture's file can hold transparency. Raises UserError where it is none."""
    with _opened(path) as image:
        return image.has_transparency_data


def picture_header(path: Path) -> tuple[str, tuple[int, int]]:
    """The suffix that a picture's content deserves, and its (width, height) as stored.

    Only the header is read: what it unpacks to may be any size.

    Raises:
        UserError: it is missing, damaged, or neither PNG, JPEG nor WebP.
    """
    with _opened(path, formats=("PNG", "JPEG", "WEBP")) as image:
        return _SUFFIXES[image.format or ""], image.size


def read_image(path: Path) -> np.ndarray:
    """Read a picture as shape (H, W, 3) uint8 RGB.

    The EXIF orientation is applied, a colour profile is converted to sRGB, 16-bit grey is reduced
    to 8, a palette is resolved, and transparency is flattened over black.

    Raises:
        UserError: the file is missing, damaged or no image.
    """
    image_HWC = read_with_alpha(path)
    return over_black(image_HWC) if image_HWC.shape[2] == 4 else image_HWC


def read_with_alpha(path: Path) -> np.ndarray:
    """The same with transparency where the picture has any: (H, W, 4) RGBA, else (H, W, 3)."""
    with _opened(path) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I") or upright.mode == "F":
            return _grey(upright)
        if upright.has_transparency_data:
            return np.array(_to_srgb(upright.convert("RGBA"), path))
        return np.array(_to_srgb(upright, path).convert("RGB"))


def _grey(image: Image.Image) -> np.ndarray:
    """A grey picture of more than 8 bits as RGB."""
    grey_HW = np.asarray(image).astype(np.float64)
    if image.mode != "F":
        grey_HW = grey_HW / 257  # 16 bits to 8
    grey_HW = np.clip(np.round(grey_HW), 0, 255).astype(np.uint8)
    return np.repeat(grey_HW[:, :, None], 3, axis=2)


def _to_srgb(image: Image.Image, path: Path) -> Image.Image:
    """A picture whose colour profile is not sRGB, converted to it; others as they are."""
    if not (data := image.info.get("icc_profile")):
        return image
    if image.mode not in ("RGB", "RGBA", "L", "CMYK"):
        image = image.convert("RGB")
    target = "RGBA" if image.mode == "RGBA" else "RGB"
    try:
        convert = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(data)),
            ImageCms.createProfile("sRGB"),
            image.mode,
            target,
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (OSError, ImageCms.PyCMSError) as error:
        log.warning("note: %s: its colour profile cannot be used (%s)", path, error)
        return image
    levels = np.linspace(0, 255, 9).round().astype(np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(9, 81, 3)
    sample = Image.fromarray(cube).convert(image.mode)
    moved = np.array(convert.apply(sample)).astype(int)
    if abs(moved - np.array(sample.convert(target))).max() <= ALIKE:
        return image
    return convert.apply(image)


def over_black(image_HWC: np.ndarray) -> np.ndarray:
    """(H, W, 4) uint8 RGBA over black, (H, W, 3)."""
    alpha_HW1 = image_HWC[..., 3:].astype(np.uint16)
    return ((image_HWC[..., :3] * alpha_HW1 + 127) // 255).astype(np.uint8)


def write_png(path: Path, image_HWC: np.ndarray) -> None:
    """Write (H, W, 3) uint8 RGB, or RGBA. The file appears whole or not at all."""
    write_bytes(path, png_bytes(image_HWC))


def png_bytes(image_HWC: np.ndarray) -> bytes:
    """(H, W, 3) uint8 RGB, or RGBA, as a PNG file; the same pixels give the same bytes."""
    assert image_HWC.dtype == np.uint8 and image_HWC.ndim == 3 and image_HWC.shape[2] in (3, 4)
    buffer = io.BytesIO()
    Image.fromarray(image_HWC).save(buffer, format="PNG", compress_level=3)
    return buffer.getvalue()
