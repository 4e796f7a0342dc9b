"""Real clips, made by the same ffmpeg that the room uses."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from maskora.video.ffmpeg import ffmpeg_command

Make = Callable[..., Path]


@pytest.fixture(scope="session")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., bytes]:
    """What ffmpeg writes to a file of this name for arguments that name no other file."""
    known: dict[tuple[str, ...], bytes] = {}
    folder = tmp_path_factory.mktemp("encoded")

    def encode(name: str, *arguments: str) -> bytes:
        if (name, *arguments) not in known:
            path = folder / name
            subprocess.run(ffmpeg_command(*arguments, str(path)), check=True)
            known[(name, *arguments)] = path.read_bytes()
        return known[(name, *arguments)]

    return encode


@pytest.fixture
def make(tmp_path: Path, encoded: Callable[..., bytes]) -> Make:
    """make("name.mp4", *ffmpeg arguments) -> the file that ffmpeg wrote, the test's own copy."""

    def run(name: str, *arguments: str | Path) -> Path:
        path = tmp_path / name
        if any(isinstance(one, Path) for one in arguments):
            subprocess.run(ffmpeg_command(*map(str, (*arguments, path))), check=True)
        else:
            path.write_bytes(encoded(name, *arguments))
        return path

    return run


@pytest.fixture
def pattern(make: Make) -> Make:
    """pattern("name.mp4", frames, rate, *options, filters="...") -> a small moving test pattern."""

    def run(
        name: str, frames: int, rate: str, *options: str, filters: str = "format=yuv420p"
    ) -> Path:
        source = f"testsrc2=s=64x48:r={rate},hue=h=n*7,{filters}"
        return make(name, "-f", "lavfi", "-i", source, "-frames:v", str(frames), *options)

    return run
