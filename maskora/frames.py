"""Pictures of a clip, read when they are needed: a clip may be longer than memory is large."""

from collections.abc import Callable, Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Protocol

import numpy as np

from maskora.errors import UserError
from maskora.files import digest_file, digest_stream

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


def frames_of_files(
    paths: Sequence[Path], read: Callable[[Path], np.ndarray], size: tuple[int, int]
) -> LazyFrames:
    """Picture files as frames. Each is read once now, and again whenever it is asked for.

    Args:
        read: makes (H, W) or (H, W, 3), uint8, of a file.
        size: (width, height) of the frames.

    Raises:
        UserError: one is missing, damaged or of another size; later, where it has changed since.
    """
    (width, height), digests, colours = size, [], ()
    for path in paths:
        shape = read(path).shape
        if shape[:2] != (height, width):
            raise UserError(f"{path} is {shape[1]}x{shape[0]}; the frames are {width}x{height}")
        digests.append(digest_file(path))
        colours = shape[2:]

    def again(number: int) -> np.ndarray:
        path = paths[number]
        if not path.is_file() or digest_file(path) != digests[number]:
            raise UserError(f"{path} was changed while this run went on: run the command again")
        return read(path)

    return LazyFrames(again, (len(paths), height, width, *colours))


def digest_frames(frames: Frames) -> str:
    """What `digest` gives for the bytes of all frames."""
    return digest_stream(prod(frames.shape), (frame.tobytes() for frame in frames))


def digest_inside(labels_THW: Frames) -> str:
    """What `digest` gives for the bits of all masks, 1 where the labels are not 0."""
    starts = range(0, len(labels_THW), BITS)
    packed = (np.packbits(labels_THW[n : n + BITS] > 0).tobytes() for n in starts)
    return digest_stream(-(-prod(labels_THW.shape) // BITS), packed)
