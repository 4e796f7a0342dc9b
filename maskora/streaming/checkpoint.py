"""Stored tensors, read from disk where and when they are asked for.

Nothing is mapped into memory: a read puts the bytes where they belong, needs no memory of its own
beside a small buffer for conversions, works from several threads, and answers a failing disk with
an error instead of killing the process.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from maskora.errors import Fault, UserError
from maskora.streaming.header import Stored

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

    def __init__(self, stored: Mapping[str, Stored], told: str) -> None:
        """`told`: where they come from, for people."""
        self.told = told
        self._stored = stored

    def names(self) -> Collection[str]:
        """All tensors."""
        return self._stored.keys()

    def called(self, name: str) -> str:
        """See `Reader`."""
        return name

    def stored(self, name: str) -> Stored:
        """Where a tensor lies. Raises UserError where there is none of this name."""
        try:
            return self._stored[name]
        except KeyError:
            raise UserError(f"{self.told} lacks the tensor {name}: is it another model?") from None

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
