"""The ffmpeg program that comes with imageio-ffmpeg: commands, filters, error messages."""

import functools
import re
import subprocess
from collections.abc import Collection
from pathlib import Path

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


def log_lines(log: bytes, levels: Collection[str] = ()) -> list[str]:
    """The lines of ffmpeg's log, without ``[part @ 0x1234]``.

    Args:
        levels: of a log with ``-v level+…``: the levels that are wanted.
    """
    lines = []
    for line in log.decode("utf-8", "replace").splitlines():
        text = re.sub(r"^(\[[^]]* @ [^]]*\]\s*)+", "", line).strip()
        if levels:
            level, _, text = text.partition("] ")
            text = text.strip() if level.removeprefix("[") in levels else ""
        if text:
            lines.append(text)
    return lines
