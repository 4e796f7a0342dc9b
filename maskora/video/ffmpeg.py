"""ffmpeg: which files it opens, by its program (of imageio-ffmpeg) or in this process (PyAV); its words."""

import functools
import re
import subprocess
from collections.abc import Collection
from pathlib import Path

import av
import imageio_ffmpeg
from av.container import InputContainer

# The formats that are opened, in ffmpeg's names: each is a single file. A playlist (HLS, DASH,
# ffconcat, numbered images) would open what it names, elsewhere too.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,ogg,asf,flv,mxf,dv,nut,ivf,gif,apng,"
    "yuv4mpegpipe,h264,hevc,mpegvideo,m4v,mjpeg,wav"
)
CONTAINER_NAMES = "mp4, mov, mkv, webm, avi, ts, mpg, ogv, wmv, flv, gif, animated png and others"


def ffmpeg_command(*arguments: str) -> list[str]:
    """A quiet, non-interactive ffmpeg command line."""
    executable = imageio_ffmpeg.get_ffmpeg_exe()
    return [executable, "-hide_banner", "-nostdin", "-y", "-v", "error", *arguments]


def file_url(path: Path) -> str:
    """The path as ffmpeg takes it, whatever characters it holds (``-``, ``:``, ``%``)."""
    return f"file:{path}"


def input_file(path: Path, containers: str = CONTAINERS) -> list[str]:
    """The words by which the program opens a file: of these formats only, and no other file."""
    return ["-format_whitelist", containers, "-protocol_whitelist", "file", "-i", file_url(path)]


def open_file(path: Path, containers: str = CONTAINERS) -> InputContainer:
    """The same in this process, with tags in whatever encoding. Raises av.FFmpegError."""
    options = {"format_whitelist": containers, "protocol_whitelist": "file"}
    return av.open(file_url(path), container_options=options, metadata_errors="replace")


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
