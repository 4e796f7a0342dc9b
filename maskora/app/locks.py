"""Locks that say who holds them: of a workspace, and of a batch's folder of results."""

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from maskora.errors import UserError
from maskora.files import remove, write_text
from maskora.system import command_line


@contextmanager
def held_alone(lock_file: Path, holder: Path, busy: str) -> Iterator[None]:
    """Hold a lock, which ends with this process, and say beside it who this is.

    Any thread may give back what one has taken, as the window's do.

    Args:
        holder: the file that says who it is: on Windows nobody can read what is locked.
        busy: the message where another program has it; {} is where that is named.

    Raises:
        UserError: another program has it.
    """
    lock = FileLock(lock_file, blocking=False, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(busy.format(read_holder(holder))) from None
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise UserError(f"{lock_file} is a link, which no lock is: remove it") from None
    with ExitStack() as holding:
        holding.callback(lock.release)
        holding.callback(remove, holder)
        write_text(holder, f"{os.getpid()}\n{command_line()}")
        yield


def read_holder(path: Path) -> str:
    """Who holds a lock, in brackets; empty where that is not known, or just being written."""
    if path.is_symlink() or not path.is_file():
        return ""
    with path.open(encoding="utf-8", errors="replace") as file:
        number, _, command = file.read(400).partition("\n")
    if not number.isdecimal():
        return ""
    shown = "".join(letter if letter.isprintable() else "?" for letter in command)
    return f" (process {number}: {shown})" if shown else f" (process {number})"
