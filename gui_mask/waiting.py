"""The queue: jobs of all workspaces that wait until this machine is free, kept in one file.

state_home()/queue.json outlives every window, and a restart of the machine.
"""

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, ValidationError

from maskora.errors import UserError
from maskora.files import read_small, state_home, write_text

Work = Literal["preview", "train", "infer", "both"]


class Ticket(BaseModel):
    """A job that waits.

    Attributes:
        name: unguessable, so that it is the one that was meant which is taken out.
        root: its workspace.
        what, edit: what was asked for.
        asked: when, in seconds since 1970.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    root: Path
    what: Work
    edit: str | None
    asked: float

    @classmethod
    def of(cls, root: Path, what: Work, edit: str | None) -> "Ticket":
        """One that is asked for now."""
        name = secrets.token_urlsafe(8)
        return cls(name=name, root=root.absolute(), what=what, edit=edit, asked=time.time())

    def is_like(self, other: "Ticket") -> bool:
        """Whether both ask for the same."""
        return (self.root, self.what, self.edit) == (other.root, other.what, other.edit)


class Queue(BaseModel):
    """queue.json: who waits, in order.

    Attributes:
        latest: the workspace whose job was begun last; it may have ended.
    """

    model_config = ConfigDict(extra="forbid")

    latest: Path | None = None
    waiting: list[Ticket] = []


def queue_file() -> Path:
    return state_home() / "queue.json"


def read_queue() -> Queue:
    """The queue as it stands. Raises UserError where its file is damaged."""
    path = queue_file()
    try:
        return Queue.model_validate_json(read_small(path))
    except FileNotFoundError:
        return Queue()
    except (IsADirectoryError, ValidationError):
        raise UserError(f"{path} is damaged: remove it, and what waits is forgotten") from None


@contextmanager
def changing_queue() -> Iterator[Queue]:
    """The queue, to be changed; of several programs one after another does so."""
    path = queue_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(".queue-lock")):
        queue = read_queue()
        before = queue.model_copy(deep=True)
        try:
            yield queue
        finally:
            if queue != before:
                write_text(path, queue.model_dump_json(indent=2) + "\n")
