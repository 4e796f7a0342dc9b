"""Editing a frame where the workspace is a stranger's, damaged, or has changed since."""

import json
from pathlib import Path

import numpy as np
import pytest

from maskora.app.retouching import MOST_POINTS, FrameEdit, History
from maskora.app.workspace import Workspace
from maskora.config import load_config
from maskora.errors import UserError
from maskora.masks.files import read_labels, write_labels
from maskora.retouch import Paint
from maskora.video.images import read_image, write_png
from tests.app.conftest import Prepared, Run, ok, refused

DOT = ("--paint", "#ffffff,3,36,52")


@pytest.fixture
def root(prepared: Prepared) -> Path:
    return prepared()


def record(root: Path, frame: int) -> Path:
    return root / "edits" / ".steps" / f"{frame:05d}.json"


def change(path: Path, **fields: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize("field", ["base", "base_content"])
def test_a_strangers_record_names_no_file_elsewhere(
    root: Path, run: Run, tmp_path: Path, field: str
) -> None:
    ok(run("edit-frame", root, "--frame", 0, *DOT))
    elsewhere = tmp_path / "elsewhere"
    if field == "base":
        elsewhere.write_bytes((root / "source" / "00000.png").read_bytes())
    change(record(root, 0), **{field: str(elsewhere)})
    refused(run("edit-frame", root, "--frame", 0, "--undo"), "00000.json is damaged")
    assert elsewhere.exists() == (field == "base")


@pytest.mark.parametrize("fields", [{"feather": float("nan")}, {"feather": -1}, {"done": 7}])
def test_a_record_with_impossible_numbers_is_damaged(
    root: Path, run: Run, fields: dict[str, float]
) -> None:
    ok(run("edit-frame", root, "--frame", 4, *DOT))
    before = (root / "edits" / "00004.png").read_bytes()
    change(record(root, 4), **fields)
    refused(run("edit-frame", root, "--frame", 4, "--paint", "#000000,3,36,52"), "json is damaged")
    assert (root / "edits" / "00004.png").read_bytes() == before


def test_steps_are_not_made_twice_where_what_they_began_with_is_gone(root: Path, run: Run) -> None:
    ok(run("edit-frame", root, "--frame", 0, "--recolour", "40,0,0"))
    made = (root / "edits" / "00000.png").read_bytes()
    for kept in (root / "edits" / ".steps" / "pictures").iterdir():
        kept.unlink()
    for tool in (["--undo"], list(DOT)):
        refused(run("edit-frame", root, "--frame", 0, *tool), "what the steps began with is gone")
        assert (root / "edits" / "00000.png").read_bytes() == made
    record(root, 0).unlink()
    ok(run("edit-frame", root, "--frame", 0, *DOT))


def test_a_picture_of_a_step_that_was_changed_is_not_taken_for_it(root: Path, run: Run) -> None:
    ok(run("edit-frame", root, "--frame", 4, "--copy", 1))
    (stored,) = (root / "edits" / ".steps" / "pictures").iterdir()
    write_png(stored, 255 - read_image(stored))
    refused(run("edit-frame", root, "--frame", 4, *DOT), "is gone or damaged")


def test_a_kept_edit_that_was_changed_does_not_come_back(root: Path, run: Run) -> None:
    ok(run("edit-frame", root, "--frame", 0, *DOT))
    (kept,) = (root / "edits" / ".steps" / "pictures").iterdir()
    write_png(kept, 255 - read_image(kept))
    refused(run("edit-frame", root, "--frame", 0, "--undo"), "what the steps began with is gone")


def test_numbers_beyond_reason_are_told_of(root: Path, run: Run) -> None:
    def refuse(*words: object, says: str) -> None:
        refused(run("edit-frame", root, "--frame", 4, *words), says)

    refuse("--copy", "1,99999,0", says="--copy: dx")
    refuse("--copy", "1.6", says="whole numbers")
    refuse("--copy", "1,0.5,0", says="whole numbers")
    refuse("--copy", "1e300", says="frames 0 to 8 only")
    refuse("--pick", "1e300,1", says="lies outside the frame")


def test_an_option_of_another_tool_is_told_of(root: Path, run: Run) -> None:
    idle = ["--area", "region", "--blend", "screen", "--edited", "--seed", 3]
    answer = ok(run("edit-frame", root, "--frame", 4, *DOT, "--opacity", 0.5, *idle))
    for words in (
        "--area has no effect here; it is of --recolour, --swap",
        "--blend has no effect here; it is of --place",
        "--edited has no effect here",
        "have no effect without --instruct",
    ):
        assert words in answer.err
    assert "--opacity" not in answer.err


def test_what_is_refused_leaves_nothing(root: Path, run: Run) -> None:
    for tool in (["--undo"], ["--recolour", "0,0,0"], list(DOT)):
        refused(run("edit-frame", root, "--frame", 90, "--edit", "typo", *tool), "frames 0 to 8")
    refused(run("edit-frame", root, "--frame", 1, "--edit", "typo", "--undo"), "no step")
    assert not (root / "edits" / "typo").exists()


def test_after_the_masks_changed_a_frame_is_what_its_file_is(root: Path, run: Run) -> None:
    ok(run("edit-frame", root, "--frame", 4, "--paint", "#ffffff,900,1,1"))
    mask = root / "masks" / "00004.png"
    smaller_HW = read_labels(mask)
    rows, columns = np.nonzero(smaller_HW)
    middle = (int(columns.min() + columns.max()) // 2, int(rows.min() + rows.max()) // 2)
    smaller_HW[: middle[1]] = 0
    write_labels(mask, smaller_HW)
    workspace = Workspace(root)
    target = FrameEdit(workspace, load_config(workspace.config), None, 4)
    file = workspace.edited_frame(None, 4, ".png")
    assert np.array_equal(target.picture(), read_image(file))
    ok(run("edit-frame", root, "--frame", 4, "--paint", f"#ff0000,2,{middle[0]},{middle[1] + 9}"))
    source_HWC = read_image(root / "source" / "00004.png")
    outside = smaller_HW == 0
    assert np.array_equal(read_image(file)[outside], source_HWC[outside])
    assert np.array_equal(target.picture(), read_image(file))


def test_a_record_never_grows_past_what_is_read() -> None:
    history = History(source="", feather=3.0)
    stroke = Paint(radius=2, points=tuple((0.123456789012345 + n, 1e-9) for n in range(20_000)))
    for _ in range(MOST_POINTS // 20_000):
        history = history.with_step(stroke)
    assert len(json.dumps(history.model_dump(), indent=2)) < 64 * 2**20
    with pytest.raises(UserError, match="take some back"):
        history.with_step(stroke)
