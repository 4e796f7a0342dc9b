"""The way of blocks that the device cannot copy by itself: through a few pinned pieces.

A block that is not pinned (it lies in ordinary memory, on disk, or in another precision) is brought
by a thread of its own, piece by piece: while one piece is copied to the device, the next is filled.
"""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from maskora.streaming.demand import STAGING_PIECE, STAGING_PIECES
from maskora.streaming.layout import ALIGNMENT
from maskora.streaming.memory import Pins, host_buffer
from maskora.streaming.sources import BlockSource
from maskora.streaming.transfer import Moment, Transfer

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
