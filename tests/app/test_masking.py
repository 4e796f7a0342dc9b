"""Masks: from clicks by maskora track, made anew when settings change, and never half-written."""

import errno
import functools
import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskora.app.masking import load_masks, to_original, to_workspace
from maskora.app.workspace import Workspace
from maskora.config import load_config
from maskora.masks.files import read_labels, write_labels
from maskora.masks.prompts import Box, Click
from maskora.video.fit import FramePlacement, place
from tests.app.conftest import Prepared, Run, at, ok, refused, sets
from tests.ball import ball_centre, draw_mask

Make = Callable[..., Path]
CENTRE = "0,50,110,+"  # of the ball in frame 0, in pixels of the original 320x192


@pytest.fixture(scope="module")
def bare_masters(
    run: Run, ball: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Make:
    """Prepare the ball without saying where the edit is, once for the same options."""

    @functools.cache
    def make(*options: object) -> Path:
        root = tmp_path_factory.mktemp("bare") / "ws"
        words = ["--size", "160x96", "--frames", 9, "--caption", "a ball"]
        answer = ok(run("prepare", ball, root, *words, *sets(f"model.path={tiny_model}"), *options))
        assert "maskora gui" in answer.out
        assert "maskora track" in answer.out
        return root

    return make


@pytest.fixture
def bare(bare_masters: Make, tmp_path: Path) -> Make:
    """A copy of such a workspace."""
    return lambda *options: Path(shutil.copytree(bare_masters(*options), tmp_path / "ws"))


def masks_of(root: Path) -> list[bytes]:
    return [(root / "masks" / f"{n:05d}.png").read_bytes() for n in range(9)]


def test_clicked_masks_cover_the_ball(run: Run, bare: Make) -> None:
    root = bare("--set", f'tracker.clicks=["{CENTRE}"]')
    by_table = ok(run("track", root))  # [tracker] takes the place of the options
    masks = masks_of(root)
    answer = ok(run("track", root, "--click", CENTRE, "--checkpoint", "owner/sam2"))
    assert "tracker: simple" in answer.out
    assert "overview.png" in answer.out
    assert "tracker.checkpoint has no effect" in answer.out
    assert "no effect" not in by_table.out
    assert masks_of(root) == masks
    for frame in range(9):
        mask = read_labels(root / "masks" / f"{frame:05d}.png") > 0
        ball = draw_mask(frame)[::2, ::2] > 0
        assert (mask & ball).sum() > 0.95 * ball.sum()
        assert mask.sum() < 8 * ball.sum()
    ok(run("check", *at(root)))


def test_several_objects_and_a_box(run: Run, bare: Make) -> None:
    root = bare()
    x, y = ball_centre(8)
    box = f"8,{x - 30:g},{y - 30:g},60,60"
    clicks = ["--click", "0,250,40,+,2", "--click", "0,240,60,-,2"]
    ok(run("track", root, "--box", box, *clicks))
    assert set(np.unique(read_labels(root / "masks" / "00000.png"))) == {0, 1, 2}
    record = json.loads((root / "tracking" / "clicks.json").read_text())
    assert [list(item) for item in record["prompts"]] == [["box"], ["click"], ["click"]]


def test_what_was_clicked_in_the_window_is_followed(run: Run, bare: Make) -> None:
    root = bare()
    ok(run("track", root, "--click", CENTRE, "--click", "0,52,108,+"))
    (root / "masks" / "masks.json").unlink()
    ok(run("track", root, "--set", "mask.margin=0.4"))
    assert (root / "masks" / "masks.json").is_file()
    answer = run("track", root, "--click", CENTRE)
    assert "2 earlier clicks and boxes are replaced by 1" in answer.out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], ["--click", "maskora gui"]),
        (["--click", "0,900,10,+"], ["0,900,10,+", "320x192"]),
        (["--click", "9,50,50,+"], ["frames 0 to 8"]),
        (["--click", "0,50,+"], ["FRAME,X,Y,+"]),
        (["--click", "0,50,50,+,0"], ["numbered 1 to"]),
        (["--box", "0,5,5,0,5"], ["above 0"]),
        (["--paint", "0"], ["FRAME,PNG"]),
        (["--paint", "0,no.png"], ["no.png", "no such mask"]),
        (["--paint", "0,."], ["is a folder"]),
        (["--click", "0,50,50,-"], ["object 1 is not in frame 0 yet"]),
        (["--click", CENTRE, "--tracker", "sam2", "--checkpoint", "./no"], ["[tracker]", "./no"]),
    ],
)
def test_wrong_clicks(run: Run, bare: Make, options: list[str], words: list[str]) -> None:
    root = bare()
    refused(run("track", root, *options), *words)
    assert not (root / "masks").exists()
    assert not (root / "tracking" / "clicks.json").exists()


def test_painted_masks_are_kept(run: Run, bare: Make) -> None:
    root = bare()
    ok(run("track", root, "--click", CENTRE))
    painted = np.ones((96, 160), np.uint8)
    write_labels(root / "masks" / "00003.png", painted)
    refused(run("track", root, "--click", CENTRE), "changed by hand")
    assert read_labels(root / "masks" / "00003.png").all()
    ok(run("track", root, "--click", CENTRE, "--overwrite"))
    assert not read_labels(root / "masks" / "00003.png").all()


def test_without_masks_the_commands_say_where_to_click(run: Run, bare: Make) -> None:
    root = bare()
    for command in ("train", "check"):
        answer = run(command, *at(root))
        assert answer.status == 2
        assert "maskora track" in answer.err
        assert "maskora gui" in answer.err


def test_what_cannot_be_tracked_is_refused(run: Run, bare: Make, tmp_path: Path) -> None:
    refused(run("track", tmp_path, "--click", CENTRE), "not a prepared workspace")
    root = bare("--size", "96x96")
    mistyped = run("track", root, "--click", CENTRE, "--tracker", "sam9")
    assert mistyped.status == 2
    assert all(word in mistyped.err for word in ("--tracker", "sam9", "simple", "sam2"))
    answer = run("track", root, "--click", CENTRE, "--set", "tracker.type=sam9")
    refused(answer, "[tracker] type", "'simple'", lines=2)
    refused(run("track", root, "--click", "0,5,100,+"), "cropped away")
    Workspace(root).tracking_dir.mkdir()
    Workspace(root).tracking_record.write_text('{"prompts": [{"click": ')
    refused(run("track", root), "clicks.json is damaged")
    for painted in ("0", "a,1", "-1,1", "0,1,1", "9" * 5000 + ",1"):
        prompts = {"prompts": [{"painting": painted}]}
        Workspace(root).tracking_record.write_text(json.dumps(prompts))
        refused(run("track", root), "clicks.json is damaged")


SIDES = st.integers(16, 2000)


@settings(max_examples=500)
@given(
    st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES), st.sampled_from(["crop", "pad", "stretch"]),
    st.floats(0, 1), st.floats(0, 1),
)  # fmt: skip
def test_there_and_back(
    original: tuple[int, int], size: tuple[int, int], fit: str, across: float, down: float
) -> None:
    """Clicks and boxes come back from the workspace's pixels to a tenth of an original one."""
    placement: FramePlacement = place(original, size, fit)  # type: ignore[arg-type]
    x, y = across * (original[0] - 1), down * (original[1] - 1)
    back = to_original(to_workspace(Click(3, x, y, False, 2), placement), placement)
    assert abs(back.x - x) <= 0.051
    assert abs(back.y - y) <= 0.051
    assert (back.frame, back.object_id, isinstance(back, Click) and back.positive) == (3, 2, False)
    box = Box(1, x, y, 10, 20)
    again = to_original(to_workspace(box, placement), placement)
    assert isinstance(again, Box)
    np.testing.assert_allclose([again.width, again.height], [10, 20], atol=0.051)


def test_pixels_lie_where_they_are_seen() -> None:
    """The middle of a half-size pixel is the corner between four pixels of the original."""
    placement = place((320, 192), (160, 96), "stretch")
    assert to_original(Click(0, 10, 20), placement) == Click(0, 20.5, 40.5)
    assert to_original(Box(0, 10, 20, 5, 6), placement) == Box(0, 20, 40, 10, 12)


def files_of(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_new_masks_that_cannot_be_put_in_place_leave_the_earlier_ones(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Windows a virus scanner may have one of the new files open."""
    root, real = prepared(), Path.replace
    workspace, config = Workspace(root), load_config(root / "edit.toml", ["mask.margin=0.4"])
    before = files_of(root)

    def replace(self: Path, target: Path) -> Path:
        if target == workspace.masks_dir and self.name == "masks":
            raise OSError(errno.EIO, "refused", str(self))
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(OSError, match="refused"):
        load_masks(workspace, config.mask, workspace.read_source())
    assert files_of(root) == before


def test_an_interrupted_remake_leaves_the_masks_as_they_were(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, numbers = Workspace(prepared()), itertools.count(1)
    config = load_config(workspace.config, ["mask.margin=0.4"])
    before = files_of(workspace.masks_dir)

    def interrupted(path: Path, labels: np.ndarray) -> None:
        if next(numbers) == 5:
            raise KeyboardInterrupt
        write_labels(path, labels)

    with monkeypatch.context() as patch:
        patch.setattr("maskora.app.masking.write_labels", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load_masks(workspace, config.mask, workspace.read_source())
    assert files_of(workspace.masks_dir) == before
    labels = load_masks(workspace, config.mask, workspace.read_source())
    assert (labels[:] > 0).mean() > 0.3
    assert not list(workspace.root.glob(".masks-*"))


def test_masks_that_are_painted_while_a_run_goes_on_are_for_the_next(prepared: Prepared) -> None:
    workspace = Workspace(prepared())
    config, source = load_config(workspace.config), workspace.read_source()
    labels_THW = load_masks(workspace, config.mask, source)
    before_THW = labels_THW[:]
    write_labels(workspace.mask(3), np.zeros(source.size[::-1], np.uint8))
    np.testing.assert_array_equal(labels_THW[:], before_THW)
    assert not load_masks(workspace, config.mask, source)[3].any()
