"""Under a quota of memory that can be pinned, what helps most is pinned, and nothing else changes.

A GB is a quarter of a MB here: 36 blocks of 0.8, staging in four pieces of 1/16, kept inputs.
"""

import gc
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from maskora.streaming.blocks import precise
from maskora.streaming.placement import Placement
from maskora.streaming.sources import HostBlocks
from maskora.streaming.tensor_files import ModuleReader
from maskora.streaming.weights import StreamedWeights, stream_weights
from tests.streaming.drivers import Quota

GB = 2**18
BLOCKS, WIDTH, ROWS = 36, 229, 14
PIECE = GB // 16
KEPT = BLOCKS - 1  # the turn's input stays
CPU = torch.device("cpu")


class Deep(nn.Module):
    """Linear blocks, one after another."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(BLOCKS))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Many small products: several threads would wait for each other longer than they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def original() -> Deep:
    torch.manual_seed(0)
    return Deep().requires_grad_(False)


@dataclass
class Machine:
    """A streamed model on a machine whose driver has a quota."""

    model: Deep
    supplied: StreamedWeights
    driver: Quota

    def infer(self) -> Tensor:
        with torch.no_grad():
            return self.model(given())

    def train(self) -> Tensor:
        x = given().requires_grad_()
        y = x
        for block in self.model.blocks:
            y = self.supplied.checkpoint(block, y)
        y.square().sum().backward()
        assert x.grad is not None
        return x.grad

    @property
    def pieces(self) -> int:
        """How many staging pieces there are, pinned or not, once they are at rest."""
        staging = self.supplied.streamer._staging
        staging._worker.submit(lambda: None).result()
        return len(staging.buffers)

    def count(self, nbytes: int) -> int:
        """How many buffers of a size are pinned."""
        return list(self.driver.pinned.values()).count(nbytes)

    @property
    def pinned(self) -> dict[str, int]:
        """How many buffers of each kind are pinned."""
        return {
            "staging": self.count(PIECE),
            "kept": self.count(ROWS * WIDTH * 4),
            "blocks": self.count(self.supplied.streamer.blocks[0].layout.nbytes),
        }


Machines = Callable[..., Machine]


def given() -> Tensor:
    return torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def machine(original: Deep, monkeypatch: pytest.MonkeyPatch) -> Machines:
    """Streams the model on a machine that pins so many GB."""
    monkeypatch.setattr("maskora.streaming.transfer.STAGING_PIECE", PIECE)

    def make(
        quota: float, weights: str = "pinned", offload: bool = True, streamed: int = BLOCKS
    ) -> Machine:
        driver = Quota(int(quota * GB))
        monkeypatch.setattr("maskora.streaming.engine.driver_of", lambda device: driver)
        with torch.device("meta"):
            model = Deep().requires_grad_(False)
        placement = Placement(streamed, weights, activation_offload=offload)
        reader, precision = ModuleReader(original), precise(torch.float32)
        supplied = stream_weights(model, model.blocks, reader, precision, placement, CPU)
        return Machine(model, supplied, driver)

    return make


@pytest.fixture
def gradient(original: Deep) -> Tensor:
    """What training must find."""
    x = given().requires_grad_()
    original(x).square().sum().backward()
    assert x.grad is not None
    return x.grad


TRAINED = {
    0.0: {"staging": 0, "kept": 0, "blocks": 0},
    0.2: {"staging": 3, "kept": 0, "blocks": 0},
    0.5: {"staging": 4, "kept": 5, "blocks": 0},
    1.0: {"staging": 4, "kept": 15, "blocks": 0},
    16.0: {"staging": 4, "kept": KEPT, "blocks": 17},
    40.0: {"staging": 0, "kept": KEPT, "blocks": BLOCKS},
}


@pytest.mark.parametrize("quota", TRAINED)
def test_training_pins_staging_then_kept_inputs_then_blocks(
    machine: Machines,
    gradient: Tensor,
    original: Deep,
    quota: float,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ours = machine(quota)
    assert ours.count(ours.supplied.streamer.blocks[0].layout.nbytes) == 0
    assert torch.equal(ours.train(), gradient)
    assert ours.pinned == TRAINED[quota]
    assert ours.pieces == (0 if quota == 40 else TRAINED[quota]["staging"] or 4)
    granted = sum(TRAINED[quota].values())
    asked = len(ours.driver.asked)
    assert asked <= max(granted, 4 + KEPT + BLOCKS if quota == 40 else 0) + 2
    assert torch.equal(ours.train(), gradient)
    assert torch.equal(ours.infer(), original(given()))
    assert len(ours.driver.asked) == asked  # what was refused is not tried again
    notes = [entry.getMessage() for entry in caplog.records if entry.levelno >= logging.WARNING]
    assert len(notes) == (0 if quota == 40 else 1)
    ours.supplied.close()
    del ours.supplied
    gc.collect()
    assert ours.driver.pinned == {}


def test_one_line_says_what_was_pinned_and_what_it_costs(
    machine: Machines, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("maskora.streaming.placement.GIB", GB)
    machine(16).train()
    machine(1).train()
    assert caplog.messages == [
        "note: pinned: staging and kept inputs 2.0 GB, 17 of 36 streamed blocks; the other 19 "
        "(15.3 GB) are copied through staging by the CPU at each visit, which takes longer than "
        "from pinned memory (the system pins no more: out of memory)",
        "note: pinned: staging and kept inputs 1.0 of 2.0 GB, 0 of 36 streamed blocks; the other "
        "36 (28.9 GB) are copied through staging by the CPU at each visit, which takes longer "
        "than from pinned memory (the system pins no more: out of memory)",
    ]


@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize(("quota", "blocks"), [(0.5, 0), (2.0, 2), (16.0, 19), (40.0, BLOCKS)])
def test_where_nothing_is_kept_blocks_are_pinned_at_the_first_visit(
    machine: Machines, original: Deep, quota: float, blocks: int, offload: bool
) -> None:
    """Whether inputs could be kept or not: inference keeps none."""
    ours = machine(quota, offload=offload)
    assert ours.pinned["blocks"] == 0  # samples on their way come first
    assert torch.equal(ours.infer(), original(given()))
    assert ours.pinned == {"staging": 0 if quota == 40 else 4, "kept": 0, "blocks": blocks}
    assert torch.equal(ours.infer(), original(given()))
    assert torch.equal(ours.infer(), original(given()))


@pytest.mark.parametrize("weights", ["pageable", "mapped"])
def test_what_shall_not_be_pinned_is_not(
    machine: Machines, gradient: Tensor, weights: str, caplog: pytest.LogCaptureFixture
) -> None:
    ours = machine(16, weights)
    assert torch.equal(ours.train(), gradient)
    assert ours.pinned == {"staging": 4, "kept": KEPT, "blocks": 0}
    assert caplog.messages == []
    with_little = machine(0.5, weights)
    assert torch.equal(with_little.train(), gradient)
    assert len(caplog.messages) == 1
    assert "blocks" not in caplog.messages[0]


@pytest.mark.parametrize("quota", [16.0, 29.2])
def test_inputs_that_are_kept_later_take_the_place_of_blocks(
    machine: Machines, gradient: Tensor, original: Deep, quota: float
) -> None:
    """As when memory has run out in mid-run, and inputs wait in RAM from then on."""
    ours = machine(quota, offload=False)
    assert torch.equal(ours.infer(), original(given()))
    before = ours.pinned
    assert before["blocks"] == (19 if quota == 16 else BLOCKS)
    ours.supplied.checkpoint.offload.enabled = True
    for _ in range(2):
        assert torch.equal(ours.train(), gradient)
    after = ours.pinned
    assert after["kept"] == KEPT
    # 1.7 GB of inputs, and of staging where all was pinned, in place of so few blocks of 0.8.
    assert before["blocks"] - after["blocks"] <= 3
    assert after["staging"] == 4
    assert torch.equal(ours.infer(), original(given()))


def test_what_a_failed_step_has_kept_is_forgotten_where_memory_is_given_back(
    machine: Machines, gradient: Tensor
) -> None:
    ours = machine(0.5)
    assert torch.equal(ours.train(), gradient)
    before = ours.pinned
    y = given().requires_grad_()
    for block in ours.model.blocks[:9]:
        y = ours.supplied.checkpoint(block, y)
    del y
    assert ours.supplied.give_way(training=True) is not None
    assert ours.supplied.checkpoint.offload._leaving == []
    assert torch.equal(ours.train(), gradient)
    assert ours.pinned == before


def test_inputs_that_are_kept_later_and_cannot_be_pinned_are_told(
    machine: Machines, gradient: Tensor, original: Deep, caplog: pytest.LogCaptureFixture
) -> None:
    ours = machine(0.5, weights="pageable", offload=False)
    assert torch.equal(ours.infer(), original(given()))
    ours.supplied.checkpoint.offload.enabled = True
    for _ in range(2):
        assert torch.equal(ours.train(), gradient)
    assert ours.pinned == {"staging": 4, "kept": 5, "blocks": 0}
    (note,) = caplog.messages
    assert "no more memory can be pinned (out of memory)" in note


@pytest.mark.parametrize(("quota", "blocks"), [(0.5, 0), (10, 9), (40, 24)])
def test_blocks_that_are_streamed_later_are_pinned_where_there_is_room(
    machine: Machines, gradient: Tensor, original: Deep, quota: float, blocks: int
) -> None:
    """As when memory has run out in mid-run, and fewer blocks stay from then on."""
    ours = machine(quota, streamed=12)
    assert torch.equal(ours.train(), gradient)
    streamer = ours.supplied.streamer
    streamer.shrink(streamer.resident[:12], ring=1)
    assert torch.equal(ours.train(), gradient)
    assert torch.equal(ours.train(), gradient)
    assert ours.pinned["blocks"] == blocks
    assert ours.pinned["staging"] == (0 if quota == 40 else 4)
    assert torch.equal(ours.infer(), original(given()))


def test_the_blocks_that_training_loads_twice_are_pinned_first(machine: Machines) -> None:
    ours = machine(5)
    ours.train()
    source: Any = ours.supplied.streamer._source
    assert isinstance(source, HostBlocks)
    assert source._pinned == [17, 18, 16]
