"""What the runs have given: outcomes, and their means over the cases."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic import Field

from maskora.app.workspace import Record
from maskora.evaluation.judge import MEASURES

IDENTICAL = "identical"  # in report.json: an infinite PSNR


class Outcome(Record):
    """PRESET.json of a case: how far its run is, and what it has given.

    Attributes:
        made_from, judged_from: content names of what the clip was made from, and of what its
            figures were; empty as long as there are none.
        failed: why it went wrong the last time; empty where it did not.
        prompt: the words that the clip was made with.
        training: seconds of the steps of the LoRAs that it uses, whoever trained them.
        generating: seconds of encoding, denoising and writing.
        means, signs: as in report.json; of a sign its title.
    """

    made_from: str = ""
    judged_from: str = ""
    failed: str = ""
    prompt: str = ""
    training: float = 0.0
    generating: float = 0.0
    means: dict[str, float | str] = Field(default_factory=dict)
    signs: tuple[str, ...] = ()

    @property
    def is_judged(self) -> bool:
        """True where its figures count."""
        return bool(self.judged_from) and not self.failed


@dataclass(frozen=True)
class CaseResults:
    """A case and its outcome by each preset.

    Attributes:
        is_prepared, has_truth: source.mp4 and edited.png are there, or truth.mp4.
    """

    name: str
    is_prepared: bool
    has_truth: bool
    outcomes: dict[str, Outcome]

    @property
    def prompt(self) -> str:
        """The words that its clips were made with; empty where there are none yet."""
        return next((one.prompt for one in self.outcomes.values() if one.prompt), "")


@dataclass(frozen=True)
class Distance:
    """CLIP-FD of a preset.

    Attributes:
        value: None where there are too few frames for one.
        frames: of how many, in the results and again in the sources.
        features: how many numbers CLIP has for a frame.
    """

    value: float | None
    frames: int
    features: int


@dataclass(frozen=True)
class Results:
    """Everything of a benchmark.

    Attributes:
        facts: how it was made; None where there is no such.
        distances: CLIP-FD by preset; empty where it was not measured.
    """

    presets: list[str]
    facts: dict[str, str | None]
    cases: list[CaseResults]
    distances: dict[str, Distance] = field(default_factory=dict)

    def judged(self, preset: str) -> list[Outcome]:
        """The outcomes of a preset that count."""
        outcomes = [case.outcomes[preset] for case in self.cases]
        return [outcome for outcome in outcomes if outcome.is_judged]


@dataclass(frozen=True)
class Mean:
    """A mean over cases.

    Attributes:
        value: infinite where every case is identical.
        count: of how many cases.
        identical: cases with an infinite PSNR, which the value leaves out unless all are so.
    """

    value: float
    count: int
    identical: int = 0


def mean_over_cases(outcomes: Sequence[Outcome], key: str) -> Mean | None:
    """The mean of a measure over the cases that have it; None where none has."""
    found = [outcome.means[key] for outcome in outcomes if key in outcome.means]
    finite = [value for value in found if isinstance(value, float)]
    if not found:
        return None
    value = math.fsum(finite) / len(finite) if finite else math.inf
    return Mean(value, len(found), len(found) - len(finite))


def best_presets(key: str, means: dict[str, Mean | None]) -> set[str]:
    """The presets that are best in a measure.

    None are where nothing is better, where all are alike, and where their cases are not the same.
    """
    better, found = MEASURES[key].better, [mean for mean in means.values() if mean is not None]
    counts = {(mean.count, mean.identical if mean.value < math.inf else 0) for mean in found}
    if better is None or len(found) < 2 or len(counts) > 1:
        return set()
    if len({mean.value for mean in found}) == 1:
        return set()
    best = (max if better == "higher" else min)(mean.value for mean in found)
    return {preset for preset, mean in means.items() if mean is not None and mean.value == best}
