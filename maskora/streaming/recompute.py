"""Training through streamed blocks: forward keeps only each block's input, backward runs it again.

This is gradient checkpointing (Chen et al. 2016, "Training deep nets with sublinear memory cost")
as an autograd function of our own, so that a block's weights are visited exactly twice, in an order
that the engine knows, and so that the kept inputs may wait in host memory.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from maskora.streaming.engine import Streamer
from maskora.streaming.host_memory import Pins, host_buffer
from maskora.streaming.transfer import Event, HostToDevice


class Recomputation:
    """The function for diffusers' `enable_gradient_checkpointing`: calls (block, *inputs)."""

    def __init__(self, streamer: Streamer, offload: ActivationOffload) -> None:
        self.streamer = streamer
        self.offload = offload
        self._indices = {id(block.module): index for index, block in enumerate(streamer.blocks)}

    def __call__(self, block: nn.Module, *inputs: Any) -> Any:
        """Run a block; its first inputs, as many as it has outputs, are what it carries on."""
        # Without an input that needs a gradient autograd would not call the first block's backward,
        # and its LoRA would silently learn nothing.
        anchor = torch.zeros((), requires_grad=True)
        return _Recomputed.apply(self, self._indices[id(block)], block, anchor, *inputs)


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, run: Recomputation, index: int, block: nn.Module, anchor: Tensor, *inputs: Any
    ) -> Any:
        there = run.offload.outward.now()
        with run.streamer.visit(index, "forward"):
            output = block(*inputs)
        carried = 1 if isinstance(output, Tensor) else len(output)
        ctx.run, ctx.index, ctx.block = run, index, block
        turns = index == len(run.streamer.blocks) - 1
        ctx.kept = run.offload.keep(index, inputs[:carried], there, turns)
        ctx.shared = inputs[carried:]
        ctx.set_materialize_grads(False)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        run: Recomputation = ctx.run
        kept: Kept = ctx.kept
        wanted = ctx.needs_input_grad[4:]
        inputs = [
            value.detach().requires_grad_(needs) if isinstance(value, Tensor) else value
            for value, needs in zip(
                [*run.offload.bring_back(kept), *ctx.shared], wanted, strict=True
            )
        ]
        with torch.enable_grad(), run.streamer.visit(ctx.index, "backward"):
            output = ctx.block(*inputs)
            outputs = [output] if isinstance(output, Tensor) else output
            pairs = [
                (one, gradient)
                for one, gradient in zip(outputs, gradients, strict=True)
                if gradient is not None and one.requires_grad
            ]
            if pairs:
                torch.autograd.backward([one for one, _ in pairs], [g for _, g in pairs])
        found = [v.grad if needs else None for v, needs in zip(inputs, wanted, strict=True)]
        return None, None, None, None, *found


def recompute_layers(block: nn.Module) -> None:
    """Let a block's own layers keep only their inputs too, while it runs with a graph.

    Costs one more forward of each layer per step, and leaves in memory one layer's graph instead of
    the whole block's.
    """
    for layer in block.children():
        if any(isinstance(module, nn.Linear) for module in layer.modules()):
            layer.forward = partial(_in_layer, layer.forward)


def _in_layer(forward: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs, **options)
    return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=False, **options)


@dataclass
class Kept:
    """One block's kept inputs.

    Attributes:
        values: the inputs; a tensor that is away is an `_Away`.
        earlier: what the block before kept, which backward will need next.
    """

    values: list[Any]
    earlier: Kept | None = None

    @property
    def away(self) -> list[_Away]:
        return [value for value in self.values if isinstance(value, _Away)]


@dataclass
class _Room:
    """Host memory for one tensor, and when the last copy from it is done."""

    buffer: Tensor
    pinned: bool
    free: Future[Event] | None = None


@dataclass
class _Away:
    """A tensor in host memory, and its way back."""

    room: _Room
    arrived: Future[Event]  # in host memory
    dtype: torch.dtype
    shape: torch.Size
    device: torch.device
    source: Tensor | None  # on the device, until the computation has waited for the copy
    back: Tensor | None = None
    returned: Future[Event] | None = None

    @property
    def inside(self) -> Tensor:
        return self.room.buffer.view(self.dtype).view(self.shape)


@dataclass
class ActivationOffload:
    """Keeps inputs in forward order and brings them back in reverse, one block ahead.

    Attributes:
        outward: copies to the host.
        inward: copies back.
        enabled: whether tensors leave the device at all.
        largest: bytes of the largest inputs that a block was given.
        pins: pins the host memory that they wait in. Where that is refused, a thread of its own
            copies, since whoever copies from or to ordinary memory waits for the device.
    """

    outward: HostToDevice
    inward: HostToDevice
    enabled: bool
    pins: Pins = field(default_factory=Pins)
    largest: int = 0
    _last: tuple[int, weakref.ref[Kept]] | None = None
    _leaving: list[_Away] = field(default_factory=list)
    _pool: dict[int, list[_Room]] = field(default_factory=lambda: defaultdict(list))
    _taken: dict[int, _Room] = field(default_factory=dict)  # by address; out of the pool
    _worker: ThreadPoolExecutor | None = None

    def keep(self, index: int, values: Sequence[Any], there: Event, turns: bool) -> Kept:
        """Keep what a block was given; at the turn, where backward needs it at once, it stays.

        Args:
            there: when the values are computed.
        """
        self._let_go()
        self.largest = max(self.largest, sum(v.nbytes for v in values if isinstance(v, Tensor)))
        leaves = self.enabled and not turns
        stored = [self._send(v, there) if leaves and isinstance(v, Tensor) else v for v in values]
        before, earlier = self._last or (None, lambda: None)
        kept = Kept(stored, earlier() if before == index - 1 else None)
        self._leaving = kept.away
        self._last = (index, weakref.ref(kept))
        return kept

    def bring_back(self, kept: Kept) -> list[Any]:
        """What was kept, on the device, for once; the earlier block's is on its way then."""
        assert kept.values, "a graph is run backward once"
        self._let_go()
        self._last = None
        for away in [*kept.away, *(kept.earlier.away if kept.earlier is not None else [])]:
            if away.back is None:
                self._fetch(away)
        values = [self._take(value) for value in kept.values]
        kept.values, kept.earlier = [], None  # the graph outlives the backward pass, these need not
        return values

    def reset(self) -> None:
        """Forget what was kept for a backward pass that does not come, once its copies are done."""
        if self._worker is not None:
            self._worker.shutdown(wait=True)
            self._worker = None
        for transfer in (self.outward, self.inward):
            transfer.drain()
        self._leaving, self._last = [], None
        for room in self._taken.values():  # pinned memory may not be had a second time
            self._pool[room.buffer.nbytes].append(room)
        self._taken.clear()

    def close(self) -> None:
        """Give the host memory back."""
        self.reset()
        self._pool.clear()

    def _let_go(self) -> None:
        """The device's memory of what was sent before may be used again once it has left."""
        for away in self._leaving:
            self.outward.wait(away.arrived.result())
            away.source = None
        self._leaving = []

    def _send(self, tensor: Tensor, there: Event) -> _Away:
        rooms = self._pool[tensor.nbytes]
        if not rooms:
            buffer = host_buffer(tensor.nbytes)
            rooms.append(_Room(buffer, self.pins.urgent(buffer)))
        room = rooms.pop()
        self._taken[room.buffer.data_ptr()] = room
        unused = room.free.result() if room.free is not None else None
        away = _Away(room, Future(), tensor.dtype, tensor.shape, tensor.device, tensor)
        away.arrived = self._copy(room, self.outward, tensor, away.inside, there, unused)
        return away

    def _fetch(self, away: _Away) -> None:
        away.back = torch.empty(away.shape, dtype=away.dtype, device=away.device)
        now, arrived = self.inward.now(), away.arrived.result()
        away.returned = self._copy(away.room, self.inward, away.inside, away.back, now, arrived)
        away.room.free = away.returned
        self._pool[away.room.buffer.nbytes].append(self._taken.pop(away.room.buffer.data_ptr()))

    def _take(self, value: Any) -> Any:
        if not isinstance(value, _Away):
            return value
        assert value.back is not None and value.returned is not None
        self.inward.wait(value.returned.result())
        return value.back

    def _copy(
        self, room: _Room, transfer: HostToDevice, source: Tensor, target: Tensor, *after: Event
    ) -> Future[Event]:
        """Copy from or to a room once some events have come."""
        if not room.pinned:
            if self._worker is None:
                self._worker = ThreadPoolExecutor(1, thread_name_prefix="maskora-keeping")
            return self._worker.submit(_copy_patiently, transfer, source, target, after)
        done: Future[Event] = Future()
        done.set_result(transfer.copy(source, target, *after))
        return done


@torch.no_grad()  # which is each thread's own
def _copy_patiently(
    transfer: HostToDevice, source: Tensor, target: Tensor, after: Sequence[Event]
) -> Event:
    """In the worker, which waits by itself rather than within the driver."""
    for event in after:
        transfer.synchronize(event)
    return transfer.copy(source, target, *after)
