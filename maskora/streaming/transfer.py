"""Moving bytes to and from a device: on a side stream where there is one, at once elsewhere."""

from typing import Any

import torch
from torch import Tensor

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
