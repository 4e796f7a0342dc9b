"""Label files: the round trip, also through an image editor."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from maskora.errors import UserError
from maskora.masks.files import PALETTE, read_labels, read_mask_folder, write_labels

SILHOUETTE = np.zeros((6, 8), bool)
SILHOUETTE[2:5, 3:7] = True


def three_objects() -> np.ndarray:
    labels = np.zeros((6, 8), np.uint8)
    labels[0:2, 0:2], labels[3:5, 2:5], labels[5, 7] = 1, 2, 9
    return labels


def test_the_palette_is_that_of_davis() -> None:
    expected = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128)]
    assert [tuple(colour) for colour in PALETTE[:6].tolist()] == expected
    assert len({tuple(colour) for colour in PALETTE.tolist()}) == 256


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9))
def test_labels_survive_the_file(
    tmp_path_factory: pytest.TempPathFactory, seed: int, height: int, width: int
) -> None:
    labels = np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)
    path = tmp_path_factory.mktemp("labels") / "00000.png"
    write_labels(path, labels)
    np.testing.assert_array_equal(read_labels(path), labels)
    np.testing.assert_array_equal(read_mask_folder(path)[0], labels)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_labels_survive_an_editor_that_turns_them_to_colours(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "00000.png"
    write_labels(path, three_objects())
    with Image.open(path) as image:
        image.convert(mode).save(path)
    np.testing.assert_array_equal(read_labels(path), three_objects())


def test_labels_survive_an_editor_that_reorders_the_palette(tmp_path: Path) -> None:
    path = tmp_path / "00000.png"
    write_labels(path, three_objects())
    with Image.open(path) as image:
        image.convert("RGB").quantize(4).save(path)
    with Image.open(path) as image:
        assert set(np.unique(np.asarray(image))) == {0, 1, 2, 3}
    np.testing.assert_array_equal(read_labels(path), three_objects())


def test_what_an_editor_made_transparent_is_kept(tmp_path: Path) -> None:
    pixels = np.dstack([PALETTE[three_objects()], np.full((6, 8), 255, np.uint8)])
    pixels[three_objects() == 2] = (0, 128, 0, 0)
    Image.fromarray(pixels).save(tmp_path / "00000.png")
    expected = np.where(three_objects() == 2, 0, three_objects())
    np.testing.assert_array_equal(read_labels(tmp_path / "00000.png"), expected)


def test_an_object_erased_to_transparency_leaves_nothing(tmp_path: Path) -> None:
    pixels = np.zeros((6, 8, 4), np.uint8)
    pixels[..., 3] = np.where(SILHOUETTE, 0, 255)
    Image.fromarray(pixels).save(tmp_path / "00000.png")
    assert not read_labels(tmp_path / "00000.png").any()


def test_labels_with_another_palette_are_read_by_index(tmp_path: Path) -> None:
    image = Image.fromarray(three_objects())
    image.putpalette([value for grey in range(256) for value in (grey, grey, grey)])
    image.save(tmp_path / "00000.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "00000.png"), three_objects())


def test_a_palette_that_is_too_short_is_read_by_index(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", 3, 1, 8, 3, 0, 0, 0)  # 3x1 pixels, 8 bits, indexed
    chunks = [(b"IHDR", header), (b"PLTE", bytes(PALETTE[:2])), (b"IEND", b"")]
    chunks.insert(2, (b"IDAT", zlib.compress(b"\0\0\1\2")))
    path = tmp_path / "00000.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in chunks))
    np.testing.assert_array_equal(read_labels(path), [[0, 1, 2]])


def test_labels_as_grey_numbers_or_black_and_white(tmp_path: Path) -> None:
    path = tmp_path / "00000.png"
    Image.fromarray(three_objects()).save(path)
    np.testing.assert_array_equal(read_labels(path), three_objects())
    coloured = np.where(SILHOUETTE[..., None], [240, 255, 250], [0, 3, 0]).astype(np.uint8)
    for image in (Image.fromarray(SILHOUETTE), Image.fromarray(coloured)):
        image.save(path)
        np.testing.assert_array_equal(read_labels(path), SILHOUETTE)
    Image.fromarray(SILHOUETTE.astype(np.uint8) * 255).save(path)
    np.testing.assert_array_equal(read_labels(path), SILHOUETTE)


def test_grey_that_is_neither_is_refused(tmp_path: Path) -> None:
    Image.new("L", (8, 6), 75).save(tmp_path / "00000.png")
    with pytest.raises(UserError, match="values up to 75"):
        read_labels(tmp_path / "00000.png")
