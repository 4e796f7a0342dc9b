"""The loop learns, keeps time and goes on where it was stopped; what its optimizer does."""

import itertools
import json
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from maskora.errors import Fault
from research.miniature import training
from research.miniature.training import MuonAdamW, Trainable, fit


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at it is ten milliseconds later, on whatever machine: a step takes one look."""
    looks = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: next(looks) / 100)  # nobody else's looks count
    monkeypatch.setattr(training, "time", clock)


def part(stop_at: int | None = None) -> Trainable:
    """A matrix that is to become another one."""
    torch.manual_seed(0)
    module = nn.Linear(6, 6)
    target = torch.randn(6, 6, generator=torch.Generator().manual_seed(1))

    def loss(step: int, share: float) -> Tensor:
        if step == stop_at:
            signal.raise_signal(signal.SIGINT)
        values = torch.randn(32, 6, generator=torch.Generator().manual_seed(step))
        return (module(values) - values @ target).square().mean()

    return Trainable("matrix", module, loss, MuonAdamW(module, ["weight"], 0.05, 0.01))


def test_the_loss_falls_and_is_kept_and_drawn(tmp_path: Path) -> None:
    fit(part(), 1.0, tmp_path)
    losses = training.read_losses(tmp_path / "matrix.jsonl")
    assert len(losses) in (100, 101)
    assert sum(losses[-10:]) < 0.1 * sum(losses[:10])
    training.draw_losses(tmp_path / "matrix.jsonl", tmp_path / "matrix.png", "a matrix")
    assert (tmp_path / "matrix.png").stat().st_size > 5000


def test_the_time_is_kept_and_the_average_is_what_counts(tmp_path: Path) -> None:
    trained, again = part(), part()
    fit(trained, 0.3, tmp_path)
    lines = (tmp_path / "matrix.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["seconds"] == pytest.approx(0.3, abs=0.011)
    saved = torch.load(tmp_path / "matrix.pt", weights_only=True)
    assert torch.equal(trained.module.weight, saved["average"]["weight"])
    assert not torch.equal(trained.module.weight, saved["module"]["weight"])
    fit(again, 0.3, tmp_path)  # what is finished is not trained again
    assert (tmp_path / "matrix.jsonl").read_text().splitlines() == lines
    assert torch.equal(trained.module.weight, again.module.weight)


def test_interrupted_it_goes_on_from_where_it_was(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(part(stop_at=20), 0.5, tmp_path)
    saved = torch.load(tmp_path / "matrix.pt", weights_only=True)
    assert saved["step"] == 21
    whole, halves = tmp_path / "whole", part()
    fit(halves, 0.5, tmp_path)
    undisturbed = part()
    fit(undisturbed, 0.5, whole)
    stopped, straight = (training.read_losses(f / "matrix.jsonl") for f in (tmp_path, whole))
    assert len(straight) in (50, 51)
    assert stopped[:50] == pytest.approx(straight[:50])


def test_a_gradient_that_is_not_finite_is_a_fault(tmp_path: Path) -> None:
    broken = part()
    broken.module.weight.data.fill_(float("nan"))
    with pytest.raises(Fault, match="matrix, step 0"):
        fit(broken, 1.0, tmp_path)


def test_the_learning_rate_rises_stays_and_falls() -> None:
    assert training.learning_rate(0, 0.0) < 0.1
    assert training.learning_rate(1000, training.STEADY) == 1
    assert training.learning_rate(1000, (1 + training.STEADY) / 2) == pytest.approx(0.5)
    assert training.learning_rate(1000, 1.0) == 0


def test_the_average_follows_the_weights() -> None:
    module, kept = nn.Linear(1, 1, bias=False), {}
    module.weight.data.fill_(0.0)
    training.average(kept, module, 1)
    module.weight.data.fill_(1.0)
    for step in range(2, 5):
        training.average(kept, module, step)
    assert 0.8 < kept["weight"].item() < 1, "short in the beginning"
    for step in range(100_000, 100_010):
        module.weight.data.fill_(0.0)
        training.average(kept, module, step)
    assert kept["weight"].item() > 0.7, "long later"


def test_kernels_are_those_of_convolutions() -> None:
    module = nn.Sequential(nn.Conv3d(2, 4, 3), nn.LayerNorm(4), nn.Linear(4, 4), nn.Conv2d(4, 2, 1))
    assert training.kernel_names(module) == ["0.weight", "3.weight"]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_a_kernels_step_is_orthogonal_however_it_lies(layout: torch.memory_format) -> None:
    """Muon's steps have singular values of about the learning rate, whatever the gradient."""
    torch.manual_seed(0)
    module = nn.Conv3d(3, 8, 3)
    module.weight.data = module.weight.data.contiguous(memory_format=layout)
    before = module.weight.detach().clone()
    optimizer = MuonAdamW(module, ["weight"], muon_lr=0.1, adamw_lr=0.0)
    (module(torch.randn(2, 3, 4, 4, 4)) ** 2).sum().backward()
    optimizer.step(share=0.5)
    moved = (module.weight.detach() - before).flatten(1)
    singular = torch.linalg.svdvals(moved)
    assert ((singular > 0.5 * 0.05) & (singular < 1.5 * 0.05)).all()
    assert module.weight.grad is None


def test_what_is_not_a_kernel_is_moved_by_adamw() -> None:
    module = nn.Conv2d(2, 3, 1)
    bias = module.bias.detach().clone()
    optimizer = MuonAdamW(module, ["weight"], muon_lr=0.0, adamw_lr=0.01)
    module(torch.randn(1, 2, 4, 4)).sum().backward()
    optimizer.step(share=1.0)
    assert torch.allclose(bias - module.bias, torch.full((3,), 0.01), atol=1e-5)


def test_a_state_goes_on_as_if_nothing_had_been() -> None:
    def steps(module: nn.Module, optimizer: MuonAdamW, seeds: range) -> None:
        for seed in seeds:
            values = torch.randn(4, 2, 5, 5, generator=torch.Generator().manual_seed(seed))
            (module(values) ** 2).mean().backward()
            optimizer.step(share=1.0)

    torch.manual_seed(0)
    whole = nn.Conv2d(2, 3, 3)
    halves = nn.Conv2d(2, 3, 3)
    halves.load_state_dict(whole.state_dict())
    steps(whole, MuonAdamW(whole, ["weight"], 0.02, 0.01), range(4))
    first = MuonAdamW(halves, ["weight"], 0.02, 0.01)
    steps(halves, first, range(2))
    second = MuonAdamW(halves, ["weight"], 0.02, 0.01)
    second.load_state_dict(first.state_dict())
    steps(halves, second, range(2, 4))
    assert torch.equal(whole.weight, halves.weight)
    assert torch.equal(whole.bias, halves.bias)
