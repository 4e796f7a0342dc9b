"""Where the inputs that training keeps for backward wait: on the device, or in host memory."""

import weakref
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from maskora.streaming.memory import host_buffer
from maskora.streaming.transfer import Moment, Transfer


@dataclass
class Kept:
    """One block's kept inputs.

    Attributes:
        values: the inputs; a tensor that is away is an `_Away`.
        earlier: what the block before kept, which backward will need next.
    """

    values: list[Any]
    earlier: "Kept | None" = None

    @property
    def away(self) -> "list[_Away]":
        """Those in host memory."""
        return [value for value in self.values if isinstance(value, _Away)]


@dataclass
class _Away:
    """A tensor in host memory, and its way back."""

    buffer: Tensor
    arrived: Moment  # in host memory
    dtype: torch.dtype
    shape: torch.Size
    device: torch.device
    source: Tensor | None  # on the device, until the computation has waited for the copy
    back: Tensor | None = None
    returned: Moment = None


@dataclass
class Keeper:
    """Keeps inputs in forward order and brings them back in reverse, one block ahead.

    Attributes:
        outward: copies to the host.
        inward: copies back.
        offload: whether tensors leave the device at all.
    """

    outward: Transfer
    inward: Transfer
    offload: bool
    _last: "tuple[int, weakref.ref[Kept]] | None" = None
    _leaving: list[_Away] = field(default_factory=list)
    _pool: dict[int, list[tuple[Tensor, Moment]]] = field(default_factory=lambda: defaultdict(list))

    def keep(self, index: int, values: Sequence[Any], there: Moment, turns: bool) -> Kept:
        """Keep what a block was given; at the turn, where backward needs it at once, it stays.

        Args:
            there: the moment at which the values are computed.
        """
        self._let_go()
        leaves = self.offload and not turns
        stored = [self._send(v, there) if leaves and isinstance(v, Tensor) else v for v in values]
        before, earlier = self._last or (None, lambda: None)
        kept = Kept(stored, earlier() if before == index - 1 else None)
        self._leaving = kept.away
        self._last = (index, weakref.ref(kept))
        return kept

    def _let_go(self) -> None:
        """The device's memory of what was sent before may be used again once it has left."""
        for away in self._leaving:
            self.outward.wait(away.arrived)
            away.source = None
        self._leaving = []

    def bring_back(self, kept: Kept) -> list[Any]:
        """What was kept, on the device, for once; the earlier block's is on its way then."""
        assert kept.values, "a graph is run backward once"
        self._let_go()
        self._last = None
        for away in [*kept.away, *(kept.earlier.away if kept.earlier is not None else [])]:
            if away.back is None:
                self._fetch(away)
        values = [self._take(v) if isinstance(v, _Away) else v for v in kept.values]
        kept.values, kept.earlier = [], None  # the graph outlives the backward pass, these need not
        return values

    def reset(self) -> None:
        """Forget what was kept for a backward pass that does not come, once its copies are done."""
        for transfer in (self.outward, self.inward):
            transfer.drain()
        self._leaving, self._last = [], None

    def close(self) -> None:
        """Give the host memory back."""
        self.reset()
        self._pool.clear()

    def _send(self, tensor: Tensor, there: Moment) -> _Away:
        nbytes = tensor.numel() * tensor.element_size()
        free = self._pool[nbytes]
        buffer, unused = free.pop() if free else (host_buffer(nbytes, pin=True), None)
        target = buffer.view(tensor.dtype).view(tensor.shape)
        arrived = self.outward.copy(tensor, target, there, unused)
        return _Away(buffer, arrived, tensor.dtype, tensor.shape, tensor.device, tensor)

    def _fetch(self, away: _Away) -> None:
        away.back = torch.empty(away.shape, dtype=away.dtype, device=away.device)
        source = away.buffer.view(away.dtype).view(away.shape)
        away.returned = self.inward.copy(source, away.back, self.inward.now(), away.arrived)
        self._pool[len(away.buffer)].append((away.buffer, away.returned))

    def _take(self, away: _Away) -> Tensor:
        assert away.back is not None
        self.inward.wait(away.returned)
        return away.back
