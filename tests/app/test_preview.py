"""preview: small and in few steps, beside a result of which nothing is touched."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskora.app import outputs, passages, plan
from maskora.app.demo import FRAMES as DEMO_FRAMES
from maskora.app.demo import SETTINGS, DemoClip, write_clip
from maskora.app.edits import Clip
from maskora.app.plan import SMALLEST, preview_size
from maskora.app.prepare import prepare_workspace
from maskora.app.preview import PREVIEW, shrunk_clip, shrunk_edit
from maskora.app.workspace import Workspace
from maskora.errors import Fault
from maskora.files import sha256_file
from maskora.masks.files import read_labels
from maskora.video.images import read_image, write_png
from maskora.video.probe import probe
from tests.app.conftest import Answer, Prepared, Run, at, frames_of, ok, refused, repaint, sets
from tests.app.small import small_clip, small_edit
from tests.app.test_outputs import change_source
from tests.system import posix_only

GRID = st.integers(1, 80)  # of a side, in multiples of the grid


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The workspaces of the tests are as small as it gets, and halved all the same."""
    monkeypatch.setattr(plan, "SMALLEST", 1)


def contents(root: Path) -> dict[str, str]:
    """What lies in a workspace but for previews, caches and locks."""
    files = (path for path in root.rglob("*") if path.is_file())
    names = {str(path.relative_to(root)): path for path in files}
    return {
        name: sha256_file(path)
        for name, path in names.items()
        if not name.startswith(("cache", ".")) and path.name != PREVIEW
    }


def previewed(run: Run, root: Path, *options: object) -> tuple[Answer, Path]:
    """A preview that must succeed, and where it is; without a LoRA, if it is not said."""
    lora = () if "--lora" in options or "--preset" in options else ("--lora", "none")
    answer = ok(run("preview", *at(root), *lora, *options))
    path = Path(answer.err.splitlines()[-1])
    assert path.is_relative_to(root / "output")
    return answer, path


@given(st.tuples(GRID, GRID), st.floats(0.01, 1), st.sampled_from([8, 16, 32]))
def test_a_previews_size_is_on_the_grid_and_never_too_small(
    cells: tuple[int, int], scale: float, multiple: int
) -> None:
    size = cells[0] * multiple, cells[1] * multiple
    small = preview_size(size, scale, multiple)
    least = min(min(size), SMALLEST * multiple)
    assert min(small) >= least
    for side, own in zip(small, size, strict=True):
        assert side % multiple == 0
        assert side <= own
        assert side >= own * scale - multiple / 2
        assert min(small) == least or side <= own * scale + multiple / 2


def test_sizes_of_usual_workspaces() -> None:
    assert preview_size((832, 480), 0.5, 16) == (416, 240)
    assert preview_size((480, 832), 0.25, 16) == (192, 336), "the shorter side has 12 tokens"
    assert preview_size((64, 64), 0.5, 16) == (64, 64), "the small model's, as it is"


@pytest.mark.parametrize("size", [(40, 24), (32, 16), (24, 32), (48, 32)])
@pytest.mark.parametrize("aligned", [True, False])
def test_masks_cover_what_they_covered_and_boxes_stay_in_cells(
    size: tuple[int, int], aligned: bool
) -> None:
    clip = small_clip()
    labels = clip.labels_THW.copy()
    if not aligned:
        labels[:, 8] = 0
    small = shrunk_clip(Clip(clip.source, clip.frames_THWC, labels), size)
    (full_width, full_height), (width, height) = clip.source.size, size
    assert small.source == clip.source.model_copy(update={"size": size})
    assert small.frames_THWC.shape == (len(labels), height, width, 3)
    shrunk = small.labels_THW[:]
    frame, y, x = np.nonzero(labels)
    rows, columns = (
        ((one + 0.5) * side / full).astype(int)
        for one, side, full in ((y, height, full_height), (x, width, full_width))
    )
    assert shrunk[frame, rows, columns].all()
    assert (shrunk == 0).any()
    cell = clip.source.cell
    cells = shrunk.reshape(len(labels), height // cell, cell, width // cell, cell)
    whole = bool((cells.min(axis=(2, 4)) == cells.max(axis=(2, 4))).all())
    if aligned:
        assert whole
    elif size == (48, 32):
        assert np.array_equal(shrunk, labels), "a mask of another shape keeps it"


def test_every_edited_frame_shrinks() -> None:
    """Later ones too: segments of a long clip open at them."""
    given, shrunk = small_edit().all, shrunk_edit(small_edit(), (24, 16)).all
    assert shrunk.keys() == given.keys()
    for frame, edited in shrunk.items():
        assert edited.image_HWC.shape == edited.fitted_HWC.shape == (16, 24, 3)
        assert edited.caption == given[frame].caption
        mean = given[frame].image_HWC.mean(axis=(0, 1))
        assert np.abs(edited.image_HWC.mean(axis=(0, 1)) - mean).max() < 2


@pytest.mark.usefixtures("small")
def test_a_preview_is_small_and_touches_nothing_of_a_result(copied: Path, run: Run) -> None:
    before = contents(copied)
    answer, path = previewed(run, copied)
    assert path == copied / "output" / PREVIEW
    assert "preview: 80x48 of 160x96, in 2 steps" in answer.err, "no more than are configured"
    assert "9 frames of 80x48" in answer.err, "the plan's"
    assert "LoRA: none" in answer.err
    assert contents(copied) == before
    video, comparison = probe(path), probe(copied / "output" / "comparison.mp4")
    assert (video.width, video.height, video.frames) == (3 * 80, 48, 9)
    assert video.fps == comparison.fps
    source, _, edited = np.split(frames_of(path).astype(int), 3, axis=2)
    difference = np.abs(edited - source).mean(axis=-1)
    labels = read_labels(copied / "masks" / "00000.png").reshape(6, 16, 10, 16).max(axis=(1, 3))
    inside = labels.repeat(8, axis=0).repeat(8, axis=1) > 0
    assert difference[:, ~inside].mean() < 3, "outside the source, up to the codec"
    assert np.quantile(difference[:, ~inside], 0.99) < 30
    assert (difference[:, inside].mean(axis=1) > 5).all(), "inside something is generated"
    shown = read_image(copied / "edits" / "00000.png")[44:66:2, 28:56:2].astype(int)
    assert np.abs(edited[0, 22:33, 14:28] - shown).mean() < 25, "frame 0 is the edit itself"


@pytest.mark.usefixtures("small")
def test_the_source_is_inverted_once_for_all_previews(copied: Path, run: Run) -> None:
    first, path = previewed(run, copied)
    assert "invert:" in first.err
    before, ways = sha256_file(path), list((copied / "cache").glob("way-*"))
    assert len(ways) == 1
    second, _ = previewed(run, copied)
    assert "invert:" not in second.err
    assert sha256_file(path) == before
    repaint(copied, 0, (30, 44, 30, 20))
    other, _ = previewed(run, copied)
    assert "invert:" not in other.err, "another edit of the clip"
    assert sha256_file(path) != before
    (copied / "edits" / "cap").mkdir()
    write_png(copied / "edits" / "cap" / "00000.png", read_image(copied / "edits" / "00000.png"))
    _, named = previewed(run, copied, "--edit", "cap")
    assert named == copied / "output" / "cap" / PREVIEW
    assert list((copied / "cache").glob("way-*")) == ways


@pytest.mark.usefixtures("small")
def test_scale_steps_and_preset_are_what_is_asked_for(copied: Path, run: Run) -> None:
    answer, _ = previewed(run, copied, "--steps", 3, "--preset", "paper")
    assert "preview: 80x48 of 160x96, in 3 steps" in answer.err
    assert f"LoRA: {copied / 'runs' / 'appearance'}" in answer.err, "the clip's own"
    assert "was trained before" not in answer.err, "on the frames as they were prepared"
    assert "invert:" not in answer.err
    fast = sets("acceleration.cache=taylor", "inference.steps=30")
    answer, path = previewed(run, copied, *fast, "--scale", 1)
    assert "preview: 160x96 of 160x96, in 12 steps" in answer.err
    assert probe(path).width == 3 * 160
    assert "acceleration.cache and .compile have no effect here" in answer.err


@pytest.mark.usefixtures("small")
def test_without_its_lora_the_source_needs_no_caption(copied: Path, run: Run) -> None:
    unsaid = sets("prompt.caption=auto", "caption.model=none")
    previewed(run, copied, *unsaid)
    refused(run("preview", *at(copied), *unsaid, "--preset", "paper"), "caption")


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("failure", [Fault("no room"), KeyboardInterrupt()])
@pytest.mark.parametrize("part", ["decode_video", "_side_by_side"])
def test_what_fails_leaves_the_earlier_preview(
    copied: Path, run: Run, monkeypatch: pytest.MonkeyPatch, failure: BaseException, part: str
) -> None:
    _, path = previewed(run, copied)
    before, everything = sha256_file(path), sorted((copied / "output").iterdir())
    repaint(copied, 0, (30, 44, 30, 20))

    def fail(*_: object) -> None:
        raise failure

    def fail_on_the_way(*_: object) -> Iterator[np.ndarray]:
        yield np.zeros((48, 240, 3), np.uint8)
        raise failure

    if part == "decode_video":
        monkeypatch.setattr(passages, part, fail)
    else:
        monkeypatch.setattr(outputs, part, fail_on_the_way)
    answer = run("preview", *at(copied))
    assert answer.status == (1 if isinstance(failure, Fault) else 130), answer.err
    assert sha256_file(path) == before
    assert sorted((copied / "output").iterdir()) == everything
    monkeypatch.undo()


@posix_only
def test_what_is_wrong_is_said_before_anything_is_generated(
    copied: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passages, "generate", lambda *_: pytest.fail("it generates"))
    target = copied / "output" / PREVIEW
    os.link(copied / "source" / "00003.png", target)
    refused(run("preview", *at(copied)), PREVIEW, "is read here")
    target.unlink()
    target.mkdir()
    refused(run("preview", *at(copied)), f"{target} is a folder", "move it away")
    target.rmdir()
    change_source(copied, cell=16)
    message = "the frames were prepared at 160x96 for latent cells of 16", "maskora prepare again"
    refused(run("preview", *at(copied)), *message)
    change_source(copied, cell=8)
    refused(run("preview", *at(copied), "--preset", "fast"), "--preset fast", "instant")
    (copied / "edits" / "00000.png").unlink()
    refused(run("preview", *at(copied)), "00000.png is missing: open source/00000.png")
    assert not target.exists()


@pytest.mark.parametrize("option", [("--scale", 0), ("--scale", 1.5), ("--steps", 0)])
def test_scales_and_steps_that_are_none(run: Run, prepared: Prepared, option: list[object]) -> None:
    answer = run("preview", *at(prepared()), *option)
    assert answer.status == 2
    assert str(option[0]) in answer.err


def test_the_small_models_clip_keeps_its_size(run: Run, tmp_path: Path) -> None:
    clip, workspace = DemoClip(tmp_path / "demo"), Workspace(tmp_path / "ws")
    clip.truth.mkdir(parents=True)
    write_clip(clip)
    prepare_workspace(
        clip.video, workspace.root, clip.masks, None, None, SETTINGS, [], overwrite=False
    )
    write_png(workspace.edited_frame(None, 0, ".png"), read_image(clip.truth_frame(0)))
    answer, path = previewed(run, workspace.root)
    assert "preview: 64x64 of 64x64, in 12 steps" in answer.err
    video = probe(path)
    assert (video.width, video.height, video.frames) == (3 * 64, 64, DEMO_FRAMES)
    source, _, edited = np.split(frames_of(path).astype(int), 3, axis=2)
    redness = (edited - source)[..., 0].mean(axis=(1, 2))
    assert (redness > 2).all(), "the blue square is pink in every frame"
    assert not workspace.runs_dir.exists()
