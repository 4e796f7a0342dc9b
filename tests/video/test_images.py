"""Pictures of every common kind, read the same way."""

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from maskora.errors import UserError
from maskora.masks.files import read_labels
from maskora.video.images import image_size, natural_key, read_image, read_with_alpha, write_png
from tests.system import posix_only


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def test_png_comes_back_as_it_was(tmp_path: Path, picture: np.ndarray) -> None:
    write_png(tmp_path / "a.png", picture)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), picture)
    assert image_size(tmp_path / "a.png") == (8, 6)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"], "no scratch file stays"


@pytest.mark.parametrize("suffix", ["jpg", "webp", "bmp", "tif"])
def test_other_formats(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.new("RGB", (8, 6), (200, 30, 60)).save(path)
    np.testing.assert_allclose(read_image(path).mean((0, 1)), (200, 30, 60), atol=4)


def test_exif_orientation_is_applied(tmp_path: Path, picture: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter clockwise to be upright
    Image.fromarray(picture).save(tmp_path / "a.png", exif=exif)
    assert image_size(tmp_path / "a.png") == (6, 8)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.rot90(picture, -1))


def test_other_kinds_of_pixels(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.array([[0, 257 * 128, 65535]], np.uint16)).save(path)
    assert read_image(path).tolist() == [[[0] * 3, [128] * 3, [255] * 3]]
    for mode in ("P", "L", "1"):
        Image.new("RGB", (4, 3), (255, 255, 255)).convert(mode).save(path)
        assert read_image(path).shape == (3, 4, 3)
        assert (read_image(path) == 255).all()
    image = Image.new("RGBA", (2, 1), (200, 100, 50, 255))
    image.putpixel((1, 0), (200, 100, 50, 0))  # transparency is flattened over black
    image.save(path)
    assert read_image(path).tolist() == [[[200, 100, 50], [0, 0, 0]]]


def linear_profile() -> bytes:
    """An ICC profile with sRGB's primaries and no gamma."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    start = profile.index(b"para")
    curve = b"curv" + bytes(4) + (0).to_bytes(4, "big")
    return profile[:start] + curve + profile[start + len(curve) :]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_a_colour_profile_is_converted(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGB", (4, 3), (128, 0, 255))
    image = image.quantize(2) if mode == "P" else image.convert(mode)
    image.save(tmp_path / "linear.png", icc_profile=linear_profile())
    pixel = read_image(tmp_path / "linear.png")[0, 0].tolist()
    assert pixel == pytest.approx([188, 0, 255], abs=2)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image.save(tmp_path / "srgb.png", icc_profile=srgb)
    assert read_image(tmp_path / "srgb.png")[0, 0].tolist() == [128, 0, 255], "not even rounded"


def test_transparency_survives_a_colour_profile(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGBA", (4, 3), (128, 0, 255, 77)).save(path, icc_profile=linear_profile())
    assert read_with_alpha(path)[0, 0].tolist() == pytest.approx([188, 0, 255, 77], abs=2)


def test_a_damaged_profile_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (4, 3), (128, 0, 255)).save(path, icc_profile=b"words" * 50)
    assert read_image(path)[0, 0].tolist() == [128, 0, 255]
    assert "a.png: its colour profile cannot be used" in caplog.text


def test_what_is_no_whole_image(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_png(path, np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:5000])
    for read in (read_image, image_size):
        with pytest.raises(UserError, match=r"a\.png: damaged"):
            read(path)
    path.write_text("words")
    with pytest.raises(UserError, match="not a readable image"):
        read_image(path)
    with pytest.raises(UserError, match="no such file"):
        read_image(tmp_path / "b.png")


def test_natural_order() -> None:
    names = ["f10.png", "f9.png", "F1.png", "a2b10.png", "a2b9.png"]
    found = [path.name for path in sorted(map(Path, names), key=natural_key)]
    assert found == ["a2b9.png", "a2b10.png", "F1.png", "f9.png", "f10.png"]


def bomb(path: Path, width: int, height: int) -> Path:
    """A PNG of a few bytes that says it is as large as that."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for kind, content in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")):
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        data += struct.pack(">I", len(content)) + kind + content + checksum
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("read", [read_image, image_size, read_labels])
@pytest.mark.parametrize("size", [(100_000, 100_000), (12_000, 12_000)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_small_file_of_many_pixels_is_refused(
    tmp_path: Path, read: Callable[[Path], object], size: tuple[int, int]
) -> None:
    with pytest.raises(UserError, match=r"a\.png.*(pixels are too many|exceeds limit)"):
        read(bomb(tmp_path / "a.png", *size))


@pytest.mark.parametrize("read", [read_image, image_size, read_labels])
def test_no_other_program_is_started_for_a_picture(
    tmp_path: Path, read: Callable[[Path], object]
) -> None:
    """Pillow would give PostScript to Ghostscript, whatever the file is called."""
    path = tmp_path / "00000.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 6\n%%EndComments\n%%EOF\n")
    with pytest.raises(UserError, match=r"00000\.png"):
        read(path)


@posix_only
@pytest.mark.parametrize("read", [read_image, image_size, read_labels])
def test_a_pipe_is_not_waited_for(tmp_path: Path, read: Callable[[Path], object]) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(UserError, match="no ordinary file"):
        read(tmp_path / "a.png")
