"""Files and folders that take the place of others together, whatever ends the program.

.building-ab12cd34/     being filled; what a killed program leaves of it is worth nothing
.exchange-ab12cd34/     whole: from here on the exchange is finished, by the next program if not
    new/NAME            takes the place of NAME in the folder above        by this one
    gone/NAME           an empty file: NAME goes
    old/NAME            what was there, until all of it is exchanged
"""

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from maskora.files import is_abandoned, move, remove

BUILDING, READY = ".building-", ".exchange-"
PART_BEFORE = re.compile(r"\.part-\w{8}(\..*)?")
EARLIER = (".masks-", ".prepare-")  # scratch folders of versions before, in the workspace itself


@contextmanager
def exchange(folder: Path, dropping: Sequence[str] = ()) -> Iterator[Path]:
    """Yield an empty folder; what is put into it takes the place of its namesakes in `folder`.

    A failure leaves everything in `folder` as it was. Whoever calls this holds the workspace.

    Args:
        dropping: names that go where nothing takes their place.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder, prefix=BUILDING))
    ready = folder / scratch.name.replace(BUILDING, READY, 1)
    try:
        for part in ("new", "gone", "old"):
            (scratch / part).mkdir()
        yield scratch / "new"
        for name in dropping:
            if os.path.lexists(folder / name) and not (scratch / "new" / name).exists():
                (scratch / "gone" / name).touch()
        move(scratch, ready)
        _finish(ready)
    finally:
        remove(scratch)
        if ready.exists() and not any((ready / "old").iterdir()):  # all is back where it was
            remove(ready)


def _finish(ready: Path) -> None:
    """Exchange what is not exchanged yet, and remove the rest; a failure puts everything back."""
    folder, new, old = ready.parent, ready / "new", ready / "old"
    with ExitStack() as undo:
        for mark in sorted((ready / "gone").iterdir()):
            _set_aside(folder / mark.name, old / f"was-{mark.name}", undo, moved=True)
        for part in sorted(new.iterdir(), key=_in_order):
            place = folder / part.name
            _set_aside(place, old / f"was-{part.name}", undo, moved=part.is_dir() or place.is_dir())
            move(part, place)
            undo.callback(move, place, part)
        undo.pop_all()
    scratch = folder / ready.name.replace(READY, BUILDING, 1)
    move(ready, scratch)
    remove(scratch)


def _in_order(part: Path) -> tuple[bool, int, str]:
    """Folders first, then files as they were written: the last is the sign that all is there."""
    return part.is_file(), part.stat().st_mtime_ns, part.name


def _set_aside(place: Path, old: Path, undo: ExitStack, *, moved: bool) -> None:
    """Keep what lies in a place until all is exchanged.

    Args:
        moved: it goes away; else a second name is enough, so that there is no moment without it.
    """
    if os.path.lexists(place) and not os.path.lexists(old):
        try:
            if not moved:
                os.link(place, old, follow_symlinks=False)
        except (OSError, NotImplementedError):  # this file system knows no second names
            moved = True
        if moved:
            move(place, old)
    if os.path.lexists(old):
        undo.callback(_put_back, old, place)


def _put_back(old: Path, place: Path) -> None:
    move(old, place)
    remove(old)  # two names of one file stay two when one is moved to the other


def begun_exchanges(root: Path) -> list[Path]:
    """Exchanges right in a folder that a killed program has not finished."""
    return sorted(path for path in root.glob(f"{READY}*") if _is_ours(path))


def settle(root: Path) -> None:
    """Finish what killed programs have begun in a workspace, and remove what they left half-done.

    Whoever calls this holds the workspace.
    """
    for folder, names, files in os.walk(root):
        here = Path(folder)
        for path in begun_exchanges(here):
            _finish(path)
        scratch = [name for name in names if name.startswith(BUILDING)]
        if here == root and all((root / name).exists() for name in ("source", "masks")):
            scratch += [name for name in names if name.startswith(EARLIER)]
        for name in (*scratch, *filter(_is_left_over, files)):
            remove(here / name)
        names[:] = [name for name in names if not name.startswith(".")]


def _is_ours(ready: Path) -> bool:
    """True for an exchange that lies in the workspace itself: a link may lead anywhere."""
    parts = (ready, ready / "new", ready / "gone", ready / "old")
    return all(part.is_dir() and not part.is_symlink() for part in parts)


def _is_left_over(name: str) -> bool:
    """True for a half-written file whose program has ended; versions before did not say which."""
    return is_abandoned(name) or PART_BEFORE.fullmatch(name) is not None
