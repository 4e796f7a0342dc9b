"""maskora's own commands, each run in a process of its own."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO

import maskora
from maskora.system import INTERRUPTIONS

INTERRUPTED = 130  # the exit status after Ctrl-C or SIGTERM


def run_maskora(words: Sequence[str], log: IO[bytes] | None = None) -> int:
    """Run `maskora WORDS…` to its end, whatever it is.

    Ctrl-C reaches the whole group of processes at a terminal, on Windows too: this process then
    waits until the command has saved what it wants to save. SIGTERM, which is sent to one process,
    is passed on.

    Args:
        log: where the command's output and errors go, in UTF-8; None for where this process's go.

    Returns:
        its exit status; 130 where this process was interrupted meanwhile. Negative: a POSIX signal
        killed it.
    """
    with _listening() as (asked, children):
        child = subprocess.Popen(
            [*program(), *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=None if log is None else subprocess.STDOUT,
            env=os.environ if log is None else _in_utf8(),
        )
        children.append(child)
        if signal.SIGTERM in asked:  # before there was anybody to pass it on to
            child.terminate()
        status = child.wait()
    return INTERRUPTED if asked else status


def told_crash(name: str, status: int) -> str | None:
    """What a command could not say itself; None where it has ended as commands do."""
    if status in (0, 1, 2, INTERRUPTED):
        return None
    code = f"signal {-status}" if status < 0 else f"status {status:#x}"
    return (
        f"maskora {name} was killed or has crashed ({code}); often the memory was full. "
        f"The same command continues"
    )


def program() -> list[str]:
    """What runs maskora in another process: this interpreter, and this copy of the package.

    Python's -P keeps it from importing what happens to lie in the current folder.
    """
    at_home = Path(maskora.__file__).parents[1].samefile(Path.cwd())
    return [sys.executable, *([] if at_home else ["-P"]), "-m", "maskora"]


@contextmanager
def _listening() -> Iterator[tuple[list[int], list[subprocess.Popen[bytes]]]]:
    """While active, interruptions are noted in the first list; SIGTERM goes on to the second."""
    asked: list[int] = []
    children: list[subprocess.Popen[bytes]] = []

    def hear(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        if number == signal.SIGTERM:
            for child in children:
                child.terminate()

    heard = [number for number in INTERRUPTIONS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, hear) for number in heard}
    try:
        yield asked, children
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _in_utf8() -> dict[str, str]:
    """The environment of a command whose output is kept, which is UTF-8 on every system."""
    return {**os.environ, "PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8"}
