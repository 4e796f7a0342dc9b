"""A doctor's check, and what comes of it; a fault in one is told, and the others still run."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from maskora.errors import Fault, UserError

if TYPE_CHECKING:
    import torch

log = logging.getLogger("maskora")


class Skipped(Exception):
    """A check that does not apply here; the message is the reason."""


class Wrong(Exception):
    """A check that came out wrong, and what to do about it."""

    def __init__(self, told: str, advice: str) -> None:
        super().__init__(told)
        self.advice = advice


@dataclass(frozen=True)
class Found:
    """What a check has done or measured, in words and in numbers (bytes, or bytes per second)."""

    told: str
    numbers: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Bench:
    """Where checks run.

    Attributes:
        device: that blocks are streamed to.
        scratch: an empty folder, on the disk of maskora's cache if that can be written to.
        cache: the folder of maskora's cache.
        ram: bytes that may be had.
        vram: bytes of the GPU that may be had; None without one.
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
        name: for people.
        run: raises `Skipped`, `Wrong`, or whatever else goes wrong.
        advice: what to do where it fails in a way that nobody foresaw.
    """

    name: str
    run: Callable[[Bench], Found]
    advice: str


@dataclass(frozen=True)
class Outcome:
    """What came of a check.

    Attributes:
        told: what was found, why it was skipped, or what is wrong.
        advice: what to do; empty where nothing is to be done.
        notes: what was warned of meanwhile.
        numbers: see `Found`.
    """

    name: str
    state: Literal["ok", "skipped", "broken"]
    seconds: float
    told: str
    advice: str = ""
    notes: tuple[str, ...] = ()
    numbers: dict[str, float] = field(default_factory=dict)


def perform(name: str, work: Callable[[], Found], advice: str) -> Outcome:
    """Do a check's work, whatever comes of it."""
    started = time.perf_counter()
    with _heard() as notes:
        outcome = _tried(name, work, advice)
    return replace(outcome, seconds=time.perf_counter() - started, notes=tuple(notes))


def _tried(name: str, work: Callable[[], Found], advice: str) -> Outcome:
    try:
        found = work()
    except Skipped as reason:
        return Outcome(name, "skipped", 0, str(reason))
    except Wrong as error:
        return Outcome(name, "broken", 0, str(error), error.advice)
    except (UserError, Fault) as error:
        return Outcome(name, "broken", 0, str(error), advice)
    except Exception as error:  # noqa: BLE001 - to tell what is broken, whatever broke it
        return Outcome(name, "broken", 0, reason_of(error), advice)
    return Outcome(name, "ok", 0, found.told, numbers=found.numbers)


def reason_of(error: BaseException) -> str:
    """An error in a line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    told = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {told}" if told else type(error).__name__


@contextmanager
def _heard() -> Iterator[list[str]]:
    """The warnings of a piece of work; its bars and its other messages are not shown."""
    notes: list[str] = []
    handler = _Collected(notes)
    propagates, level = log.propagate, log.level
    log.addHandler(handler)
    log.propagate = False
    try:
        with redirect_stderr(StringIO()):
            yield notes
    finally:
        log.removeHandler(handler)
        log.propagate, log.level = propagates, level


class _Collected(logging.Handler):
    """Keeps warnings in a list."""

    def __init__(self, notes: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._notes = notes

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        self._notes.append(record.getMessage().removeprefix("note: "))
