"""Long clips: memory does not grow with their length, and a real one comes out whole."""

import gc
import subprocess
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import imageio_ffmpeg
import numpy as np
import pytest

from maskora.app.edits import load_clip, load_edit
from maskora.app.fingerprints import motion_fingerprint
from maskora.app.outputs import Run as Inference
from maskora.app.outputs import run_record, write_outputs
from maskora.app.workspace import Workspace, original_video
from maskora.config import load_config
from maskora.frames import LazyFrames
from maskora.masks.files import read_labels
from maskora.models.registry import VideoModel
from maskora.video.fit import unfit_mask
from maskora.video.probe import probe
from maskora.video.read import read_frames
from maskora.video.write import write_mp4
from tests.app.conftest import FAST, Run, at, keeps_the_background, ok, repaint, sets
from tests.ball import draw_frame

SHORT, LONG = 97, 265  # more than stay in memory
FRAME = 160 * 96 * 3  # bytes
NUMBERS = 8000  # bytes that judging a frame may leave: its measures, and no picture
FEW = 6  # frames, which the names, digests and packed masks of 168 more may take together


@dataclass(frozen=True)
class Peaks:
    """The most bytes that were held at once while a workspace was made, and worked with."""

    prepared: int
    written: int


def peak(work: Callable[[], object]) -> int:
    """The most bytes that Python and numpy held at once during some work, beyond those before."""
    gc.collect()
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def write_result(root: Path, model: VideoModel) -> None:
    """All that `infer` does but the model's own work: what it gives is the source's negative."""
    workspace, config = Workspace(root), load_config(root / "edit.toml")
    clip = load_clip(workspace, config)
    edited = load_edit(workspace, config, clip, None)
    motion_fingerprint(clip, "a blue ball", config, model)
    generated = LazyFrames(lambda n: 255 - clip.frames_THWC[n], clip.frames_THWC.shape)
    inputs = (config, workspace, clip, edited, None, original_video(clip.source), model, "")
    inference = Inference(*inputs)
    folder = workspace.output_dir(None, None)
    folder.mkdir(parents=True)
    write_outputs(folder, inference, run_record(inference, []), generated, {})


@pytest.mark.slow
def test_a_longer_clip_takes_no_more_memory(
    tmp_path: Path, run: Run, model: VideoModel, tiny_model: Path
) -> None:
    video = tmp_path / "ball.mp4"
    write_mp4(video, (draw_frame(n, (60, 120, 220)) for n in range(LONG)), Fraction(16))

    def measure(frames: int, name: str) -> Peaks:
        root = tmp_path / name
        command = [
            "prepare", video, root, "--box", "16,64,120,96", "--size", "160x96", "--frames", frames,
            "--caption", "a blue ball", "--edited-caption", "an orange ball",
            "--set", f"model.path={tiny_model}", *FAST,
        ]  # fmt: skip
        prepared = peak(lambda: ok(run(*command)))
        repaint(root, 0)
        return Peaks(prepared, peak(lambda: write_result(root, model)))

    measure(SHORT, "first")  # what is loaded once is loaded here
    short, long = measure(SHORT, "short"), measure(LONG, "long")
    assert long.prepared - short.prepared < FEW * FRAME
    assert long.written - short.written < FEW * FRAME


@pytest.mark.slow
def test_generating_and_judging_a_longer_clip_takes_no_more_memory(
    tmp_path: Path, run: Run, tiny_model: Path
) -> None:
    video = tmp_path / "ball.mp4"
    write_mp4(video, (draw_frame(n, (60, 120, 220)) for n in range(LONG)), Fraction(16))

    def measure(frames: int) -> tuple[int, int]:
        root = tmp_path / str(frames)
        ok(run(
            "prepare", video, root, "--box", "16,64,120,96", "--size", "80x48", "--frames", frames,
            "--caption", "a ball", "--edited-caption", "an orange ball", *FAST,
            *sets(f"model.path={tiny_model}", "inference.steps=1"),
        ))  # fmt: skip
        repaint(root, 0, (10, 20, 20, 15))
        generated = peak(lambda: ok(run("infer", *at(root), "--lora", "none")))
        return generated, peak(lambda: ok(run("evaluate", root)))

    measure(5)  # what is loaded once is loaded here
    short, long = measure(SHORT), measure(LONG)
    assert long[0] - short[0] < 4 * FEW * (80 * 48 * 3)
    assert long[1] - short[1] < (LONG - SHORT) * NUMBERS


WHOLE = 289  # frames of the dog
HERTZ = 16000


def ffmpeg(*options: object) -> bytes:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *map(str, options)]
    return subprocess.run(command, capture_output=True, check=True).stdout


def heard(path: Path) -> np.ndarray:
    """The sound of a video, one channel."""
    one = ["-map", "0:a:0", "-ac", 1, "-ar", HERTZ, "-f", "s16le", "pipe:1"]
    return np.frombuffer(ffmpeg("-i", path, *one), "<i2")


@pytest.mark.slow
def test_a_whole_real_clip_keeps_its_length_rate_sound_and_background(
    run: Run, real_clips: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """289 frames of 1280x720 at 29.97 fps, in seven segments; only the box may change."""
    video, root = tmp_path / "dog.mp4", tmp_path / "ws"
    rising = ["-f", "lavfi", "-i", f"aevalsrc=0.5*sin(2*PI*(200+30*t)*t):s=48000:d={WHOLE / 30}"]
    ffmpeg(
        "-i", real_clips / "dog.mp4", *rising, "-map", "0:v", "-map", "1:a", "-c:v", "copy", video
    )  # its own sound is silence
    ok(run(
        "prepare", video, root, "--frames", "all", "--box", "500,200,300,300", "--size", "112x64",
        "--caption", "a dog", "--edited-caption", "a red dog", *FAST,
        *sets(f"model.path={tiny_model}", "inference.steps=1", "motion.window=17"),
    ))  # fmt: skip
    repaint(root, 0, (48, 24, 16, 16))
    ok(run("train", *at(root)))
    answer = ok(run("infer", *at(root)))
    assert "segment 7 of 7: frames 241 to 288" in answer.err
    assert len(keeps_the_background(root)) == WHOLE

    result, original = probe(root / "output" / "edited.mp4"), probe(video)
    assert (result.width, result.height, result.frames) == (1280, 720, WHOLE)
    assert result.fps == original.fps
    mine, theirs = heard(result.path), heard(video)
    assert abs(len(mine) - float(WHOLE / original.fps) * HERTZ) < HERTZ / 20
    both = min(len(mine), len(theirs))
    assert np.corrcoef(mine[:both], theirs[:both])[0, 1] > 0.95, "in step to the end"
    placement = Workspace(root).read_source().placement
    inside = unfit_mask(read_labels(root / "masks" / "00000.png") > 0, placement)
    outside = cv2.dilate(inside.astype(np.uint8), np.ones((81, 81), np.uint8)) == 0
    changed = []
    for mine_HWC, source_HWC in zip(read_frames(result), read_frames(original), strict=True):
        difference = cv2.absdiff(mine_HWC, source_HWC)
        assert difference[outside].mean() < 2, "the codec's own loss, at full resolution"
        changed.append(difference[250:450, 550:750].mean())
    assert min(changed) > 5
