"""infer: the results of a small edit, of real clips, and of a clip with sound."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import imageio_ffmpeg
import numpy as np
import pytest
import torch

from maskora.config import load_config
from maskora.masks.files import read_labels
from maskora.video.images import read_image, write_png
from maskora.video.probe import probe
from maskora.video.read import read_frames
from tests.app.conftest import FAST, Answer, recolour

Run = Callable[..., Answer]


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


Run = Callable[..., Answer]


def generated(run: Run, root: Path, *sets: str) -> tuple[np.ndarray, str]:
    """The bare base's frames after nine steps, (T, H, W, 3), and what the command has said."""
    options = [item for one in ["inference.steps=9", *sets] for item in ("--set", one)]
    answer = run("infer", "--config", root / "edit.toml", "--lora", "none", *options)
    assert answer.status == 0, answer.err
    video = probe(root / "output" / "edited.mkv")
    return np.stack(list(read_frames(video, 0, None))), answer.err


def test_a_cache_skips_blocks_says_so_and_changes_the_result(
    run: Run, prepared: Callable[..., Path]
) -> None:
    root = prepared()
    plain, told = generated(run, root)
    assert "acceleration.cache" not in told
    cached, told = generated(run, root, "acceleration.cache=taylor")
    share = re.search(r"(\d+) % of the blocks' computations were skipped", told)
    assert share is not None, told
    assert 20 <= int(share[1]) <= 60, "after the first three, two of three steps"
    assert not np.array_equal(cached, plain)
    assert np.array_equal(generated(run, root)[0], plain), "the cache alone has changed it"


RATE, FLASH, HERTZ = 25, 20, 16000


@pytest.fixture(scope="module")
def flash_and_beep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 frames, frame 20 white; a beep of 0.2 s starts with it."""
    path = tmp_path_factory.mktemp("sound") / "flash.mp4"
    at = FLASH / RATE
    subprocess.run(
        [
            imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y",
            "-f", "lavfi", "-i", f"color=gray:s=160x96:r={RATE}:d={40 / RATE}",
            "-f", "lavfi", "-i", f"sine=1000:r=48000:d={40 / RATE}",
            "-vf", f"drawbox=c=white:t=fill:enable='eq(n,{FLASH})'",
            "-af", f"volume=0:enable='not(between(t,{at},{at + 0.2}))'",
            "-c:v", "libx264", "-c:a", "aac", str(path),
        ],
        check=True,
    )  # fmt: skip
    return path


def beep_onset(path: Path) -> float:
    """Seconds from the start of the file to the beep."""
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path),
        "-map", "0:a:0", "-ac", "1", "-ar", str(HERTZ), "-f", "s16le", "pipe:1",
    ]  # fmt: skip
    sound = np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, "<i2")
    assert np.abs(sound.astype(int)).max() > 1000, "there is a beep"
    return float(np.argmax(np.abs(sound.astype(int)) > 500)) / HERTZ


def flash_onset(path: Path) -> float:
    """Seconds from the start of the file to the white frame, by its corner outside the mask."""
    info = probe(path)
    corner = [frame[:8, :8].mean() for frame in read_frames(info)]
    assert max(corner) > 200, "there is a flash"
    return float(int(np.argmax(corner)) / info.fps)


@pytest.mark.parametrize(("options", "flash_frame"), [(["--start", 8], 12), (["--every", 2], 10)])
def test_flash_and_beep_stay_together(
    run: Callable[..., Answer],
    flash_and_beep: Path,
    tiny_model: Path,
    tmp_path: Path,
    options: list[object],
    flash_frame: int,
) -> None:
    root = tmp_path / "ws"
    answer = run(
        "prepare", flash_and_beep, root, "--box", "60,30,40,40", "--size", "160x96",
        "--frames", 17, *options, "--caption", "grey", "--edited-caption", "grey",
        "--set", f"model.path={tiny_model}", *FAST,
    )  # fmt: skip
    assert answer.status == 0, answer.err
    write_png(root / "edits" / "00000.png", read_image(root / "source" / "00000.png"))
    answer = run("infer", "--config", root / "edit.toml", "--lora", "none")
    assert answer.status == 0, answer.err
    result = root / "output" / "edited.mp4"
    info = probe(result)
    assert info.frames == 17
    assert flash_onset(result) == pytest.approx(float(flash_frame / info.fps), abs=1e-3)
    assert abs(beep_onset(result) - flash_onset(result)) <= float(1 / info.fps)
    lossless = root / "output" / "edited.mkv"
    assert abs(beep_onset(lossless) - flash_onset(lossless)) <= float(1 / info.fps)


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
