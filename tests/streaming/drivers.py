"""Drivers of a GPU that is not here, which pin what a quota leaves room for."""

from torch import Tensor


class Quota:
    """Pins memory up to so many bytes in all.

    Attributes:
        pinned: address -> bytes.
        asked: bytes of each request, granted or not.
    """

    def __init__(self, nbytes: int) -> None:
        self.left = nbytes
        self.pinned: dict[int, int] = {}
        self.asked: list[int] = []

    def register(self, address: int, nbytes: int) -> str | None:
        assert address % 4096 == 0, "the driver pins whole pages"
        assert address not in self.pinned, "the driver refuses what is pinned already"
        self.asked.append(nbytes)
        if nbytes > self.left:
            return "out of memory"
        self.left -= nbytes
        self.pinned[address] = nbytes
        return None

    def unregister(self, address: int) -> None:
        self.left += self.pinned.pop(address)

    def holds(self, buffer: Tensor) -> bool:
        """Whether a buffer is pinned."""
        return buffer.data_ptr() in self.pinned
