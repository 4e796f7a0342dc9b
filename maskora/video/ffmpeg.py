"""ffmpeg: which files are opened, by the program (of imageio-ffmpeg) or by PyAV, and its words."""

import errno
import functools
import re
import subprocess
import threading
from collections.abc import Collection, Sequence
from pathlib import Path

import av
import imageio_ffmpeg
from av.container import InputContainer

from maskora.errors import Fault

# The formats that are opened, in ffmpeg's names: each is a single file. A playlist (HLS, DASH,
# ffconcat, numbered images) would open what it names, elsewhere too.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,ogg,asf,flv,mxf,dv,nut,ivf,gif,apng,"
    "yuv4mpegpipe,h264,hevc,mpegvideo,m4v,mjpeg,wav"
)
CONTAINER_NAMES = "mp4, mov, mkv, webm, avi, ts, mpg, ogv, wmv, flv, gif, animated png and others"

# What stops ffmpeg though the file is whole: PyAV's numbers, and words of the program.
_MACHINE = (errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE)
_MACHINE_SAYS = (
    "Cannot allocate", "Failed to alloc", "Could not alloc", "malloc", "get_buffer() failed",
    "pthread_create() failed", "Resource temporarily unavailable", "Too many open files",
    "No space left on device", "File too large", "quota exceeded", "Read-only file system",
)  # fmt: skip
_ENDED = (127, 255)  # statuses: it could not be started, a signal has ended it

# PyAV's log is one for all threads, and a decoder's thread that writes to it may wait for another
# that waits for the decoder: while it is listened to, nothing else decodes.
DECODING = threading.Lock()


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


def is_fault(error: av.FFmpegError) -> bool:
    """Whether an error of PyAV is the machine's, not the file's."""
    return error.errno in _MACHINE


def refuse_fault(path: Path, error: av.FFmpegError) -> None:
    """Raise Fault where an error of PyAV is not the file's."""
    if is_fault(error):
        raise Fault(
            f"{path} cannot be read now: too little memory, or too many threads or open files "
            f"({error.strerror})"
        ) from None


def machine_failure(status: int, said: Sequence[str]) -> str:
    """Why the program has failed where that is not the file's fault; else nothing.

    Args:
        status: that it ended with.
        said: the lines of its log.
    """
    words = (line for line in said if any(one in line for one in _MACHINE_SAYS))
    if not any("max pixel" in line for line in said) and (first := next(words, "")):
        return first  # for a picture beyond the bound there is no buffer, either
    return f"ffmpeg was ended, status {status}" if status < 0 or status in _ENDED else ""


@functools.cache
def has_filter(name: str) -> bool:
    """True if this ffmpeg was built with the filter. Raises Fault where it does not run."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-filters"]
    run = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
    if run.returncode:
        raise Fault(f"ffmpeg does not run (status {run.returncode}): maskora doctor says more")
    return any(line.split()[1:2] == [name] for line in run.stdout.splitlines())


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
