"""Tensors on their way to the device without a wait: from pinned memory, behind earlier work."""

import functools

import torch
from torch import Tensor

from maskora.streaming.out_of_memory import ran_out_of


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
