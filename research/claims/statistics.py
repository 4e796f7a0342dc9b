"""Means and paired differences over scenes, with 95 % intervals of Student's t."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean over scenes and where it may lie."""

    mean: float
    low: float
    high: float

    def toward(self, better: int, border: float) -> int:
        """1 where all of it is better than a border, -1 where all is worse, 0 where it holds it.

        Args:
            better: 1 where more is better, -1 where less is.
            border: in the direction of better.
        """
        worst, best = sorted((better * self.low, better * self.high))
        return int(worst > border) - int(best < border)


def interval(values: Sequence[float]) -> Interval:
    """Of the mean of independent values, one a scene; NaN where a scene tells nothing.

    With fewer than two scenes that tell something, nothing is known: all of it is NaN.
    """
    known = np.array(values)[~np.isnan(values)]
    if len(known) < 2:
        return Interval(np.nan, np.nan, np.nan)
    mean = float(known.mean())
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(known) - 1) * stats.sem(known))
    return Interval(mean, mean - half, mean + half)


def by_scene(values: Mapping[tuple[int, int], float]) -> dict[int, float]:
    """Values by (scene, seed) as means over seeds: a scene counts once, however often it is run."""
    scenes = dict.fromkeys(scene for scene, _ in values)
    return {
        scene: float(np.mean([value for (where, _), value in values.items() if where == scene]))
        for scene in scenes
    }


def paired(
    ours: Mapping[tuple[int, int], float], other: Mapping[tuple[int, int], float]
) -> dict[int, float]:
    """Ours minus other per scene; both hold the same (scene, seed)."""
    assert ours.keys() == other.keys()
    return by_scene({key: ours[key] - other[key] for key in ours})
