"""The loop: it learns, keeps time, and goes on where it was stopped."""

import itertools
import json
import signal
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from maskora.errors import Fault
from research.miniature import fitting
from research.miniature.curves import draw_losses, read_losses
from research.miniature.fitting import Part, average, fit, learning_rate
from research.miniature.optimizer import MuonAdamW


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at it is ten milliseconds later, on whatever machine: a step takes one look."""
    looks = itertools.count()
    monkeypatch.setattr(fitting.time, "monotonic", lambda: next(looks) / 100)


def part(stop_at: int | None = None) -> Part:
    """A matrix that is to become another one."""
    torch.manual_seed(0)
    module = nn.Linear(6, 6)
    target = torch.randn(6, 6, generator=torch.Generator().manual_seed(1))

    def loss(step: int, share: float) -> Tensor:
        if step == stop_at:
            signal.raise_signal(signal.SIGINT)
        values = torch.randn(32, 6, generator=torch.Generator().manual_seed(step))
        return (module(values) - values @ target).square().mean()

    return Part("matrix", module, loss, MuonAdamW(module, ["weight"], 0.05, 0.01))


def test_the_loss_falls_and_is_kept_and_drawn(tmp_path: Path) -> None:
    fit(part(), 1.0, tmp_path)
    losses = read_losses(tmp_path / "matrix.jsonl")
    assert len(losses) in (100, 101)
    assert sum(losses[-10:]) < 0.1 * sum(losses[:10])
    draw_losses(tmp_path / "matrix.jsonl", tmp_path / "matrix.png", "a matrix")
    assert (tmp_path / "matrix.png").stat().st_size > 5000


def test_the_time_is_kept(tmp_path: Path) -> None:
    fit(part(), 0.3, tmp_path)
    last = json.loads((tmp_path / "matrix.jsonl").read_text().splitlines()[-1])
    assert last["seconds"] == pytest.approx(0.3, abs=0.011)


def test_the_average_is_what_counts(tmp_path: Path) -> None:
    trained = part()
    fit(trained, 0.2, tmp_path)
    saved = torch.load(tmp_path / "matrix.pt", weights_only=True)
    assert torch.equal(trained.module.weight, saved["average"]["weight"])
    assert not torch.equal(trained.module.weight, saved["module"]["weight"])


def test_interrupted_it_goes_on_from_where_it_was(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(part(stop_at=20), 0.5, tmp_path)
    saved = torch.load(tmp_path / "matrix.pt", weights_only=True)
    assert saved["step"] == 21
    whole, halves = tmp_path / "whole", part()
    fit(halves, 0.5, tmp_path)
    undisturbed = part()
    fit(undisturbed, 0.5, whole)
    stopped, straight = (read_losses(f / "matrix.jsonl") for f in (tmp_path, whole))
    assert len(straight) in (50, 51)
    assert stopped[:50] == pytest.approx(straight[:50])


def test_a_finished_part_is_not_trained_again(tmp_path: Path) -> None:
    first, again = part(), part()
    fit(first, 0.1, tmp_path)
    steps = len(read_losses(tmp_path / "matrix.jsonl"))
    fit(again, 0.1, tmp_path)
    assert len(read_losses(tmp_path / "matrix.jsonl")) == steps
    assert torch.equal(first.module.weight, again.module.weight)


def test_a_gradient_that_is_not_finite_is_a_fault(tmp_path: Path) -> None:
    broken = part()
    broken.module.weight.data.fill_(float("nan"))
    with pytest.raises(Fault, match="matrix, step 0"):
        fit(broken, 1.0, tmp_path)


def test_the_learning_rate_rises_stays_and_falls() -> None:
    assert learning_rate(0, 0.0) < 0.1
    assert learning_rate(1000, fitting.STEADY) == 1
    assert learning_rate(1000, (1 + fitting.STEADY) / 2) == pytest.approx(0.5)
    assert learning_rate(1000, 1.0) == 0


def test_the_average_follows_the_weights() -> None:
    module, kept = nn.Linear(1, 1, bias=False), {}
    module.weight.data.fill_(0.0)
    average(kept, module, 1)
    module.weight.data.fill_(1.0)
    for step in range(2, 5):
        average(kept, module, step)
    assert 0.8 < kept["weight"].item() < 1, "short in the beginning"
    for step in range(100_000, 100_010):
        module.weight.data.fill_(0.0)
        average(kept, module, step)
    assert kept["weight"].item() > 0.7, "long later"
