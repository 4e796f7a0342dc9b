"""What differs between operating systems: interruptions, the shell's quoting, the console."""

import io
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterable

WINDOWS = os.name == "nt"
# What asks a program to end. Windows has SIGBREAK besides (Ctrl-Break), the only one of them that
# one process can send to another there.
INTERRUPTIONS: tuple[int, ...] = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)
)
# What neither cmd nor PowerShell gives a meaning to.
PLAIN = re.compile(r"[\w.:\\/+=-]+")


def quoted(*words: object, windows: bool = WINDOWS) -> str:
    """A command, or a part of one, as a person types it into the shell of this system."""
    texts = [str(word) for word in words]
    return " ".join(_for_windows(text) for text in texts) if windows else shlex.join(texts)


def _for_windows(word: str) -> str:
    return word if PLAIN.fullmatch(word) else _in_quotes(subprocess.list2cmdline([word]))


def _in_quotes(word: str) -> str:
    """What list2cmdline leaves bare because the C library does, the shell may still cut apart."""
    return word if word.startswith('"') else f'"{word}"'


def show_any_character(streams: Iterable[object] | None = None) -> None:
    """Let an output with an old character set show "?" for what it lacks, instead of failing.

    Args:
        streams: by default what this program prints to.
    """
    for stream in (sys.stdout, sys.stderr) if streams is None else streams:
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")
