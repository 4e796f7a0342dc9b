"""The streaming engine: frozen blocks pass through a ring of device buffers, in the true order.

The base is frozen, so blocks travel to the device and never back. Before a block computes, the
next blocks of the order in which they will really be visited (forward, and backward again in
reverse) are on their way into the buffers that the computation no longer needs:

    training    0 1 2 … N-1 | N-1 … 2 1 0 | 0 1 2 …     the last and the first blocks are kept
    inference   0 1 2 … N-1 | 0 1 2 … N-1 | …           at the turns, and not loaded again

With k streamed blocks and a ring of r, a training step therefore loads 2 (k - r) blocks and an
inference step k.
"""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from maskora.errors import Fault
from maskora.streaming.blocks import Block
from maskora.streaming.host_memory import Pins, driver_of
from maskora.streaming.placement import gb
from maskora.streaming.sources import BlockSource
from maskora.streaming.transfer import Arrival, Event, HostToDevice, Staging, sample

log = logging.getLogger("maskora")
Direction = Literal["generate", "forward", "backward"]


@dataclass
class Traffic:
    """What has moved to the device.

    Attributes:
        visits: blocks that have computed, moved or not.
        loads, bytes: blocks that were moved, and their size.
    """

    visits: int = 0
    loads: int = 0
    bytes: int = 0


@dataclass
class _Slot:
    """A device buffer of the ring, the block in it, and who waits for whom."""

    buffer: Tensor
    block: int | None = None
    arrival: "Future[Arrival] | None" = None  # of the block
    idle: Event = None  # when the last computation that used the buffer is done


class Streamer:
    """Keeps a model's blocks supplied with their weights.

    Args:
        blocks: all blocks in the order of computation.
        source: the streamed blocks' stored bytes.
        streamed: which of them pass through the ring; the others are bound already and stay.
        ring: how many buffers it has.
        device: where the blocks compute.

    Attributes:
        streamed: as given, in order.
        pins: what of the host's memory is pinned for the device.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        source: BlockSource,
        streamed: Sequence[int],
        ring: int,
        device: torch.device,
    ) -> None:
        assert ring >= 1
        self.blocks = list(blocks)
        self.traffic = Traffic()
        self._source = source
        self.streamed = sorted(streamed)
        self._transfer = HostToDevice(device)
        self.pins = Pins(driver_of(device))
        self.pins.make_room = lambda: self._source.unpin(self.pins)
        self._pinning_done = False
        largest = max((block.layout.nbytes for block in blocks), default=0)
        self._staging = Staging(self._transfer, self.pins, room=ring * largest)
        self._compared: set[int] = set()  # blocks that have arrived once as they were sent
        self._visits: dict[int, int] = {}
        self._closed = False
        self._device = device
        self._slots = self._make_ring(ring)
        if not all(source.pinned(index) is not None for index in streamed):
            self._staging.stock()

    @property
    def ring(self) -> int:
        return len(self._slots)

    @property
    def resident(self) -> list[int]:
        """The blocks that stay on the device, in order."""
        return [index for index in range(len(self.blocks)) if index not in self.streamed]

    def is_visited(self, index: int) -> bool:
        return self._visits.get(index, 0) > 0

    @contextmanager
    def visit(self, index: int, direction: Direction) -> Iterator[None]:
        """Have a block's weights in place; meanwhile the next blocks of the direction arrive.

        Visits of one block may be nested; the outermost decides.

        Raises:
            Fault: the weights cannot be read.
        """
        assert not self._closed, "the streamer is closed"
        if not self.is_visited(index):
            self.traffic.visits += 1
            self._enter(index, direction)
        self._visits[index] = self._visits.get(index, 0) + 1
        try:
            yield
        finally:
            self._visits[index] -= 1
            slot = self._slot_of(index)
            if slot is not None and not self.is_visited(index):
                slot.idle = self._transfer.now()

    def pin(self) -> None:
        """Pin the blocks that wait in memory, as many as may be, after all that is more urgent.

        Called where training has kept all inputs of a forward pass; sooner where none are kept.
        """
        if self._pinning_done:
            return
        self._pinning_done = True
        self._source.pin(self.pins)
        waiting = [index for index in self.streamed if self._source.pinned(index) is None]
        if not waiting:
            self._staging.drop()
        elif self.pins.refused:
            log.warning("note: %s", self._pinning_message(waiting))
        self.pins.reported = True

    def shrink(self, more: Sequence[int], ring: int) -> None:
        """Free device memory for good: some blocks that stayed are streamed from now on.

        May be called between visits only. The results of the blocks stay the same.

        Args:
            more: blocks that stay so far.
            ring: how many buffers the streamed blocks pass through from now on.
        """
        assert not self._closed and not any(self._visits.values())
        for index in more:  # first, since the host's memory may run out, too
            held = self.blocks[index].buffer
            assert index not in self.streamed and held is not None
            self._source.take(index, held)
            del held
        self._free_ring()
        for index in more:
            self.blocks[index].bind(None)
        self.streamed = sorted([*self.streamed, *more])
        self._pinning_done = False
        torch.cuda.empty_cache()
        self._slots = self._make_ring(ring)

    def close(self) -> None:
        """Take the weights away and free the buffers; the blocks are NaN from now on."""
        self._staging.close()
        self._transfer.drain()
        for block in self.blocks:
            block.bind(None)
        self._slots, self._source = [], BlockSource()  # which holds nothing
        self._closed = True

    def _make_ring(self, ring: int) -> list[_Slot]:
        """Fresh buffers, as many as asked for and as large as the largest streamed block."""
        size = max((self.blocks[index].layout.nbytes for index in self.streamed), default=0)
        return [
            _Slot(torch.empty(size, dtype=torch.uint8, device=self._device),
                  idle=self._transfer.now())
            for _ in range(min(ring, len(self.streamed)))
        ]  # fmt: skip

    def _free_ring(self) -> None:
        """Free the ring's buffers, once all that is on its way has arrived."""
        for slot in self._slots:
            if slot.block is not None and slot.arrival is not None:
                wait([slot.arrival])  # whatever comes of it: the block is loaded again
                self.blocks[slot.block].bind(None)
        self._transfer.drain()
        self._slots = []

    def _enter(self, index: int, direction: Direction) -> None:
        if direction != "forward":
            self.pin()
        wanted = self._next_streamed(index, direction)
        if index in self.streamed and self._slot_of(index) is None:
            self._load(index, wanted)
        for block in wanted:
            if self._slot_of(block) is None:
                self._load(block, wanted)
        slot = self._slot_of(index)
        if slot is not None:
            self._transfer.wait(self._arrival(slot))
            self.blocks[index].bind(slot.buffer)

    def _next_streamed(self, index: int, direction: Direction) -> list[int]:
        """The streamed blocks that the ring should hold now: this one and the next visited."""
        wanted: list[int] = []
        for block in order_from(index, len(self.blocks), direction):
            if len(wanted) == len(self._slots):
                break
            if block in self.streamed and block not in wanted:
                wanted.append(block)
        return wanted

    def _slot_of(self, index: int) -> _Slot | None:
        return next((slot for slot in self._slots if slot.block == index), None)

    def _load(self, index: int, wanted: list[int]) -> None:
        """Start a block's way into a buffer whose block is not wanted soon."""
        slot = next(s for s in self._slots if s.block is None or s.block not in wanted)
        if slot.block is not None:
            assert not self.is_visited(slot.block)
            self.blocks[slot.block].bind(None)
        slot.block = None
        size = self.blocks[index].layout.nbytes
        self.traffic.loads += 1
        self.traffic.bytes += size
        pinned, target = self._source.pinned(index), slot.buffer[:size]
        if pinned is not None:
            slot.arrival = Future()
            event = self._transfer.copy(pinned, target, slot.idle)
            slot.arrival.set_result(Arrival(event, sample(pinned).clone()))
        else:
            slot.arrival = self._staging.carry(self._source, index, target, slot.idle)
        slot.block = index

    def _arrival(self, slot: _Slot) -> Event:
        """When the slot's block is there; where it could not be loaded, the slot is empty again."""
        assert slot.arrival is not None and slot.block is not None
        block, slot.block = slot.block, None
        arrival = slot.arrival.result()
        if block not in self._compared:
            self._compare(block, slot.buffer[: self.blocks[block].layout.nbytes], arrival)
        slot.block = block
        return arrival.event

    def _compare(self, block: int, there: Tensor, arrival: Arrival) -> None:
        """Raise Fault where a block has not arrived as it was sent, as a few of its bytes show."""
        if there.is_meta:  # which holds nothing
            return
        if not torch.equal(self._transfer.read_back(sample(there), arrival.event), arrival.sent):
            raise Fault(
                f"block {block} of the weights is not on the GPU as it was copied there, though "
                f"the driver reported no error. It is known that copies do nothing under WSL2 once "
                f'much memory was pinned: set memory.weights = "pageable", which pins little'
            )
        self._compared.add(block)

    def _pinning_message(self, waiting: Sequence[int]) -> str:
        """What could be pinned, and what that costs. `waiting`: streamed blocks that are not."""
        pins, count = self.pins, len(self.streamed)
        of = f" of {gb(pins.urgent_bytes + pins.lacking_bytes)}" if pins.lacking_bytes else ""
        message = f"pinned: staging and kept inputs {gb(pins.urgent_bytes)}{of} GB"
        if pins.left_out:
            size = gb(sum(self.blocks[index].layout.nbytes for index in waiting))
            message += (
                f", {count - len(waiting)} of {count} streamed blocks; the other {len(waiting)} "
                f"({size} GB) are copied through staging by the CPU at each visit, which takes "
                f"longer than from pinned memory"
            )
        return f"{message} (the system pins no more: {pins.refused})"


def order_from(index: int, count: int, direction: Direction) -> list[int]:
    """The blocks in the order of their visits from here on, this one first, until all came."""
    if direction == "generate":
        return [*range(index, count), *range(index)]
    if direction == "forward":
        return [*range(index, count), *reversed(range(count))]
    return [*reversed(range(index + 1)), *range(count)]
