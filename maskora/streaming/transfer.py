"""Tensors on their way to the device without a wait: from pinned memory, behind earlier work."""

import functools
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
from torch import Tensor

from maskora.streaming.blocks import ALIGNMENT
from maskora.streaming.memory import Pins, host_buffer
from maskora.streaming.out_of_memory import ran_out_of
from maskora.streaming.placement import STAGING_PIECE, STAGING_PIECES
from maskora.streaming.sources import BlockSource

# A point in the device's work that other work can wait for; None where all is done at once.
Moment = Any


class Transfer:
    """Copies that overlap with the device's computation and follow each other."""

    def __init__(self, device: torch.device) -> None:
        if device.type == "cuda" and device.index is None:  # other threads have another current one
            device = torch.device("cuda", torch.cuda.current_device())
        self._device = device
        self._beside: torch.cuda.Stream | None = None
        self._side = torch.cuda.Stream(device) if device.type == "cuda" else None

    def now(self) -> Moment:
        """The moment at which all that was computed so far will be done."""
        if self._side is None:
            return None
        return torch.cuda.current_stream(self._device).record_event()

    def copy(self, source: Tensor, target: Tensor, *after: Moment) -> Moment:
        """Copy once some moments have come; answers the moment at which the copy will be there.

        Both tensors must stay alive until the computation has waited for that moment: their memory
        belongs to it, and would be handed out again without regard to the copy.
        """
        if self._side is None:
            target.copy_(source)
            return None
        with torch.cuda.stream(self._side):
            for moment in after:
                if moment is not None:
                    self._side.wait_event(moment)
            target.copy_(source, non_blocking=True)
            return self._side.record_event(torch.cuda.Event(blocking=True))

    def wait(self, moment: Moment) -> None:
        """Let the computation, not this thread, wait for a moment."""
        if moment is not None:
            torch.cuda.current_stream(self._device).wait_event(moment)

    def hold(self, moment: Moment) -> None:
        """Let this thread wait for a moment."""
        if moment is not None:
            moment.synchronize()

    def look(self, tensor: Tensor, moment: Moment) -> Tensor:
        """A copy on the host of a tensor as it is at a moment, for which this thread waits."""
        if self._side is None:
            return tensor.clone()
        self.hold(moment)
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

    moment: Moment
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

    def __init__(self, transfer: Transfer, pins: Pins, room: int) -> None:
        """`room`: bytes of host memory that the pieces stay within, but for their alignment."""
        self._transfer, self._pins = transfer, pins
        share = -(-room // (STAGING_PIECES * ALIGNMENT)) * ALIGNMENT
        self._size = max(ALIGNMENT, min(STAGING_PIECE, share))
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="maskora-streaming")
        # Each with the moment at which its last copy has left it; the worker's while it works.
        self._pieces: deque[tuple[Tensor, Moment]] = deque()
        self._stocked = False

    @property
    def buffers(self) -> list[Tensor]:
        """The pieces that wait for work."""
        return [buffer for buffer, _ in self._pieces]

    def stock(self) -> None:
        """Have the pieces ready; those that cannot be pinned only where none can."""
        if self._stocked:
            return
        buffers = [host_buffer(self._size, pin=False) for _ in range(STAGING_PIECES)]
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
        self, source: BlockSource, index: int, target: Tensor, idle: Moment
    ) -> "Future[Arrival]":
        """Start a block's way into a buffer of the device that is free from a moment on."""
        self.stock()
        return self._worker.submit(self._carry, source, index, target, idle)

    def _carry(self, source: BlockSource, index: int, target: Tensor, idle: Moment) -> Arrival:
        moment, sent = idle, [torch.empty(0, dtype=torch.uint8)]
        for start in range(0, len(target), self._size):
            part = target[start : start + self._size]
            buffer, left = self._pieces.popleft()
            try:
                self._transfer.hold(left)
                piece = buffer[: len(part)]
                source.fill(index, piece, start)
                sent.append(sample(piece, start, len(target)).clone())
                moment = left = self._transfer.copy(piece, part, idle)
            finally:
                self._pieces.append((buffer, left))
        return Arrival(moment, torch.cat(sent))

    def _finish(self) -> None:
        for _, left in self._pieces:
            self._transfer.hold(left)
        self._pieces.clear()


class Upload:
    """Copies small tensors to one device; where nothing more can be pinned, as they are.

    A copy from ordinary memory makes the host wait until the device has done all that came before.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._pins = device.type == "cuda"

    def __call__(self, tensor: Tensor) -> Tensor:
        """The tensor on the device; its values may arrive later, but before they are used."""
        return self._pinned(tensor).to(self.device, non_blocking=True)

    def _pinned(self, tensor: Tensor) -> Tensor:
        if not self._pins or tensor.device.type != "cpu":
            return tensor
        try:
            return tensor.pin_memory()
        except RuntimeError as error:
            if ran_out_of(error) is None:
                raise
            self._pins = False
            return tensor


@functools.cache
def upload_to(device: torch.device) -> Upload:
    """The one way to a device, which remembers that nothing more can be pinned."""
    return Upload(device)
