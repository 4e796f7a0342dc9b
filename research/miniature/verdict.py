"""The gate: whether a miniature is good enough for anything to be shown with it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np

from research.miniature.gate import Score

RECONSTRUCTION, HIT, CENTROID = 29.0, 0.7, 3.0  # dB, share, pixels
AUTOENCODER, PLAIN, BOXED = "autoencoder", "base, plain I2V mask", "base, moving box"


@dataclass(frozen=True)
class Verdict:
    """What a miniature reaches on unseen scenes, means over cases.

    Attributes:
        reconstruction: PSNR of the autoencoder on whole clips, in dB.
        scores: by `AUTOENCODER` (the ceiling), and by the untuned base with either mask.
    """

    reconstruction: float
    scores: dict[str, Score]

    @property
    def passed(self) -> bool:
        """Whether the gate is passed."""
        boxed = self.scores[BOXED]
        return (
            self.reconstruction >= RECONSTRUCTION
            and boxed.hit >= HIT
            and boxed.centroid <= CENTROID
        )

    def told(self) -> str:
        """The figures as a table, and what they amount to."""
        names = [field.name for field in fields(Score)]
        rows = [
            f"{name:22}" + "".join(f"{getattr(each, figure):14.2f}" for figure in names)
            for name, each in self.scores.items()
        ]
        return "\n".join(
            [
                f"reconstruction {self.reconstruction:.1f} dB",
                " " * 22 + "".join(f"{name:>14}" for name in names),
                *rows,
                f"the gate (reconstruction {RECONSTRUCTION:g} dB; with the moving box hit {HIT:g}, "
                f"centroid {CENTROID:g} px): {'passed' if self.passed else 'NOT passed'}",
            ]
        )

    def record(self) -> dict[str, object]:
        """The same for a JSON file."""
        return {"passed": self.passed, **asdict(self)}


def mean(scores: Sequence[Score]) -> Score:
    """The mean of each figure."""
    return Score(*(float(np.mean([getattr(s, f.name) for s in scores])) for f in fields(Score)))
