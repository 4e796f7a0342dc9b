"""Pictures of a clip, read when they are needed: a clip may be longer than memory is large."""

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Protocol

import numpy as np

from maskora.errors import UserError
from maskora.files import digest_file, digest_stream, naming

KEPT = 81  # pictures of a clip that stay in memory: all of a short one's
BITS = 8  # of a byte: masks of so many frames fill whole bytes


class Frames(Protocol):
    """Pictures of one size in order, uint8; an array of them is one.

    A number gives a picture, a slice an array (T, H, W[, 3]).

    Attributes:
        shape: (T, H, W, 3), or (T, H, W) of labels.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[np.ndarray]: ...

    def __getitem__(self, which: int | slice, /) -> np.ndarray: ...


class LazyFrames:
    """Pictures that are made each time they are asked for, so that one at a time is held."""

    def __init__(self, make: Callable[[int], np.ndarray], shape: tuple[int, ...]) -> None:
        """
        Args:
            make: gives the picture of a number; uint8.
            shape: of all together.
        """
        self._make, self.shape = make, shape

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[np.ndarray]:
        return map(self._make, range(len(self)))

    def __getitem__(self, which: int | slice, /) -> np.ndarray:
        numbers = range(len(self))[which]
        if isinstance(numbers, int):
            return self._make(numbers)
        part = np.empty((len(numbers), *self.shape[1:]), np.uint8)
        for place, number in enumerate(numbers):
            part[place] = self._make(number)
        return part


class PackedLabels:
    """Labels (T, H, W) in so few bytes that memory holds those of a long clip; they may be changed.

    Attributes:
        shape: (T, H, W).
    """

    def __init__(self, labels: Iterable[np.ndarray]) -> None:
        """
        Args:
            labels: (H, W), uint8, each; at least one, and all of one size.
        """
        size: tuple[int, ...] = ()
        self._packed: list[bytes] = []
        for labels_HW in labels:
            assert labels_HW.dtype == np.uint8 and size in ((), labels_HW.shape)
            size = labels_HW.shape
            self._packed.append(_pack(labels_HW))
        self.shape = len(self._packed), *size
        self._frames = LazyFrames(self._unpack, self.shape)

    def __len__(self) -> int:
        return len(self._packed)

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self._frames)

    def __getitem__(self, which: int | slice, /) -> np.ndarray:
        return self._frames[which]

    def __setitem__(self, number: int, labels_HW: np.ndarray) -> None:
        assert labels_HW.dtype == np.uint8 and labels_HW.shape == self.shape[1:]
        self._packed[number] = _pack(labels_HW)

    def _unpack(self, number: int) -> np.ndarray:
        content = bytearray(zlib.decompress(self._packed[number]))
        return np.frombuffer(content, np.uint8).reshape(self.shape[1:])


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
        with naming(self._path), self._path.open("r+b") as file:
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


def _pack(labels_HW: np.ndarray) -> bytes:
    return zlib.compress(labels_HW.tobytes(), 1)


def read_sized(path: Path, read: Callable[[Path], np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """A picture file, (H, W) or (H, W, 3) uint8.

    Args:
        size: (width, height) that it must have.

    Raises:
        UserError: it has another, is missing or damaged.
    """
    picture = read(path)
    if (found := picture.shape[1::-1]) != size:
        raise UserError(f"{path} is {found[0]}x{found[1]}; the frames are {size[0]}x{size[1]}")
    return picture


def frames_of_files(
    paths: Sequence[Path], read: Callable[[Path], np.ndarray], size: tuple[int, int]
) -> Frames:
    """Picture files as frames. Each is read now; the last ones stay, others are read again.

    Args:
        paths: at least one.
        size: (width, height) of the frames.

    Raises:
        UserError: one is missing, damaged or of another size; later, where it has changed since.
    """
    digests: dict[Path, str] = {}

    def picture(number: int) -> np.ndarray:
        path = paths[number]
        found_HWC, digest = read_sized(path, read, size), digest_file(path)
        if digests.setdefault(path, digest) != digest:
            raise UserError(f"{path} was changed while this run went on: run the command again")
        found_HWC.flags.writeable = False
        return found_HWC

    kept = lru_cache(maxsize=KEPT)(picture)
    shape = [kept(number).shape for number in range(len(paths))][-1]
    return LazyFrames(kept, (len(paths), *shape))


def digest_frames(frames: Frames) -> str:
    """What `digest` gives for the bytes of all frames."""
    return digest_stream(prod(frames.shape), (frame.tobytes() for frame in frames))


def digest_inside(labels_THW: Frames) -> str:
    """What `digest` gives for the bits of all masks, 1 where the labels are not 0."""
    starts = range(0, len(labels_THW), BITS)
    packed = (np.packbits(labels_THW[n : n + BITS] > 0).tobytes() for n in starts)
    return digest_stream(-(-prod(labels_THW.shape) // BITS), packed)
