"""What differs between operating systems: interruptions, quoting, the console, memory. No torch."""

import ctypes
import errno
import io
import logging
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from maskora.errors import UserError

WINDOWS = os.name == "nt"
# What asks a program to end. Windows has SIGBREAK besides (Ctrl-Break), the only one of them that
# one process can send to another there.
INTERRUPTIONS: tuple[int, ...] = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)
)
# What the machine refuses for a reason that its own words explain, and what to do about it.
_ROOM, _PLACE = "make room there", "choose another place, or change who may write there"
_HANDLES = "end other programs, or raise the limit of open files (ulimit -n)"
_DISK = "the disk or its connection fails: copy the folder to another one"
ADVICE = {
    errno.ENOSPC: _ROOM, errno.EDQUOT: _ROOM, errno.EACCES: _PLACE, errno.EPERM: _PLACE,
    errno.EROFS: _PLACE, errno.EMFILE: _HANDLES, errno.ENFILE: _HANDLES, errno.EIO: _DISK,
    errno.EAGAIN: "end other programs", errno.ENAMETOOLONG: "", errno.ENOTDIR: "",
    errno.EISDIR: "move it away", errno.EFBIG: "", errno.ELOOP: "",
    **({errno.EINVAL: ""} if WINDOWS else {}),  # of a name that is none there
}  # fmt: skip
REPORTED_ERRNOS = tuple(ADVICE)
# What a terminal would obey or show nothing of, and half characters; not the ends of lines.
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def explain(error: OSError) -> str:
    """What the system refused, where, and what to do: "No space left on device: a.mp4 (…)"."""
    advice = ADVICE.get(error.errno or 0)
    where = error.filename or "a file or program that the system does not name"
    return f"{error.strerror}: {where}{f' ({advice})' if advice else ''}"


# What neither cmd nor PowerShell gives a meaning to.
PLAIN = re.compile(r"[\w.:\\/+=-]+")


def ends_with_parent() -> Callable[[], None] | None:
    """What a new process calls to get SIGTERM when its parent has gone; None where no system can.

    For `preexec_fn`; "parent" is the thread that has started it.
    """
    if sys.platform != "linux":
        return None
    prctl, set_parent_death_signal = ctypes.CDLL(None).prctl, 1
    return lambda: prctl(set_parent_death_signal, signal.SIGTERM)


def on_wsl() -> bool:
    """Whether this is Linux inside Windows."""
    return "microsoft" in platform.release().lower()


def quoted(*words: object, windows: bool = WINDOWS) -> str:
    """A command, or a part of one, as a person types it into the shell of this system."""
    texts = [str(word) for word in words]
    return " ".join(_for_windows(text) for text in texts) if windows else shlex.join(texts)


def _for_windows(word: str) -> str:
    if PLAIN.fullmatch(word):
        return word
    listed = subprocess.list2cmdline([word])
    # What the C library would read bare, the shell may still cut apart.
    return listed if listed.startswith('"') else f'"{listed}"'


def command_line() -> str:
    """What this program was started as, for people, in a line; a long one is cut."""
    name = Path(sys.argv[0]).name
    name = "maskora" if name in ("__main__.py", "maskora", "maskora.exe") else name
    words = quoted(name, *sys.argv[1:])
    line = "".join(letter if letter.isprintable() else "?" for letter in words)
    return line if len(line) <= 160 else f"{line[:160]}…"


def show_any_character(streams: Iterable[object] | None = None) -> None:
    """Let an output with an old character set show "?" for what it lacks, instead of failing.

    Args:
        streams: by default what this program prints to.
    """
    for stream in (sys.stdout, sys.stderr) if streams is None else streams:
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")


def printable(text: str) -> str:
    """A text for the terminal, in which names that others chose command nothing."""
    return UNPRINTABLE.sub("?", text)


def check_utf8(texts: Iterable[str]) -> None:
    """Names and texts can be written down. Raises UserError with the first that cannot."""
    for text in texts:
        if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
            raise UserError(f"{printable(text)!r} is not in UTF-8: rename it, or write it in UTF-8")


def quieten_libraries() -> None:
    """Turn down the warnings of libraries that say nothing that helps a person here."""
    for library in ("TRANSFORMERS", "DIFFUSERS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # of faster kernels that might be had


# A container's limit, what it uses of it, and its statistics: of version 2 and 1 of control groups.
GROUPS = Path("/sys/fs/cgroup")
LIMITS = (
    ("memory.max", "memory.current", "memory.stat", ""),
    (
        "memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat",
        "total_",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Ram:
    """The machine's memory in bytes, or its container's where that is less.

    Attributes:
        available: what programs can have without others being swapped out.
    """

    installed: int
    available: int

    @property
    def description(self) -> str:
        """ "9.1 of 31.2 GB of RAM are available", and why there may be less than was bought."""
        available, installed = self.available / 2**30, self.installed / 2**30
        text = f"{available:.1f} of {installed:.1f} GB of RAM are available"
        if on_wsl():
            text += " (WSL has half of the computer's, unless memory in .wslconfig says otherwise)"
        return text


def ram() -> Ram:
    """This machine's memory now."""
    memory = psutil.virtual_memory()
    installed, available = memory.total, memory.available
    for limit, used, statistics, prefix in LIMITS:
        most, taken = _number(GROUPS / limit), _number(GROUPS / used)
        if most is not None and taken is not None:
            installed = min(installed, most)
            cached = _cached_files(GROUPS / statistics, prefix)
            available = min(available, max(0, most - taken + cached))
    return Ram(installed, available)


def _number(path: Path) -> int | None:
    """A file's one number; None where there is no file, or it says "max"."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def _cached_files(statistics: Path, prefix: str) -> int:
    """Bytes of files that a container's use counts and that the system gives back when asked."""
    try:
        lines = [line.split() for line in statistics.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return 0
    names = {f"{prefix}inactive_file", f"{prefix}active_file"}
    return sum(int(line[1]) for line in lines if line[0] in names)
