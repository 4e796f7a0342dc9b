"""Commands of maskora as processes of their own: started, told of signals, and what ended them."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, Protocol

import maskora
from maskora.system import INTERRUPTIONS

INTERRUPTED = 130  # the exit status after Ctrl-C or SIGTERM


class Child(Protocol):
    """What can be asked to end."""

    def terminate(self) -> None:
        """Ask it to save what it has, and to end."""


def run_maskora(words: Sequence[str], log: IO[bytes] | None = None) -> int:
    """Run `maskora WORDS…` to its end.

    Ctrl-C reaches the whole group of processes at a terminal, on Windows too: this process then
    waits until the command has saved what it wants to save. SIGTERM, which is sent to one process,
    is passed on.

    Args:
        log: as of `start_maskora`.

    Returns:
        its exit status; 130 where this process was interrupted meanwhile. Negative: a POSIX signal
        killed it.
    """
    with passing_on_signals() as (received, children):
        child = start_maskora(words, log)
        children.append(child)
        if signal.SIGTERM in received:  # before there was anybody to pass it on to
            child.terminate()
        status = child.wait()
    return INTERRUPTED if received else status


def start_maskora(
    words: Sequence[str],
    log: IO[bytes] | None,
    gpu: str | None = None,
    in_child: Callable[[], None] | None = None,
) -> "subprocess.Popen[bytes]":
    """Begin `maskora WORDS…`.

    Args:
        log: where its output and errors go, in UTF-8; None for where this process's go.
        gpu: what CUDA_VISIBLE_DEVICES says there; None: as it is here.
        in_child: is called in the new process before it becomes maskora.
    """
    in_utf8 = {} if log is None else {"PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8"}
    environment = {**os.environ, **in_utf8}
    if gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = gpu
    return subprocess.Popen(
        [*program(), *words], stdin=subprocess.DEVNULL, stdout=log,
        stderr=None if log is None else subprocess.STDOUT, env=environment, preexec_fn=in_child,
    )  # fmt: skip


def crash_message(name: str, status: int) -> str | None:
    """A sentence for a crashed command, which could not say why; None where it did not crash."""
    if status in (0, 1, 2, INTERRUPTED):
        return None
    code = f"signal {-status}" if status < 0 else f"status {status:#x}"
    return (
        f"maskora {name} was killed or has crashed ({code}); often the memory was full. "
        f"The same command continues"
    )


def program() -> list[str]:
    """The words that run maskora in another process: this interpreter, this copy of the package.

    Python's -P keeps it from importing what happens to lie in the current folder.
    """
    at_home = Path(maskora.__file__).parents[1].samefile(Path.cwd())
    return [sys.executable, *([] if at_home else ["-P"]), "-m", "maskora"]


@contextmanager
def passing_on_signals(
    told: Sequence[int] = (signal.SIGTERM,),
) -> Iterator[tuple[list[int], list[Child]]]:
    """Yields a list of the signals received, and one of the children that are ended at `told`."""
    received: list[int] = []
    children: list[Child] = []

    def receive(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if number in told:
            for child in children:
                child.terminate()

    heeded = [number for number in INTERRUPTIONS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, receive) for number in heeded}
    try:
        yield received, children
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def last_line(log: Path) -> str:
    """The last line of a log, also where progress bars were drawn over one another."""
    text = log.read_text(encoding="utf-8", errors="replace")
    lines = [line.strip() for line in re.split(r"[\r\n]", text) if line.strip()]
    return lines[-1] if lines else f"nothing was said: {log} is empty"
