"""Masks in files: every way they come in, and the round trip of labels, also through an editor."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from maskora.errors import UserError
from maskora.masks.files import (
    PALETTE,
    check_not_empty,
    match_length,
    read_labels,
    read_mask_folder,
    read_mask_frames,
    write_labels,
)

Read = Callable[[Image.Image], np.ndarray]
SILHOUETTE = np.zeros((6, 8), bool)
SILHOUETTE[2:5, 3:7] = True


def three_objects() -> np.ndarray:
    labels = np.zeros((6, 8), np.uint8)
    labels[0:2, 0:2], labels[3:5, 2:5], labels[5, 7] = 1, 2, 9
    return labels


@pytest.fixture(scope="module")
def mask_to_labels(tmp_path_factory: pytest.TempPathFactory) -> Read:
    """The labels of one picture, saved as PNG and read back."""
    path = tmp_path_factory.mktemp("masks") / "mask.png"

    def read(image: Image.Image) -> np.ndarray:
        image.save(path)
        return read_mask_folder(path)[0]

    return read


def rgba(inside: tuple[int, ...], outside: tuple[int, ...]) -> Image.Image:
    pixels = np.where(SILHOUETTE[..., None], np.array(inside), np.array(outside))
    return Image.fromarray(pixels.astype(np.uint8))


WHITE, BLACK = (255, 255, 255), (0, 0, 0)
# By mode, and what there is to it.
ONE_OBJECT = {
    "1": Image.fromarray(SILHOUETTE),
    "L": Image.fromarray(np.where(SILHOUETTE, 128, 127).astype(np.uint8)),
    "I;16": Image.fromarray(np.where(SILHOUETTE, 40000, 30000).astype(np.uint16)),
    "RGB": rgba(WHITE, BLACK),
    "RGB red": rgba((255, 0, 0), (20, 20, 20)),
    "RGB greys of DAVIS": rgba((192, 192, 192), (64, 64, 64)),
    "RGBA opaque": rgba((*WHITE, 255), (*BLACK, 255)),
    "RGBA cut-out": rgba((*WHITE, 255), (*WHITE, 0)),
    "RGBA black": rgba((*BLACK, 255), (*BLACK, 0)),
    "RGBA black cut-out": rgba((*BLACK, 255), (*WHITE, 0)),
    "RGBA in part": rgba((*WHITE, 200), (*BLACK, 255)),
    "P reordered": Image.fromarray(SILHOUETTE.astype(np.uint8) * 255).quantize(2),
    "P web": rgba(WHITE, BLACK).convert("P"),
    "P red": rgba((255, 0, 0), BLACK).quantize(2),
    "P nearly black": rgba((250, 2, 1), (1, 0, 0)).quantize(2),
    "P cut-out": rgba((*WHITE, 255), (*WHITE, 0)).quantize(2),
}


@pytest.mark.parametrize("kind", ONE_OBJECT)
def test_bright_and_opaque_is_the_one_object(mask_to_labels: Read, kind: str) -> None:
    assert ONE_OBJECT[kind].mode == kind.split()[0]
    labels = mask_to_labels(ONE_OBJECT[kind])
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, SILHOUETTE)


def test_a_transparent_picture_of_several_colours_is_read_by_brightness(
    mask_to_labels: Read,
) -> None:
    pixels = np.zeros((2, 3, 4), np.uint8)
    pixels[0] = [[255, 255, 255, 255], [0, 0, 0, 255], [255, 255, 255, 0]]
    labels = mask_to_labels(Image.fromarray(pixels))
    np.testing.assert_array_equal(labels, [[1, 0, 0], [0, 0, 0]])


def test_a_cut_out_photo_is_read_by_its_alpha(mask_to_labels: Read) -> None:
    for levels in ((40, 90, 160), (0, 60, 110)):  # dark as a photo may be
        photo = np.zeros((6, 8, 4), np.uint8)
        photo[..., :3] = np.random.default_rng(0).choice(levels, (6, 8, 3))
        photo[..., 3] = 255 * SILHOUETTE
        np.testing.assert_array_equal(mask_to_labels(Image.fromarray(photo)), SILHOUETTE)


def test_frames_with_transparency_are_read_by_their_alpha() -> None:
    frames = np.full((3, 6, 8, 4), 200, np.uint8)
    frames[..., 3] = 255
    assert all(labels.all() for labels in read_mask_frames(frames))
    frames[1, ..., 3] = 255 * SILHOUETTE
    frames[2, ..., 3] = 0
    expected = [np.ones_like(SILHOUETTE), SILHOUETTE, np.zeros_like(SILHOUETTE)]
    for labels, wanted in zip(read_mask_frames(frames), expected, strict=True):
        np.testing.assert_array_equal(labels, wanted)


def test_eight_bits_in_sixteen(tmp_path: Path) -> None:
    """As cv2 and numpy write them; one real dark picture beside 16-bit ones is dark."""
    for number, values in enumerate((0, 255 * SILHOUETTE)):
        image = Image.fromarray(np.full((6, 8), values, np.uint16))
        image.save(tmp_path / f"{number}.png")
    empty, marked = read_mask_folder(tmp_path)
    assert not empty.any()
    np.testing.assert_array_equal(marked, SILHOUETTE)
    Image.fromarray((65535 * SILHOUETTE).astype(np.uint16)).save(tmp_path / "2.png")
    assert [bool(labels.any()) for labels in read_mask_folder(tmp_path)] == [False, False, True]


def test_the_noise_of_a_black_jpeg_is_no_object(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 6, (48, 64), dtype=np.uint8)
    for mode in ("L", "RGB"):
        Image.fromarray(noise).convert(mode).save(tmp_path / f"{mode}.jpg", quality=95)
        (labels,) = read_mask_folder(tmp_path / f"{mode}.jpg")
        assert not labels.any()


def test_an_all_black_and_an_all_white_picture(mask_to_labels: Read) -> None:
    assert not mask_to_labels(Image.new("RGBA", (4, 4), (0, 0, 0, 255))).any()
    assert not mask_to_labels(Image.new("RGBA", (4, 4), (255, 255, 255, 0))).any()
    assert mask_to_labels(Image.new("L", (4, 4), 255)).all()
    assert mask_to_labels(Image.new("L", (4, 4), 255).quantize(2)).all()


@pytest.mark.parametrize("palette", [[0, 0, 0, 9, 9, 9], [68, 1, 84, 33, 145, 140]])
def test_a_palette_of_labels_is_read_by_its_indices(
    mask_to_labels: Read, palette: list[int]
) -> None:
    image = Image.fromarray(three_objects())
    image.putpalette(palette + [253, 231, 36] * 254)
    np.testing.assert_array_equal(mask_to_labels(image), three_objects())


def test_a_grey_palette_in_turn_from_black_holds_labels(mask_to_labels: Read) -> None:
    labels = np.array([[0, 1, 2, 3]], np.uint8)
    image = Image.fromarray(labels)
    image.putpalette([value for grey in (0, 85, 170, 255) for value in [grey] * 3])
    np.testing.assert_array_equal(mask_to_labels(image), labels)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_davis_colours_keep_their_objects(mask_to_labels: Read, mode: str) -> None:
    labels = np.array([[0, 1, 2, 8]], np.uint8)
    image = Image.fromarray(PALETTE[labels]).convert(mode)
    np.testing.assert_array_equal(mask_to_labels(image), labels)
    alone = Image.fromarray(PALETTE[labels[:, [0, 3]]]).convert(mode)
    np.testing.assert_array_equal(mask_to_labels(alone), [[0, 8]])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_small_grey_values_are_object_numbers(mask_to_labels: Read, dtype: type) -> None:
    image = Image.fromarray(three_objects().astype(dtype))
    np.testing.assert_array_equal(mask_to_labels(image), three_objects())
    with pytest.raises(UserError, match=r"mask\.png: a grey picture with values up to 33"):
        mask_to_labels(Image.new("L", (8, 6), 33))


def test_noise_in_the_black_frames_of_a_mask_is_no_object(tmp_path: Path) -> None:
    for name, value in (("0.png", 2), ("1.png", 255), ("2.png", 40)):
        save(tmp_path / name, value)
    assert [int(mask.max()) for mask in read_mask_folder(tmp_path)] == [0, 1, 0]


def save(path: Path, value: int = 255, size: tuple[int, int] = (8, 6)) -> None:
    Image.new("L", size, value).save(path)


def test_a_folder_is_read_in_natural_order(tmp_path: Path) -> None:
    for number in (10, 9, 100):
        write_labels(tmp_path / f"m{number}.png", np.full((6, 8), number, np.uint8))
    (tmp_path / ".DS_Store").write_text("not a frame")
    masks = read_mask_folder(tmp_path)
    assert [int(mask[0, 0]) for mask in masks] == [9, 10, 100]
    assert all(mask.shape == (6, 8) for mask in masks)


def test_a_single_image_is_one_mask(tmp_path: Path) -> None:
    save(tmp_path / "static.jpg")
    (mask,) = read_mask_folder(tmp_path / "static.jpg")
    assert mask.shape == (6, 8)
    assert mask.all()


def test_subfolders_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path / "0.png")
    (tmp_path / "raw").mkdir()
    assert len(read_mask_folder(tmp_path)) == 1
    assert "raw" in caplog.text


def no_image(folder: Path) -> None:
    (folder / "1.png").write_text("a caption")


def cut_short(folder: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    Image.fromarray(noise).save(folder / "1.png")
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:900])


def huge(folder: Path) -> None:
    save(folder / "1.png")
    png = bytearray((folder / "1.png").read_bytes())
    png[16:24] = struct.pack(">II", 20000, 20000)  # width and height, in the header
    png[29:33] = struct.pack(">I", zlib.crc32(png[12:29]))
    (folder / "1.png").write_bytes(png)


def of_floats(folder: Path) -> None:
    Image.new("F", (8, 6), 1.0).save(folder / "1.tif")


def of_another_size(folder: Path) -> None:
    save(folder / "1.png", size=(4, 4))


@pytest.mark.parametrize(
    ("add", "words"),
    [
        (no_image, r"1\.png is no image"),
        (cut_short, r"1\.png cannot be read"),
        (huge, r"1\.png cannot be read .*exceeds limit"),
        (of_floats, "floating-point"),
        (of_another_size, r"1\.png is 4x4, but 0\.png is 8x6"),
    ],
)
def test_what_is_no_mask_beside_others_is_named(
    tmp_path: Path, add: Callable[[Path], None], words: str
) -> None:
    save(tmp_path / "0.png")
    add(tmp_path)
    with pytest.raises(UserError, match=words):
        read_mask_folder(tmp_path)


def test_what_programs_leave_beside_masks_is_left_out_with_a_note(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path / "0.png")
    for name in ("Thumbs.db", ".DS_Store", "0.png~", "0.kra", "0.psd", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert len(read_mask_folder(tmp_path)) == 1
    assert "no pictures, left out: 0.kra, 0.png~, 0.psd, notes.txt" in caplog.text


def test_no_masks_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such mask"):
        read_mask_folder(tmp_path / "elsewhere")
    (tmp_path / "bear").mkdir()
    with pytest.raises(UserError, match="bear"):
        read_mask_folder(tmp_path)


def test_mask_frames_are_bright_where_edited() -> None:
    frame = np.where(SILHOUETTE, 235, 16).astype(np.uint8)[..., None].repeat(3, axis=2)
    for labels in read_mask_frames(iter([frame, frame])):
        assert labels.dtype == np.uint8
        np.testing.assert_array_equal(labels, SILHOUETTE)


def numbered(count: int) -> list[np.ndarray]:
    return [np.full((2, 2), number, np.uint8) for number in range(count)]


@pytest.mark.parametrize(
    ("given_masks", "expected"), [(4, [0, 1, 2, 3]), (20, [5, 8, 11, 14]), (1, [0, 0, 0, 0])]
)
def test_masks_are_matched_to_the_chosen_frames(given_masks: int, expected: list[int]) -> None:
    matched = match_length(numbered(given_masks), 20, start=5, count=4, every=3, where="m")
    assert [int(mask[0, 0]) for mask in matched] == expected


@pytest.mark.parametrize("given_masks", [0, 2, 3, 5, 19, 21])
def test_a_wrong_number_of_masks_is_an_error(given_masks: int) -> None:
    words = rf"masks in folder: {given_masks} found. Give 4 \(one per chosen.*, 20 \(one per frame"
    with pytest.raises(UserError, match=words):
        match_length(numbered(given_masks), 20, start=5, count=4, every=3, where="folder")


def test_empty_masks_are_an_error() -> None:
    check_not_empty(numbered(2), "folder")
    for labels in ([], numbered(1)):
        with pytest.raises(UserError, match="masks in folder: nothing is marked"):
            check_not_empty(labels, "folder")


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


def reordered(image: Image.Image) -> Image.Image:
    other = image.convert("RGB").quantize(4)
    assert set(np.unique(np.asarray(other))) == {0, 1, 2, 3}
    return other


def with_grey_palette(image: Image.Image) -> Image.Image:
    image.putpalette([value for grey in range(256) for value in (grey, grey, grey)])
    return image


@pytest.mark.parametrize(
    "edit",
    [
        lambda image: image.convert("RGB"),
        lambda image: image.convert("RGBA"),
        reordered,
        with_grey_palette,
        lambda image: Image.fromarray(np.asarray(image)),
    ],
    ids=["RGB", "RGBA", "reordered", "grey palette", "grey numbers"],
)
def test_labels_survive_an_editor(
    tmp_path: Path, edit: Callable[[Image.Image], Image.Image]
) -> None:
    path = tmp_path / "00000.png"
    write_labels(path, three_objects())
    with Image.open(path) as image:
        image.load()
    edit(image).save(path)
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


def test_labels_in_black_and_white(tmp_path: Path) -> None:
    path = tmp_path / "00000.png"
    coloured = np.where(SILHOUETTE[..., None], [240, 255, 250], [0, 3, 0])
    for pixels in (SILHOUETTE, coloured.astype(np.uint8), SILHOUETTE.astype(np.uint8) * 255):
        Image.fromarray(pixels).save(path)
        np.testing.assert_array_equal(read_labels(path), SILHOUETTE)


def test_grey_that_is_neither_is_refused(tmp_path: Path) -> None:
    Image.new("L", (8, 6), 75).save(tmp_path / "00000.png")
    with pytest.raises(UserError, match="values up to 75"):
        read_labels(tmp_path / "00000.png")
