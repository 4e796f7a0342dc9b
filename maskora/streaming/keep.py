"""Where the inputs that training keeps for backward wait: on the device, or in host memory."""

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


@dataclass
class _Away:
    """A tensor in host memory, and its way back."""

    buffer: Tensor
    arrived: Moment  # in host memory
    dtype: torch.dtype
    shape: torch.Size
    device: torch.device
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
    _last: tuple[int, Kept] | None = None
    _pool: dict[int, list[tuple[Tensor, Moment]]] = field(default_factory=lambda: defaultdict(list))

    def keep(self, index: int, values: Sequence[Any], turns: bool) -> Kept:
        """Keep what a block was given; at the turn, where backward needs it at once, it stays."""
        leaves = self.offload and not turns
        stored = [self._send(v) if leaves and isinstance(v, Tensor) else v for v in values]
        follows = self._last is not None and self._last[0] == index - 1
        kept = Kept(stored, self._last[1] if self._last is not None and follows else None)
        self._last = (index, kept)
        return kept

    def bring_back(self, kept: Kept) -> list[Any]:
        """What was kept, on the device, for once; the earlier block's is on its way then."""
        assert kept.values, "a graph is run backward once"
        self._last = None
        for one in (kept, kept.earlier):
            for value in one.values if one is not None else ():
                if isinstance(value, _Away) and value.back is None:
                    self._fetch(value)
        values = [self._take(v) if isinstance(v, _Away) else v for v in kept.values]
        kept.values, kept.earlier = [], None  # the graph outlives the backward pass, these need not
        return values

    def close(self) -> None:
        """Give the host memory back."""
        for transfer in (self.outward, self.inward):
            transfer.drain()
        self._pool.clear()
        self._last = None

    def _send(self, tensor: Tensor) -> _Away:
        nbytes = tensor.numel() * tensor.element_size()
        free = self._pool[nbytes]
        buffer, unused = free.pop() if free else (host_buffer(nbytes, pin=True), None)
        target = buffer.view(tensor.dtype).view(tensor.shape)
        arrived = self.outward.copy(tensor, target, self.outward.now(), unused)
        return _Away(buffer, arrived, tensor.dtype, tensor.shape, tensor.device)

    def _fetch(self, away: _Away) -> None:
        away.back = torch.empty(away.shape, dtype=away.dtype, device=away.device)
        source = away.buffer.view(away.dtype).view(away.shape)
        away.returned = self.inward.copy(source, away.back, self.inward.now(), away.arrived)
        self._pool[len(away.buffer)].append((away.buffer, away.returned))

    def _take(self, away: _Away) -> Tensor:
        assert away.back is not None
        self.inward.wait(away.returned)
        return away.back
