"""Files: never half-written, moved and removed with patience, named by their content."""

import errno
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import platformdirs
import psutil

from maskora.errors import UserError
from maskora.system import WINDOWS

Answer = TypeVar("Answer")
# Windows' numbers for a file that some program has open or mapped: access denied, sharing
# violation, lock violation, user-mapped section.
HELD = (5, 32, 33, 1224)
PART = ".part-"  # begins the name of what is being written; its writer's process comes next
PATIENCE = 2.0  # seconds: a virus scanner, or a page that looks at a record, lets go within that


def patiently(action: Callable[[], Answer], path: Path) -> Answer:
    """Do something to a file that another program may have open just now.

    Windows refuses to replace, move or remove what is open, where others do not: it is tried again
    for a moment.

    Raises:
        PermissionError: it is still open there, and says so.
    """
    last = time.monotonic() + PATIENCE
    while True:
        try:
            return action()
        except OSError as error:
            if not _is_held(error):
                raise
            if time.monotonic() > last:
                reason = "not allowed, or open in another program (close it there first)"
                raise PermissionError(errno.EACCES, reason, str(path)) from error
        time.sleep(0.05)


def _is_held(error: OSError) -> bool:
    """Whether Windows may have refused because of somebody who has the file open."""
    number = getattr(error, "winerror", None)  # None: of the C library, which gives no reason
    return number in HELD or (WINDOWS and number is None and error.errno == errno.EACCES)


def move(source: Path, target: Path) -> None:
    """Give a file or a folder another name; what is there under that name, if a file, goes."""
    patiently(lambda: source.replace(target), target)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        patiently(lambda: shutil.rmtree(path), path)
    else:
        patiently(lambda: path.unlink(missing_ok=True), path)


def check_free(path: Path) -> None:
    """A file can be replaced when the time comes; asked before long work.

    Raises:
        PermissionError: another program has it open, where that is in the way.
    """
    if path.is_file():
        move(path, path)


def is_hidden(path: Path) -> bool:
    """Whether a file is not the person's own: hidden, or left by a file manager."""
    return path.name.startswith(".") or path.name.lower() in ("thumbs.db", "desktop.ini")


def lies_in(path: Path, folder: Path) -> bool:
    """Whether a path leads to a folder or into it, links and spelling followed."""
    resolved, outer = path.resolve(), folder.resolve()
    if resolved.is_relative_to(outer):
        return True
    if not outer.exists():
        return False
    # Where a and A are the same to the file system, the folder may go by another name.
    return any(one.exists() and one.samefile(outer) for one in (resolved, *resolved.parents))


def refuse_inputs(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Nothing that is read may be written over, by whatever name or link.

    Raises:
        UserError: an output is one of the inputs.
    """
    read = {(found.st_dev, found.st_ino): path for path in inputs if (found := _found(path))}
    for output in outputs:
        if (found := _found(output)) and (path := read.get((found.st_dev, found.st_ino))):
            same = "" if path == output else f" is {path}, which"
            raise UserError(
                f"{output}{same} is read here, and would be written over: name another file"
            )


def _found(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:  # not there, or not to be reached: then nothing can be written over it
        return None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a scratch path beside `path`; on success it takes that name, on failure it is gone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(
        dir=path.parent, prefix=f"{PART}{os.getpid()}-", suffix=path.suffix
    )
    os.close(handle)
    scratch = Path(name)
    try:
        yield scratch
        scratch.chmod(0o644)
        move(scratch, path)
    finally:
        remove(scratch)


def is_abandoned(name: str) -> bool:
    """True for the name of a half-written file whose writer's process has ended."""
    writer = re.match(rf"{re.escape(PART)}([0-9]+)-", name)
    return writer is not None and not psutil.pid_exists(int(writer[1]))


def write_text(path: Path, text: str) -> None:
    """Write a text file as a whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file as a whole or not at all; a full disk is an OSError, whoever made the bytes."""
    with replacing(path) as scratch:
        scratch.write_bytes(data)


def digest(*parts: bytes | str) -> str:
    """A short content name (20 hex digits) for some bytes; the parts' borders count."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "little"))
        total.update(data)
    return total.hexdigest()[:20]


def digest_stream(length: int, chunks: Iterable[bytes]) -> str:
    """What `digest` gives for one run of bytes that come in chunks, of this length in all."""
    total = hashlib.sha256(length.to_bytes(8, "little"))
    for chunk in chunks:
        total.update(chunk)
    return total.hexdigest()[:20]


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file, as sha256sum prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_file(path: Path) -> str:
    """The content name of a file's bytes."""
    return sha256_file(path)[:20]


def digest_files(paths: list[Path]) -> str:
    """One content name for several files, in the order given."""
    return digest(*(digest_file(path) for path in paths))


def cache_home() -> Path:
    """Where things lie that can be made again: `$XDG_CACHE_HOME/maskora`, else the system's place.

    That is ~/.cache/maskora, on macOS ~/Library/Caches/maskora, and on Windows
    %LOCALAPPDATA%\\maskora\\Cache.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # A relative path there is to be ignored, as the XDG base directory specification says.
    if base.is_absolute():
        return base / "maskora"
    return platformdirs.user_cache_path("maskora", appauthor=False)
