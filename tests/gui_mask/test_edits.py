"""Frames go out to an editor and come back; what is not one of them is refused, nothing is lost."""

import errno
import os
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from gui_mask import edits
from maskora.app.edits import find_edits
from maskora.app.workspace import Workspace, caption_beside
from maskora.errors import Fault, UserError
from maskora.masks.files import write_labels
from maskora.video.fit import FramePlacement, fit_image
from maskora.video.images import image_size, read_image, write_png
from maskora.video.probe import probe
from maskora.video.read import read_frames
from tests.app.conftest import recolour
from tests.gui_mask.workspaces import copied
from tests.system import posix_only

SUFFIX = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp"}


@pytest.fixture
def workspace(boxed: Workspace, tmp_path: Path) -> Workspace:
    """A prepared workspace with masks, to change."""
    return copied(boxed, tmp_path / "ws")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def picture(folder: Path, name: str, kind: str, size: tuple[int, int] = (160, 96)) -> Path:
    """A picture whose name says nothing of its kind."""
    path = folder / name
    Image.new("RGB", size, (200, 100, 50)).save(path, kind)
    return path


def test_frames_go_out_at_both_sizes(workspace: Workspace, tmp_path: Path) -> None:
    """At the workspace's it is the file itself, at the original's the same picture."""
    file = edits.frame_file(workspace, 3, False, tmp_path)
    assert file == tmp_path / "ball-frame-00003-160x96.png"
    assert file.read_bytes() == workspace.source_frame(3).read_bytes()
    for frame in (-1, 9):
        with pytest.raises(UserError, match="frames 0 to 8 only"):
            edits.frame_file(workspace, frame, False, tmp_path)

    source = workspace.read_source()
    later = {"start": 1, "every": 2, "frames": 3, "fps": "8"}
    workspace.write_source(source.model_copy(update=later))
    file = edits.frame_file(workspace, 2, True, tmp_path)
    assert file.name == "ball-frame-00002-320x192.png"
    (expected,) = read_frames(probe(Path(source.origin)), 5, 1)
    assert np.array_equal(read_image(file), expected)

    workspace.write_source(source.model_copy(update={"origin": str(tmp_path / "gone.mp4")}))
    with pytest.raises(UserError, match="the original video is no longer at"):
        edits.frame_file(workspace, 0, True, tmp_path)


@pytest.mark.parametrize("kind", list(SUFFIX))
@pytest.mark.parametrize("size", [(160, 96), (320, 192)])
def test_an_upload_is_named_by_its_content(
    workspace: Workspace, tmp_path: Path, kind: str, size: tuple[int, int]
) -> None:
    file = picture(tmp_path, "my edit.tiff", kind, size)
    taken = edits.take_upload(workspace, None, 4, file)
    assert taken == workspace.edits_dir / f"00004{SUFFIX[kind]}"
    assert taken.read_bytes() == file.read_bytes()
    assert find_edits(workspace, None, 9).images == {4: taken}


def test_a_new_upload_takes_the_place_and_the_caption_of_the_earlier_one(
    workspace: Workspace, tmp_path: Path
) -> None:
    folder = workspace.edits_dir
    picture(folder, "4.jpg", "JPEG")
    (folder / "4.txt").write_text("an orange ball")
    picture(folder, "00005.png", "PNG")
    edits.take_upload(workspace, None, 4, picture(tmp_path, "a", "WEBP"))
    assert names(folder) == ["00004.txt", "00004.webp", "00005.png"]
    taken = edits.take_upload(workspace, None, 4, picture(tmp_path, "a", "PNG"))
    assert names(folder) == ["00004.png", "00004.txt", "00005.png"]
    edits.take_upload(workspace, None, 4, picture(tmp_path, "b", "PNG"))
    assert names(folder) == ["00004.png", "00004.txt", "00005.png"]
    assert caption_beside(taken) == "an orange ball"


def test_a_named_edit_comes_to_be_with_its_first_picture(
    workspace: Workspace, tmp_path: Path
) -> None:
    assert workspace.named_edits() == []
    assert edits.listing(workspace, "hat") == []
    edits.take_upload(workspace, "hat", 0, picture(tmp_path, "a", "PNG"))
    assert workspace.named_edits() == ["hat"]
    assert [entry.frame for entry in edits.listing(workspace, "hat")] == [0]
    with pytest.raises(UserError, match="a name starts with a letter"):
        edits.take_upload(workspace, "../hat", 0, picture(tmp_path, "a", "PNG"))


def test_other_kinds_and_sizes_of_pictures_are_refused_whatever_they_are_called(
    workspace: Workspace, tmp_path: Path
) -> None:
    for kind in ("BMP", "TIFF", "GIF", "ICO", "PPM", "EPS"):
        with pytest.raises(UserError, match="not a readable image"):
            edits.take_upload(workspace, None, 0, picture(tmp_path, "edit.png", kind))
    file = picture(tmp_path, "a", "PNG", (176, 96))
    with pytest.raises(UserError, match=r"is 176x96; an edited frame has .* 160x96 .* 320x192"):
        edits.take_upload(workspace, None, 0, file)
    assert names(workspace.edits_dir) == []


def bomb(path: Path, width: int, height: int) -> Path:
    """A PNG of a few bytes that says it is huge."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1_000_000))
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    return path


@pytest.mark.parametrize("size", [(50_000, 50_000), (9000, 9000), (2**31 - 1, 2**31 - 1)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_picture_that_unpacks_to_too_much_is_refused(
    workspace: Workspace, tmp_path: Path, size: tuple[int, int]
) -> None:
    message = "has 81 megapixels" if size[0] == 9000 else "image"
    with pytest.raises(UserError, match=message):
        edits.take_upload(workspace, None, 0, bomb(tmp_path / "a.png", *size))


def test_a_text_that_unpacks_to_too_much_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    notes = PngImagePlugin.PngInfo()
    for number in range(70):
        notes.add_text(f"note {number}", "x" * 1_000_000, zip=True)
    Image.new("RGB", (160, 96)).save(tmp_path / "a.png", pnginfo=notes)
    with pytest.raises(UserError, match="image"):
        edits.take_upload(workspace, None, 0, tmp_path / "a.png")


def test_what_is_no_whole_picture_is_refused_and_the_earlier_one_stays(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = edits.take_upload(workspace, None, 0, picture(tmp_path, "a", "PNG"))
    before = earlier.read_bytes()
    noise = np.random.default_rng(0).integers(0, 255, (96, 160, 3), np.uint8)
    write_png(tmp_path / "noise.png", noise)
    whole = (tmp_path / "noise.png").read_bytes()
    Image.fromarray(noise).save(tmp_path / "noise.jpg")
    for name, data in {
        "cut jpeg": (tmp_path / "noise.jpg").read_bytes()[:5000],
        "cut": whole[:20_000],
        "text": b"hello",
        "empty": b"",
        "pickle": b"\x80\x04\x95cos\nsystem\n.",
    }.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError):
            edits.take_upload(workspace, None, 0, tmp_path / name)
    with pytest.raises(UserError, match="no such file"):
        edits.take_upload(workspace, None, 0, tmp_path / "none")
    monkeypatch.setattr(edits, "MOST_BYTES", 1000)
    with pytest.raises(UserError, match=r"larger than 0\.001 MB"):
        edits.take_upload(workspace, None, 0, tmp_path / "noise.png")
    assert names(workspace.edits_dir) == ["00000.png"]
    assert earlier.read_bytes() == before


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_full_disk_loses_nothing(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    earlier = edits.take_upload(workspace, None, 0, picture(tmp_path, "a", "PNG"))
    edits.set_caption(workspace, earlier, "a caption")
    before = earlier.read_bytes()

    def full(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes()[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(Fault, match="could not be written: No space left on device"):
        edits.take_upload(workspace, None, 0, picture(tmp_path, "b", kind, (320, 192)))
    assert names(workspace.edits_dir) == ["00000.png", "00000.txt"]
    assert earlier.read_bytes() == before


@posix_only
def test_a_file_in_another_spelling_is_not_taken_for_an_earlier_one(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """macOS keeps the name 00000.PNG when 00000.png is written; here, a link plays that."""
    other = workspace.edits_dir / "00000.PNG"
    other.symlink_to(workspace.edits_dir / "00000.png")
    taken = edits.take_upload(workspace, None, 0, picture(tmp_path, "a", "PNG"))
    assert names(workspace.edits_dir) == ["00000.PNG", "00000.png"]
    assert other.samefile(taken)


def test_captions_are_one_line_beside_the_image(workspace: Workspace, tmp_path: Path) -> None:
    taken = edits.take_upload(workspace, None, 0, picture(tmp_path, "a", "JPEG"))
    edits.set_caption(workspace, taken, " an\norange  ball \ud800")
    assert caption_beside(taken) == "an orange ball ?"
    edits.set_caption(workspace, taken, "  ")
    assert names(workspace.edits_dir) == ["00000.jpg"]
    edits.set_caption(workspace, taken, "a caption")
    edits.remove_edit(workspace, None, 0)
    assert names(workspace.edits_dir) == [], "it goes with its caption"
    with pytest.raises(UserError, match="holds no edited frame 0"):
        edits.remove_edit(workspace, None, 0)
    taken = edits.take_upload(workspace, None, 0, picture(tmp_path, "a", "JPEG"))
    edits.set_caption(workspace, workspace.source_frame(0), "a blue ball")
    assert caption_beside(workspace.source_frame(0)) == "a blue ball"
    for image in (
        tmp_path / "a",
        workspace.edits_dir / ".." / ".." / "a",
        taken.with_name("1.png"),
    ):
        with pytest.raises(UserError, match="is no image of"):
            edits.set_caption(workspace, image, "x")


def test_the_listing_marks_what_differs_outside_the_mask(workspace: Workspace) -> None:
    source = read_image(workspace.source_frame(0))
    inside = workspace.edited_frame(None, 0, ".png")
    recolour(workspace.source_frame(0), inside, (20, 40, 40, 30))
    (entry,) = edits.listing(workspace, None)
    assert (entry.frame, entry.path) == (0, inside)
    assert entry.note == "outside the mask it is the source, or close to it"
    assert entry.picture.shape == (96, 160 + edits.GAP + 160, 3)
    assert entry.picture.dtype == np.uint8

    outside = read_image(inside).copy()
    assert (read_labels_of(workspace, 0)[:10, 120:] == 0).all()
    outside[:10, 120:] = 255 - outside[:10, 120:]
    write_png(inside, outside)
    (marked,) = edits.listing(workspace, None)
    assert "outside the mask 4% of it differs from the source (red" in marked.note
    changed = (marked.picture != entry.picture).any(axis=-1)
    rows, columns = np.nonzero(changed)
    assert rows.max() < 10
    assert columns.min() >= 160 + edits.GAP + 120
    corner = marked.picture[:10, -40:].reshape(-1, 3).mean(axis=0)
    assert corner[0] > 2 * corner[1], "it is red"
    left = marked.picture[:, :160]
    outline = (left != source).any(axis=-1)
    assert 0.01 < outline.mean() < 0.2, "the region is outlined, and nothing else is drawn"
    assert (left[outline] == 255).all()


def read_labels_of(workspace: Workspace, frame: int) -> np.ndarray:
    return np.array(Image.open(workspace.mask(frame)))


def test_an_edit_at_the_originals_size_is_shown_fitted(
    workspace: Workspace, tmp_path: Path
) -> None:
    file = edits.frame_file(workspace, 0, True, tmp_path)
    edits.take_upload(workspace, None, 0, file)
    (entry,) = edits.listing(workspace, None)
    source = workspace.read_source()
    fitted = fit_image(
        read_image(file), FramePlacement(source.original_size, source.size, source.region)
    )
    keep = read_labels_of(workspace, 0) == 0
    keep[:, :90] = False  # away from the outline
    assert np.array_equal(entry.picture[:, -160:][keep], fitted[keep])
    assert entry.note.startswith("inside the mask it is the same as the source. ")


def test_the_listing_says_what_cannot_be_used(workspace: Workspace) -> None:
    for frame in (1, 2, 3, 4):
        recolour(
            workspace.source_frame(frame), workspace.edited_frame(None, frame, ".png"),
            (20, 40, 40, 30),
        )  # fmt: skip
    picture(workspace.edits_dir, "00001.png", "PNG", (50, 50))
    workspace.edited_frame(None, 2, ".png").write_bytes(b"nothing")
    write_labels(workspace.mask(3), np.zeros((96, 160), np.uint8))
    workspace.mask(4).unlink()
    shown = {entry.frame: entry for entry in edits.listing(workspace, None)}
    assert "is 50x50; an edited frame has" in shown[1].note
    assert "not a readable image" in shown[2].note
    assert shown[3].note == "frame 3 has no mask, so nothing of this edit would be used"
    assert "there are no masks yet" in shown[4].note
    expected = [read_image(workspace.source_frame(4)), read_image(shown[4].path)]
    assert np.array_equal(shown[4].picture[:, :160], expected[0])
    assert np.array_equal(shown[4].picture[:, -160:], expected[1])
    assert {entry.picture.shape for entry in shown.values()} == {(96, 328, 3)}
    write_labels(workspace.mask(4), np.ones((10, 10), np.uint8))
    assert "is 10x10; the frames are 160x96" in edits.listing(workspace, None)[3].note


def test_a_rotated_photo_counts_as_it_is_shown(workspace: Workspace, tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (96, 160)).save(tmp_path / "a.jpg", exif=turned)
    assert image_size(tmp_path / "a.jpg") == (160, 96)
    edits.take_upload(workspace, None, 0, tmp_path / "a.jpg")
    assert "outside the mask" in edits.listing(workspace, None)[0].note


def test_several_pictures_are_taken_by_the_numbers_in_their_names(
    workspace: Workspace, tmp_path: Path
) -> None:
    files = [
        picture(tmp_path, name, "PNG") for name in ("look_8-160x96.png", "ball-frame-00000.png")
    ]
    assert edits.take_uploads(workspace, None, 5, files) == [0, 8]
    assert sorted(find_edits(workspace, None, 9).images) == [0, 8]
    one = picture(tmp_path, "hat.png", "PNG")
    assert edits.take_uploads(workspace, None, 5, [one]) == [5]
    other = picture(tmp_path, "ball-frame-00003-160x96 (1).png", "PNG")
    assert edits.take_uploads(workspace, None, 5, [other]) == [3]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["00001.png", "hat.png"], r"hat\.png: which frame is it"),
        (["00001.png", "look1.png"], "are both frame 1"),
        (["00001.png", "00009.png"], r"00009\.png is frame 9 by its name"),
        (["ball-frame-00009-160x96.png"], "8 is the last one"),
    ],
)
def test_nothing_is_taken_where_a_name_does_not_say(
    workspace: Workspace, tmp_path: Path, given: list[str], says: str
) -> None:
    files = [picture(tmp_path, name, "PNG") for name in given]
    with pytest.raises(UserError, match=says):
        edits.take_uploads(workspace, None, 5, files)
    assert names(workspace.edits_dir) == []
