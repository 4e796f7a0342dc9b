"""Real clips, made by the same ffmpeg that the room uses."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from maskora.video.ffmpeg import ffmpeg_command

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """make("name.mp4", *ffmpeg arguments) -> the file that ffmpeg wrote."""

    def run(name: str, *arguments: str | Path) -> Path:
        path = tmp_path / name
        words = [str(word) for word in (*arguments, path)]
        subprocess.run(ffmpeg_command(*words), check=True)
        return path

    return run


@pytest.fixture
def pattern(make: Make) -> Callable[..., Path]:
    """pattern("name.mp4", frames, rate, *options, filters="...") -> a small moving test pattern."""

    def run(
        name: str, frames: int, rate: str, *options: str, filters: str = "format=yuv420p"
    ) -> Path:
        source = f"testsrc2=s=64x48:r={rate},hue=h=n*7,{filters}"
        return make(name, "-f", "lavfi", "-i", source, "-frames:v", str(frames), *options)

    return run
