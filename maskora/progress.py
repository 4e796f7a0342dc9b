"""The one reporter of long work: a bar in the terminal, and JSON lines for whoever watches.

Where the environment variable MASKORA_PROGRESS names a file, a `State` is appended to it as a line
of JSON when a task begins and ends, and once a second in between. Such a file needs no open pipe
and outlives either side; grown large, it begins anew. The bar is then drawn in a terminal only, so
that a log stays plain text.
"""

import json
import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from math import isfinite
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from maskora import interruption

log = logging.getLogger("maskora")
VARIABLE = "MASKORA_PROGRESS"
EVERY = 1.0  # seconds between two lines of a task
MOST_BYTES = 256 * 1024  # of the file
Item = TypeVar("Item")
_silenced = False
_parts: list[str] = []  # what everything that is reported now is a part of, the largest first


@dataclass(frozen=True)
class State:
    """How far a task is.

    Attributes:
        task: what advances: motion, denoise, encode video, …
        unit: what is counted: step, block, …; "B" for bytes, "it" for anything.
        total: None where it is not known.
        seconds: since the task began.
        eta: seconds that it will still take; None where that is not known.
        loss: of the last training step.
        part: of the work that the task belongs to: "segment 3 of 7"; empty where it has no parts.
    """

    task: str
    unit: str = "it"
    done: int = 0
    total: int | None = None
    seconds: float = 0.0
    eta: float | None = None
    loss: float | None = None
    part: str = ""

    @property
    def text(self) -> str:
        """A sentence for the person: "motion: step 3 of 30, 00:27 left"."""
        task = f"{self.part}, {self.task}" if self.part else self.task
        if self.total is None:
            return task
        share = f"{self.unit} {self.done} of {self.total}".removeprefix("it ")
        if self.unit == "B":
            share = f"{self.done / 1e9:.2f} of {self.total / 1e9:.2f} GB"
        left = f", {tqdm.format_interval(self.eta)} left" if self.eta else ""
        return f"{task}: {share}{left}"


class Progress:
    """A task that advances, until the context is left; any thread may report."""

    def __init__(
        self, task: str, total: int, unit: str = "it", done: int = 0, brief: bool = False
    ) -> None:
        """Begin.

        Args:
            total: 0 where there is nothing to do, which is not reported.
            done: what was done before.
            brief: drawn in a terminal only, not in a log.
        """
        self._task, self._total, self._unit, self._first, self._done = task, total, unit, done, done
        self._loss: float | None = None
        self._lock, self._started, self._written = threading.Lock(), time.monotonic(), 0.0
        in_terminal_only = brief or bool(os.environ.get(VARIABLE))
        self._bar = tqdm(
            total=total, initial=done, desc=task, unit=unit, unit_scale=unit == "B",
            disable=_silenced or not total or (None if in_terminal_only else False),
        )  # fmt: skip
        self._write()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        self._write()

    def advance(self, count: int = 1, loss: float | None = None) -> None:
        """So many more units are done; less than none where some are to be done again."""
        with self._lock:
            self._done += count
            if loss is not None:
                self._loss = loss if isfinite(loss) else None
                self._bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            self._bar.update(count)
            if time.monotonic() - self._written >= EVERY:
                self._write()

    def _write(self) -> None:
        if not self._total:
            return
        self._written = time.monotonic()
        seconds, new = self._written - self._started, self._done - self._first
        eta = seconds / new * (self._total - self._done) if new > 0 else None
        _append(State(self._task, self._unit, self._done, self._total, seconds, eta, self._loss))


def track(
    items: Iterable[Item], task: str, total: int, unit: str = "it", brief: bool = False
) -> Iterator[Item]:
    """Pass items on; each is done when the next one is asked for. Arguments as of `Progress`.

    Raises:
        KeyboardInterrupt: the command was interrupted, and the exception was lost on its way.
    """
    with Progress(task, total, unit, brief=brief) as progress:
        for item in items:
            interruption.check()
            yield item
            progress.advance()


def announce(task: str) -> None:
    """Log and report that something begins whose steps are not counted. Raises as `track`."""
    interruption.check()
    log.info("%s", task)
    _append(State(task))


def silence() -> None:
    """Report nothing from now on: of several processes that work together, one reports."""
    global _silenced
    _silenced = True


@contextmanager
def within(part: str) -> Iterator[None]:
    """Everything that is reported in the context belongs to a part of the work.

    Args:
        part: as `State` has it.
    """
    _parts.append(part)
    try:
        yield
    finally:
        _parts.pop()


def _append(state: State) -> None:
    """Write a line where somebody watches; where that fails, the work goes on unwatched."""
    if _silenced or not (name := os.environ.get(VARIABLE)):
        return
    state = replace(state, part=", ".join(filter(None, _parts)))
    try:
        with Path(name).open("ab") as file:
            if file.tell() > MOST_BYTES:
                file.truncate(0)
            file.write(json.dumps(asdict(state)).encode() + b"\n")
    except OSError as error:
        os.environ.pop(VARIABLE, None)  # another thread may have been faster
        log.warning("%s could not be written (%s): nobody sees the progress", name, error.strerror)


def read_state(path: Path) -> State | None:
    """The last state that was written into a file; None where there is none."""
    try:
        with path.open("rb") as file:  # whatever another program has left there may be large
            file.seek(max(0, path.stat().st_size - MOST_BYTES))
            lines = file.read().splitlines()
    except FileNotFoundError:
        return None
    for line in reversed(lines):
        try:
            return State(**json.loads(line))
        except (ValueError, TypeError, RecursionError):  # it is just being written
            continue
    return None
