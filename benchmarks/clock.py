"""Seconds and bytes from step to step."""

import time
from typing import Any

import torch

from benchmarks.measure import synchronize
from maskora.models.registry import Transformer


def bytes_moved(transformer: Transformer) -> int:
    """Bytes of weights that the engine has copied to the device so far."""
    moved: int = transformer.streamed.streamer.traffic.bytes
    return moved


class StepClock:
    """Seconds and moved bytes from one step to the next; the first step warms up."""

    def __init__(self, device: torch.device, transformer: Transformer) -> None:
        self._device, self._transformer = device, transformer
        self._seconds: list[float] = []
        self._bytes: list[int] = []

    def tick(self) -> None:
        """A step ends here, and the next begins."""
        synchronize(self._device)
        self._seconds.append(time.perf_counter())
        self._bytes.append(bytes_moved(self._transformer))

    def facts(self) -> dict[str, Any]:
        """Seconds and bytes of every step after the first."""
        pairs = zip(self._seconds[1:], self._seconds[2:], strict=False)
        moved = zip(self._bytes[1:], self._bytes[2:], strict=False)
        return {
            "step_seconds": [end - start for start, end in pairs],
            "step_bytes": [end - start for start, end in moved],
        }
