"""Where on this machine the page may read and write: inside some folders, and nowhere else."""

import os
from dataclasses import dataclass
from pathlib import Path

from maskora.errors import UserError

LONGEST = 4096  # bytes of a path, as Linux has it


@dataclass(frozen=True)
class Places:
    """The folders that whoever sees the page may use.

    Attributes:
        allowed: folders; what lies in them, after links are followed, is theirs.
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

    def check_links(self, root: Path) -> None:
        """No link in a folder, however deep, leads out of the allowed folders. Raises UserError."""
        for path in root.rglob("*"):
            if path.is_symlink():
                self.check(path)

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
