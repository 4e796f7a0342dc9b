"""Where stored blocks come from: a checkpoint (converted on the way), host memory, or one file."""

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from maskora.errors import Fault
from maskora.files import replacing
from maskora.streaming.blocks import Block
from maskora.streaming.checkpoint import byte_view, read_bytes, read_header
from maskora.streaming.layout import ALIGNMENT
from maskora.streaming.memory import host_buffer, is_ready

# Part of a converted file's name: another layout has another name.
FORMAT = "1"


class Reader(Protocol):
    """Tensors by name: a `Checkpoint`, or a `ModuleReader`."""

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """A tensor is there and has this shape. Raises UserError."""
        ...

    def read_into(self, name: str, out: Tensor) -> None:
        """Fill a contiguous CPU tensor, converting its type."""
        ...


class BlockSource(Protocol):
    """Blocks in their stored form."""

    def fill(self, index: int, out: Tensor) -> None:
        """Write a block's bytes, laid out, into a uint8 CPU buffer of its size."""
        ...

    def pinned(self, index: int) -> Tensor | None:
        """The block's bytes where the device can copy them by itself; None where it cannot."""
        ...


class ModuleReader:
    """The parameters of a module that lies in host memory whole."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._tensors = {name: p.detach() for name, p in module.named_parameters()}

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


class HostBlocks:
    """Blocks in host memory, each in a buffer of exactly its size."""

    def __init__(
        self, source: BlockSource, blocks: Sequence[Block], indices: Iterable[int], pin: bool
    ) -> None:
        """Copy the chosen blocks from a source, one after another."""
        self._buffers: dict[int, Tensor] = {}
        self._ready: set[int] = set()
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


class FileBlocks:
    """Blocks in one safetensors file, each a flat piece of bytes: one read per block."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offsets = {name: stored.offset for name, stored in read_header(path).items()}

    def fill(self, index: int, out: Tensor) -> None:
        """See `BlockSource`."""
        read_bytes(self._path, self._offsets[str(index)], out)

    def pinned(self, index: int) -> None:
        """Nothing lies ready."""
        return None


def write_blocks(path: Path, source: BlockSource, blocks: Sequence[Block]) -> None:
    """Write blocks as a safetensors file for `FileBlocks`, as a whole or not at all.

    Raises:
        Fault: the disk has too little room for it.
    """
    sizes = [block.layout.nbytes for block in blocks]
    path.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(path.parent).free
    if free < sum(sizes):
        raise Fault(
            f'memory.weights = "mapped" keeps a converted copy of the weights at {path}, which '
            f"takes {sum(sizes) / 2**30:.1f} GB, and {free / 2**30:.1f} GB are free there: make "
            f"room, name another place with XDG_CACHE_HOME, or use pageable"
        )
    ends = [sum(sizes[: index + 1]) for index in range(len(sizes))]
    header = {
        str(index): {"dtype": "U8", "shape": [size], "data_offsets": [end - size, end]}
        for index, (size, end) in enumerate(zip(sizes, ends, strict=True))
    }
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    with replacing(path) as scratch, scratch.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for index, size in enumerate(sizes):
            buffer = host_buffer(size, pin=False)
            source.fill(index, buffer)
            file.write(byte_view(buffer))
