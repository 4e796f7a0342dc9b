"""How a command fails: one message on stderr and an exit status, no traceback for a person."""

import errno
import functools
import logging
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Literal, ParamSpec, TypeVar

import typer

from maskora.errors import Fault, UserError
from maskora.streaming.out_of_memory import first_line, ran_out_of
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
    memory = ran_out_of(error)
    return None if memory is None else (1, _out_of_memory(memory, error))


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


def _out_of_memory(memory: Literal["VRAM", "RAM"], error: BaseException) -> str:
    if memory == "VRAM":
        return (
            f"the GPU's memory is too small for this run ({first_line(error)}). End what else uses "
            f"the GPU (nvidia-smi lists it), or use a smaller size, fewer frames, "
            f'model.transformer_dtype = "float8", or a smaller base such as Wan2.1-Fun-1.3B-InP.'
        )
    return (
        f"the machine's RAM is too small for this run ({first_line(error)}). Close other programs, "
        f'or use memory.weights = "mapped", which leaves the weights on disk, '
        f'model.transformer_dtype = "float8", a smaller size or fewer frames.'
    )
