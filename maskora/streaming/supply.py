"""A frozen model supplied with weights by the engine: from an empty module to one that runs."""

import gc
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maskora.progress import track
from maskora.streaming.blocks import Block, Precision
from maskora.streaming.demand import spread
from maskora.streaming.engine import Streamer
from maskora.streaming.memory import Pins, driver_of, host_buffer
from maskora.streaming.plan import Placement
from maskora.streaming.recompute import Keeper, Recomputation, recompute_layers
from maskora.streaming.sources import (
    BlockSource,
    CheckpointBlocks,
    HostBlocks,
    Reader,
    check_all,
    convert,
)
from maskora.streaming.transfer import Transfer
from maskora.system import ram

log = logging.getLogger("maskora")
HOST_RESERVE = 2**30  # bytes of RAM that are left to others when blocks move there during a run


@dataclass
class Modes:
    """How visits compute; may change between them.

    Attributes:
        split_batch: the samples of a batch run one after the other within a visit.
    """

    split_batch: bool


class Supply:
    """What keeps a model supplied; lies on it as `model.supply`.

    Attributes:
        streamer: the engine.
        checkpoint: the function for `enable_gradient_checkpointing`: train through nothing else.
        placement: how the model lies in memory now.
    """

    def __init__(
        self,
        root: nn.Module,
        streamer: Streamer,
        keeper: Keeper,
        placement: Placement,
        modes: Modes,
        compiled: bool,
    ) -> None:
        self.streamer = streamer
        self.checkpoint = Recomputation(streamer, keeper)
        self.placement = placement
        self._root, self._keeper = root, keeper
        self._modes, self._compiled = modes, compiled

    @torch.inference_mode(False)
    def give_way(self, training: bool) -> str | None:
        """Free device memory for good at the price of time; called between forward passes.

        What is computed stays the same. What costs least time goes first, as in the planner.

        Returns:
            what has changed, for people; None where nothing is left to give.
        """
        self._keeper.reset()
        cheap = self._offload_inputs if training else self._split_batch
        steps: list[Callable[[], str | None]] = [
            cheap, self._stream_more, partial(self._shorten_ring, 2)
        ]  # fmt: skip
        if training:
            steps.append(self._recompute_layers)
        steps.append(partial(self._shorten_ring, 1))
        return next((changed for step in steps if (changed := step()) is not None), None)

    def _split_batch(self) -> str | None:
        if self._modes.split_batch:
            return None
        self._modes.split_batch = True
        self.placement = replace(self.placement, split_batch=True)
        return "the guidance branches run one after the other within each block from now on"

    def _offload_inputs(self) -> str | None:
        needed = self._keeper.largest * len(self.streamer.blocks)
        if self._keeper.offload or not has_room(needed):
            return None
        self._keeper.offload = True
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

    def close(self) -> None:
        """Free everything that the model occupies, whoever still refers to it."""
        self.streamer.close()
        self._keeper.close()
        self._root.to("meta")
        gc.collect()
        torch.cuda.empty_cache()


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


def supply(
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
) -> Supply:
    """Give a frozen module, built on the meta device, its weights.

    Host memory stays within the streamed blocks' own size, a few staging pieces, and one block more
    while it loads.

    Args:
        root: the whole module; its buffers are real.
        blocks: those of its modules that are streamed, in the order of computation.
        reader: the weights.
        precision: in which each parameter is computed, by its name.
        placement: how the blocks lie in memory.
        device: where it runs.
        converted: with weights = "mapped": the file that keeps the blocks in their stored form,
            written if it is not there; None reads the original files at every visit.
        skip: parameters that stay on the meta device.
        ignore: regular expressions of tensors that the reader may have besides.
        compiled: blocks go through torch.compile, each by itself, when they first run.

    Raises:
        UserError: the weights do not fit the module.
        Fault: the disk fails or is full.
    """
    check_all(reader, root, skip, ignore)  # all is known before anything is loaded
    names = {id(module): name for name, module in root.named_modules()}
    inside = {id(parameter) for block in blocks for parameter in block.parameters()}
    _settle_others(root, inside, reader, precision, device, skip)
    managed = [
        Block(module, f"{names[id(module)]}.", placement.storage, precision, device)
        for module in blocks
    ]
    pins = Pins(driver_of(device))
    streamer = _streamer(managed, reader, placement, device, converted, pins)
    modes = Modes(placement.split_batch)
    for index, module in enumerate(blocks):
        if placement.recompute == "layer":
            recompute_layers(module)
        if compiled:
            module.forward = torch.compile(module.forward)
        module.forward = partial(_visited, streamer, index, modes, module.forward)
    keeper = Keeper(Transfer(device), Transfer(device), placement.activation_offload, pins)
    return Supply(root, streamer, keeper, placement, modes, compiled)


def _settle_others(
    root: nn.Module,
    inside: Collection[int],
    reader: Reader,
    precision: Precision,
    device: torch.device,
    skip: Collection[str],
) -> None:
    """Put on the device what does not belong to a block, its parameters known by their ids."""
    for name, parameter in list(root.named_parameters()):
        if id(parameter) not in inside and name not in skip:
            value = torch.empty(tuple(parameter.shape), dtype=precision(name))
            reader.read_into(name, value)
            owner, _, leaf = name.rpartition(".")
            settled = nn.Parameter(value.to(device), requires_grad=False)
            root.get_submodule(owner).register_parameter(leaf, settled)
    for name, buffer in list(root.named_buffers()):
        owner, _, leaf = name.rpartition(".")
        root.get_submodule(owner)._buffers[leaf] = buffer.to(device)


def _streamer(
    blocks: list[Block],
    reader: Reader,
    placement: Placement,
    device: torch.device,
    converted: Path | None,
    pins: Pins,
) -> Streamer:
    """Blocks that stay go to the device, the others to where they wait."""
    streamed = spread(len(blocks), min(placement.blocks_to_swap, len(blocks)))
    original = CheckpointBlocks(reader, blocks, device)
    for index in _told([i for i in range(len(blocks)) if i not in streamed], "to the device"):
        _place(blocks[index], index, original, device)
    source = _source(original, blocks, streamed, placement, converted)
    return Streamer(blocks, source, streamed, placement.ring, device, pins)


def _place(block: Block, index: int, source: BlockSource, device: torch.device) -> None:
    """Put a block on the device for good."""
    buffer = host_buffer(block.layout.nbytes, pin=False)
    source.fill(index, buffer)
    block.bind(buffer.to(device))


def _source(
    original: CheckpointBlocks,
    blocks: list[Block],
    streamed: list[int],
    placement: Placement,
    converted: Path | None,
) -> BlockSource:
    """Where streamed blocks wait."""
    if placement.weights != "mapped":
        pin = placement.weights == "pinned"
        return HostBlocks(original, blocks, _told(streamed, "to memory"), pin)
    if converted is None or not streamed:
        return original
    return convert(converted, original, blocks)


def _told(indices: list[int], where: str) -> Iterable[int]:
    return track(indices, f"load {where}", len(indices), "block", brief=True)


def _visited(
    streamer: Streamer, index: int, modes: Modes, forward: Any, *inputs: Any, **options: Any
) -> Any:
    """A block's forward, with its weights in place."""
    held = streamer.holds(index)
    assert held or not (torch.is_grad_enabled() and streamer.is_streamed(index)), (
        "gradients through a streamed block go through model.supply.checkpoint"
    )
    with streamer.visit(index, "generate"):
        batch = len(inputs[0]) if inputs else 1
        if not modes.split_batch or held or batch == 1:
            return forward(*inputs, **options)
        parts = [
            forward(*_pick(inputs, i, batch), **_pick(options, i, batch)) for i in range(batch)
        ]
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)
    return tuple(torch.cat(values) for values in zip(*parts, strict=True))


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
