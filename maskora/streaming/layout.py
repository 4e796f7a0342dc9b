"""How one block's tensors lie in one flat buffer, each on a 64-byte border.

The border matters: float32 kernels may take another path for an unaligned weight and differ in the
last bit. So every buffer (host, disk, device) has the same layout, and results do not depend on
where the weights live.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

ALIGNMENT = 64


@dataclass(frozen=True)
class Slice:
    """One tensor's place: its first byte, type and shape."""

    name: str
    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor itself."""
        return prod(self.shape) * self.dtype.itemsize

    def view(self, buffer: Tensor) -> Tensor:
        """The tensor inside a flat uint8 buffer, without a copy."""
        flat = buffer[self.offset : self.offset + self.nbytes]
        return flat.view(self.dtype).view(self.shape)


@dataclass(frozen=True)
class Layout:
    """All tensors of a block, and the size of the buffer that holds them."""

    slices: tuple[Slice, ...]
    nbytes: int


def lay_out(tensors: Iterable[tuple[str, torch.dtype, tuple[int, ...]]]) -> Layout:
    """Place tensors (name, type, shape) one after another."""
    slices, end = [], 0
    for name, dtype, shape in tensors:
        slices.append(Slice(name, end, dtype, shape))
        end += -(-slices[-1].nbytes // ALIGNMENT) * ALIGNMENT
    return Layout(tuple(slices), end)
