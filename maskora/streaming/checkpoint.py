"""Tensors of a safetensors folder, read from disk where and when they are asked for.

Nothing is mapped into memory: a positional read puts the bytes where they belong, needs no memory
of its own beside a small buffer for conversions, works from several threads, and answers a failing
disk with an error instead of killing the process.
"""

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from maskora.errors import Fault, UserError
from maskora.streaming.header import raw_header, shards

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool,
}  # fmt: skip
CONVERSION_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Stored:
    """Where a tensor's bytes lie: a file, the offset of its first byte, its type and shape."""

    path: Path
    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]


class Checkpoint:
    """The tensors of all `*.safetensors` files in a folder, by name."""

    def __init__(self, folder: Path) -> None:
        self.told = str(folder)
        self._stored: dict[str, Stored] = {}
        for path in shards(folder):
            self._stored.update(read_header(path))

    def names(self) -> Collection[str]:
        """All tensors."""
        return self._stored.keys()

    def stored(self, name: str) -> Stored:
        """Where a tensor lies. Raises UserError where the folder lacks it."""
        try:
            return self._stored[name]
        except KeyError:
            raise UserError(f"{self.told} lacks the tensor {name}: is it another model?") from None

    def is_in(self, precision: Callable[[str], torch.dtype]) -> bool:
        """Whether the tensors are stored in the precision in which they are computed.

        One value in a hundred may differ: converting norms and tables costs nothing.
        """
        values = {name: prod(one.shape) for name, one in self._stored.items()}
        other = [n for name, n in values.items() if self._stored[name].dtype != precision(name)]
        return sum(other) <= sum(values.values()) / 100

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
        stored = self.stored(name)
        assert stored.shape == tuple(out.shape)
        self._read(stored, stored.offset, out.view(-1))

    def read_rows(self, name: str, rows: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Some rows of a matrix (N, D), in the order given: a tensor (len(rows), D)."""
        stored = self.stored(name)
        (height, width), size = stored.shape, stored.dtype.itemsize
        picked = torch.empty((len(rows), width), dtype=dtype)
        for place, row in enumerate(rows):
            assert 0 <= row < height
            self._read(stored, stored.offset + row * width * size, picked[place])
        return picked

    def _read(self, stored: Stored, offset: int, out: Tensor) -> None:
        """Read as many values as `out` (one dimension) holds, in small pieces if they convert."""
        if stored.dtype == out.dtype:
            read_bytes(stored.path, offset, out.view(torch.uint8))
            return
        step = CONVERSION_BYTES // stored.dtype.itemsize
        buffer = torch.empty(min(step, out.numel()), dtype=stored.dtype)
        for start in range(0, out.numel(), step):
            piece = buffer[: min(step, out.numel() - start)]
            read_bytes(stored.path, offset + start * stored.dtype.itemsize, piece.view(torch.uint8))
            out[start : start + len(piece)].copy_(piece)


def read_header(path: Path) -> dict[str, Stored]:
    """Where each tensor of a safetensors file lies. Raises UserError where it cannot be so."""
    header, start = raw_header(path)
    size, stored = path.stat().st_size, {}
    for name, entry in header.items():
        try:
            (begin, end), shape, kind = entry["data_offsets"], tuple(entry["shape"]), entry["dtype"]
            dtype = DTYPES[kind]
            fits = begin >= 0 and end - begin == prod(shape) * dtype.itemsize
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: {name} is described in an unknown way ({error!r})") from None
        if not fits:
            raise UserError(f"{path}: {name} is described wrongly: the file is damaged")
        if start + end > size:
            raise UserError(f"{path} is cut off within {name}: download it again")
        stored[name] = Stored(path, start + begin, dtype, shape)
    return stored


def read_bytes(path: Path, offset: int, out: Tensor) -> None:
    """Fill a contiguous uint8 CPU tensor from a place in a file. Raises Fault."""
    view = byte_view(out)
    try:
        with path.open("rb", buffering=0) as file:
            while view:
                count = os.preadv(file.fileno(), [view], offset)
                if count == 0:
                    raise Fault(f"{path} ends early: it changed while it was read, or is damaged")
                view, offset = view[count:], offset + count
    except OSError as error:
        raise Fault(f"the weights cannot be read from {path}: {error.strerror}") from None


def byte_view(buffer: Tensor) -> memoryview:
    """A uint8 CPU tensor as a buffer that files read into and write from, without a copy."""
    return memoryview(buffer.numpy())  # type: ignore[arg-type]
