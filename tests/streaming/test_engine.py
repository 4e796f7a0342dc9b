"""The ring on small modules: what is loaded when, how many bytes, and nothing ever back."""

import weakref
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from maskora.errors import Fault
from maskora.streaming.engine import order_from
from maskora.streaming.placement import spread
from maskora.streaming.recompute import ActivationOffload, Kept
from maskora.streaming.transfer import HostToDevice
from tests.streaming.ring import WIDTH, Model


def test_training_visits_forward_then_backward_and_keeps_the_turns() -> None:
    model = Model(count=6, swapped=6, ring=2, direct=True)
    model.train(torch.ones(1, WIDTH))
    assert model.loads() == [0, 1, 2, 3, 4, 5, 3, 2, 1, 0]
    model.train(torch.ones(1, WIDTH))
    assert model.loads() == [2, 3, 4, 5, 3, 2, 1, 0]


def test_inference_goes_round_and_the_next_round_is_on_its_way() -> None:
    model = Model(count=5, swapped=5, ring=2, direct=True)
    model.infer(torch.ones(1, WIDTH))
    assert model.loads() == [0, 1, 2, 3, 4, 0]
    model.infer(torch.ones(1, WIDTH))
    assert model.loads() == [1, 2, 3, 4, 0]


def test_resident_blocks_never_travel() -> None:
    model = Model(count=6, swapped=3, ring=2, direct=True)
    for _ in range(2):
        model.train(torch.ones(1, WIDTH))
    assert set(model.loads()) == set(model.streamed) == {0, 2, 4}
    still = Model(count=4, swapped=0, ring=2, direct=True)
    still.train(torch.ones(1, WIDTH))
    assert still.streamer.traffic.bytes == 0


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 9), share=st.floats(0, 1), ring=st.integers(1, 4), pieces=st.integers(0, 6)
)
def test_a_step_moves_twice_the_streamed_blocks_less_the_ring_and_gives_the_same_numbers(
    count: int, share: float, ring: int, pieces: int
) -> None:
    """Copied directly, or through staging in pieces of any size."""
    swapped = round(share * count)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("maskora.streaming.transfer.STAGING_PIECE", 64 * pieces)
        model = Model(count, swapped, ring, direct=pieces == 0)
    resident = Model(count, 0, ring, direct=True)
    x = torch.ones(2, WIDTH)
    assert torch.equal(model.train(x), resident.train(x))  # fills the ring
    before = model.streamer.traffic.bytes
    assert torch.equal(model.train(x), resident.train(x))
    assert model.streamer.traffic.bytes - before == 2 * max(swapped - ring, 0) * model.size
    before = model.streamer.traffic.bytes
    assert torch.equal(model.infer(x), resident.infer(x))
    assert torch.equal(model.infer(x), resident.infer(x))
    moved = model.streamer.traffic.bytes - before
    assert moved <= 2 * swapped * model.size
    assert (moved > 0) == (swapped > ring)
    model.streamer.close()


@pytest.mark.parametrize("direct", [True, False])
def test_nothing_is_copied_back_to_where_the_weights_live(
    direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies: list[tuple[int, int]] = []
    copy = HostToDevice.copy

    def counted(self: HostToDevice, source: Tensor, target: Tensor, *after: object) -> object:
        copies.append((source.data_ptr(), target.data_ptr()))
        return copy(self, source, target, *after)

    monkeypatch.setattr(HostToDevice, "copy", counted)
    model = Model(count=6, swapped=4, ring=2, direct=direct)
    stored = [buffer.clone() for buffer in model.memory.buffers]
    model.train(torch.ones(1, WIDTH))
    homes = {buffer.data_ptr() for buffer in model.memory.buffers}
    ring = {target for source, target in copies if source in homes}
    assert len(ring) == (2 if direct else 0)
    assert not homes & {target for _, target in copies}
    assert not ring & {source for source, _ in copies}
    assert all(torch.equal(a, b) for a, b in zip(stored, model.memory.buffers, strict=True))


@pytest.mark.parametrize("backward", [False, True])
def test_a_failing_load_is_told_where_the_weights_are_needed(backward: bool) -> None:
    model = Model(count=6, swapped=6, ring=2, direct=False)
    model.infer(torch.ones(1, WIDTH))
    model.memory.broken = True
    with pytest.raises(Fault, match="the disk is gone"):
        (model.train if backward else model.infer)(torch.ones(1, WIDTH))


def test_between_visits_and_after_closing_the_weights_are_loudly_absent() -> None:
    model = Model(count=4, swapped=4, ring=2, direct=True)
    model.infer(torch.ones(1, WIDTH))
    assert model.modules[1](torch.ones(1, WIDTH)).isnan().all()
    model.streamer.close()
    assert all(m(torch.ones(1, WIDTH)).isnan().all() for m in model.modules)


@pytest.mark.parametrize("offload", [True, False])
def test_the_first_block_learns_though_its_input_needs_no_gradient(offload: bool) -> None:
    model = Model(count=3, swapped=3, ring=2, direct=True)
    model.offload.enabled = offload
    scale = nn.Parameter(torch.ones(()))
    model.modules[0].register_forward_hook(lambda module, given, answer: answer * scale)
    x = torch.ones(1, WIDTH)
    for module in model.modules:
        x = model.checkpoint(module, x)
    x.sum().backward()
    assert scale.grad is not None
    assert scale.grad != 0


@pytest.mark.parametrize("offload", [True, False])
def test_kept_inputs_are_let_go_as_backward_passes_them(
    offload: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model(count=6, swapped=6, ring=2, direct=True)
    model.offload.enabled = offload
    alive: list[weakref.ref[Tensor]] = []
    bring_back = ActivationOffload.bring_back

    def watched(self: ActivationOffload, kept: Kept) -> list[Tensor]:
        values = bring_back(self, kept)
        alive.extend(weakref.ref(value) for value in values)
        counts.append(sum(one() is not None for one in alive))
        return values

    counts: list[int] = []
    monkeypatch.setattr(ActivationOffload, "bring_back", watched)
    x = torch.ones(1, WIDTH, requires_grad=True)
    y = x
    for module in model.modules:
        y = model.checkpoint(module, y)
    y.sum().backward()  # the graph is still there
    assert len(counts) == 6
    assert max(counts) <= 2


@given(count=st.integers(1, 12), data=st.data())
def test_the_order_of_visits_starts_here_and_misses_no_block(
    count: int, data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, count - 1))
    for direction in ("generate", "forward", "backward"):
        order = order_from(index, count, direction)
        assert order[0] == index
        assert set(order) == set(range(count))


@given(count=st.integers(1, 60), data=st.data())
def test_streamed_blocks_are_spread_evenly(count: int, data: st.DataObject) -> None:
    chosen = data.draw(st.integers(0, count))
    blocks = spread(count, chosen)
    assert len(set(blocks)) == len(blocks) == chosen
    gaps = (
        [b - a for a, b in zip(blocks, [*blocks[1:], count + blocks[0]], strict=True)]
        if blocks
        else []
    )
    assert not gaps or max(gaps) - min(gaps) <= 1


@settings(max_examples=30, deadline=None)
@given(count=st.integers(2, 8), share=st.floats(0, 1), more=st.floats(0, 1), ring=st.integers(1, 4))
def test_a_ring_that_shrinks_or_takes_more_blocks_gives_the_same_numbers(
    count: int, share: float, more: float, ring: int
) -> None:
    model, resident = Model(count, round(share * count), 2, direct=False), Model(count, 0, 2, True)
    x = torch.ones(2, WIDTH)
    assert torch.equal(model.train(x), resident.train(x))
    stay = model.streamer.resident
    chosen = stay[: round(more * len(stay))]
    model.streamer.shrink(chosen, ring)
    assert set(chosen) <= set(model.streamer.streamed)
    assert model.streamer.ring == min(ring, len(model.streamer.streamed))
    for _ in range(2):
        assert torch.equal(model.train(x), resident.train(x))
        assert torch.equal(model.infer(x), resident.infer(x))


def test_nothing_of_what_is_given_back_is_held_when_the_new_ring_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Model(count=6, swapped=3, ring=3, direct=True)
    model.train(torch.ones(1, WIDTH))
    streamer = model.streamer
    buffers = [slot.buffer for slot in streamer._slots]
    buffers += [streamer.blocks[index].buffer for index in streamer.resident]
    gone = [weakref.ref(buffer.untyped_storage()) for buffer in buffers]
    del buffers
    make = streamer._make_ring

    def check_and_make(ring: int) -> list[Any]:
        assert [ref() for ref in gone] == [None] * 6
        return make(ring)

    monkeypatch.setattr(streamer, "_make_ring", check_and_make)
    streamer.shrink(streamer.resident, 2)
    assert streamer.resident == []


def test_what_could_not_be_loaded_does_not_keep_a_ring_from_shrinking() -> None:
    model = Model(6, 6, 2, direct=False)
    expected, model.memory.broken = model.infer(torch.ones(1, WIDTH)), True
    with pytest.raises(Fault, match="the disk is gone"):
        model.infer(torch.ones(1, WIDTH))
    model.memory.broken = False
    model.streamer.shrink([], 1)
    assert torch.equal(model.infer(torch.ones(1, WIDTH)), expected)
