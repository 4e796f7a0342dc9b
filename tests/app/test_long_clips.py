"""Memory does not grow with the length of the clip: pictures are read when they are needed."""

import gc
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import pytest

from maskora.app.edits import load_clip, load_edit
from maskora.app.fingerprints import motion_fingerprint
from maskora.app.outputs import Run as Inference
from maskora.app.outputs import run_record, write_outputs
from maskora.app.workspace import Workspace, original_video
from maskora.config import load_config
from maskora.frames import LazyFrames
from maskora.models.registry import VideoModel
from maskora.video.write import write_mp4
from tests.app.conftest import FAST, Run, ok, repaint
from tests.ball import draw_frame

SHORT, LONG = 97, 265  # more than stay in memory
FRAME = 160 * 96 * 3  # bytes
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
