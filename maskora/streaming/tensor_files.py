"""Stored tensors by name: read from files by the span or the row, put together, scaled."""

import pickle
import re
import struct
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from itertools import dropwhile
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maskora.errors import Fault, UserError
from maskora.files import check_ordinary
from maskora.streaming.blocks import Precision
from maskora.streaming.header import SIZES, Place, Stored

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu, "I64": torch.int64, "I32": torch.int32, "I16": torch.int16,
    "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
KINDS = {dtype: kind for kind, dtype in DTYPES.items()}
CONVERSION_BYTES = 32 * 2**20
# What zipfile and torch raise of a .pth file that is damaged, whatever of it is.
DAMAGED = (
    ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, RuntimeError, TypeError,
    ValueError, struct.error, zipfile.BadZipFile,
)  # fmt: skip
READ_BYTES, READERS = 16 * 2**20, 4  # of the pieces in which files are read, and how many at once


class Reader(ABC):
    """Tensors by name. What is read is converted to the type of the tensor that it goes to.

    Attributes:
        description: where they come from, for people.
    """

    description: str

    @abstractmethod
    def names(self) -> Collection[str]:
        """All tensors."""

    @abstractmethod
    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape. Raises UserError where there is none of this name."""

    @abstractmethod
    def dtype(self, name: str) -> torch.dtype | None:
        """The type in which a tensor is stored; None where its values are computed from several."""

    @abstractmethod
    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """A tensor is there and has this shape. Raises UserError."""

    @abstractmethod
    def read_span(self, name: str, start: int, out: Tensor) -> None:
        """Fill a contiguous CPU tensor of one dimension with a tensor's values from `start` on.

        Raises:
            Fault: the disk fails, or the file is shorter than it says.
        """

    def name_in_file(self, name: str) -> str:
        """What a tensor is called where it lies."""
        return name

    def read_into(self, name: str, out: Tensor) -> None:
        """Fill a contiguous CPU tensor with as many values. Raises Fault as `read_span` does."""
        assert prod(self.shape(name)) == out.numel()
        self.read_span(name, 0, out.view(-1))

    def read_rows(self, name: str, rows: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Some rows of a matrix (N, D), in the order given: a tensor (len(rows), D)."""
        height, width = self.shape(name)
        picked = torch.empty((len(rows), width), dtype=dtype)
        for place, row in enumerate(rows):
            assert 0 <= row < height
            self.read_span(name, row * width, picked[place])
        return picked

    def is_in(self, precision: Precision) -> bool:
        """Whether the tensors are stored in the precision in which they are computed.

        One value in a hundred may not be: converting norms and tables costs nothing.
        """
        return self._is_mostly_in(precision, self.names())

    def _is_mostly_in(self, precision: Precision, names: Collection[str]) -> bool:
        sizes = {name: prod(self.shape(name)) for name in names}
        others = sum(sizes[name] for name in names if self.dtype(name) != precision(name))
        return others <= sum(sizes.values()) / 100


def check_all(
    reader: Reader, module: nn.Module, skip: Collection[str] = (), ignore: Collection[str] = ()
) -> None:
    """A reader holds the parameters of a module, each in its shape, and nothing else.

    Args:
        skip: parameters that are not read.
        ignore: regular expressions of further tensors that may be there.

    Raises:
        UserError: with the first tensor that is missing, of another shape, or too much.
    """
    parameters = dict(module.named_parameters())
    for name, parameter in parameters.items():
        if name not in skip:
            reader.check(name, tuple(parameter.shape))
    known = {*skip, *parameters, *(name for name, _ in module.named_buffers())}
    odd = [
        name
        for name in sorted(reader.names())
        if name not in known and not any(re.fullmatch(pattern, name) for pattern in ignore)
    ]
    if odd:
        more = f" (and {len(odd) - 1} more)" if len(odd) > 1 else ""
        raise UserError(
            f"{reader.description} has a tensor that is no part of this model: "
            f"{reader.name_in_file(odd[0])}{more}. "
            f"Is it another model, or another version of it?"
        )


class ModuleReader(Reader):
    """The parameters of a module that lies in host memory whole."""

    description = "memory"

    def __init__(self, module: nn.Module) -> None:
        self._tensors = {name: p.detach() for name, p in module.named_parameters()}

    def names(self) -> Collection[str]:
        return self._tensors.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name].shape)

    def dtype(self, name: str) -> torch.dtype:
        return self._tensors[name].dtype

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        assert self.shape(name) == shape

    def read_span(self, name: str, start: int, out: Tensor) -> None:
        out.copy_(self._tensors[name].reshape(-1)[start : start + len(out)])


class Checkpoint(Reader):
    """Tensors by the names that their files give them."""

    def __init__(self, stored: Mapping[str, Stored], description: str) -> None:
        """`description`: where they come from, for people."""
        self.description = description
        self._stored = stored

    def names(self) -> Collection[str]:
        return self._stored.keys()

    def stored(self, name: str) -> Stored:
        """Where a tensor lies. Raises UserError where there is none of this name."""
        try:
            return self._stored[name]
        except KeyError:
            raise UserError(
                f"{self.description} lacks the tensor {name}: is it another model?"
            ) from None

    def shape(self, name: str) -> tuple[int, ...]:
        return self.stored(name).shape

    def dtype(self, name: str) -> torch.dtype:
        return DTYPES[self.stored(name).kind]

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        stored = self.stored(name)
        if stored.shape != shape:
            raise UserError(
                f"{stored.path}: {name} is {stored.shape} instead of {shape}: "
                f"the weights do not belong to the config.json beside them"
            )

    def read_span(self, name: str, start: int, out: Tensor) -> None:
        stored, dtype = self.stored(name), self.dtype(name)
        assert 0 <= start <= prod(stored.shape) - len(out)
        offset = stored.offset + start * dtype.itemsize
        if dtype == out.dtype:
            read_bytes(stored.path, offset, out.view(torch.uint8))
            return
        step = CONVERSION_BYTES // dtype.itemsize
        buffer = torch.empty(min(step, len(out)), dtype=dtype)
        for first in range(0, len(out), step):
            piece = buffer[: min(step, len(out) - first)]
            read_bytes(stored.path, offset + first * dtype.itemsize, piece.view(torch.uint8))
            out[first : first + len(piece)].copy_(piece)


class Translated(Reader):
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
        """The parameters; what is not known has its own name."""
        return [*self._places, *self._unknown]

    def name_in_file(self, name: str) -> str:
        if name in self._places:
            return self._places[name].name
        return name if name in self._unknown else self._name_in_file(name)

    def shape(self, name: str) -> tuple[int, ...]:
        place = self._place(name)
        return (place.height, *self._checkpoint.shape(place.name)[1:])

    def dtype(self, name: str) -> torch.dtype | None:
        place = self._place(name)
        return self._checkpoint.dtype(place.name) if place.scale is None else None

    def is_in(self, precision: Precision) -> bool:
        return self._is_mostly_in(precision, self._places.keys())

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """A parameter is there and has this shape; leading axes of length 1 do not count."""
        found, stored = self.shape(name), self._checkpoint.stored(self._place(name).name)
        if _without_ones(found) != _without_ones(shape):
            part = "" if found == stored.shape else f" (of {stored.shape})"
            raise UserError(
                f"{stored.path}: {self.name_in_file(name)} is {found}{part} instead of {shape}: "
                f"it does not fit the rest of the model"
            )

    def read_span(self, name: str, start: int, out: Tensor) -> None:
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

    def _place(self, name: str) -> Place:
        if name not in self._places:
            raise UserError(
                f"{self.description} lacks the tensor {self._name_in_file(name)}: is it another "
                f"model, or another version of it?"
            )
        return self._places[name]

    def _width(self, place: Place) -> int:
        return prod(self._checkpoint.shape(place.name)[1:])

    def _read(self, place: Place, start: int, out: Tensor) -> None:
        """Values of a stored tensor, multiplied in float32 where their rows have scales."""
        if place.scale is None:
            self._checkpoint.read_span(place.name, start, out)
            return
        scales = torch.empty(prod(self._checkpoint.shape(place.scale)))
        self._checkpoint.read_into(place.scale, scales)
        width, end = self._width(place), start + len(out)
        for first, last in _row_ranges(start // width, -(-end // width), width):
            piece = torch.empty((last - first) * width)
            self._checkpoint.read_span(place.name, first * width, piece)
            scale = scales[first:last, None] if len(scales) > 1 else scales
            piece = (piece.view(last - first, width) * scale).view(-1)
            low, high = max(first * width, start), min(last * width, end)
            out[low - start : high - start].copy_(piece[low - first * width : high - first * width])


def _row_ranges(first: int, end: int, width: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows whose values fit a conversion buffer in float32; at least one row each."""
    step = max(1, CONVERSION_BYTES // (4 * width))
    for start in range(first, end, step):
        yield start, min(start + step, end)


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(dropwhile(lambda length: length == 1, shape))


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


def read_pickled(path: Path) -> dict[str, Stored]:
    """Where each tensor of a .pth file lies, by name.

    Raises:
        UserError: the file is damaged, compressed, of torch's old form, or holds anything but
            named tensors.
    """
    check_ordinary(path)
    _check_archive(path)
    tensors = _load(path)
    if not isinstance(tensors, dict):
        raise UserError(f"{path} holds no named tensors, but {type(tensors).__name__}")
    size = path.stat().st_size
    return {name: _stored(path, size, name, tensor) for name, tensor in tensors.items()}


def _check_archive(path: Path) -> None:
    """Its members lie as they are, as torch writes them. Raises UserError."""
    try:
        if not zipfile.is_zipfile(path):
            raise UserError(
                f"{path} is cut off, or in the form that torch wrote before version 1.6: download "
                f"it again, or name a .safetensors file of the same weights"
            )
        with zipfile.ZipFile(path) as archive:
            packed = [one for one in archive.infolist() if one.compress_type != zipfile.ZIP_STORED]
    except UserError:
        raise
    except DAMAGED as error:
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
    except DAMAGED as error:
        raise UserError(f"{path} is damaged ({error!r}): download it again") from None


def _stored(path: Path, size: int, name: object, tensor: object) -> Stored:
    if not isinstance(tensor, Tensor):
        raise UserError(f"{path}: {name} is no tensor, but {type(tensor).__name__}")
    if not isinstance(name, str):
        raise UserError(f"{path}: a tensor is called {name!r}, which is no name")
    kind, shape = KINDS.get(tensor.dtype), tuple(tensor.shape)
    if kind is None or tensor.layout != torch.strided or not tensor.is_contiguous():
        raise UserError(f"{path}: {name} is stored in a way that is not read here ({tensor.dtype})")
    storage: Any = tensor.untyped_storage()
    begin = getattr(storage, "_checkpoint_offset", None)  # None: a tensor that never had values
    offset = (begin or 0) + int(tensor.storage_offset()) * SIZES[kind]
    if begin is None or offset + prod(shape) * SIZES[kind] > size:
        raise UserError(f"{path}: {name} is described wrongly: the file is damaged")
    return Stored(path, offset, kind, shape)
