"""The workspaces that are open in this program, and what the viewer may ask of them."""

import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gui_mask.answers import explain
from gui_mask.places import Places
from gui_mask.session import Session
from gui_mask.view import View
from maskora.app.workspace import Workspace
from maskora.errors import UserError
from maskora.masks.prompts import Box, Click

KEPT = "What you did is still in this page, and is written with the next thing that you do"
MOST_OPEN = 4  # each holds its clip's frames in memory


class Sessions:
    """Opens each workspace once, however many pages show it.

    Attributes:
        places: where workspaces may lie.
    """

    def __init__(self, places: Places) -> None:
        self.places = places
        self._lock = threading.Lock()
        self._views: dict[str, View] = {}

    def open(self, text: str) -> Session:
        """The session of a workspace that a person has named. Raises UserError."""
        root = self.places.resolve(text)
        with self._lock:
            for token, view in self._views.items():
                if _is_same(view.session.workspace.root, root):
                    self._views[token] = self._views.pop(token)  # the newest is last
                    return view.session
            self.places.check_links(root)
            session = Session(Workspace(root))
            self._make_room()
            self._views[session.token] = View(session)
            return session

    def get(self, token: str) -> Session:
        """An open session. Raises UserError."""
        return self._view(token).session

    def close(self) -> None:
        """Close all."""
        with self._lock:
            for view in self._views.values():
                view.session.close()
            self._views.clear()

    def view(self, request: dict[str, Any]) -> dict[str, Any]:
        """The viewer asks what is new."""
        return self._answer(request, lambda session: None)

    def act(self, request: dict[str, Any]) -> dict[str, Any]:
        """The viewer asks for something to be done; what is new comes back, an error with it."""
        return self._answer(request, lambda session: _do(session, request))

    def _answer(self, request: dict[str, Any], work: Callable[[Session], None]) -> dict[str, Any]:
        with explain() as told:
            view = self._view(str(request.get("token")))
            with explain(kept=KEPT) as failed:
                work(view.session)
            news = view.since(_number(request, "version"), _number(request, "regions"))
            return {**news, "error": failed.text} if failed.text else news
        return {"error": told.text}

    def _view(self, token: str) -> View:
        view = self._views.get(token)
        if view is None:
            raise UserError("this workspace is no longer open here: load the page again")
        return view

    def _make_room(self) -> None:
        idle = [token for token, view in self._views.items() if not view.session.following]
        for token in idle[: max(0, len(self._views) - MOST_OPEN + 1)]:
            self._views.pop(token).session.close()


def _is_same(one: Path, other: Path) -> bool:
    """Whether two paths are one folder, perhaps in another spelling."""
    return one == other or (one.exists() and other.exists() and one.samefile(other))


def _do(session: Session, request: dict[str, Any]) -> None:
    """One action of the viewer."""
    frame, number = _number(request, "frame"), _number(request, "object")
    name = request.get("name")
    if frame >= session.source.frames:
        raise UserError(f"frame {frame}: the clip has frames 0 to {session.source.frames - 1} only")
    if name == "click":
        positive = request.get("positive") is True
        session.point([Click(frame, _real(request, "x"), _real(request, "y"), positive, number)])
    elif name == "box":
        x, y, width, height = (_real(request, key) for key in ("x", "y", "width", "height"))
        session.point([Box(frame, x, y, width, height, number)])
    elif name == "undo":
        session.undo()
    elif name == "clear_frame":
        session.clear_frame(frame)
    elif name == "clear_object":
        session.clear_object(number)
    elif name == "stop":
        session.stop_following()
    elif name == "follow" and request.get("direction") in ("both", "forward", "backward"):
        direction = request["direction"]
        session.follow(None if direction == "both" else frame, direction)
    else:
        raise UserError(f"the page asked for {name!r}, which is nothing: load it again")


def _number(request: dict[str, Any], key: str) -> int:
    """A whole number of a request; 0 where there is none, or something else."""
    value = request.get(key)
    return value if isinstance(value, int) and value >= 0 else 0


def _real(request: dict[str, Any], key: str) -> float:
    value = request.get(key)
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"the page sent no number as {key}: load it again")
    return float(value)
