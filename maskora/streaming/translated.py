"""Stored tensors under the names of the modules that use them: cut, put together, scaled."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import dropwhile
from math import prod

import torch
from torch import Tensor

from maskora.errors import UserError
from maskora.streaming.blocks import Precision
from maskora.streaming.checkpoint import CONVERSION_BYTES, DTYPES, Checkpoint, mostly
from maskora.streaming.places import Place


class Translated:
    """A checkpoint by other names. It holds no values; every read goes to the file."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        places: Mapping[str, Place],
        unknown: Collection[str],
        called: Callable[[str], str],
    ) -> None:
        """
        Args:
            places: parameter -> where it lies.
            unknown: stored tensors that are no parameter's.
            called: what a parameter that has no place would be called in the files.
        """
        self.told = checkpoint.told
        self._checkpoint, self._places = checkpoint, places
        self._unknown, self._called = unknown, called

    def names(self) -> Collection[str]:
        """See `Reader`; what is not known has its own name."""
        return [*self._places, *self._unknown]

    def called(self, name: str) -> str:
        """See `Reader`."""
        if name in self._places:
            return self._places[name].name
        return name if name in self._unknown else self._called(name)

    def is_in(self, precision: Precision) -> bool:
        """See `Reader`."""

        def is_same(name: str, place: Place) -> bool:
            kind = self._checkpoint.stored(place.name).kind
            return place.scale is None and DTYPES[kind] == precision(name)

        return mostly(
            {
                name: (place.height * self._width(place), is_same(name, place))
                for name, place in self._places.items()
            }
        )

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """A parameter is there and has this shape; leading axes of length 1 do not count."""
        place = self._place(name)
        stored = self._checkpoint.stored(place.name)
        found = (place.height, *stored.shape[1:])
        if _without_ones(found) != _without_ones(shape):
            part = "" if found == stored.shape else f" (of {stored.shape})"
            raise UserError(
                f"{stored.path}: {place.name} is {found}{part} instead of {shape}: it does not fit "
                f"the rest of the model"
            )

    def read_into(self, name: str, out: Tensor) -> None:
        """See `Reader`. Raises Fault where the disk fails."""
        place = self._place(name)
        assert place.height * self._width(place) == out.numel()
        self.read_span(name, 0, out.view(-1))

    def read_span(self, name: str, start: int, out: Tensor) -> None:
        """See `Reader`. Raises Fault where the disk fails."""
        place, done = self._place(name), 0
        width = self._width(place)
        for first, end in place.rows:
            count = (end - first) * width
            if done < len(out) and start < count:
                part = out[done : done + count - start]
                self._read(place, first * width + start, part)
                done += len(part)
            start = max(0, start - count)
        assert done == len(out)

    def read_rows(self, name: str, rows: Sequence[int], dtype: torch.dtype) -> Tensor:
        """See `Reader`."""
        place = self._place(name)
        ((first, end),) = place.rows
        picked = torch.empty((len(rows), self._width(place)), dtype=dtype)
        for at, row in enumerate(rows):
            assert 0 <= row < end - first
            self._read(place, (first + row) * self._width(place), picked[at])
        return picked

    def _place(self, name: str) -> Place:
        if name not in self._places:
            raise UserError(
                f"{self.told} lacks the tensor {self._called(name)}: is it another model, or "
                f"another version of it?"
            )
        return self._places[name]

    def _width(self, place: Place) -> int:
        return prod(self._checkpoint.stored(place.name).shape[1:])

    def _read(self, place: Place, start: int, out: Tensor) -> None:
        """Values of a stored tensor, multiplied in float32 where their rows have scales."""
        if place.scale is None:
            self._checkpoint.read_span(place.name, start, out)
            return
        scales, width, end = self._scales(place.scale), self._width(place), start + len(out)
        for first, last in _pieces(start // width, -(-end // width), width):
            piece = torch.empty((last - first) * width)
            self._checkpoint.read_span(place.name, first * width, piece)
            scale = scales[first:last, None] if len(scales) > 1 else scales
            piece = (piece.view(last - first, width) * scale).view(-1)
            low, high = max(first * width, start), min(last * width, end)
            out[low - start : high - start].copy_(piece[low - first * width : high - first * width])

    def _scales(self, name: str) -> Tensor:
        scales = torch.empty(prod(self._checkpoint.stored(name).shape))
        self._checkpoint.read_span(name, 0, scales)
        return scales


def _pieces(first: int, end: int, width: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows whose values fit a conversion buffer in float32; at least one row each."""
    step = max(1, CONVERSION_BYTES // (4 * width))
    for start in range(first, end, step):
        yield start, min(start + step, end)


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(dropwhile(lambda length: length == 1, shape))
