"""The whole job on a small clip: what comes out, and what is not done twice."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from maskora.config import load_config
from maskora.masks.files import read_labels
from maskora.video.images import read_image
from maskora.video.probe import probe
from maskora.video.read import read_frames
from tests.app.conftest import Answer, recolour

Run = Callable[..., Answer]


@pytest.fixture(scope="module")
def done(prepared: Callable[..., Path], run: Run) -> Path:
    """A workspace with both stages trained and the clip generated."""
    root = prepared()
    recolour(root / "source" / "00008.png", root / "edits" / "00008.png", (40, 40, 40, 30))
    config = root / "edit.toml"
    for command in (["train", "--config", config], ["infer", "--config", config]):
        answer = run(*command)
        assert answer.status == 0, answer.err
    return root


def frames_of(path: Path) -> list[np.ndarray]:
    return list(read_frames(probe(path)))


def test_outside_the_mask_every_pixel_of_the_lossless_result_is_the_source(done: Path) -> None:
    frames = frames_of(done / "output" / "edited.mkv")
    assert len(frames) == 9
    changed = 0
    for number, frame in enumerate(frames):
        source = read_image(done / "source" / f"{number:05d}.png")
        keep = read_labels(done / "masks" / f"{number:05d}.png") == 0
        assert keep.any()
        assert np.array_equal(frame[keep], source[keep])
        changed += int((frame[~keep] != source[~keep]).any(axis=-1).sum())
    assert changed > 1000, "inside the mask something must have been generated"


def test_inside_the_mask_the_first_frame_is_the_edited_one(done: Path) -> None:
    import cv2

    frame = frames_of(done / "output" / "edited.mkv")[0]
    edited = read_image(done / "edits" / "00000.png")
    inside = (read_labels(done / "masks" / "00000.png") > 0).astype(np.uint8)
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    beyond_feather = depth > 4
    assert beyond_feather.sum() > 500
    assert np.array_equal(frame[beyond_feather], edited[beyond_feather])


def test_the_result_has_the_originals_size_and_rate(done: Path, ball: Path) -> None:
    result, original = probe(done / "output" / "edited.mp4"), probe(ball)
    assert (result.width, result.height) == (original.width, original.height)
    assert result.fps == original.fps
    assert result.frames == 9
    outside = np.ones((192, 320), bool)
    outside[48:176, 0:160] = False  # the box with its margin, snapped to cells of 16
    for mine, theirs in zip(
        frames_of(done / "output" / "edited.mp4"), frames_of(ball), strict=True
    ):
        difference = np.abs(mine.astype(int) - theirs.astype(int))[outside]
        assert difference.mean() < 2, "the background is the original up to the codec"


def test_the_comparison_shows_three_pictures(done: Path) -> None:
    info = probe(done / "output" / "comparison.mp4")
    assert (info.width, info.height) == (3 * 160, 96)
    assert (done / "output" / "strip.png").is_file()


def test_the_run_record_can_be_repeated(done: Path, run: Run, tmp_path: Path) -> None:
    record = json.loads((done / "output" / "run.json").read_text())
    assert record["seed"] == 0
    assert record["loras"][0]["path"].endswith("appearance/step-00002/adapter.safetensors")
    assert set(record["outside_difference"]) == {"0", "8"}
    assert record["versions"]["torch"] == torch.__version__
    config = load_config(done / "edit.toml")
    assert record["config"] == config.model_dump(mode="json")
    before = frames_of(done / "output" / "edited.mkv")
    output = tmp_path / "again.mp4"
    assert run("infer", "--config", done / "edit.toml", "--output", output).status == 0
    assert output.is_file()
    after = frames_of(done / "output" / "edited.mkv")
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_what_is_done_is_not_done_again(done: Path, run: Run) -> None:
    answer = run("train", "--config", done / "edit.toml")
    assert "motion: done already" in answer.err
    assert "appearance: done already" in answer.err


def test_a_second_edit_reuses_the_motion_lora(done: Path, run: Run) -> None:
    recolour(done / "source" / "00000.png", done / "edits" / "cap" / "00000.png", (24, 44, 30, 20))
    config = done / "edit.toml"
    answer = run("train", "--config", config, "--edit", "cap")
    assert answer.status == 0, answer.err
    assert "motion: done already" in answer.err
    answer = run("infer", "--config", config, "--edit", "cap", "--seed", "4,5")
    assert answer.status == 0, answer.err
    one, two = (done / "output" / "cap", done / "output" / "cap" / "seed-5")
    assert json.loads((one / "run.json").read_text())["seed"] == 4
    assert json.loads((two / "run.json").read_text())["seed"] == 5
    assert "motion/" in json.loads((one / "run.json").read_text())["loras"][0]["path"]
    a, b = frames_of(one / "edited.mkv"), frames_of(two / "edited.mkv")
    assert not np.array_equal(a[5], b[5])


@pytest.fixture
def copied(done: Path, tmp_path: Path) -> Path:
    """The finished workspace, to change."""
    shutil.copytree(done, tmp_path / "ws")
    return tmp_path / "ws"


def test_a_changed_caption_trains_motion_again_and_says_why(copied: Path, run: Run) -> None:
    answer = run(
        "train", "--config", copied / "edit.toml", "--stage", "motion",
        "--set", "prompt.caption=a green ball",
    )  # fmt: skip
    assert "motion: retraining: caption changed" in answer.err


def test_a_changed_keyframe_trains_appearance_alone(copied: Path, run: Run) -> None:
    recolour(copied / "source" / "00008.png", copied / "edits" / "00008.png", (44, 44, 20, 20))
    answer = run("infer", "--config", copied / "edit.toml")
    assert "the LoRA was trained before keyframes changed" in answer.err
    answer = run("train", "--config", copied / "edit.toml")
    assert "motion: done already" in answer.err
    assert "appearance: retraining: keyframes changed" in answer.err


def test_more_steps_continue_what_is_there(copied: Path, run: Run) -> None:
    more = ["--stage", "motion", "--set", "motion.steps=3", "--resume"]
    answer = run("train", "--config", copied / "edit.toml", *more)
    assert answer.status == 0, answer.err
    assert "motion: continues after step 2 of 3" in answer.err
    assert (copied / "runs" / "motion" / "step-00003" / "adapter.safetensors").is_file()


def test_a_changed_margin_makes_the_masks_anew(copied: Path, run: Run) -> None:
    before = read_labels(copied / "masks" / "00004.png") > 0
    answer = run(
        "train", "--config", copied / "edit.toml", "--stage", "motion", "--set", "mask.margin=0.4"
    )
    after = read_labels(copied / "masks" / "00004.png") > 0
    assert "masks: made anew" in answer.err
    assert "retraining: masks changed" in answer.err
    assert after.sum() > before.sum()
    assert (after | ~before).all()


def test_masks_changed_by_hand_are_kept(copied: Path, run: Run) -> None:
    from maskora.masks.files import write_labels

    labels = read_labels(copied / "masks" / "00004.png")
    labels[:8, :8] = 1
    write_labels(copied / "masks" / "00004.png", labels)
    answer = run(
        "train", "--config", copied / "edit.toml", "--stage", "motion", "--set", "mask.margin=0.4"
    )
    assert "changed by hand" in answer.err
    assert np.array_equal(read_labels(copied / "masks" / "00004.png"), labels)


@pytest.mark.parametrize("lock", ["model", "latent"])
def test_the_other_locks_give_the_raw_frames(copied: Path, run: Run, lock: str) -> None:
    answer = run("infer", "--config", copied / "edit.toml", "--set", f"inference.lock={lock}")
    assert answer.status == 0, answer.err
    frame = frames_of(copied / "output" / "edited.mkv")[4]
    keep = read_labels(copied / "masks" / "00004.png") == 0
    source = read_image(copied / "source" / "00004.png")
    assert not np.array_equal(frame[keep], source[keep])


def test_the_bare_base_and_further_loras(copied: Path, run: Run) -> None:
    config, lossless = copied / "edit.toml", copied / "output" / "edited.mkv"
    assert run("infer", "--config", config, "--lora", "none").status == 0
    bare = frames_of(lossless)
    adapter = "runs/motion/step-00002/adapter.safetensors"
    stacked = f"inference.loras=[{{path='{adapter}', strength=40.0}}]"
    answer = run("infer", "--config", config, "--lora", "none", "--set", stacked)
    assert answer.status == 0, answer.err
    assert not np.array_equal(frames_of(lossless)[5], bare[5])


def test_an_edit_of_the_originals_size_is_fitted(copied: Path, run: Run, ball: Path) -> None:
    from maskora.video.images import write_png

    original = frames_of(ball)[0].copy()
    original[90:130, 60:100] = (250, 10, 10)
    write_png(copied / "edits" / "00000.png", original)
    answer = run("infer", "--config", copied / "edit.toml")
    assert answer.status == 0, answer.err
    first = frames_of(copied / "output" / "edited.mp4")[0]
    assert np.abs(first[100:120, 70:90].astype(int) - (250, 10, 10)).mean() < 12


def test_an_edit_that_repaints_everything_is_reported(copied: Path, run: Run) -> None:
    from maskora.video.images import write_png

    source = read_image(copied / "source" / "00000.png")
    write_png(copied / "edits" / "00000.png", 255 - source)
    answer = run("infer", "--config", copied / "edit.toml")
    assert "differs from source frame 0 outside the mask" in answer.err
    assert (copied / "output" / "spill.png").is_file()
    record = json.loads((copied / "output" / "run.json").read_text())
    assert record["outside_difference"]["0"]["share_over_20_levels"] > 0.5
    keep = read_labels(copied / "masks" / "00000.png") == 0
    assert np.array_equal(frames_of(copied / "output" / "edited.mkv")[0][keep], source[keep])


def test_settings_without_effect_are_said(copied: Path, run: Run) -> None:
    answer = run(
        "train", "--config", copied / "edit.toml", "--stage", "motion",
        "--set", "motion.window=full", "--set", "motion.stride=2",
    )  # fmt: skip
    assert "motion.stride has no effect here" in answer.err
    answer = run(
        "infer", "--config", copied / "edit.toml",
        "--set", "inference.guidance=1", "--set", "prompt.negative=ugly",
    )  # fmt: skip
    assert "prompt.negative has no effect here" in answer.err


def test_check_says_what_is_there(done: Path, run: Run) -> None:
    answer = run("check", "--config", done / "edit.toml")
    assert answer.status == 0
    assert "motion, then appearance (keyframes: 8)" in answer.out
