"""Sound and picture stay in step through the whole job, also for a part of the clip."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from maskora.video.images import read_image, write_png
from maskora.video.probe import probe
from maskora.video.read import read_frames
from tests.app.conftest import FAST, Answer

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
