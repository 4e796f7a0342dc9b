"""On the way to the device: blocks in pieces, which arrive as they were sent, and small tensors."""

import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from maskora.errors import Fault
from maskora.streaming import engine, transfer
from maskora.streaming.host_memory import Pins
from maskora.streaming.placement import STAGING_PIECE, STAGING_PIECES
from maskora.streaming.transfer import SAMPLES, Event, HostToDevice, Staging, sample, upload
from tests.streaming.ring import CPU, WIDTH, Memory, Model


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> int:
    """Pieces of 64 bytes: a block of the ring's models has five."""
    monkeypatch.setattr(transfer, "STAGING_PIECE", 64)
    return 64


@pytest.mark.parametrize(
    ("room", "size"), [(0, 64), (256, 64), (1000, 256), (4 * 2**20, 2**20), (2**40, STAGING_PIECE)]
)
def test_pieces_are_few_and_take_no_more_than_the_ring(room: int, size: int) -> None:
    way = Staging(HostToDevice(CPU), Pins(), room)
    way.stock()
    assert [len(one) for one in way.buffers] == [size] * STAGING_PIECES


def test_a_piece_is_on_its_way_while_the_next_is_filled(
    small_pieces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    fill, copy = Memory.fill, HostToDevice.copy

    def filled(self: Memory, index: int, out: Tensor, start: int = 0) -> None:
        said.append(f"fill {index} from {start}")
        fill(self, index, out, start)

    def copied(self: HostToDevice, source: Tensor, target: Tensor, *after: Event) -> Event:
        said.append(f"copy {len(source)}")
        return copy(self, source, target, *after)

    monkeypatch.setattr(Memory, "fill", filled)
    monkeypatch.setattr(HostToDevice, "copy", copied)
    model = Model(1, 1, ring=1, direct=False)
    assert model.size == 320
    model.infer(torch.ones(1, WIDTH))
    assert said == [
        f"{what} 0 from {start}" if what == "fill" else "copy 64"
        for start in range(0, 320, 64)
        for what in ("fill", "copy")
    ]


@pytest.mark.parametrize("direct", [True, False])
def test_the_main_thread_waits_for_the_device_only_when_a_block_comes_first(
    direct: bool, small_pieces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[str] = []

    class Told(HostToDevice):
        def synchronize(self, event: Event) -> None:
            waits.append(threading.current_thread().name.partition("_")[0])

        def drain(self) -> None:
            waits.append("drain")

        def read_back(self, tensor: Tensor, event: Event) -> Tensor:
            waits.append("look")
            return super().read_back(tensor, event)

    monkeypatch.setattr(engine, "HostToDevice", Told)
    model = Model(6, 5, ring=2, direct=direct, transfer=Told)
    x = torch.ones(1, WIDTH)
    model.train(x)
    assert waits.count("look") == 5
    waits.clear()
    model.train(x)
    model.infer(x)
    assert set(waits) == (set() if direct else {"maskora-streaming"})


def test_a_failure_within_a_block_loses_no_piece(small_pieces: int) -> None:
    model = Model(6, 6, ring=2, direct=False)
    x = torch.ones(1, WIDTH)
    expected = model.infer(x)
    fill = model.memory.fill

    def fill_some(index: int, out: Tensor, start: int = 0) -> None:
        model.memory.broken = start >= 2 * 64
        fill(index, out, start)

    model.memory.fill = fill_some  # type: ignore[method-assign]
    for _ in range(3):
        with pytest.raises(Fault, match="the disk is gone"):
            model.infer(x)
    model.memory.fill, model.memory.broken = fill, False  # type: ignore[method-assign]
    with pytest.raises(Fault):  # of the block that was on its way then
        model.infer(x)
    assert torch.equal(model.infer(x), expected)
    model.streamer._staging._worker.submit(lambda: None).result()
    assert len(model.streamer._staging.buffers) == STAGING_PIECES


def model_of_copies(count: int, direct: bool, monkeypatch: pytest.MonkeyPatch) -> Model:
    """After so many copies to the device all others silently do nothing."""
    left = iter(range(count))

    class Idle(HostToDevice):
        def copy(self, source: Tensor, target: Tensor, *after: Event) -> Event:
            return None if next(left, None) is None else super().copy(source, target, *after)

    monkeypatch.setattr(engine, "HostToDevice", Idle)
    model = Model(6, 6, ring=2, direct=direct)
    for slot in model.streamer._slots:
        slot.buffer.zero_()  # fresh memory might hold the blocks of another test
    return model


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("count", [0, 1, 4])
def test_a_copy_that_does_nothing_is_told_when_the_block_is_needed(
    direct: bool, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of_copies(count, direct, monkeypatch)
    block = count if direct else count // 2  # which has two pieces then
    with pytest.raises(Fault, match=rf"block {block} of the .*memory\.weights = \"pageable\""):
        model.infer(torch.ones(1, WIDTH))


def test_a_piece_that_does_not_arrive_is_told_too(
    small_pieces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of_copies(3, False, monkeypatch)  # of the five of the first block
    with pytest.raises(Fault, match="block 0 of the weights"):
        model.infer(torch.ones(1, WIDTH))


@given(
    whole=st.integers(1, 5000),
    piece=st.integers(1, 700),
    wide=st.integers(0, 3).map(lambda n: 1 << n),
)
def test_samples_of_the_pieces_are_the_sample_of_the_block(
    whole: int, piece: int, wide: int
) -> None:
    block = torch.arange(whole, dtype=torch.int32)
    parts = [sample(block[start : start + piece], start, whole) for start in range(0, whole, piece)]
    found = torch.cat(parts)
    assert torch.equal(found, sample(block))
    assert len(found) <= 2 * SAMPLES
    if whole >= 8 * SAMPLES:  # all kinds of bytes of values of several bytes are among them
        assert set((found % wide).tolist()) == set(range(wide))
        assert max(torch.diff(found)) <= whole // SAMPLES + 1


FULL = "CUDA error: out of memory"


@pytest.mark.parametrize("error", [None, FULL, "something else"])
def test_what_a_gpu_gets_is_pinned_until_that_is_refused(
    error: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Tensor] = []

    def pin_memory(tensor: Tensor) -> Tensor:
        asked.append(tensor)
        if error is not None:
            raise torch.AcceleratorError(error)
        return tensor.clone()

    def to(tensor: Tensor, device: torch.device, non_blocking: bool) -> Tensor:
        assert non_blocking
        return tensor

    monkeypatch.setattr(Tensor, "pin_memory", pin_memory)
    monkeypatch.setattr(Tensor, "to", to)
    monkeypatch.setattr(transfer, "_unpinnable", set())
    device, given = torch.device("cuda", 1), torch.ones(3)
    if error == "something else":
        with pytest.raises(RuntimeError, match=error):
            upload(given, device)
        return
    sent = [upload(given, device) for _ in range(2)]
    assert all((one is given) == (error is not None) for one in sent)
    assert len(asked) == (1 if error else 2)  # what was refused is not tried again


def test_a_device_in_the_hosts_own_memory_gets_the_tensor_itself() -> None:
    given = torch.ones(3)
    assert upload(given, CPU) is given
