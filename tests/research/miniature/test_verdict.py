"""The gate opens only where every condition holds."""

from dataclasses import replace

import pytest

from research.miniature.gate import Score
from research.miniature.verdict import (
    AUTOENCODER,
    BOXED,
    CENTROID,
    HIT,
    PLAIN,
    RECONSTRUCTION,
    Verdict,
    mean,
)

JUST = Score(HIT, strict=0.0, centroid=CENTROID, angle=180.0, inside_db=0.0, background_db=0.0)
BAD = replace(JUST, hit=0.0, centroid=99.0)


def verdict(boxed: Score, reconstruction: float = RECONSTRUCTION) -> Verdict:
    """Whose other rows are bad: they are no condition."""
    return Verdict(reconstruction, {PLAIN: BAD, BOXED: boxed, AUTOENCODER: BAD})


def test_what_just_reaches_every_bound_passes() -> None:
    assert verdict(JUST).passed
    assert verdict(JUST).told().endswith(": passed")
    assert verdict(JUST).record()["passed"] is True


@pytest.mark.parametrize(
    "short",
    [
        verdict(replace(JUST, hit=HIT - 0.01)),
        verdict(replace(JUST, centroid=CENTROID + 0.01)),
        verdict(JUST, RECONSTRUCTION - 0.01),
    ],
    ids=["hit", "centroid", "reconstruction"],
)
def test_what_falls_short_of_one_bound_does_not_pass(short: Verdict) -> None:
    assert not short.passed
    assert short.told().endswith(": NOT passed")
    assert short.record()["passed"] is False


def test_a_mean_is_of_every_figure() -> None:
    one, other = Score(0, 1, 2, 3, 4, 5), Score(2, 5, 4, 9, 8, 6)
    assert mean([one, other]) == Score(1, 3, 3, 6, 6, 5.5)
