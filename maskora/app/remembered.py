"""What this machine has found out once and keeps: times, and the digests of large files.

A table is a JSON file in the user's cache. One that is missing, damaged or not to be read counts as
empty, and where it cannot be written that is logged: all of it can be found out again.
"""

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path

from maskora.files import cache_home, digest, parse_json, sha256_file, write_text

MOST = 1000  # entries of a table: the oldest go
DIGESTS, SHA256 = "digests", 64  # the table, and the length of such a digest
LARGE, SLOW = 2**24, 2_000_000_000  # bytes: what is smaller is read each time; seconds to read
# Nanoseconds: what was written to so lately may be written to again without another time stamp.
RECENT = 3_000_000_000
log = logging.getLogger("maskora")


def recall(table: str) -> dict[str, str | float]:
    """What a table holds."""
    try:
        return _read(table)
    except OSError:
        return {}


def remember(table: str, key: str, value: str | float) -> None:
    """Add to a table."""
    try:
        known = _read(table)
        known.pop(key, None)
        latest = [*known.items(), (key, value)][-MOST:]
        write_text(_path(table), json.dumps(dict(latest), indent=1) + "\n")
    except OSError as error:
        log.warning("note: nothing is kept in %s: %s", _path(table), error.strerror)


def _path(table: str) -> Path:
    return cache_home() / f"{table}.json"


def _read(table: str) -> dict[str, str | float]:
    """What a table holds; a missing or damaged one counts as empty."""
    try:
        content = parse_json(_path(table).read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    entries = content.items() if isinstance(content, dict) else ()
    return {key: value for key, value in entries if isinstance(value, str | int | float)}


def known_sha256(path: Path, files: Sequence[Path] | None = None) -> str:
    """The SHA-256 of a file, or that of the digests of some files in a folder.

    Large ones are read once: that a file which lies in the same place of the same disk, with the
    same size and times, has the same content is trusted. What guards against damage is computed
    from the bytes each time.

    Args:
        path: the file, or the folder.
        files: those in the folder, in order.
    """
    read = [path] if files is None else files
    states = [_state(file) for file in read]
    nbytes = sum(size for _, _, size, *_ in states)
    if nbytes < LARGE:
        return _sha256(path, files)
    key = digest("file" if files is None else "folder", json.dumps(states))
    known = str(recall(DIGESTS).get(key))
    if known[SHA256:] == digest(key, known[:SHA256]):
        return known[:SHA256]
    if nbytes > SLOW:
        log.info("reading %s once (%.1f GB), to tell it from others", path, nbytes / 1e9)
    settled = max(stamp for state in states for stamp in state[3:]) < time.time_ns() - RECENT
    found = _sha256(path, files)
    if settled and states == [_state(file) for file in read]:
        remember(DIGESTS, key, found + digest(key, found))
    return found


def _sha256(path: Path, files: Sequence[Path] | None) -> str:
    if files is None:
        return sha256_file(path)
    return hashlib.sha256("".join(map(sha256_file, files)).encode()).hexdigest()


def _state(path: Path) -> tuple[int, ...]:
    """What changes when a file is written to, or another takes its name."""
    now = path.stat()
    return now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns
