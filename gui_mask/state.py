"""The program's state apart from any page: open workspaces, and which paths may be used."""

import os
import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from gui_mask import words
from gui_mask.session import Session
from maskora.app.workspace import Workspace
from maskora.errors import UserError
from maskora.hub import is_hub_id
from maskora.video.untrusted import Limits

MOST_OPEN = 4  # workspaces: each holds its clip's frames in memory
LONGEST = 4096  # bytes of a path, as Linux has it


@dataclass(frozen=True)
class PathGuard:
    """Where on this machine the page may read and write: inside some folders, nowhere else.

    Attributes:
        allowed: folders; what lies in them, after links are followed, may be used.
    """

    allowed: tuple[Path, ...]

    def resolve(self, text: str) -> Path:
        """The place that a typed path leads to, which may not exist yet.

        Args:
            text: absolute, from the home folder (~), or from the current folder.

        Returns:
            the path with its links and its .. followed.

        Raises:
            UserError: it is no path, or leads out of the allowed folders.
        """
        text = text.strip()
        if not text:
            raise UserError("no path is given: type the path of a file or folder")
        try:
            size = len(os.fsencode(text))
            path = Path(text).expanduser()
        except (ValueError, RuntimeError) as error:  # no text of a path, or no such home
            raise UserError(f"{_shown(text)} is no path on this machine ({error})") from None
        if "\0" in text or size > LONGEST:
            raise UserError(f"{_shown(text)} is no path on this machine")
        return self.check(path)

    def check(self, path: Path) -> Path:
        """The same for a path that a file names, as a workspace's source.json names its video.

        Raises:
            UserError: it leads out of the allowed folders.
        """
        resolved = _followed(path)
        if not any(resolved.is_relative_to(_followed(folder)) for folder in self.allowed):
            names = ", ".join(str(folder) for folder in self.allowed) or "none"
            leads = "" if resolved == path else f" (that is {_shown(str(resolved))})"
            raise UserError(
                f"{_shown(str(path))}{leads} lies outside the folders that may be used here: "
                f"{names}. Start with --allow DIR to add one"
            )
        return resolved

    def model(self, text: str, home: Path) -> str:
        """A model as a person names it: a folder or file that may be used, or a hub id as it is.

        Args:
            home: where a relative path counts from, if there is such a thing there.

        Raises:
            UserError: it names a place that may not be used.
        """
        own = home / Path(text).expanduser()
        if own.exists():
            return str(self.check(own))
        written = Path(text)
        looks_local = text.startswith(("/", "\\", "~", ".")) or bool(written.drive)
        looks_local = looks_local or written.exists()
        return str(self.resolve(text)) if looks_local or not is_hub_id(text) else text


def _followed(path: Path) -> Path:
    """The path without links and .., as far as it exists."""
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, or no path at all
        raise UserError(f"{_shown(str(path))} cannot be followed ({error})") from None


def _shown(text: str) -> str:
    """A path in a message: printable, and not longer than a line or two."""
    printable = "".join(letter if letter.isprintable() else "?" for letter in text)
    return printable if len(printable) <= 200 else f"{printable[:200]}…"


class AppState:
    """What all pages share. Each workspace is open once, however many pages show it.

    Attributes:
        guard: the paths that may be used.
        limits: of a video or picture from elsewhere.
        scratch: where uploads lie and files for downloading are put; emptied at the end.
        first: the workspace to begin with; "" for none.
        run: a name of this run of the program.
    """

    def __init__(self, guard: PathGuard, limits: Limits, scratch: Path, first: str = "") -> None:
        self.guard, self.limits, self.scratch, self.first = guard, limits, scratch, first
        self.run = secrets.token_urlsafe(8)
        self._lock = threading.Lock()
        # By token, the one opened last at the end. It is read without the lock, at any moment.
        self._sessions: OrderedDict[str, Session] = OrderedDict()

    def open(self, text: str) -> Session:
        """The session of a workspace that a person has named. Raises UserError."""
        root = self.guard.resolve(text)
        with self._lock:
            for token, session in self._sessions.items():
                if _is_same(session.workspace.root, root):
                    self._sessions.move_to_end(token)
                    return session
            session = Session(Workspace.open(root))
            self._make_room()
            self._sessions[session.token] = session
            return session

    def session(self, token: str) -> Session:
        """The page's open workspace. Raises UserError where none is, or it is no longer open."""
        session = self._sessions.get(token)
        if session is None:
            raise UserError(words.CLOSED if token else words.NOT_OPEN)
        return session

    def close(self) -> None:
        with self._lock:
            for session in self._sessions.values():
                session.close()
            self._sessions.clear()

    def upload(self, text: str) -> Path:
        """A file that was uploaded, and not one that a page only says was. Raises UserError."""
        path = Path(text).resolve()
        if not path.is_relative_to(self.scratch.resolve()):
            raise UserError("this file was not uploaded here: choose it again")
        return path

    def room(self, token: str) -> Path:
        """A session's own part of `scratch`."""
        folder = self.scratch / token
        folder.mkdir(exist_ok=True)
        return folder

    def _make_room(self) -> None:
        idle = [token for token, session in self._sessions.items() if not session.tracking]
        for token in idle[: max(0, len(self._sessions) - MOST_OPEN + 1)]:
            self._sessions.pop(token).close()


def _is_same(one: Path, other: Path) -> bool:
    """Whether two paths are one folder, perhaps in another spelling."""
    return one == other or (one.exists() and other.exists() and one.samefile(other))
