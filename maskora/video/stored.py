"""Frames that wait uncompressed in a file, since they may be too many for RAM."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np


class StoredFrames:
    """Frames (T, H, W, 3), uint8, of which one after another is read again.

    Args:
        path: of the file, which is made.
        size_HWC: of a frame.
    """

    def __init__(self, path: Path, size_HWC: tuple[int, ...]) -> None:
        self._path, self._size = path, size_HWC
        self._bytes, self._count = int(np.prod(size_HWC)), 0
        path.write_bytes(b"")

    def put(self, start: int, frames_THWC: np.ndarray) -> None:
        """Write frames from a number on, over what is there; there is no gap before them."""
        assert start <= self._count and frames_THWC.shape[1:] == self._size
        with self._path.open("r+b") as file:
            file.seek(start * self._bytes)
            file.write(np.ascontiguousarray(frames_THWC).data)
        self._count = max(self._count, start + len(frames_THWC))

    @property
    def shape(self) -> tuple[int, ...]:
        return (self._count, *self._size)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[np.ndarray]:
        return map(self._read, range(self._count))

    def __getitem__(self, which: int | slice, /) -> np.ndarray:
        numbers = range(self._count)[which]
        if isinstance(numbers, int):
            return self._read(numbers)
        return np.array([*map(self._read, numbers)], np.uint8).reshape(-1, *self._size)

    def _read(self, number: int) -> np.ndarray:
        found = np.fromfile(self._path, np.uint8, self._bytes, offset=number * self._bytes)
        return found.reshape(self._size)
