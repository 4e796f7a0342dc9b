"""Small file habits that every room shares: nothing half-written, contents named by their hash."""

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a scratch path beside `path`; on success it takes that name, on failure it is gone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".part-", suffix=path.suffix)
    os.close(handle)
    scratch = Path(name)
    try:
        yield scratch
        scratch.chmod(0o644)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


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
    """Where things lie that can be made again: `$XDG_CACHE_HOME/maskora` or ~/.cache/maskora."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # A relative path there is to be ignored, as the XDG base directory specification says.
    return (base if base.is_absolute() else Path.home() / ".cache") / "maskora"
