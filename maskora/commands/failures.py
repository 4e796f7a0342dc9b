"""How a command fails: one message on stderr and an exit status, no traceback for a person."""

import errno
import functools
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import typer

from maskora.errors import Fault, UserError

# What the machine refuses for a reason that its own words explain.
TOLD_ERRORS = (
    errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS,
    errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EFBIG,
)  # fmt: skip
Given = ParamSpec("Given")
Answer = TypeVar("Answer")


def told_plainly(command: Callable[Given, Answer]) -> Callable[Given, Answer]:
    """Turn the failures that a person can act on into one message and an exit status."""

    @functools.wraps(command)
    def wrapper(*args: Given.args, **kwargs: Given.kwargs) -> Answer:
        logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
        logging.getLogger("maskora").setLevel(logging.INFO)
        _quieten_libraries()
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as cleanly as Ctrl-C
        try:
            return command(*args, **kwargs)
        except UserError as error:
            status, message = 2, str(error)
        except Fault as error:
            status, message = 1, str(error)
        except KeyboardInterrupt:
            status, message = 130, "interrupted"
        except OSError as error:
            if error.errno not in TOLD_ERRORS:
                raise
            status, message = 1, f"{error.strerror}: {error.filename or 'while writing'}"
        except RuntimeError as error:  # torch's out-of-memory error, known without importing torch
            if type(error).__name__ != "OutOfMemoryError":
                raise
            status, message = 1, _out_of_memory(error)
        print(f"maskora: {message}", file=sys.stderr)
        raise typer.Exit(status)

    return wrapper


def _quieten_libraries() -> None:
    """Their warnings say nothing that helps a person here."""
    for library in ("TRANSFORMERS", "DIFFUSERS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # of faster kernels that might be had


def _out_of_memory(error: RuntimeError) -> str:
    return (
        f"the card's memory is too small for this run ({str(error).splitlines()[0]}). "
        f"Lower memory.vram_budget_gb (maskora plan tells what comes of it), or use a smaller "
        f"size, fewer frames, or a smaller base such as Wan2.1-Fun-1.3B-InP."
    )
