"""Editing a frame from the shell: every tool, undone and made again to the byte."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskora.app.carrying import anchored
from maskora.app.edits import find_edits
from maskora.app.retouching import FrameEdit
from maskora.app.workspace import Workspace
from maskora.config import load_config
from maskora.masks.files import read_labels
from maskora.retouch import Paint
from maskora.video.composite import composite, feather_alpha
from maskora.video.images import read_image, write_png
from tests.app.conftest import Prepared, Run, frames_of, ok, refused, repaint, sets
from tests.app.small import small_clip, small_edit
from tests.tiny_editors import write_sdxl


@pytest.fixture
def root(prepared: Prepared) -> Path:
    return prepared()


def source(root: Path, frame: int) -> np.ndarray:
    return read_image(root / "source" / f"{frame:05d}.png")


def picture(root: Path, frame: int) -> np.ndarray:
    return read_image(root / "edits" / f"{frame:05d}.png")


def outside(root: Path, frame: int) -> np.ndarray:
    return read_labels(root / "masks" / f"{frame:05d}.png") == 0


def sticker(path: Path) -> Path:
    hat = np.zeros((12, 20, 4), np.uint8)
    hat[2:10, 3:17] = (250, 200, 0, 255)
    write_png(path, hat)
    return path


def test_every_tool_keeps_the_outside_and_is_undone_to_the_byte(
    root: Path, run: Run, tmp_path: Path
) -> None:
    hat = sticker(tmp_path / "hat.png")
    tools: list[list[object]] = [
        ["--recolour", "120,20,-10"],
        ["--swap", "#3c78dc,#dc3c3c,40", "--area", "region"],
        ["--paint", "#ff0000,4,30,50,40,55", "--opacity", 0.7],
        ["--place", hat, "--at", "38,50,20,15", "--blend", "screen"],
        ["--erase", "object"],
        ["--copy", "6,-4,2"],
        ["--restore", "5,36,52"],
    ]
    files = []
    for number, tool in enumerate(tools, 1):
        answer = ok(run("edit-frame", root, "--frame", 4, *tool))
        assert f"step {number} of {number}" in answer.out
        files.append((root / "edits" / "00004.png").read_bytes())
        assert np.array_equal(picture(root, 4)[outside(root, 4)], source(root, 4)[outside(root, 4)])
    assert len(set(files)) == len(files)
    listed = ok(run("edit-frame", root, "--frame", 4, "--steps")).out.splitlines()
    assert [line.split()[1] for line in listed] == [
        "recolour", "swap", "paint", "place", "erase", "copy", "restore",
    ]  # fmt: skip
    for earlier in reversed(files[:-1]):
        ok(run("edit-frame", root, "--frame", 4, "--undo"))
        assert (root / "edits" / "00004.png").read_bytes() == earlier
    assert "no longer edited" in ok(run("edit-frame", root, "--frame", 4, "--undo")).out
    assert not (root / "edits" / "00004.png").exists()
    refused(run("edit-frame", root, "--frame", 4, "--undo"), "no step to be taken back")
    for again in files:
        ok(run("edit-frame", root, "--frame", 4, "--redo"))
        assert (root / "edits" / "00004.png").read_bytes() == again
    refused(run("edit-frame", root, "--frame", 4, "--redo"), "no step to be made again")
    ok(run("check", "--config", root / "edit.toml"))


def test_a_persons_own_edit_is_what_steps_begin_with_and_comes_back(root: Path, run: Run) -> None:
    own = picture(root, 0)
    (root / "edits" / "00000.png").unlink()

    Image.fromarray(own).save(root / "edits" / "0.bmp")
    (root / "edits" / "0.txt").write_text("an orange ball")
    given = (root / "edits" / "0.bmp").read_bytes()
    ok(run("edit-frame", root, "--frame", 0, "--paint", "#ffffff,3,36,52"))
    changed = (picture(root, 0) != own).any(axis=-1)
    assert 0 < changed.sum() < 80
    assert not changed[outside(root, 0)].any()
    assert not (root / "edits" / "0.bmp").exists()
    assert (root / "edits" / "00000.txt").read_text() == "an orange ball"
    ok(run("edit-frame", root, "--frame", 0, "--undo"))
    (back,) = find_edits(Workspace(root), None, 9).images.values()
    assert back.name == "00000.bmp"
    assert back.read_bytes() == given


def test_what_was_changed_elsewhere_is_a_new_beginning(root: Path, run: Run) -> None:
    ok(run("edit-frame", root, "--frame", 3, "--paint", "#ffffff,3,36,52"))
    repaint(root, 3)
    other = picture(root, 3)
    assert "no steps" in ok(run("edit-frame", root, "--frame", 3, "--steps")).out
    ok(run("edit-frame", root, "--frame", 3, "--paint", "#ffffff,2,36,52"))
    changed = (picture(root, 3) != other).any(axis=-1)
    assert changed.sum() < 40


def test_a_new_step_ends_what_was_taken_back(root: Path, run: Run) -> None:
    for colour in ("#ff0000", "#00ff00"):
        ok(run("edit-frame", root, "--frame", 2, "--paint", f"{colour},4,36,52"))
    ok(run("edit-frame", root, "--frame", 2, "--undo"))
    answer = ok(run("edit-frame", root, "--frame", 2, "--paint", "#0000ff,4,36,52"))
    assert "step 2 of 2" in answer.out
    assert ok(run("edit-frame", root, "--frame", 2, "--pick", "36,52")).out.strip() == "#0000ff"
    refused(run("edit-frame", root, "--frame", 2, "--redo"), "made again")


def test_a_named_edit_has_its_own_steps(root: Path, run: Run) -> None:
    ok(run("edit-frame", root, "--frame", 0, "--edit", "red", "--recolour", "120,0,0"))
    assert (root / "edits" / "red" / "00000.png").is_file()
    assert "no steps" in ok(run("edit-frame", root, "--frame", 0, "--steps")).out
    assert (root / "edits" / "red" / ".steps" / "00000.json").is_file()


def test_an_edited_frame_is_copied_as_it_is_then(root: Path, run: Run) -> None:
    ok(run("edit-frame", root, "--frame", 0, "--paint", "#ffffff,9,36,52"))
    ok(run("edit-frame", root, "--frame", 1, "--copy", 0, "--edited"))
    copied = (root / "edits" / "00001.png").read_bytes()
    assert ok(run("edit-frame", root, "--frame", 1, "--pick", "36,52")).out.strip() == "#ffffff"
    ok(run("edit-frame", root, "--frame", 0, "--paint", "#000000,9,36,52"))
    ok(run("edit-frame", root, "--frame", 1, "--undo"))
    ok(run("edit-frame", root, "--frame", 1, "--redo"))
    assert (root / "edits" / "00001.png").read_bytes() == copied
    refused(run("edit-frame", root, "--frame", 1, "--copy", 7, "--edited"), "7 is not edited")
    refused(run("edit-frame", root, "--frame", 1, "--copy", 70), "frames 0 to 8 only")


def test_a_keyframe_begins_with_the_result(copied: Path, run: Run) -> None:
    ok(run("edit-frame", copied, "--frame", 5, "--from-result"))
    inside = read_labels(copied / "masks" / "00005.png") > 0
    shown = frames_of(copied)[5]
    made = picture(copied, 5)
    assert np.array_equal(made[~inside], source(copied, 5)[~inside])
    deep = np.zeros_like(inside)
    rows, columns = np.nonzero(inside)
    deep[rows.min() + 4 : rows.max() - 3, columns.min() + 4 : columns.max() - 3] = True
    assert np.array_equal(made[deep], shown[deep])


def test_wrong_input_is_told_of_and_changes_nothing(root: Path, run: Run, tmp_path: Path) -> None:
    def refuse(*words: object, says: str) -> None:
        refused(run("edit-frame", root, "--frame", 4, *words), says)

    refuse(says="one tool at a time")
    refuse("--undo", "--redo", says="one tool at a time (--undo, --redo given)")
    refuse("--recolour", "1,2", says="write 3 numbers")
    refuse("--recolour", "1,2,300", says="--recolour: brightness")
    refuse("--swap", "red,#00ff00", says="--swap: source")
    refuse("--paint", "#ff0000,3,1,1,2", says="pairs X,Y")
    refuse("--paint", "#ff0000,nan,1,1", says="3 or more numbers")
    refuse("--place", sticker(tmp_path / "a.png"), says="--at X,Y,WIDTH")
    refuse("--place", tmp_path / "none.png", "--at", "1,1,5", says="no such file")
    refuse("--from-result", says="infer.py")
    refuse("--choose", 2, says="has no candidates")
    refuse("--paint", "#ff0000,3,150,5", says="changes nothing inside the region")
    refuse("--recolour", "0,0,0", says="changes nothing inside the region")
    refuse("--pick", "500,1", says="lies outside the frame")
    refuse("--instruct", "a red ball", says="[editor] model")
    refused(run("edit-frame", root, "--frame", 9, "--undo"), "frames 0 to 8 only")
    assert not (root / "edits" / "00004.png").exists()
    (root / "edits" / ".steps").mkdir(exist_ok=True)
    (root / "edits" / ".steps" / "00004.json").write_text("{")
    refuse("--undo", says="00004.json is damaged")


def test_masks_are_needed(run: Run, ball: Path, tmp_path: Path) -> None:
    ok(run("prepare", ball, tmp_path / "ws", "--size", "160x96", "--frames", 9))
    refused(
        run("edit-frame", tmp_path / "ws", "--frame", 0, "--recolour", "120,0,0"), "no masks yet"
    )


def test_a_record_of_a_stranger_leads_nowhere(root: Path, run: Run) -> None:
    ok(run("edit-frame", root, "--frame", 4, "--copy", 1))
    path = root / "edits" / ".steps" / "00004.json"
    record = json.loads(path.read_text())
    record["steps"][0]["picture"] = "../../../../etc/passwd"
    path.write_text(json.dumps(record))
    refused(run("edit-frame", root, "--frame", 4, "--undo"), "00004.json is damaged")


def test_the_window_and_the_shell_make_the_same_file(root: Path, run: Run) -> None:
    workspace = Workspace(root)
    target = FrameEdit(workspace, load_config(workspace.config), None, 4)
    made = target.add(Paint(colour="#12ab34", radius=4.5, points=((30.25, 50), (40, 55.5))))
    content = made.read_bytes()
    target.move(-1)
    ok(run("edit-frame", root, "--frame", 4, "--paint", "#12ab34,4.5,30.25,50,40,55.5"))
    assert made.read_bytes() == content


def test_the_feather_is_the_clips(root: Path, run: Run) -> None:
    hard = sets("inference.feather=0")
    ok(run("edit-frame", root, "--frame", 4, "--paint", "#ff0000,900,1,1", *hard))
    inside = ~outside(root, 4)
    assert (picture(root, 4)[inside] == (255, 0, 0)).all()


def test_an_instruction_makes_candidates_and_one_is_taken(
    root: Path, run: Run, tmp_path: Path
) -> None:
    write_sdxl(tmp_path / "sdxl")
    model = sets(f"editor.model={tmp_path / 'sdxl'}", "editor.steps=2", "editor.megapixels=0.015")
    told = ["--instruct", "an orange ball", "--device", "cpu", *model]
    answer = ok(run("edit-frame", root, "--frame", 4, *told, "--candidates", 3, "--seed", 7))
    assert "3 candidates" in answer.out
    folder = root / "candidates" / "00004"
    assert sorted(path.name for path in folder.iterdir()) == [
        "1.png", "2.png", "3.png", "sheet.png",
    ]  # fmt: skip
    assert not (root / "edits" / "00004.png").exists()
    for name in ("1.png", "2.png", "3.png"):
        candidate = read_image(folder / name)
        assert np.array_equal(candidate[outside(root, 4)], source(root, 4)[outside(root, 4)])
    ok(run("edit-frame", root, "--frame", 4, "--choose", 2))
    faded = feather_alpha(~outside(root, 4), 3.0)  # as the clip's own
    laid = composite(source(root, 4), read_image(folder / "2.png"), faded)
    assert np.array_equal(picture(root, 4), laid)
    second = (root / "edits" / "00004.png").read_bytes()
    assert np.array_equal(picture(root, 4)[outside(root, 4)], source(root, 4)[outside(root, 4)])
    assert (picture(root, 4) != source(root, 4)).any()
    ok(run("edit-frame", root, "--frame", 4, "--undo"))
    answer = ok(run("edit-frame", root, "--frame", 4, *told, "--seed", 8))
    assert "step 1 of 1" in answer.out
    assert (root / "edits" / "00004.png").read_bytes() == second
    refused(run("edit-frame", root, "--frame", 4, *told, "--candidates", 99), "from 1 to 16")
    refused(run("edit-frame", root, "--frame", 4, "--instruct", " ", *model), "is empty")
    refused(run("edit-frame", root, "--frame", 4, *told, "--seed", 2**64), f"seed {2**64}")


def test_the_look_is_carried_to_a_frame_through_the_trained_lora(copied: Path, run: Run) -> None:
    ok(run("edit-frame", copied, "--frame", 5, "--carry", "--device", "cpu"))
    first = (copied / "edits" / "00005.png").read_bytes()
    made, inside = picture(copied, 5), ~outside(copied, 5)
    assert np.array_equal(made[~inside], source(copied, 5)[~inside])
    assert not np.array_equal(made[inside], source(copied, 5)[inside])
    ok(run("edit-frame", copied, "--frame", 5, "--undo"))
    repaint(copied, 0, (30, 45, 20, 20))
    bare = sets("inference.lora=none")
    ok(run("edit-frame", copied, "--frame", 5, "--carry", "--device", "cpu", *bare))
    assert (copied / "edits" / "00005.png").read_bytes() != first
    refused(run("edit-frame", copied, "--frame", 0, "--carry"), "frame 0 is where")


def test_the_last_frame_is_among_those_that_are_sampled() -> None:
    clip, edited = small_clip(), small_edit()
    for frame in (1, 2, 5, 6, 8):
        segment = anchored(clip, edited, frame)
        assert segment.start <= frame < segment.stop <= clip.source.frames
        assert segment.anchor == max(n for n in (0, 4, 8) if n < frame)
        assert segment.shown == 5
        assert segment.anchor < segment.start
