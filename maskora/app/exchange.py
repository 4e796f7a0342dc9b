"""Files and folders that take the place of others together, whatever ends the program.

.building-PLACE-PROCESS-ab12cd34/    being filled, by that process; worth nothing once it has ended
.exchange-ab12cd34/     whole: from here on the exchange is finished, by the next program if not
    new/NAME            takes the place of NAME in the folder above        by this one
    gone/NAME           an empty file: NAME goes
    old/NAME            what was there, until all of it is exchanged

Whoever holds the workspace finishes an exchange: the number of its process would say nothing after
a restart of the machine.
"""

import logging
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from maskora.files import flushed_together, move, remove, remove_abandoned, scratch_prefix

READY = ".exchange-"
PARTS = ("new", "gone", "old")
log = logging.getLogger("maskora")


@contextmanager
def exchange(folder: Path, dropping: Sequence[str] = ()) -> Iterator[Path]:
    """Yield an empty folder; what is put into it takes the place of its namesakes in `folder`.

    The disk has all of it before anything is exchanged. A failure leaves everything in `folder` as
    it was. Whoever calls this holds the workspace.

    Args:
        dropping: names that go where nothing takes their place.
    """
    folder.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=folder, prefix=scratch_prefix("building")))
    ready = folder / f"{READY}{_chance(building)}"
    try:
        with flushed_together(building):
            for part in PARTS:
                (building / part).mkdir()
            yield building / "new"
            for name in dropping:
                if os.path.lexists(folder / name) and not (building / "new" / name).exists():
                    (building / "gone" / name).touch()
        move(building, ready)
        _finish(ready)
    except BaseException:
        if building.exists():
            _discard(building)
        elif ready.exists() and not any((ready / "old").iterdir()):  # all is back where it was
            _discard(ready)
        raise


def _chance(scratch: Path) -> str:
    """The part of a scratch's name that no other has."""
    return scratch.name.rpartition("-")[2]


def _discard(scratch: Path) -> None:
    """Remove what is worth nothing any more; one that cannot be removed now is no failure."""
    building = scratch.with_name(f"{scratch_prefix('building')}{_chance(scratch)}")
    try:
        if scratch != building:
            move(scratch, building)  # what is removed in part must not be taken for an exchange
        remove(building)
    except OSError as error:
        note = "note: %s could not be removed (%s): the next command tries again"
        log.warning(note, building if building.exists() else scratch, error.strerror)


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
    _discard(ready)


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


def settle(folders: Iterable[Path]) -> None:
    """Finish what killed programs have begun in a workspace, and remove what they left half-done.

    Whoever calls this holds the workspace.

    Args:
        folders: those in which its commands write. What is in them is looked at, and nothing below.
    """
    for folder in folders:
        for path in begun_exchanges(folder):
            _finish(path)
        remove_abandoned(folder)


def _is_ours(ready: Path) -> bool:
    """True for an exchange that lies in the workspace itself: a link may lead anywhere."""
    folders = (ready, *(ready / part for part in PARTS))
    return all(folder.is_dir() and not folder.is_symlink() for folder in folders)
