"""How a command fails: one message on stderr and an exit status, no traceback for a person."""

import errno
import functools
import logging
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import ParamSpec, TypeVar

import typer

from maskora.errors import Fault, UserError
from maskora.system import INTERRUPTIONS, WINDOWS, show_any_character

# What the machine refuses for a reason that its own words explain.
TOLD_ERRORS = (
    errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS,
    errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EFBIG,
    *([errno.EINVAL] if WINDOWS else []),  # of a name that is none there
)  # fmt: skip
Given = ParamSpec("Given")
Answer = TypeVar("Answer")


def told_plainly(command: Callable[Given, Answer]) -> Callable[Given, Answer]:
    """Turn the failures that a person can act on into one message and an exit status."""

    @functools.wraps(command)
    def wrapper(*args: Given.args, **kwargs: Given.kwargs) -> Answer:
        show_any_character()
        logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
        logging.getLogger("maskora").setLevel(logging.INFO)
        quieten_libraries()
        asked = _hear_interruptions()
        try:
            return command(*args, **kwargs)
        except (Exception, KeyboardInterrupt) as error:
            told = _told(error, bool(asked))
            if told is None:
                raise
            status, message = told
        print(f"maskora: {message}", file=sys.stderr)
        raise typer.Exit(status)

    return wrapper


def _told(error: BaseException, interrupted: bool) -> tuple[int, str] | None:
    """Exit status and message; None where only a traceback tells what happened."""
    if interrupted or isinstance(error, KeyboardInterrupt):
        return 130, "interrupted"
    if isinstance(error, UserError):
        return 2, str(error)
    if isinstance(error, Fault):
        return 1, str(error)
    if isinstance(error, OSError) and error.errno in TOLD_ERRORS:
        return 1, f"{error.strerror}: {error.filename or 'while writing'}"
    if type(error).__name__ == "OutOfMemoryError":  # torch's, known without importing torch
        return 1, _out_of_memory(error)
    return None


def _hear_interruptions() -> list[int]:
    """Ctrl-C, SIGTERM and Ctrl-Break end a command alike; what was heard is in the list.

    Libraries that are just being imported turn an interruption into errors of their own.
    """
    asked: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        raise KeyboardInterrupt

    for number in INTERRUPTIONS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, interrupt)
    return asked


def quieten_libraries() -> None:
    """Their warnings say nothing that helps a person here."""
    for library in ("TRANSFORMERS", "DIFFUSERS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # of faster kernels that might be had


def _out_of_memory(error: BaseException) -> str:
    return (
        f"the card's memory is too small for this run ({str(error).splitlines()[0]}). "
        f"Lower memory.vram_budget_gb (maskora plan tells what comes of it), or use a smaller "
        f"size, fewer frames, or a smaller base such as Wan2.1-Fun-1.3B-InP."
    )
