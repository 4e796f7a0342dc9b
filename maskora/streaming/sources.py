"""Where stored blocks come from: a checkpoint (converted on the way), or host memory."""

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from maskora.errors import Fault, UserError
from maskora.streaming.blocks import Block, Precision
from maskora.streaming.memory import host_buffer, is_ready


class Reader(Protocol):
    """Tensors by name: a `Checkpoint`, or a `ModuleReader`.

    Attributes:
        told: where they come from, for people.
    """

    told: str

    def names(self) -> Collection[str]:
        """All of them."""
        ...

    def called(self, name: str) -> str:
        """What a tensor is called where it lies."""
        ...

    def is_in(self, precision: Precision) -> bool:
        """Whether the tensors are stored in the precision in which they are computed."""
        ...

    def read_rows(self, name: str, rows: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Some rows of a matrix (N, D), in the order given: a tensor (len(rows), D)."""
        ...

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """A tensor is there and has this shape. Raises UserError."""
        ...

    def read_into(self, name: str, out: Tensor) -> None:
        """Fill a contiguous CPU tensor, converting its type."""
        ...


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
    for name, parameter in module.named_parameters():
        if name not in skip:
            reader.check(name, tuple(parameter.shape))
    known = {
        *skip,
        *(n for n, _ in module.named_parameters()),
        *(n for n, _ in module.named_buffers()),
    }
    odd = [
        name
        for name in sorted(reader.names())
        if name not in known and not any(re.fullmatch(pattern, name) for pattern in ignore)
    ]
    if odd:
        more = f" (and {len(odd) - 1} more)" if len(odd) > 1 else ""
        raise UserError(
            f"{reader.told} has a tensor that is no part of this model: "
            f"{reader.called(odd[0])}{more}. "
            f"Is it another model, or another version of it?"
        )


class BlockSource(Protocol):
    """Blocks in their stored form."""

    def fill(self, index: int, out: Tensor) -> None:
        """Write a block's bytes, laid out, into a uint8 CPU buffer of its size."""
        ...

    def pinned(self, index: int) -> Tensor | None:
        """The block's bytes where the device can copy them by itself; None where it cannot."""
        ...

    def take(self, index: int, buffer: Tensor) -> None:
        """From now on `fill` is asked for this block, too, which lies in a buffer of the device."""
        ...


class ModuleReader:
    """The parameters of a module that lies in host memory whole."""

    told = "memory"

    def __init__(self, module: nn.Module) -> None:
        self._tensors = {name: p.detach() for name, p in module.named_parameters()}

    def names(self) -> Collection[str]:
        """See `Reader`."""
        return self._tensors.keys()

    def called(self, name: str) -> str:
        """See `Reader`."""
        return name

    def is_in(self, precision: Precision) -> bool:
        """See `Reader`."""
        return all(tensor.dtype == precision(name) for name, tensor in self._tensors.items())

    def read_rows(self, name: str, rows: Sequence[int], dtype: torch.dtype) -> Tensor:
        """See `Reader`."""
        return self._tensors[name][list(rows)].to(dtype)

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Its own parameters are there."""
        assert self._tensors[name].shape == shape

    def read_into(self, name: str, out: Tensor) -> None:
        """Copy a parameter."""
        out.copy_(self._tensors[name])


class CheckpointBlocks:
    """Blocks read tensor by tensor and converted on the way; holds nothing itself."""

    def __init__(self, reader: Reader, blocks: Sequence[Block], device: torch.device) -> None:
        """`device` is where weights are compressed, one at a time."""
        self._reader, self._blocks, self._device = reader, blocks, device

    def fill(self, index: int, out: Tensor) -> None:
        """See `BlockSource`."""
        for weight in self._blocks[index].weights:
            if weight.format is None:
                self._reader.read_into(weight.name, weight.slices[0].view(out))
                continue
            dense = torch.empty(weight.shape, dtype=weight.dtype)
            self._reader.read_into(weight.name, dense)
            try:
                parts = weight.format.encode(dense.to(self._device))
            except Fault as error:
                raise Fault(f"{weight.name}: {error}") from None
            for place, part in zip(weight.slices, parts, strict=True):
                place.view(out).copy_(part)

    def pinned(self, index: int) -> None:
        """Nothing lies ready."""
        return None

    def take(self, index: int, buffer: Tensor) -> None:
        """See `BlockSource`: every block can be read."""


class HostBlocks:
    """Blocks in host memory, each in a buffer of exactly its size."""

    def __init__(
        self, source: BlockSource, blocks: Sequence[Block], indices: Iterable[int], pin: bool
    ) -> None:
        """Copy the chosen blocks from a source, one after another."""
        self._buffers: dict[int, Tensor] = {}
        self._ready: set[int] = set()
        self._pin = pin
        for index in indices:
            buffer = host_buffer(blocks[index].layout.nbytes, pin)
            pin = pin and is_ready(buffer)  # what failed once is not tried again
            source.fill(index, buffer)
            self._buffers[index] = buffer
            if pin:
                self._ready.add(index)

    def fill(self, index: int, out: Tensor) -> None:
        """See `BlockSource`."""
        out.copy_(self._buffers[index])

    def pinned(self, index: int) -> Tensor | None:
        """See `BlockSource`."""
        return self._buffers[index] if index in self._ready else None

    def take(self, index: int, buffer: Tensor) -> None:
        """See `BlockSource`."""
        held = host_buffer(buffer.numel(), self._pin)
        held.copy_(buffer)
        self._buffers[index] = held
        if self._pin and is_ready(held):
            self._ready.add(index)
