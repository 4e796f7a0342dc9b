"""Where a module's parameters lie among stored tensors. Imports no torch."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path, PureWindowsPath
from typing import Any

from maskora.errors import UserError
from maskora.files import check_ordinary, parse_json, read_small
from maskora.hub import variants

LENGTH_BYTES = 8
LARGEST = 16_000_000  # bytes of a header: a hundred thousand tensors, and what its maker notes
MOST_AXES = 16
METADATA = "__metadata__"
# Bytes of one value, by the format's names of types.
SIZES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I64": 8,
    "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """Where a tensor's bytes lie: a file, the offset of its first byte, its type and shape.

    Attributes:
        kind: its type, as safetensors call it: "BF16".
    """

    path: Path
    offset: int
    kind: str
    shape: tuple[int, ...]


def read_header(path: Path) -> dict[str, Stored]:
    """Where each tensor of a safetensors file lies. Raises UserError where it cannot be so."""
    header, start = _content(path)
    header.pop(METADATA, None)
    size, stored = path.stat().st_size, {}
    for name, entry in header.items():
        try:
            (begin, end), shape, kind = entry["data_offsets"], tuple(entry["shape"]), entry["dtype"]
            fits = all(type(one) is int and 0 <= one < 2**63 for one in (begin, end, *shape))
            fits = fits and len(shape) <= MOST_AXES and end - begin == prod(shape) * SIZES[kind]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: {name} is described in an unknown way ({error!r})") from None
        if not fits:
            raise UserError(f"{path}: {name} is described wrongly: the file is damaged")
        if start + end > size:
            raise UserError(f"{path} is cut off within {name}: download it again")
        stored[name] = Stored(path, start + begin, kind, shape)
    return stored


def read_headers(paths: Iterable[Path]) -> dict[str, Stored]:
    """The same for several files that hold a model together."""
    return {name: stored for path in paths for name, stored in read_header(path).items()}


def read_metadata(path: Path) -> dict[str, str]:
    """What the file's maker has noted in it. Raises UserError as `read_header` does."""
    noted = _content(path)[0].get(METADATA, {})
    return noted if isinstance(noted, dict) else {}


def _content(path: Path) -> tuple[dict[str, Any], int]:
    """The header as it stands there, and where the file's data begins."""
    check_ordinary(path)
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(LENGTH_BYTES), "little")
            if length > LARGEST and length <= path.stat().st_size:
                raise UserError(f"{path}: its header of {length} bytes is too large to be read")
            content = parse_json(file.read(length)) if 0 < length <= LARGEST else None
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{path} is no readable safetensors file")
    return content, LENGTH_BYTES + length


def shards(folder: Path) -> list[Path]:
    """The files that an index names, else every safetensors file of the folder.

    Variants (`model.fp16.safetensors`) that stand beside the plain weights are left out.

    Raises:
        UserError: the index is damaged.
    """
    found = {path.name: path for path in sorted(folder.glob("*.safetensors*"))}
    plain = [found[name] for name in found.keys() - variants(found)]
    index = min((path for path in plain if path.match("*.safetensors.index.json")), default=None)
    if index is None:
        return sorted(path for path in plain if path.suffix == ".safetensors")
    content = read_small(index)
    try:
        names = set(parse_json(content)["weight_map"].values())
        if away := [name for name in names if _leads_out(PureWindowsPath(name))]:
            raise ValueError(f"{away[0]} lies in another folder")
        return [folder / name for name in sorted(names)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index} is damaged ({error!r}): download it again") from None


def _leads_out(name: PureWindowsPath) -> bool:
    """True for a file's name, with either slash, that is not below the folder it counts from."""
    return bool(name.anchor) or ".." in name.parts


@dataclass(frozen=True)
class Place:
    """Where a module's parameter lies.

    Attributes:
        name: of the stored tensor.
        rows: the ranges of its rows (first, end) that make the parameter, one after another.
        scale: the stored tensor of factors by which it is multiplied: one for all, or one for each
            row; None for none.
    """

    name: str
    rows: tuple[tuple[int, int], ...]
    scale: str | None = None

    @property
    def height(self) -> int:
        return sum(end - first for first, end in self.rows)
