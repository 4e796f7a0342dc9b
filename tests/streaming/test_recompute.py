"""Recomputation's kept inputs: what is sent away, when it comes back, that nothing of it stays."""

import gc
import threading
import weakref

import pytest
import torch
from torch import Tensor, nn

from maskora.streaming import recompute
from maskora.streaming.host_memory import Pins
from maskora.streaming.recompute import ActivationOffload, Kept
from maskora.streaming.transfer import HostToDevice
from tests.streaming.drivers import Quota
from tests.streaming.ring import CPU, WIDTH, Model

COUNT = 5


class Counted(HostToDevice):
    """Remembers what it copied."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.copied: list[Tensor] = []

    def copy(self, source: Tensor, target: Tensor, *after: object) -> object:
        self.copied.append(source.detach().clone())
        return super().copy(source, target, *after)


class Scaled(nn.Linear):
    """A block that is also given something which it does not carry on."""

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        return super().forward(x) * scale


def ring_model(offload: bool, kind: type[nn.Linear] = nn.Linear) -> tuple[Model, Counted, Counted]:
    """A model that keeps its inputs, and the transfers out and in."""
    model = Model(COUNT, COUNT, ring=2, direct=True, kind=kind)
    out, back = Counted(CPU), Counted(CPU)
    model.offload = model.checkpoint.offload = ActivationOffload(out, back, offload)
    return model, out, back


def ones() -> Tensor:
    return torch.ones(3, WIDTH)


def forward(model: Model, blocks: int = COUNT) -> Tensor:
    """What some blocks make of ones, with a graph."""
    x = ones().requires_grad_()
    for module in model.modules[:blocks]:
        x = model.checkpoint(module, x)
    return x


@pytest.mark.parametrize("offload", [True, False])
def test_a_step_sends_every_input_but_the_last_blocks_away_and_back_once(offload: bool) -> None:
    model, out, back = ring_model(offload)
    for step in (1, 2):
        model.train(ones())
        sent = (COUNT - 1) * step if offload else 0
        assert len(out.copied) == len(back.copied) == sent


def test_only_what_a_block_carries_on_is_sent() -> None:
    model, out, _ = ring_model(True, Scaled)
    given: list[Tensor] = []
    for module in model.modules:
        module.register_forward_pre_hook(lambda module, args: given.append(args[0].detach()))
    model.train(ones(), torch.full((3, 1), 7.0))
    assert len(out.copied) == COUNT - 1
    for sent, carried in zip(out.copied, given[: COUNT - 1], strict=True):
        assert torch.equal(sent, carried)


def test_the_earlier_blocks_input_is_on_its_way_when_a_blocks_backward_begins() -> None:
    model, out, back = ring_model(True)
    begun: list[int] = []

    def look(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if torch.is_grad_enabled():  # only then does a block run with a graph
            begun.append(len(back.copied))

    for module in model.modules:
        module.register_forward_pre_hook(look)
    model.train(ones())
    assert begun == [1, 2, 3, 4, 4]  # of the blocks 4, 3, 2, 1, 0
    for one, other in zip(back.copied, reversed(out.copied), strict=True):
        assert torch.equal(one, other)


def test_host_buffers_serve_again_from_the_second_step_on(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    host_buffer = recompute.host_buffer

    def counted(nbytes: int) -> Tensor:
        sizes.append(nbytes)
        return host_buffer(nbytes)

    monkeypatch.setattr(recompute, "host_buffer", counted)
    model, _, _ = ring_model(True)
    model.train(ones())
    assert sizes == [3 * WIDTH * 4] * (COUNT - 1)
    for _ in range(3):
        model.train(ones())
    assert len(sizes) == COUNT - 1


@pytest.fixture
def remembered(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[object]]:
    """All that keepers keep: records, and the tensors of the device that they were given."""
    known: list[weakref.ref[object]] = []
    original = ActivationOffload.keep

    def watched(self: ActivationOffload, index: int, values: list[Tensor], *rest: object) -> Kept:
        kept = original(self, index, values, *rest)  # type: ignore[arg-type]
        known.extend(weakref.ref(one) for one in (kept, *kept.away))
        known.extend(weakref.ref(value.untyped_storage()) for value in values)
        return kept

    monkeypatch.setattr(ActivationOffload, "keep", watched)
    return known


def alive(known: list[weakref.ref[object]]) -> int:
    gc.collect()
    return sum(one() is not None for one in known)


@pytest.mark.parametrize(
    ("offload", "expected"), [(True, [0, 1, 1, 1, 1]), (False, [0, 1, 2, 3, 4])]
)
def test_what_was_sent_leaves_the_device_one_block_later(
    offload: bool, expected: list[int], remembered: list[weakref.ref[object]]
) -> None:
    model, _, _ = ring_model(offload)
    counts: list[int] = []
    x = ones()
    for module in model.modules:
        counts.append(sum(isinstance(one(), torch.UntypedStorage) for one in remembered))
        x = model.checkpoint(module, x)
    assert counts == expected  # kept inputs on the device when each block begins


@pytest.mark.parametrize("offload", [True, False])
@pytest.mark.parametrize(("blocks", "backward"), [(COUNT, True), (COUNT - 1, True), (COUNT, False)])
def test_nothing_of_a_step_stays_after_backward_or_once_its_output_is_gone(
    offload: bool, blocks: int, backward: bool, remembered: list[weakref.ref[object]]
) -> None:
    """Whether it ends at the turn, or before it with an input still on its way out."""
    model, _, _ = ring_model(offload)
    x = forward(model, blocks)
    assert alive(remembered) > blocks
    if backward:
        x.sum().backward()
        assert model.offload._last is None
        gc.collect()
        held = sum(not isinstance(one(), Kept | None) for one in remembered)
        assert held <= 1, "the graph is still there, and holds nothing but its leaf"
    del x
    assert alive(remembered) == 0
    assert model.offload._leaving == []


@pytest.mark.parametrize(("offload", "quota"), [(True, 10**6), (True, 0), (False, 0)])
def test_inputs_of_every_size_and_type_come_back_as_they_were(offload: bool, quota: int) -> None:
    keeping = ActivationOffload(HostToDevice(CPU), HostToDevice(CPU), offload, Pins(Quota(quota)))
    numbers = torch.Generator().manual_seed(0)
    for _ in range(3):
        inputs: list[list[Tensor]] = [
            [torch.randn(3, 4, generator=numbers), torch.randn(2, 5, generator=numbers)],
            [torch.randn(3, 4, generator=numbers), torch.randn(12, generator=numbers)],
            [torch.randn(7, 2, generator=numbers).bfloat16()],
            [torch.randint(9, (6,), generator=numbers), torch.randn((), generator=numbers)],
            [torch.randn(4, 3, generator=numbers).T],
        ]
        expected = [[value.clone() for value in values] for values in inputs]
        kept = [keeping.keep(i, v, None, turns=False) for i, v in enumerate(inputs)]
        for index in reversed(range(len(inputs))):
            found = keeping.bring_back(kept[index])
            for one, other in zip(found, expected[index], strict=True):
                assert one.dtype == other.dtype
                assert torch.equal(one, other)
                assert (one.data_ptr() in [v.data_ptr() for v in inputs[index]]) != offload


def test_gradients_are_those_of_inputs_that_stayed() -> None:
    there, away = ring_model(False)[0], ring_model(True)[0]
    for seed in range(3):
        x = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(there.train(x), away.train(x))


class Busy(HostToDevice):
    """A device that is busy until it is told to go on; its events are events of this process."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.done = threading.Event()
        self.copied: list[Tensor] = []

    def now(self) -> threading.Event:
        return self.done

    def synchronize(self, event: threading.Event | None) -> None:
        assert threading.current_thread() is not threading.main_thread()
        assert event is None or event.wait(20)

    def copy(self, source: Tensor, target: Tensor, *after: object) -> None:
        self.copied.append(source)
        return super().copy(source, target)

    def wait(self, event: object) -> None:
        assert event is None


def test_an_input_that_cannot_be_pinned_lets_the_main_thread_go_on() -> None:
    """The copy from a busy device to ordinary memory, and back, is waited for by another thread."""
    out, back = Busy(CPU), Busy(CPU)
    keeping = ActivationOffload(out, back, enabled=True, pins=Pins(Quota(0)))
    given = ones()
    kept = keeping.keep(0, [given.clone()], out.now(), turns=False)
    assert out.copied == []  # the device is busy still, and yet we are here
    out.done.set()
    keeping.keep(1, [], out.now(), turns=True)
    assert len(out.copied) == 1
    taken: list[Tensor] = []
    thread = threading.Thread(target=lambda: taken.extend(keeping.bring_back(kept)))
    thread.start()
    thread.join(0.2)
    assert back.copied == []
    back.done.set()
    thread.join(20)
    assert torch.equal(taken[0], given)


def test_after_a_backward_pass_that_does_not_come_the_same_memory_serves_again() -> None:
    driver = Quota(2 * 3 * WIDTH * 4)
    model = Model(COUNT, COUNT, ring=2, direct=True)
    model.offload.pins = Pins(driver)
    for _ in range(3):
        forward(model)
        gc.collect()
        model.offload.reset()
    model.train(ones())
    assert len(driver.pinned) == 2
    assert len(driver.asked) == 3
    assert model.offload.pins.lacking_bytes == (COUNT - 1 - 2) * 3 * WIDTH * 4


@pytest.mark.parametrize("quota", [10**6, 0])
def test_a_backward_pass_that_does_not_come_and_closing_leave_no_thread_and_no_memory(
    quota: int, remembered: list[weakref.ref[object]]
) -> None:
    driver, before = Quota(quota), set(threading.enumerate())
    model = Model(COUNT, COUNT, ring=2, direct=True)
    model.offload.pins = Pins(driver)
    expected = model.train(ones())
    forward(model, 3)
    model.offload.reset()
    assert torch.equal(model.train(ones()), expected)
    model.offload.close()
    model.offload.close()
    assert alive(remembered) == 0
    assert driver.pinned == {}
    new = set(threading.enumerate()) - before
    assert not any("keeping" in thread.name for thread in new)
