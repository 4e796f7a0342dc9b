"""One program at a time in what a workspace's person is clicking."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from maskora.errors import UserError
from maskora.workspace import Workspace


@contextmanager
def only_one(workspace: Workspace) -> Iterator[None]:
    """Hold a workspace's frames and clicks, so that no other program changes them meanwhile.

    Raises:
        UserError: another program holds them.
    """
    with workspace.lock.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(
                f"{workspace.root} is open in another maskora (process {file.read().strip()}): "
                f"close it there first"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
