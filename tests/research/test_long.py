"""The experiment on long clips: its scenes and stretches, what it says, and a small run."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from research import long
from research.claims.claims import HUES, Subject, kind
from research.claims.trials import Recipe, draw_task
from research.long import METHODS, WAYS, Job, chosen_scenes, report, run_job, stretches
from research.miniature.gate import Score

PERFECT = Score(
    hit=1.0, strict=1.0, centroid=0.0, angle=0.0, inside_db=np.inf, background_db=np.inf,
    lasting=1.0,
)  # fmt: skip


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips of 17 frames in segments of 9."""
    for name, value in {"FRAMES": 17, "SEGMENT": 9, "STRETCH": 8, "MIDDLE": 8}.items():
        monkeypatch.setattr(long, name, value)


def test_scenes_are_edits_of_the_hue_that_no_claim_is_tested_on() -> None:
    assert len(set(chosen_scenes(12))) == 12
    assert min(chosen_scenes(12)) >= 4000
    assert all(kind(number) in HUES for number in chosen_scenes(12))


def test_every_stretch_is_judged_alone(short: None) -> None:
    case = draw_task(4000, Subject(frames=17))
    frames_THWC = case.edited_THWC.copy()
    assert [each.strict for each in stretches(frames_THWC, case)] == [1.0, 1.0]
    frames_THWC[9:] = case.background_THWC[9:]
    first, last = stretches(frames_THWC, case)
    assert first.strict == 1.0
    assert last.strict < 0.1


def records(falls: dict[str, float]) -> list[dict[str, Any]]:
    """Ten scenes, in which each way loses so much, give or take a little."""
    return [
        {
            "method": "instant", "scene": scene, "seed": 0, "way": way,
            "stretches": [
                asdict(replace(PERFECT, strict=1.0 - number / 3 * fall + 0.001 * scene * number))
                for number in range(4)
            ],
        }
        for scene in range(10)
        for way, fall in falls.items()
    ]  # fmt: skip


def test_an_anchor_that_halves_the_fall_is_said_to() -> None:
    said = "\n".join(report(records({"chained": 0.6, "anchored": 0.1, "anchored, keyframe": 0.5})))
    assert "| anchored | 145-192 | 1.00 |" in said
    assert "- anchored: at most half of the chained fall? yes (+0.21" in said
    assert "- anchored, keyframe: at most half of the chained fall? no (-0.19" in said


@pytest.mark.slow
def test_all_ways_are_generated(short: None, untrained: Path) -> None:
    for method in METHODS:
        found = run_job(Job(untrained, Recipe(1e-3, 2), method, 4000, 0))
        assert [each["way"] for each in found] == list(WAYS)
        assert all(len(each["stretches"]) == 2 for each in found)
        ends = [json.dumps(each["stretches"][-1]) for each in found]
        assert len(set(ends)) == len(WAYS), "each way is another"


def test_the_documents_tell_what_was_measured() -> None:
    root = Path(__file__).parents[2]
    records = json.loads((root / "research/results/long.json").read_text(encoding="utf-8"))
    told = "\n".join(report(records)).strip()
    assert told in (root / "docs/long-clips.md").read_text(encoding="utf-8")
