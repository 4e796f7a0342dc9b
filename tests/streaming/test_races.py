"""The engine's events suffice: whatever a device may reorder, no use of a buffer can overtake.

The engine runs on the CPU, where all is done at once, and what it would tell a device is written
down: which stream, or thread of the host, uses which memory, and which of them has waited for which
event. Every two uses of one buffer, of which one writes, must be ordered by that (vector clocks,
Lamport's "happens before"). Memory that is handed out may have been used by all that the
computation was told before, and what is freed may be used by the computation at once.
"""

import itertools
import threading
import weakref
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from maskora.streaming.host_memory import Pins
from maskora.streaming.transfer import HostToDevice
from tests.streaming.drivers import Quota
from tests.streaming.ring import WIDTH, Model

# What a stream or thread knows to be done of each other: its name -> number of uses.
Clock = dict[str, int]
COMPUTE = "compute"


def joined(one: Clock, other: Clock) -> Clock:
    return {name: max(one.get(name, 0), other.get(name, 0)) for name in one.keys() | other.keys()}


def here() -> str:
    """The thread of the host that speaks."""
    name = threading.current_thread().name
    return next((kind for kind in ("streaming", "keeping") if kind in name), "host")


class World:
    """All uses of all memory, and those that nothing orders."""

    def __init__(self) -> None:
        self.races: set[tuple[str, str]] = set()
        self.kinds: set[str] = set()
        self._clocks: dict[str, Clock] = defaultdict(dict)
        # Address of the memory -> (who, its clock, whether it wrote, what it did).
        self._uses: dict[int, list[tuple[str, int, bool, str]]] = defaultdict(list)
        self._lock = threading.RLock()

    def use(
        self, who: str, what: str, reads: Sequence[Tensor] = (), writes: Sequence[Tensor] = ()
    ) -> Clock:
        """Somebody uses memory, after all that it and the host know to be done."""
        with self._lock:
            clock = joined(self._clocks[who], self._clocks[here()])
            clock[who] = clock.get(who, 0) + 1
            self._clocks[who] = clock
            self.kinds.add(what)
            for writing, tensors in ((False, reads), (True, writes)):
                for tensor in tensors:
                    self._check(self._address(tensor), who, writing, what)
            return dict(clock)

    def wait(self, who: str, event: Clock) -> None:
        """Somebody goes on only when an event has come."""
        with self._lock:
            self._clocks[who] = joined(self._clocks[who], event)

    def known(self, who: str) -> Clock:
        """All that somebody has done."""
        return dict(self._clocks[who])

    def _address(self, tensor: Tensor) -> int:
        storage = tensor.untyped_storage()
        address = storage.data_ptr()
        if address not in self._uses:
            weakref.finalize(storage, self._freed, address).atexit = False
        return address

    def _freed(self, address: int) -> None:
        with self._lock:
            clock = joined(self._clocks[COMPUTE], self._clocks[here()])
            clock[COMPUTE] = clock.get(COMPUTE, 0) + 1
            self._clocks[COMPUTE] = clock
            self.kinds.add("freed")
            self._check(address, COMPUTE, True, "freed")
            del self._uses[address]

    def _check(self, address: int, who: str, writing: bool, what: str) -> None:
        for other, time, wrote, before in self._uses[address]:
            if (writing or wrote) and self._clocks[who].get(other, 0) < time:
                self.races.add((before, what))
        self._uses[address].append((who, self._clocks[who][who], writing, what))


def recorder(world: World) -> type[HostToDevice]:
    """Transfers of a device with streams, which are written down and done at once."""
    numbers = itertools.count()

    class Recorded(HostToDevice):
        def __init__(self, device: torch.device) -> None:
            super().__init__(device)
            self.stream = f"transfer {next(numbers)}"

        def now(self) -> Clock:
            return world.use(COMPUTE, "an event")

        def copy(self, source: Tensor, target: Tensor, *after: Clock | None) -> Clock:
            for event in after:
                world.wait(self.stream, event or {})
            super().copy(source, target)
            return world.use(self.stream, f"copy by {self.stream}", [source], [target])

        def wait(self, event: Clock | None) -> None:
            world.wait(COMPUTE, event or {})

        def synchronize(self, event: Clock | None) -> None:
            world.wait(here(), event or {})

        def read_back(self, tensor: Tensor, event: Clock | None) -> Tensor:
            self.synchronize(event)
            world.use(here(), "looking", reads=[tensor])
            return super().read_back(tensor, None)

        def drain(self) -> None:
            world.wait(here(), world.known(self.stream))

    return Recorded


def watch_memory(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device's memory is handed out."""
    empty = torch.empty

    def allocated(*size: Any, **options: Any) -> Tensor:
        tensor = empty(*size, **options)
        if "device" in options:
            world.use(COMPUTE, "handed out", writes=[tensor])
        return tensor

    monkeypatch.setattr(torch, "empty", allocated)


def watch_staging(world: World, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker fills host buffers."""
    fill = model.memory.fill

    def filled(index: int, out: Tensor, start: int = 0) -> None:
        world.use(here(), "filling", writes=[out])
        fill(index, out, start)

    monkeypatch.setattr(model.memory, "fill", filled)


def watch_blocks(world: World, model: Model) -> None:
    """The blocks compute, forward and backward."""

    def before(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        world.use(COMPUTE, "forward", [*_weights(module), *given])

    def after(module: nn.Module, given: tuple[Tensor, ...], answer: Tensor) -> None:
        world.use(COMPUTE, "forward", _weights(module), [answer])
        if answer.grad_fn is not None:
            used = [*_weights(module), *given]
            answer.grad_fn.register_hook(lambda *_: world.use(COMPUTE, "backward", used) and None)

    for module in model.modules:
        module.register_forward_pre_hook(before)
        module.register_forward_hook(after)


def _weights(module: nn.Module) -> list[Tensor]:
    return [parameter.data for parameter in module.parameters()]


@pytest.mark.parametrize(("direct", "piece"), [(True, 0), (False, 1024), (False, 64)])
@pytest.mark.parametrize("kept_pinned", [True, False])
@pytest.mark.parametrize("swapped", [2, 5, 6])
@pytest.mark.parametrize("ring", [1, 2, 3])
def test_events_order_every_two_uses_of_a_buffer(
    ring: int,
    swapped: int,
    kept_pinned: bool,
    direct: bool,
    piece: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Blocks of 320 bytes are copied directly, or through pieces as large as may be or of 64 bytes.

    Kept inputs wait in pinned memory, or in memory that could not be pinned.
    """
    monkeypatch.setattr("maskora.streaming.transfer.STAGING_PIECE", piece)
    world = World()
    transfer = recorder(world)
    monkeypatch.setattr("maskora.streaming.engine.HostToDevice", transfer)
    watch_memory(world, monkeypatch)
    model = Model(6, swapped, ring, direct, transfer=transfer)
    if not kept_pinned:
        model.offload.pins = Pins(Quota(0))
    watch_staging(world, model, monkeypatch)
    watch_blocks(world, model)
    for number in range(3):
        x = torch.full((2, WIDTH), float(number))
        model.train(x)
        model.train(x)
        model.infer(x)
    model.infer(x)  # the next round is on its way when all is closed
    model.streamer.close()
    model.offload.close()
    assert world.races == set()
    transfers = [kind for kind in world.kinds if kind.startswith("copy")]
    assert len(transfers) == 3  # the weights', the inputs' way out, and their way back
    assert {"forward", "backward", "freed", "looking"} <= world.kinds
