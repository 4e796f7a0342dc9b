"""The ffmpeg program that comes with imageio-ffmpeg: commands, filters, error messages."""

import functools
import re
import subprocess
from pathlib import Path
from typing import IO

import imageio_ffmpeg


def ffmpeg_command(*arguments: str) -> list[str]:
    """A quiet, non-interactive ffmpeg command line."""
    executable = imageio_ffmpeg.get_ffmpeg_exe()
    return [executable, "-hide_banner", "-nostdin", "-y", "-v", "error", *arguments]


def file_url(path: Path) -> str:
    """The path as ffmpeg takes it, whatever characters it holds (``-``, ``:``, ``%``)."""
    return f"file:{path}"


@functools.cache
def has_filter(name: str) -> bool:
    """True if this ffmpeg was built with the filter."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-filters"]
    listing = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", check=True
    ).stdout
    return any(line.split()[1:2] == [name] for line in listing.splitlines())


def complaints(log: IO[bytes]) -> list[str]:
    """The lines of ffmpeg's error log (a file open for reading), without ``[part @ 0x1234]``."""
    log.seek(0)
    lines = log.read().decode("utf-8", "replace").splitlines()
    return [
        text for line in lines if (text := re.sub(r"^(\[[^]]* @ [^]]*\]\s*)+", "", line).strip())
    ]
