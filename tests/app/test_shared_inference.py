"""Inference that several processes share out; real processes are in test_together.py."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from maskora.app import passages
from maskora.app.shared_inference import Sharing, share_out
from maskora.ranks import ALONE, Alone, Team
from tests.app.conftest import Run, at, ok

BARE = ["--lora", "none"]
Sampled = list[tuple[int, int]]


@dataclass
class Among(Alone):
    """One of several processes, none of which waits for another."""

    rank: int
    count: int

    def team(self, size: int) -> Team:
        assert size == 1
        return ALONE


@pytest.fixture
def sampled(monkeypatch: pytest.MonkeyPatch) -> Sampled:
    """The segment (from 0) and the seed of everything that is sampled."""
    asked, real = Sampled(), passages.generate

    def generate(config: object, model: object, encoded: dict[int, Any], *rest: Any) -> Any:
        asked.extend((rest[-1], seed) for seed in encoded)
        return real(config, model, encoded, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(passages, "generate", generate)
    return asked


@pytest.mark.parametrize(
    ("processes", "seeds", "runs", "branches", "sharing"),
    [
        (1, 1, 1, True, Sharing()),
        (1, 3, 4, True, Sharing()),
        (2, 2, 1, True, Sharing(teams=2)),
        (2, 1, 1, True, Sharing(size=2)),
        (2, 1, 1, False, Sharing(teams=2, idle=1)),
        (3, 1, 1, True, Sharing(size=2, idle=1)),
        (4, 2, 1, True, Sharing(size=2, teams=2)),
        (3, 2, 1, True, Sharing(teams=3, idle=1)),
        (2, 1, 2, True, Sharing(teams=2, ahead=True)),
        (4, 1, 2, True, Sharing(size=2, teams=2, ahead=True)),
        (4, 1, 3, False, Sharing(teams=4, ahead=True, idle=1)),
        (2, 2, 5, True, Sharing(teams=2)),
        (8, 2, 2, False, Sharing(teams=8, ahead=True, idle=4)),
    ],
)
def test_seeds_come_first_then_runs_of_segments_then_branches(
    processes: int, seeds: int, runs: int, branches: bool, sharing: Sharing
) -> None:
    assert share_out(processes, seeds, runs, branches) == sharing


def test_segments_that_others_have_generated_make_the_same_clip(
    two_shots: Callable[[], Path], run: Run, sampled: Sampled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process after another does its share: the second finds what the first has left.

    The colours of the second shot are held at the first one's, which another process generates.
    """
    alone, shared = two_shots(), two_shots()
    assert "its colours are off" in ok(run("infer", *at(alone), *BARE)).err
    assert sampled == [(0, 0), (1, 0), (2, 0), (3, 0)]
    for again in ([], ["--from", "2"]):
        del sampled[:]
        monkeypatch.setattr("maskora.ranks.joined", lambda: Among(1, 2))
        ok(run("infer", *at(shared), *BARE, *again))
        # The colours have to be known; nobody has generated the first segment yet.
        assert sampled == ([(2, 0), (0, 0), (3, 0)] if not again else [(2, 0), (3, 0)])
        assert not [*(shared / "output").rglob("edited.mkv")] or again, "the first one writes"
        monkeypatch.setattr("maskora.ranks.joined", lambda: Among(0, 2))
        ok(run("infer", *at(shared), *BARE, *again))
        monkeypatch.setattr("maskora.ranks.joined", lambda: ALONE)
        ours, theirs = (root / "output" / "edited.mkv" for root in (shared, alone))
        assert ours.read_bytes() == theirs.read_bytes()
