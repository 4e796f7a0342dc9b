"""Host memory by the page: exactly as large as asked for, and pinned exactly as large.

`Tensor.pin_memory()` takes its memory from a pool that rounds up to powers of two; 28 GB of weights
can become 40. Here ordinary pages are registered with the driver instead.

What can be pinned may be scarce: on Windows half of the RAM, under WSL2 and in containers sometimes
less than a GB. So what helps most comes first: the staging pieces, without which every copy of what
is not pinned would be slow; then the inputs that training keeps; then blocks, as many as may be.
"""

import logging
import mmap
import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger("maskora")
# Memory serves the one device that computes. "Portable" is for several contexts, and where all
# devices share one space of addresses, as on every system of 64 bits, it changes nothing.
REGISTER_FLAGS = 0


class Driver:
    """The driver of one GPU, which lets that reach the host's memory by itself."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def register(self, address: int, nbytes: int) -> str | None:
        """Pin whole pages. Returns why that is refused; None where it is done."""
        with torch.cuda.device(self._device):  # another GPU would get a context, and the memory
            runtime = torch.cuda.cudart()
            status = runtime.cudaHostRegister(address, nbytes, REGISTER_FLAGS)
            if int(status) == 0:
                return None
            self._forget_failure()
            return str(runtime.cudaGetErrorString(status))

    def unregister(self, address: int) -> None:
        """Unpin them, once the device has done all its work."""
        with torch.cuda.device(self._device):
            with suppress(torch.AcceleratorError):  # the next call raises what has failed for good
                torch.cuda.synchronize(self._device)
            if int(torch.cuda.cudart().cudaHostUnregister(address)) != 0:
                self._forget_failure()

    def _forget_failure(self) -> None:
        """The runtime remembers a failed call, and work that comes later would be blamed for it.

        What comes here takes the blame: a kernel for what is known at once (where the GPU is full,
        its allocation), a wait for the rest.
        """
        with suppress(torch.AcceleratorError, torch.OutOfMemoryError):
            torch.zeros(1, device=self._device).add_(1)
        with suppress(torch.AcceleratorError):
            torch.cuda.synchronize(self._device)


def driver_of(device: torch.device) -> Driver | None:
    """A GPU's driver; None for a device that computes in the host's own memory."""
    return Driver(device) if device.type == "cuda" else None


class Pins:
    """What of the host's memory is pinned for a device, and what the system refused.

    A refusal is final: after it no more is asked for, but in place of what is given back.

    Attributes:
        make_room: unpins something spare for something urgent; False where there is none.
        refused: why the system refused, in its words; empty while it has not.
        lacking_bytes: of what is urgent and is not pinned.
        left_out: whether something spare was asked for and is not pinned.
        reported: whether a person knows by now what is pinned.
    """

    def __init__(self, driver: Driver | None = None) -> None:
        """`driver`: None where every memory is as good."""
        self._driver = driver
        self._ends: dict[int, weakref.finalize[[int], Any]] = {}
        self._urgent: dict[int, int] = {}  # address -> bytes
        self._exhausted = False
        self.make_room: Callable[[], bool] = lambda: False
        self.refused = ""
        self.lacking_bytes = 0
        self.left_out = self.reported = False

    @property
    def urgent_bytes(self) -> int:
        """Of what is urgent and pinned now."""
        return sum(self._urgent.values())

    def urgent(self, buffer: Tensor) -> bool:
        """Pin what helps most, if need be in place of something spare. Whether it is pinned."""
        if not self._exhausted:
            pinned = self._register(buffer)
            while not pinned and self.make_room():  # which may take several of what is smaller
                pinned = self._register(buffer)
            if pinned:
                self._urgent[buffer.data_ptr()] = buffer.nbytes
                return True
            self._exhausted = True
            if self.reported:
                log.warning(
                    "note: no more memory can be pinned (%s), so copies of further kept inputs "
                    "take longer",
                    self.refused,
                )
        self.lacking_bytes += buffer.nbytes
        return False

    def spare(self, buffer: Tensor) -> bool:
        """Pin what helps least, as long as nothing was refused. Whether it is pinned."""
        pinned = not self.refused and self._register(buffer)
        self.left_out |= not pinned
        return pinned

    def release(self, buffer: Tensor) -> None:
        """Let a buffer be ordinary memory again; waits for the device."""
        end = self._ends.get(buffer.data_ptr())
        if end is not None:
            end()

    def _register(self, buffer: Tensor) -> bool:
        if self._driver is None or not buffer.nbytes:
            return True
        address = buffer.data_ptr()
        reason = self._driver.register(address, buffer.nbytes)
        if reason is not None:
            self.refused = reason
            return False
        # The storage outlives every view, and goes before the pages that it refers to.
        end = weakref.finalize(buffer.untyped_storage(), self._unregister, address)
        self._ends[address] = end
        return True

    def _unregister(self, address: int) -> None:
        assert self._driver is not None
        del self._ends[address]
        self._urgent.pop(address, None)
        self._driver.unregister(address)


@torch.inference_mode(False)  # in which other threads, which fill it, are not
def host_buffer(nbytes: int, pin: bool = False) -> Tensor:
    """A uint8 buffer of whole pages; pinned where asked for and where a GPU and the OS allow it.

    It returns to the system when the last tensor that views it is gone.
    """
    buffer = torch.frombuffer(_pages(max(nbytes, 1)), dtype=torch.uint8, count=nbytes)
    if pin and torch.cuda.is_available():
        Pins(Driver(torch.device("cuda", torch.cuda.current_device()))).urgent(buffer)
    return buffer


def _pages(nbytes: int) -> mmap.mmap:
    if not hasattr(mmap, "MAP_PRIVATE"):  # Windows, which knows no flags
        return mmap.mmap(-1, nbytes)
    return mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


class SharedBlocks:
    """Blocks in a file in memory that several processes map: whoever needs one first fills it.

    The file begins with a byte for each block, which is 1 once that is filled; a block has whole
    pages of its own. It has no name, and goes with the last process that maps it.
    """

    def __init__(self, file: int, sizes: Sequence[int]) -> None:
        """
        Args:
            file: open and the same in all processes; it stays the caller's.
            sizes: of all blocks in bytes, the same in all processes.
        """
        whole = [-(-size // mmap.PAGESIZE) * mmap.PAGESIZE for size in (len(sizes), *sizes)]
        _, *self._starts, end = [0, *accumulate(whole)]
        os.ftruncate(file, end)
        self._file, self._sizes = file, sizes
        self._filled = mmap.mmap(file, len(sizes), flags=mmap.MAP_SHARED)

    def block(self, index: int, fill: Callable[[Tensor], None]) -> Tensor:
        """A block's bytes, uint8, filled here where no process has yet."""
        size, start = self._sizes[index], self._starts[index]
        pages = mmap.mmap(self._file, size, flags=mmap.MAP_SHARED, offset=start)
        buffer = torch.frombuffer(pages, dtype=torch.uint8)
        with _locked(self._file, index):
            if not self._filled[index]:
                fill(buffer)
                self._filled[index] = 1
        return buffer


@contextmanager
def _locked(file: int, place: int) -> Iterator[None]:
    """Hold one byte of a file against other processes; the lock ends with this one."""
    import fcntl

    fcntl.lockf(file, fcntl.LOCK_EX, 1, place)
    try:
        yield
    finally:
        fcntl.lockf(file, fcntl.LOCK_UN, 1, place)


def is_ready(buffer: Tensor) -> bool:
    """Whether a device can copy a buffer by itself; without a GPU every buffer is as good."""
    return not torch.cuda.is_available() or buffer.is_pinned()
