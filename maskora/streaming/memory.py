"""Host memory by the page: exactly as large as asked for, and pinned exactly as large.

`Tensor.pin_memory()` takes its memory from a pool that rounds up to powers of two; 28 GB of weights
can become 40. Here ordinary pages are registered with the driver instead.
"""

import logging
import mmap
import weakref
from contextlib import suppress

import torch
from torch import Tensor

log = logging.getLogger("maskora")


def host_buffer(nbytes: int, pin: bool) -> Tensor:
    """A uint8 buffer of whole pages; pinned where asked for and where a card and the OS allow it.

    It returns to the system when the last tensor that views it is gone.
    """
    pages = mmap.mmap(-1, max(nbytes, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    buffer = torch.frombuffer(pages, dtype=torch.uint8, count=nbytes)
    if pin and nbytes and torch.cuda.is_available() and _register(buffer, nbytes):
        # The storage outlives every view, and goes before the pages that it refers to.
        weakref.finalize(buffer.untyped_storage(), _unregister, buffer.data_ptr())
    return buffer


def is_ready(buffer: Tensor) -> bool:
    """Whether a device can copy a buffer by itself; without a card every buffer is as good."""
    return not torch.cuda.is_available() or buffer.is_pinned()


def _register(buffer: Tensor, nbytes: int) -> bool:
    driver = torch.cuda.cudart()
    status = driver.cudaHostRegister(buffer.data_ptr(), nbytes, 0)
    if int(status) == 0:
        return True
    _forget_failure()
    log.warning(
        "note: %.1f GB of RAM could not be pinned (%s), so copies to the card are slower",
        nbytes / 2**30,
        driver.cudaGetErrorString(status),
    )
    return False


def _unregister(address: int) -> None:
    if int(torch.cuda.cudart().cudaHostUnregister(address)) != 0:
        _forget_failure()


def _forget_failure() -> None:
    """The runtime remembers a failed call, and the next kernel, blamed for it, would raise."""
    with suppress(torch.AcceleratorError):
        torch.zeros(1, device="cuda").add_(1)  # this one takes the blame
