"""Files: never half-written, moved and removed with patience, named by their content.

What is being written has a scratch name (`.part-`, then its writer, then chance), lies beside its
place, and takes its name once the disk has it. The scratch of a writer that was killed is removed
by the next process that writes in the same folder.
"""

import errno
import hashlib
import json
import os
import platform
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import platformdirs
import psutil

from maskora.errors import UserError
from maskora.system import WINDOWS

Answer = TypeVar("Answer")
# What Pillow may open: plain pictures. Its reader of EPS, for one, starts another program.
PICTURES = (
    "AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "QOI",
    "SGI", "TGA", "TIFF", "WEBP",
)  # fmt: skip
# How the pictures are called that a person gives, but for masks, which may be any of PICTURES.
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".tif", ".tiff")
IMAGES = "png, jpg, webp, bmp or tif"  # the same in words
MOST_PIXELS = 120_000_000  # of a picture: a small file may unpack to any size
# Windows' numbers for a file that some program has open or mapped: access denied, sharing
# violation, lock violation, user-mapped section.
HELD = (5, 32, 33, 1224)
PATIENCE = 2.0  # seconds: a virus scanner, or a page that looks at a record, lets go within that
LARGEST_TEXT = 2**20  # bytes of what a person writes: settings, captions, points
LARGEST_DATA = 64 * 2**20  # of what programs write as text; large tokenizers have 35 MB
TEXTS = (".jinja", ".json", ".model", ".txt")  # what such files of a model's folder are called
SCRATCH = re.compile(r"\.[a-z-]+-([0-9a-f]{8})-([0-9]+)-\w+(\..*)?")  # where it runs, its process
_LOOKED_OVER: set[Path] = set()  # folders in which this process has written
_TOGETHER: set[Path] = set()  # folders whose files the disk gets together


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
    flush(target.parent)


def flush(path: Path) -> None:
    """Wait until the disk has a file's bytes, or a folder's names, so that they outlive the power.

    What lies in a folder that is `flushed_together` waits for that. Windows opens no folder, and
    some network disks flush none.
    """
    if not _TOGETHER.isdisjoint((path, *path.parents)) or (WINDOWS and path.is_dir()):
        return
    handle = os.open(path, os.O_RDWR if WINDOWS else os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(handle)


@contextmanager
def flushed_together(folder: Path) -> Iterator[None]:
    """Flush a new folder at the end, each file and folder in it once, instead of one by one.

    It is for a folder that is worth nothing before all of it is there. A failure flushes nothing.
    """
    _TOGETHER.add(folder)
    try:
        yield
    finally:
        _TOGETHER.remove(folder)
    for path in (*folder.rglob("*"), folder):
        flush(path)


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
def naming(path: Path, scratch: Path | None = None) -> Iterator[None]:
    """Let an error of the system that names no file, or a scratch, name the one that is written."""
    try:
        yield
    except OSError as error:
        named = {str(name) for name in (error.filename, error.filename2) if name is not None}
        if not named or str(scratch) in named:
            error.filename, error.filename2 = str(path), None
        raise


def check_links(parts: Iterable[Path], within: Path) -> None:
    """No link in some files and folders leads out of a folder; nothing there is a pipe or a device.

    Args:
        parts: in the folder; they need not be there.

    Raises:
        UserError: with the first that is otherwise.
    """
    home, waiting, seen = Path(os.path.realpath(within)), list(parts), set[Path]()
    while waiting:
        path = waiting.pop()
        try:
            status = path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        if stat.S_ISLNK(status.st_mode) or getattr(status, "st_reparse_tag", False):
            target = Path(os.path.realpath(path))
            if target.is_symlink() or not target.is_relative_to(home):
                raise UserError(
                    f"{path} is a link that leads elsewhere, to {target}: nothing is read or "
                    f"written through it. Put the file or folder itself there"
                )
            waiting += [target] if target not in seen else []
            seen.add(target)
        elif stat.S_ISDIR(status.st_mode):
            with suppress(FileNotFoundError):  # a run that works there has just removed it
                waiting.extend(path.iterdir())
        elif not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path} is no ordinary file (a pipe, a socket or a device): remove it")


def check_ordinary(path: Path) -> None:
    """What a path leads to is a file, if there is anything: a pipe or a device has no end.

    Raises:
        UserError: it is something else.
    """
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "no ordinary file (a pipe, a socket or a device)"
        raise UserError(f"{path} is {kind}; a file is needed there")


def check_folder_of_texts(folder: Path) -> None:
    """What a library reads of a folder by itself is files, and texts of the size of texts.

    Raises:
        UserError: something is otherwise.
    """
    for path in folder.iterdir():
        if not path.is_dir():
            check_ordinary(path)
        if path.suffix in TEXTS:
            _check_size(path, LARGEST_DATA)


def read_small(path: Path, most: int = LARGEST_DATA) -> bytes:
    """The content of a file of settings or words, of at most so many bytes.

    Raises:
        UserError: it is larger; then nothing of it is read.
    """
    _check_size(path, most)
    return patiently(path.read_bytes, path)


def read_text(path: Path) -> str:
    """A text in UTF-8, with a byte order mark or without; its lines end in "\\n".

    Raises:
        UserError: it is in another encoding, larger than texts are, or no ordinary file.
    """
    check_ordinary(path)
    content = read_small(path, LARGEST_TEXT)
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        found = "UTF-16" if b"\0" in content[:4] else f"line {before.count(10) + 1} is not"
        raise UserError(
            f"{path} is no text in UTF-8 ({found}): save it in an editor with the encoding UTF-8"
        ) from None


def _check_size(path: Path, most: int) -> None:
    if (size := path.stat().st_size) > most:
        raise UserError(
            f"{path} has {size / 1e6:.0f} MB, and such a file has at most {most / 1e6:.0f}: it is "
            f"damaged, or something else, and is not read. Put the right one in its place"
        )


def parse_json(text: str | bytes) -> Any:
    """What a JSON text says. Raises ValueError for whatever is wrong with it."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a scratch path beside `path`; on success it takes that name, on failure it is gone.

    It has the name once the disk has its bytes: after a power cut the old file is there, or the
    new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _look_over(path.parent)
    with naming(path):
        handle, name = tempfile.mkstemp(path.suffix, scratch_prefix("part"), path.parent)
        os.close(handle)
    scratch = Path(name)
    try:
        with naming(path, scratch):
            yield scratch
            scratch.chmod(0o644)
            flush(scratch)
            move(scratch, path)
    finally:
        remove(scratch)


@contextmanager
def scratch_folder(home: Path, kind: str) -> Iterator[Path]:
    """Yield a new hidden folder in another, which is gone at the end.

    Args:
        kind: a word of its name.
    """
    _look_over(home)
    with tempfile.TemporaryDirectory(dir=home, prefix=scratch_prefix(kind)) as scratch:
        yield Path(scratch)


def _look_over(folder: Path) -> None:
    """Remove abandoned scratches, the first time that this process writes in a folder."""
    if folder.absolute() not in _LOOKED_OVER:
        remove_abandoned(folder)
        _LOOKED_OVER.add(folder.absolute())


def remove_abandoned(folder: Path) -> None:
    """Remove the scratches in a folder whose writers were killed.

    What may not be removed stays: it is another person's, or the disk can only be read.
    """
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if not entry.is_symlink()]
    for name in filter(is_abandoned, names):
        try:
            remove(folder / name)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT):
                raise


def is_abandoned(name: str) -> bool:
    """Whether a name is a scratch's whose process has ended; those of other machines may live."""
    match = SCRATCH.fullmatch(name)
    return match is not None and match[1] == _place() and not psutil.pid_exists(int(match[2]))


def scratch_prefix(kind: str) -> str:
    """What the name of a scratch of this process begins with; `kind` is a word of it."""
    return f".{kind}-{_place()}-{os.getpid()}-"


@cache
def _place() -> str:
    """Where this process's number means something: the machine, and the container in it."""
    space = Path("/proc/self/ns/pid")
    number = str(space.readlink()) if space.is_symlink() else ""
    return digest(platform.node(), number)[:8]


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


def state_home() -> Path:
    """Where what outlives the programs lies: `$XDG_STATE_HOME/maskora`, else the system's place.

    That is ~/.local/state/maskora, on macOS ~/Library/Application Support/maskora, and on Windows
    %LOCALAPPDATA%\\maskora.
    """
    base = Path(os.environ.get("XDG_STATE_HOME", ""))
    if base.is_absolute():
        return base / "maskora"
    return platformdirs.user_state_path("maskora", appauthor=False)
