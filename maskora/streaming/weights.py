"""A frozen model whose weights the engine streams: from an empty module to one that runs."""

import gc
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maskora.progress import track
from maskora.streaming.blocks import Block, Precision
from maskora.streaming.engine import Streamer
from maskora.streaming.placement import Placement, spread
from maskora.streaming.recompute import ActivationOffload, Recomputation, recompute_layers
from maskora.streaming.sources import (
    BlockSource,
    CheckpointBlocks,
    HostBlocks,
    convert,
    read_block,
)
from maskora.streaming.tensor_files import Reader, check_all
from maskora.streaming.transfer import HostToDevice
from maskora.system import ram

HOST_RESERVE = 2**30  # bytes of RAM that are left to others when blocks move there during a run


def stream_weights(
    root: nn.Module,
    blocks: Sequence[nn.Module],
    reader: Reader,
    precision: Precision,
    placement: Placement,
    device: torch.device,
    converted: Path | None = None,
    skip: Collection[str] = (),
    ignore: Collection[str] = (),
    compiled: bool = False,
    file: int | None = None,
) -> "StreamedWeights":
    """Give a frozen module, built on the meta device, its weights.

    Host memory stays within the streamed blocks' own size, a few staging pieces, and one block more
    while it loads.

    Args:
        root: the whole module; its buffers are real.
        blocks: those of its modules that are streamed, in the order of computation.
        converted: with weights = "mapped": the file that keeps the blocks in their stored form,
            written if it is not there; None reads the original files at every visit.
        skip: parameters that stay on the meta device.
        ignore: regular expressions of tensors that the reader may have besides.
        compiled: blocks go through torch.compile, each by itself, when they first run.
        file: where blocks wait in memory: of the memory that several processes hold together.

    Raises:
        UserError: the weights do not fit the module.
        Fault: the disk fails or is full.
    """
    check_all(reader, root, skip, ignore)  # all is known before anything is loaded
    _load_others(root, blocks, reader, precision, device, skip)
    names = {id(module): name for name, module in root.named_modules()}
    managed = [
        Block(module, f"{names[id(module)]}.", placement.storage, precision, device)
        for module in blocks
    ]
    streamer = _load_blocks(managed, reader, placement, device, converted, file)
    out, back = HostToDevice(device), HostToDevice(device)
    offload = ActivationOffload(out, back, placement.activation_offload, streamer.pins)
    return StreamedWeights(root, streamer, offload, placement, compiled)


class StreamedWeights:
    """A model's streamed weights; lies on it as `model.streamed`, and its blocks pass through it.

    Attributes:
        streamer: the engine.
        checkpoint: the function for `enable_gradient_checkpointing`: train through nothing else.
        placement: how the model lies in memory now.
    """

    def __init__(
        self,
        root: nn.Module,
        streamer: Streamer,
        offload: ActivationOffload,
        placement: Placement,
        compiled: bool,
    ) -> None:
        self.streamer = streamer
        self.checkpoint = Recomputation(streamer, offload)
        self.placement = placement
        self._root, self._offload, self._compiled = root, offload, compiled
        for index, block in enumerate(streamer.blocks):
            module = block.module
            if placement.recompute == "layer":
                recompute_layers(module)
            if compiled:
                module.forward = torch.compile(module.forward)
            module.forward = partial(self.visit, index, module.forward)

    def visit(
        self, index: int, forward: Callable[..., Any], /, *inputs: Any, **options: Any
    ) -> Any:
        """Run a block's forward with its weights in place."""
        visited = self.streamer.is_visited(index)
        assert visited or not (torch.is_grad_enabled() and index in self.streamer.streamed), (
            "gradients through a streamed block go through model.streamed.checkpoint"
        )
        with self.streamer.visit(index, "generate"):
            batch = len(inputs[0]) if inputs else 1
            if not self.placement.split_batch or visited or batch == 1:
                return forward(*inputs, **options)
            parts = [
                forward(*_pick(inputs, i, batch), **_pick(options, i, batch)) for i in range(batch)
            ]
        if isinstance(parts[0], Tensor):
            return torch.cat(parts)
        return tuple(torch.cat(values) for values in zip(*parts, strict=True))

    def close(self) -> None:
        """Free everything that the model occupies, whoever still refers to it."""
        self.streamer.close()
        self._offload.close()
        self._root.to("meta")
        gc.collect()
        torch.cuda.empty_cache()

    @torch.inference_mode(False)
    def give_way(self, training: bool) -> str | None:
        """Free device memory for good at the price of time; called between forward passes.

        What is computed stays the same. What costs least time goes first, as in the planner.

        Returns:
            what has changed, for people; None where nothing is left to give.
        """
        self._offload.reset()
        cheap = self._offload_inputs if training else self._split_batch
        steps: list[Callable[[], str | None]] = [
            cheap, self._stream_more, partial(self._shorten_ring, 2)
        ]  # fmt: skip
        if training:
            steps.append(self._recompute_layers)
        steps.append(partial(self._shorten_ring, 1))
        return next((changed for step in steps if (changed := step()) is not None), None)

    def _split_batch(self) -> str | None:
        if self.placement.split_batch:
            return None
        self.placement = replace(self.placement, split_batch=True)
        return "what is denoised together goes one after the other within each block from now on"

    def _offload_inputs(self) -> str | None:
        needed = self._offload.largest * len(self.streamer.blocks)
        if self._offload.enabled or not has_room(needed):
            return None
        self._offload.enabled = True
        self.placement = replace(self.placement, activation_offload=True)
        return "the blocks' inputs wait in RAM from now on"

    def _stream_more(self) -> str | None:
        streamer, resident = self.streamer, self.streamer.resident
        total, ring = len(streamer.blocks), self.placement.ring
        count = more_blocks(total, len(streamer.streamed), ring)
        chosen = [resident[place] for place in spread(len(resident), count)]
        size = sum(streamer.blocks[index].layout.nbytes for index in chosen)
        if not count or (self.placement.weights != "mapped" and not has_room(size)):
            return None
        streamer.shrink(chosen, ring)
        now = len(streamer.streamed)
        self.placement = replace(self.placement, blocks_to_swap=now)
        return f"{now} of {total} blocks are streamed from now on, {now - count} were"

    def _shorten_ring(self, ring: int) -> str | None:
        if self.streamer.ring <= ring:
            return None
        self.streamer.shrink([], ring)
        self.placement = replace(self.placement, ring=ring)
        return f"streamed blocks pass through {ring} of the device's buffers from now on"

    def _recompute_layers(self) -> str | None:
        if self.placement.recompute == "layer" or self._compiled:
            return None
        for block in self.streamer.blocks:
            recompute_layers(block.module)
        self.placement = replace(self.placement, recompute="layer")
        return "each layer's forward pass is computed once more from now on"


def has_room(nbytes: int) -> bool:
    """Whether so much more of the RAM may be taken during a run."""
    return nbytes <= ram().available - HOST_RESERVE


def more_blocks(total: int, streamed: int, ring: int) -> int:
    """How many more blocks to stream when memory ran out: a tenth; 0 where it would free nothing.

    As many as the ring holds free nothing by themselves, since it has to be there first.
    """
    first = ring if streamed == 0 else 0
    count = min(total - streamed, first + max(1, total // 10))
    return count if count > first else 0


def _load_others(
    root: nn.Module,
    blocks: Sequence[nn.Module],
    reader: Reader,
    precision: Precision,
    device: torch.device,
    skip: Collection[str],
) -> None:
    """Put on the device what belongs to no block."""
    inside = {id(parameter) for block in blocks for parameter in block.parameters()}
    for name, parameter in list(root.named_parameters()):
        if id(parameter) not in inside and name not in skip:
            value = torch.empty(tuple(parameter.shape), dtype=precision(name))
            reader.read_into(name, value)
            owner, _, leaf = name.rpartition(".")
            loaded = nn.Parameter(value.to(device), requires_grad=False)
            root.get_submodule(owner).register_parameter(leaf, loaded)
    for name, buffer in list(root.named_buffers()):
        owner, _, leaf = name.rpartition(".")
        root.get_submodule(owner)._buffers[leaf] = buffer.to(device)


def _load_blocks(
    blocks: list[Block],
    reader: Reader,
    placement: Placement,
    device: torch.device,
    converted: Path | None,
    file: int | None,
) -> Streamer:
    """Blocks that stay go to the device, the others to where they wait."""
    streamed = spread(len(blocks), min(placement.blocks_to_swap, len(blocks)))
    original = CheckpointBlocks(reader, blocks, device)
    for index in _progress([i for i in range(len(blocks)) if i not in streamed], "to the device"):
        blocks[index].bind(read_block(original, index, blocks[index]).to(device))
    source: BlockSource = original
    if placement.weights != "mapped":
        pin = placement.weights == "pinned"
        source = HostBlocks(original, blocks, _progress(streamed, "to memory"), pin, file)
    elif converted is not None and streamed:
        source = convert(converted, original, blocks)
    return Streamer(blocks, source, streamed, placement.ring, device)


def _progress(indices: list[int], where: str) -> Iterable[int]:
    return track(indices, f"load {where}", len(indices), "block", brief=True)


def _pick(values: Any, index: int, batch: int) -> Any:
    """One sample's part of nested inputs; what has no batch of this size is shared."""
    if isinstance(values, Tensor):
        batched = values.ndim > 0 and len(values) == batch
        return values[index : index + 1] if batched else values
    if isinstance(values, tuple | list):
        return type(values)(_pick(value, index, batch) for value in values)
    if isinstance(values, dict):
        return {name: _pick(value, index, batch) for name, value in values.items()}
    return values
