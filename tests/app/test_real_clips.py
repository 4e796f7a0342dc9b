"""The whole job on real footage, with a tiny model: what is promised about the background."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from maskora.masks.files import read_labels
from maskora.video.images import read_image, write_png
from maskora.video.probe import probe
from maskora.video.read import read_frames
from tests.app.conftest import FAST, Answer, recolour

Run = Callable[..., Answer]


def frames_of(path: Path, count: int | None = None) -> list[np.ndarray]:
    return list(read_frames(probe(path), 0, count))


@pytest.mark.slow
def test_the_man_walks_on_in_red(
    run: Run, real_clips: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """A real edited first frame, a box around the man, a recoloured later frame, a second edit."""
    clips, root = real_clips / "man_walking", tmp_path / "ws"
    answer = run(
        "prepare", clips / "source.mp4", root, "--box", "50,60,360,452", "--size", "256x256",
        "--caption", "a man walks", "--edited-caption", "a man in a red shirt walks",
        "--set", f"model.path={tiny_model}", *FAST,
    )  # fmt: skip
    assert answer.status == 0, answer.err
    assert "13 frames are used" in answer.out
    red = read_image(clips / "red_clothes.png")  # of the original's size, 512x512
    write_png(root / "edits" / "00000.png", red)
    recolour(root / "source" / "00012.png", root / "edits" / "00012.png", (80, 110, 90, 100))
    config = root / "edit.toml"
    for command in (["train", "--config", config], ["infer", "--config", config]):
        answer = run(*command)
        assert answer.status == 0, answer.err
    assert "00000.png differs from source frame 0 outside the mask" in answer.err

    frames = frames_of(root / "output" / "edited.mkv")
    assert len(frames) == 13
    for number, frame in enumerate(frames):
        source = read_image(root / "source" / f"{number:05d}.png")
        keep = read_labels(root / "masks" / f"{number:05d}.png") == 0
        assert np.array_equal(frame[keep], source[keep])
    first = frames_of(root / "output" / "edited.mp4", 1)[0]
    shirt = (slice(260, 440), slice(170, 330))
    assert first.shape == (512, 512, 3)
    assert np.abs(first[shirt].astype(int) - red[shirt]).mean() < 4, "frame 0 is the edit itself"
    record = json.loads((root / "output" / "run.json").read_text())
    small = cv2.resize(red, (256, 256), interpolation=cv2.INTER_AREA).astype(int)
    keep = read_labels(root / "masks" / "00000.png") == 0
    mean = np.abs(small - read_image(root / "source" / "00000.png"))[keep].mean()
    assert record["outside_difference"]["0"]["mean_levels"] == pytest.approx(mean, rel=0.02)
    assert "appearance/" in record["loras"][0]["path"]

    write_png(root / "edits" / "hat" / "00000.png", read_image(clips / "cowboy_hat.png"))
    answer = run("train", "--config", config, "--edit", "hat")
    assert "motion: done already" in answer.err
    answer = run("infer", "--config", config, "--edit", "hat")
    assert answer.status == 0, answer.err
    assert (root / "output" / "hat" / "edited.mp4").is_file()


@pytest.mark.slow
def test_the_dog_keeps_its_size_rate_sound_and_background(
    run: Run, real_clips: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """49 frames of 1280x720 at 29.97 fps; only the box may change."""
    video, root = real_clips / "dog.mp4", tmp_path / "ws"
    answer = run(
        "prepare", video, root, "--box", "500,200,300,300", "--size", "208x112",
        "--caption", "a dog", "--edited-caption", "a red dog",
        "--set", f"model.path={tiny_model}", *FAST,
    )  # fmt: skip
    assert answer.status == 0, answer.err
    recolour(root / "source" / "00000.png", root / "edits" / "00000.png", (90, 40, 30, 30))
    for command in ("train", "infer"):
        answer = run(command, "--config", root / "edit.toml")
        assert answer.status == 0, answer.err
    result, original = probe(root / "output" / "edited.mp4"), probe(video)
    assert (result.width, result.height, result.frames) == (1280, 720, 49)
    assert result.fps == original.fps
    assert result.has_audio == original.has_audio
    # The box in the original, grown by the margin and snapped to cells of 8 workspace pixels.
    outside = np.ones((720, 1280), bool)
    outside[100:600, 380:920] = False
    inside_change = []
    pairs = zip(read_frames(result), read_frames(original, 0, 49), strict=True)
    for mine, theirs in pairs:
        difference = np.abs(mine.astype(int) - theirs.astype(int))
        assert difference[outside].mean() < 2, "the codec's own loss, at full resolution"
        inside_change.append(difference[250:450, 550:750].mean())
    assert np.mean(inside_change) > 5
