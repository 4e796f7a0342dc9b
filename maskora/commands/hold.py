"""One program at a time in what a workspace's person is clicking."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from filelock import FileLock, Timeout

from maskora.errors import UserError
from maskora.files import remove, write_text
from maskora.workspace import Workspace


@contextmanager
def only_one(workspace: Workspace) -> Iterator[None]:
    """Hold a workspace's frames and clicks, so that no other program changes them meanwhile.

    The holder's number is in a file beside the lock: on Windows nobody can read what is locked.

    Raises:
        UserError: another program holds them.
    """
    # Not of a thread: the window takes it in one and gives it back in another.
    lock = FileLock(workspace.lock, blocking=False, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"{workspace.root} is open in another maskora{_holder(workspace)}: close it there first"
        ) from None
    with ExitStack() as holding:
        holding.callback(lock.release)
        holding.callback(remove, workspace.lock_holder)
        write_text(workspace.lock_holder, str(os.getpid()))
        yield


def _holder(workspace: Workspace) -> str:
    try:
        return f" (process {int(workspace.lock_holder.read_text(encoding='utf-8'))})"
    except (OSError, ValueError):  # it is just being written
        return ""
