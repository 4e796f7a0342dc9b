"""What every page needs: the open workspaces, and what a person may reach."""

import secrets
from dataclasses import dataclass, field
from pathlib import Path

from gui_mask.places import Places
from gui_mask.session import Session
from gui_mask.sessions import Sessions
from maskora.errors import UserError
from maskora.hub import is_hub_id
from maskora.video.untrusted import Limits


@dataclass(frozen=True)
class Desk:
    """The program's state, apart from any page.

    Attributes:
        sessions: the open workspaces.
        places: folders that may be read and written.
        limits: of a video or picture from elsewhere.
        scratch: where files for downloading are put; emptied at the end.
        first: the workspace to begin with; "" for none.
        run: a name of this run of the program.
    """

    sessions: Sessions
    places: Places
    limits: Limits
    scratch: Path
    first: str
    run: str = field(default_factory=lambda: secrets.token_urlsafe(8))

    def session(self, token: str) -> Session:
        """The page's workspace. Raises UserError where it is no longer open."""
        return self.sessions.get(token)

    def model(self, text: str, home: Path) -> str:
        """A model as a person names it: a folder or file that may be used, or a hub id as it is.

        Args:
            home: where a relative path counts from, if there is such a thing there.

        Raises:
            UserError: it names a place that may not be used.
        """
        own = home / Path(text).expanduser()
        if own.exists():
            return str(self.places.check(own))
        written = Path(text)
        looks_local = text.startswith(("/", "\\", "~", ".")) or bool(written.drive)
        looks_local = looks_local or written.exists()
        return str(self.places.resolve(text)) if looks_local or not is_hub_id(text) else text

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


def summary(session: Session) -> str:
    """A workspace in a line, as Markdown."""
    source, (width, height) = session.source, session.source.size
    base = session.config.model.base
    base = Path(base).name if Path(base).is_absolute() else base
    return (
        f"**{_plain(session.workspace.root.name)}** &nbsp; {source.frames} frames of "
        f"{width}×{height} at {float(source.rate):.3g} fps, from {_plain(Path(source.origin).name)}"
        f" &nbsp;·&nbsp; base {_plain(base)}"
    )


def _plain(text: str) -> str:
    """A name as code, so that nothing in it is taken for Markdown."""
    return "`" + " ".join(text.replace("`", "'").split()) + "`"
