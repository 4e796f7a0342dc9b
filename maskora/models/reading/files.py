"""Files of weights, recognised by their first bytes: what lies in them, and where."""

from collections.abc import Iterable
from pathlib import Path

from maskora.errors import UserError
from maskora.streaming.header import LENGTH_BYTES, Stored, read_header

ZIP, PICKLE, GGUF = b"PK\x03\x04", b"\x80", b"GGUF"
INSTEAD = "name a .safetensors file of the same model (bf16, fp16 or scaled fp8)"


def read_stored(paths: Iterable[Path]) -> dict[str, Stored]:
    """Where each tensor of some files lies, by name.

    Raises:
        UserError: a file is damaged, or of a kind that is not read.
    """
    return {name: stored for path in paths for name, stored in _read(path).items()}


def _read(path: Path) -> dict[str, Stored]:
    if path.suffix == ".ckpt":
        raise UserError(f"{path} is a pickled checkpoint, which may run code: {INSTEAD}")
    start = _start(path)
    if start.startswith(GGUF):
        raise UserError(f"{path} is a GGUF file, whose compressed weights are not read: {INSTEAD}")
    if start.startswith((ZIP, PICKLE)) and not is_safetensors(path):
        from maskora.streaming.pickled import read_pickled

        return read_pickled(path)
    return read_header(path)


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as the format does: the length of a JSON object, and the object."""
    return _start(path)[LENGTH_BYTES:] == b"{"


def read_small(stored: Stored, count: int) -> bytes:
    """The bytes of a tensor of so many. Raises UserError where the file is shorter."""
    with stored.path.open("rb") as file:
        file.seek(stored.offset)
        content = file.read(count)
    if len(content) < count:
        raise UserError(f"{stored.path} is cut off: download it again")
    return content


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(LENGTH_BYTES + 1)
