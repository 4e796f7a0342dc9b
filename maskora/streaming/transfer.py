"""Tensors on their way to the device without a wait: from pinned memory, behind earlier work."""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
from torch import Tensor

from maskora.streaming.blocks import ALIGNMENT
from maskora.streaming.host_memory import Pins, host_buffer
from maskora.streaming.out_of_memory import ran_out_of
from maskora.streaming.placement import STAGING_PIECE, STAGING_PIECES
from maskora.streaming.sources import BlockSource

# A point in the device's work that other work can wait for; None where all is done at once.
Event = Any


class HostToDevice:
    """Copies that overlap with the device's computation and follow each other."""

    def __init__(self, device: torch.device) -> None:
        if device.type == "cuda" and device.index is None:  # other threads have another current one
            device = torch.device("cuda", torch.cuda.current_device())
        self._device = device
        self._beside: torch.cuda.Stream | None = None
        self._side = torch.cuda.Stream(device) if device.type == "cuda" else None

    def now(self) -> Event:
        """The event at which all that was computed so far will be done."""
        if self._side is None:
            return None
        return torch.cuda.current_stream(self._device).record_event()

    def copy(self, source: Tensor, target: Tensor, *after: Event) -> Event:
        """Copy once some events have come; answers the event at which the copy will be there.

        Both tensors must stay alive until the computation has waited for that event: their memory
        belongs to it, and would be handed out again without regard to the copy.
        """
        if self._side is None:
            target.copy_(source)
            return None
        with torch.cuda.stream(self._side):
            for event in after:
                if event is not None:
                    self._side.wait_event(event)
            target.copy_(source, non_blocking=True)
            return self._side.record_event(torch.cuda.Event(blocking=True))

    def wait(self, event: Event) -> None:
        """Let the computation, not this thread, wait for an event."""
        if event is not None:
            torch.cuda.current_stream(self._device).wait_event(event)

    def synchronize(self, event: Event) -> None:
        """Let this thread wait for an event."""
        if event is not None:
            event.synchronize()

    def read_back(self, tensor: Tensor, event: Event) -> Tensor:
        """A copy on the host of a tensor as it is at an event, for which this thread waits."""
        if self._side is None:
            return tensor.clone()
        self.synchronize(event)
        if self._beside is None:
            self._beside = torch.cuda.Stream(self._device)
        with torch.cuda.stream(self._beside):  # behind no other work
            return tensor.cpu()

    def drain(self) -> None:
        """Let this thread wait for every copy."""
        if self._side is not None:
            self._side.synchronize()


SAMPLES = 64  # bytes of a block that are compared when it arrives


class Arrival(NamedTuple):
    """When a block is on the device, and a sample of what was sent (see `sample`)."""

    event: Event
    sent: Tensor


def sample(tensor: Tensor, start: int = 0, whole: int | None = None) -> Tensor:
    """Bytes of a block, evenly spread.

    Their distance is odd, so that of values of several bytes all kinds of bytes are seen.

    Args:
        tensor: the block, or a span of it.
        start: where the span begins.
        whole: bytes of the block.
    """
    step = (len(tensor) if whole is None else whole) // SAMPLES | 1
    return tensor[-start % step :: step]


class Staging:
    """Carries blocks to the device through pinned pieces, in a thread of its own, in order."""

    def __init__(self, transfer: HostToDevice, pins: Pins, room: int) -> None:
        """`room`: bytes of host memory that the pieces stay within, but for their alignment."""
        self._transfer, self._pins = transfer, pins
        share = -(-room // (STAGING_PIECES * ALIGNMENT)) * ALIGNMENT
        self._size = max(ALIGNMENT, min(STAGING_PIECE, share))
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="maskora-streaming")
        # Each with the event at which its last copy has left it; the worker's while it works.
        self._pieces: deque[tuple[Tensor, Event]] = deque()
        self._stocked = False

    @property
    def buffers(self) -> list[Tensor]:
        """The pieces that wait for work."""
        return [buffer for buffer, _ in self._pieces]

    def stock(self) -> None:
        """Have the pieces ready; those that cannot be pinned only where none can."""
        if self._stocked:
            return
        buffers = [host_buffer(self._size) for _ in range(STAGING_PIECES)]
        pinned = [buffer for buffer in buffers if self._pins.urgent(buffer)]
        self._pieces.extend((buffer, None) for buffer in pinned or buffers)
        self._stocked = True

    def drop(self) -> None:
        """Free the pieces, once all that was carried has arrived."""
        if self._stocked:
            self._worker.submit(self._finish).result()
            self._stocked = False

    def close(self) -> None:
        """Free the pieces for good; what waits to be carried is not."""
        self._worker.shutdown(wait=True, cancel_futures=True)
        self._finish()

    def carry(
        self, source: BlockSource, index: int, target: Tensor, idle: Event
    ) -> "Future[Arrival]":
        """Start a block's way into a buffer of the device that is free from an event on."""
        self.stock()
        return self._worker.submit(self._carry, source, index, target, idle)

    def _carry(self, source: BlockSource, index: int, target: Tensor, idle: Event) -> Arrival:
        event, sent = idle, [torch.empty(0, dtype=torch.uint8)]
        for start in range(0, len(target), self._size):
            part = target[start : start + self._size]
            buffer, left = self._pieces.popleft()
            try:
                self._transfer.synchronize(left)
                piece = buffer[: len(part)]
                source.fill(index, piece, start)
                sent.append(sample(piece, start, len(target)).clone())
                event = left = self._transfer.copy(piece, part, idle)
            finally:
                self._pieces.append((buffer, left))
        return Arrival(event, torch.cat(sent))

    def _finish(self) -> None:
        for _, left in self._pieces:
            self._transfer.synchronize(left)
        self._pieces.clear()


_unpinnable: set[torch.device] = set()  # devices for which the system pins no more


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """A small tensor on a device; its values may arrive later, but before they are used.

    It is pinned for that as long as anything can be: a copy from ordinary memory makes the host
    wait until the device has done all that came before.
    """
    if device.type == "cuda" and tensor.device.type == "cpu" and device not in _unpinnable:
        try:
            tensor = tensor.pin_memory()
        except RuntimeError as error:
            if ran_out_of(error) is None:
                raise
            _unpinnable.add(device)
    return tensor.to(device, non_blocking=True)
