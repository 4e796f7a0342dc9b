"""A check of the doctor and its outcome. A check that fails does not stop the others."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field, replace
from io import StringIO
from logging.handlers import BufferingHandler
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from maskora.errors import Fault, UserError

if TYPE_CHECKING:
    import torch


class Skipped(Exception):
    """A check does not apply here; the message is the reason."""


class Wrong(Exception):
    """A check has found something wrong; `advice` says what to do about it."""

    def __init__(self, message: str, advice: str) -> None:
        super().__init__(message)
        self.advice = advice


@dataclass(frozen=True)
class Found:
    """The result of a check in words and in numbers (bytes, or bytes per second)."""

    message: str
    numbers: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Bench:
    """The device, folders and memory that checks use.

    Attributes:
        device: that blocks are streamed to.
        scratch: an empty folder, on the disk of maskora's cache if that can be written to.
        cache: the folder of maskora's cache.
        ram: available bytes.
        vram: free bytes of the GPU; None without one.
    """

    device: "torch.device"
    scratch: Path
    cache: Path
    ram: int
    vram: int | None


@dataclass(frozen=True)
class Check:
    """Something to measure or to try.

    Attributes:
        run: raises `Skipped`, `Wrong`, or whatever else goes wrong.
        advice: what to do where it fails otherwise than with `Wrong`.
    """

    name: str
    run: Callable[[Bench], Found]
    advice: str


@dataclass(frozen=True)
class Outcome:
    """The outcome of a check.

    Attributes:
        message: what was found, why it was skipped, or what is wrong.
        advice: what to do; empty where nothing is to be done.
        notes: warnings that were logged meanwhile.
        numbers: see `Found`.
    """

    name: str
    state: Literal["ok", "skipped", "broken"]
    seconds: float
    message: str
    advice: str = ""
    notes: tuple[str, ...] = ()
    numbers: dict[str, float] = field(default_factory=dict)


def perform(name: str, work: Callable[[], Found], advice: str) -> Outcome:
    """Do a check's work; any error becomes a "broken" outcome."""
    started = time.perf_counter()
    with _collected_warnings() as records:
        outcome = _attempt(name, work, advice)
    notes = tuple(record.getMessage().removeprefix("note: ") for record in records)
    return replace(outcome, seconds=time.perf_counter() - started, notes=notes)


def _attempt(name: str, work: Callable[[], Found], advice: str) -> Outcome:
    try:
        found = work()
    except Skipped as reason:
        return Outcome(name, "skipped", 0, str(reason))
    except Wrong as error:
        return Outcome(name, "broken", 0, str(error), error.advice)
    except Exception as error:  # noqa: BLE001 - whatever breaks is an outcome
        return Outcome(name, "broken", 0, _in_a_line(error), advice)
    return Outcome(name, "ok", 0, found.message, numbers=found.numbers)


def _in_a_line(error: Exception) -> str:
    if isinstance(error, UserError | Fault):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror  # without the path
    line = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


@contextmanager
def _collected_warnings() -> Iterator[list[logging.LogRecord]]:
    """Maskora's warnings as a list; progress bars and other messages are not shown."""
    log, handler = logging.getLogger("maskora"), BufferingHandler(capacity=sys.maxsize)
    handler.setLevel(logging.WARNING)
    propagates = log.propagate
    log.addHandler(handler)
    log.propagate = False
    try:
        with redirect_stderr(StringIO()):
            yield handler.buffer
    finally:
        log.removeHandler(handler)
        log.propagate = propagates
