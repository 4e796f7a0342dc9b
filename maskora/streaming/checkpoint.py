"""Stored tensors under the names of the modules that use them: cut, put together, scaled."""

import pickle
import re
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from itertools import dropwhile
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskora.errors import Fault, UserError
from maskora.streaming.blocks import Precision
from maskora.streaming.header import SIZES, Place, Stored

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu, "I64": torch.int64, "I32": torch.int32, "I16": torch.int16,
    "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
CONVERSION_BYTES = 32 * 2**20
READ_BYTES, READERS = 16 * 2**20, 4  # of the pieces in which files are read, and how many at once


class Checkpoint:
    """Tensors by the names that their files give them."""

    def __init__(self, stored: Mapping[str, Stored], description: str) -> None:
        """`description`: where they come from, for people."""
        self.description = description
        self._stored = stored

    def names(self) -> Collection[str]:
        """All tensors."""
        return self._stored.keys()

    def name_in_file(self, name: str) -> str:
        """See `Reader`."""
        return name

    def stored(self, name: str) -> Stored:
        """Where a tensor lies. Raises UserError where there is none of this name."""
        try:
            return self._stored[name]
        except KeyError:
            raise UserError(
                f"{self.description} lacks the tensor {name}: is it another model?"
            ) from None

    def is_in(self, precision: Callable[[str], torch.dtype]) -> bool:
        """Whether the tensors are stored in the precision in which they are computed."""
        return mostly(
            {
                name: (prod(one.shape), DTYPES[one.kind] == precision(name))
                for name, one in self._stored.items()
            }
        )

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """A tensor is there and has this shape. Raises UserError."""
        stored = self.stored(name)
        if stored.shape != shape:
            raise UserError(
                f"{stored.path}: {name} is {stored.shape} instead of {shape}: "
                f"the weights do not belong to the config.json beside them"
            )

    def read_into(self, name: str, out: Tensor) -> None:
        """Fill a contiguous CPU tensor of the same shape, converting where the types differ.

        Raises:
            Fault: the disk fails, or the file is shorter than it says.
        """
        assert self.stored(name).shape == tuple(out.shape)
        self.read_span(name, 0, out.view(-1))

    def read_span(self, name: str, start: int, out: Tensor) -> None:
        """Fill a contiguous CPU tensor of one dimension with a tensor's values from `start` on.

        Raises:
            Fault: see `read_into`.
        """
        stored = self.stored(name)
        assert 0 <= start <= prod(stored.shape) - len(out)
        dtype = DTYPES[stored.kind]
        _read(stored.path, stored.offset + start * dtype.itemsize, dtype, out)

    def read_rows(self, name: str, rows: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Some rows of a matrix (N, D), in the order given: a tensor (len(rows), D)."""
        height, width = self.stored(name).shape
        picked = torch.empty((len(rows), width), dtype=dtype)
        for place, row in enumerate(rows):
            assert 0 <= row < height
            self.read_span(name, row * width, picked[place])
        return picked


def mostly(tensors: Mapping[str, tuple[int, bool]]) -> bool:
    """Whether a model's tensors (how many values, and whether they do) fulfil something.

    One value in a hundred may not: converting norms and tables costs nothing.
    """
    others = sum(count for count, does in tensors.values() if not does)
    return others <= sum(count for count, _ in tensors.values()) / 100


def _read(path: Path, offset: int, dtype: torch.dtype, out: Tensor) -> None:
    """Read as many values as `out` (one dimension) holds, in small pieces if they convert."""
    if dtype == out.dtype:
        read_bytes(path, offset, out.view(torch.uint8))
        return
    step = CONVERSION_BYTES // dtype.itemsize
    buffer = torch.empty(min(step, len(out)), dtype=dtype)
    for start in range(0, len(out), step):
        piece = buffer[: min(step, len(out) - start)]
        read_bytes(path, offset + start * dtype.itemsize, piece.view(torch.uint8))
        out[start : start + len(piece)].copy_(piece)


def read_bytes(path: Path, offset: int, out: Tensor) -> None:
    """Fill a contiguous uint8 CPU tensor from a place in a file, in pieces at once. Raises Fault.

    One reader keeps a fast disk busy only where the system reads far ahead by itself.
    """
    view = byte_view(out)
    starts = range(0, len(view), READ_BYTES)
    if len(starts) < 2:
        return _read_piece(path, offset, view)
    pieces = [
        _readers().submit(_read_piece, path, offset + start, view[start : start + READ_BYTES])
        for start in starts
    ]
    wait(pieces)  # all of them, so that nothing is written into `out` later
    for piece in pieces:
        piece.result()


@cache
def _readers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(READERS, thread_name_prefix="maskora-reading")


def _read_piece(path: Path, offset: int, view: memoryview) -> None:
    """Through a handle of its own, whose place nobody else moves."""
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(offset)
            while view:
                count = file.readinto(view)  # some systems give at most 2 GiB at a time
                if not count:
                    raise Fault(f"{path} ends early: it changed while it was read, or is damaged")
                view = view[count:]
    except OSError as error:
        raise Fault(f"the weights cannot be read from {path}: {error.strerror}") from None


def byte_view(buffer: Tensor) -> memoryview:
    """A uint8 CPU tensor as a buffer that files read into and write from, without a copy."""
    return memoryview(buffer.numpy())  # type: ignore[arg-type]


KINDS = {dtype: kind for kind, dtype in DTYPES.items()}


def read_pickled(path: Path) -> dict[str, Stored]:
    """Where each tensor of a .pth file lies, by name.

    Raises:
        UserError: the file is damaged, compressed, of torch's old form, or holds anything but
            named tensors.
    """
    if not zipfile.is_zipfile(path):
        raise UserError(
            f"{path} is cut off, or in the form that torch wrote before version 1.6: download it "
            f"again, or name a .safetensors file of the same weights"
        )
    _check_archive(path)
    tensors = _load(path)
    if not isinstance(tensors, dict):
        raise UserError(f"{path} holds no named tensors, but {type(tensors).__name__}")
    size = path.stat().st_size
    return {name: _stored(path, size, name, tensor) for name, tensor in tensors.items()}


def _check_archive(path: Path) -> None:
    """Its members lie as they are, as torch writes them. Raises UserError."""
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [one for one in archive.infolist() if one.compress_type != zipfile.ZIP_STORED]
    except zipfile.BadZipFile as error:
        raise UserError(f"{path} is damaged ({error}): download it again") from None
    if packed:
        raise UserError(
            f"{path}: {packed[0].filename} is compressed, as torch does not write it: unpack and "
            f"save it with torch, or name a .safetensors file of the same weights"
        )


def _load(path: Path) -> Any:
    """What the file holds, its tensors without their values."""
    try:
        with path.open("rb") as file:  # by its name, torch would take it for another kind
            return torch.load(file, map_location="meta", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        raise UserError(
            f"{path} is refused: it asks for {asked[1] if asked else 'more'}, which is no tensor. "
            f"Nothing of it was run. Name a file of plain weights, best a .safetensors one"
        ) from None
    except (RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error!r}): download it again") from None


def _stored(path: Path, size: int, name: object, tensor: object) -> Stored:
    if not isinstance(tensor, Tensor):
        raise UserError(f"{path}: {name} is no tensor, but {type(tensor).__name__}")
    if not isinstance(name, str):
        raise UserError(f"{path}: a tensor is called {name!r}, which is no name")
    kind, shape = KINDS.get(tensor.dtype), tuple(tensor.shape)
    if kind is None or not tensor.is_contiguous():
        raise UserError(f"{path}: {name} is stored in a way that is not read here ({tensor.dtype})")
    storage: Any = tensor.untyped_storage()
    offset = storage._checkpoint_offset + tensor.storage_offset() * SIZES[kind]
    if offset + prod(shape) * SIZES[kind] > size:
        raise UserError(f"{path}: {name} is described wrongly: the file is damaged")
    return Stored(path, offset, kind, shape)


class Translated:
    """A checkpoint by other names. It holds no values; every read goes to the file."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        places: Mapping[str, Place],
        unknown: Collection[str],
        name_in_file: Callable[[str], str],
    ) -> None:
        """
        Args:
            places: parameter -> where it lies.
            unknown: stored tensors that are no parameter's.
            name_in_file: what a parameter that has no place would be called in the files.
        """
        self.description = checkpoint.description
        self._checkpoint, self._places = checkpoint, places
        self._unknown, self._name_in_file = unknown, name_in_file

    def names(self) -> Collection[str]:
        """See `Reader`; what is not known has its own name."""
        return [*self._places, *self._unknown]

    def name_in_file(self, name: str) -> str:
        """See `Reader`."""
        if name in self._places:
            return self._places[name].name
        return name if name in self._unknown else self._name_in_file(name)

    def is_in(self, precision: Precision) -> bool:
        """See `Reader`."""

        def is_same(name: str, place: Place) -> bool:
            kind = self._checkpoint.stored(place.name).kind
            return place.scale is None and DTYPES[kind] == precision(name)

        return mostly(
            {
                name: (place.height * self._width(place), is_same(name, place))
                for name, place in self._places.items()
            }
        )

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """A parameter is there and has this shape; leading axes of length 1 do not count."""
        place = self._place(name)
        stored = self._checkpoint.stored(place.name)
        found = (place.height, *stored.shape[1:])
        if _without_ones(found) != _without_ones(shape):
            part = "" if found == stored.shape else f" (of {stored.shape})"
            raise UserError(
                f"{stored.path}: {place.name} is {found}{part} instead of {shape}: it does not fit "
                f"the rest of the model"
            )

    def read_into(self, name: str, out: Tensor) -> None:
        """See `Reader`. Raises Fault where the disk fails."""
        place = self._place(name)
        assert place.height * self._width(place) == out.numel()
        self.read_span(name, 0, out.view(-1))

    def read_span(self, name: str, start: int, out: Tensor) -> None:
        """See `Reader`. Raises Fault where the disk fails."""
        place, done = self._place(name), 0
        width = self._width(place)
        for first, end in place.rows:
            count = (end - first) * width
            if done < len(out) and start < count:
                part = out[done : done + count - start]
                self._read(place, first * width + start, part)
                done += len(part)
            start = max(0, start - count)
        assert done == len(out)

    def read_rows(self, name: str, rows: Sequence[int], dtype: torch.dtype) -> Tensor:
        """See `Reader`."""
        place = self._place(name)
        ((first, end),) = place.rows
        picked = torch.empty((len(rows), self._width(place)), dtype=dtype)
        for at, row in enumerate(rows):
            assert 0 <= row < end - first
            self._read(place, (first + row) * self._width(place), picked[at])
        return picked

    def _place(self, name: str) -> Place:
        if name not in self._places:
            raise UserError(
                f"{self.description} lacks the tensor {self._name_in_file(name)}: is it another "
                f"model, or another version of it?"
            )
        return self._places[name]

    def _width(self, place: Place) -> int:
        return prod(self._checkpoint.stored(place.name).shape[1:])

    def _read(self, place: Place, start: int, out: Tensor) -> None:
        """Values of a stored tensor, multiplied in float32 where their rows have scales."""
        if place.scale is None:
            self._checkpoint.read_span(place.name, start, out)
            return
        scales, width, end = self._scales(place.scale), self._width(place), start + len(out)
        for first, last in _pieces(start // width, -(-end // width), width):
            piece = torch.empty((last - first) * width)
            self._checkpoint.read_span(place.name, first * width, piece)
            scale = scales[first:last, None] if len(scales) > 1 else scales
            piece = (piece.view(last - first, width) * scale).view(-1)
            low, high = max(first * width, start), min(last * width, end)
            out[low - start : high - start].copy_(piece[low - first * width : high - first * width])

    def _scales(self, name: str) -> Tensor:
        scales = torch.empty(prod(self._checkpoint.stored(name).shape))
        self._checkpoint.read_span(name, 0, scales)
        return scales


def _pieces(first: int, end: int, width: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows whose values fit a conversion buffer in float32; at least one row each."""
    step = max(1, CONVERSION_BYTES // (4 * width))
    for start in range(first, end, step):
        yield start, min(start + step, end)


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(dropwhile(lambda length: length == 1, shape))
