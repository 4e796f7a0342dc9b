"""docs/evidence.md: a section per claim, from the results and the settings."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from research.claims.claims import BETTER, Claim, Comparison, mark, scenes_of
from research.claims.runs import Results
from research.claims.settings import Settings
from research.claims.statistics import Interval, by_scene, interval, paired

Values = dict[tuple[int, int], float]  # (scene, seed) -> a figure
NAMES = {
    "hit": "hit", "strict": "strict", "centroid": "centroid px", "angle": "angle °",
    "inside_db": "inside dB", "background_db": "background dB", "grown": "grown",
    "faded": "faded", "evolved": "evolved", "early_db": "early dB", "late_db": "late dB",
}  # fmt: skip
DIGITS = {"hit": 2, "strict": 2, "grown": 2, "faded": 2, "evolved": 2}
ALWAYS = ("hit", "strict", "centroid", "angle", "inside_db", "background_db")
NOT_RUN = "not run"


@dataclass(frozen=True)
class Outcome:
    """What came of a comparison.

    Attributes:
        seeds: with which all of its scenes are complete.
        differences: ours minus other by figure; empty where nothing is complete.
        mark: as the rule has it.
    """

    comparison: Comparison
    scenes: int
    seeds: list[int]
    differences: Mapping[str, Interval]
    mark: str


class Measured:
    """Results by condition and figure, as far as they are complete."""

    def __init__(self, results: Results, scenes: int) -> None:
        self.scenes = scenes
        self._figures = {(r.condition, r.scene, r.seed): r.figures for r in results.records}

    def seeds(self, names: Sequence[str], kinds: Sequence[str]) -> list[int]:
        """The seeds with which conditions were run on every scene."""
        wanted = [(name, scene) for name in names for scene in scenes_of(kinds, self.scenes)]
        every = sorted({seed for _, _, seed in self._figures})
        return [s for s in every if all((*each, s) in self._figures for each in wanted)]

    def values(self, name: str, kinds: Sequence[str], seeds: Sequence[int]) -> dict[str, Values]:
        """A condition's figures on all scenes."""
        scenes = scenes_of(kinds, self.scenes)
        told = {(n, s): self._figures[name, n, s] for n in scenes for s in seeds}
        figures = next(iter(told.values()))
        return {each: {key: told[key][each] for key in told} for each in figures}

    def outcome(self, comparison: Comparison) -> Outcome:
        """A comparison's differences and its mark."""
        pair, kinds = (comparison.ours, comparison.other), comparison.kinds
        scenes, seeds = len(scenes_of(kinds, self.scenes)), self.seeds(pair, kinds)
        if not seeds:
            return Outcome(comparison, scenes, [], {}, NOT_RUN)
        ours, other = (self.values(name, kinds, seeds) for name in pair)
        differences = {
            figure: interval(list(paired(ours[figure], other[figure]).values()))
            for figure in BETTER
            if figure in ours and figure in other
        }
        return Outcome(comparison, scenes, seeds, differences, mark(comparison, differences))

    def middle_scene(self, comparison: Comparison) -> int | None:
        """The scene whose difference with the first seed lies in the middle: a fair example."""
        pair, kinds = (comparison.ours, comparison.other), comparison.kinds
        if 0 not in self.seeds(pair, kinds):
            return None
        figure = comparison.headline[0]
        ours, other = (self.values(name, kinds, [0])[figure] for name in pair)
        differences = paired(ours, other)
        ranked = sorted(differences, key=lambda scene: differences[scene])
        return ranked[len(ranked) // 2]


def summary(claims: Sequence[Claim], measured: Measured) -> list[str]:
    """A line per comparison."""
    rows = []
    for claim in claims:
        for comparison in claim.comparisons:
            told = f"{comparison.ours} minus {comparison.other}{_kinds(comparison.kinds)}"
            figures = ", ".join(_judged(comparison, figure) for figure in comparison.headline)
            mark = measured.outcome(comparison).mark
            rows.append((str(claim.number), claim.title, told, figures, mark))
    return table(("", "claim", "compared", "judged by", "mark"), rows)


def _judged(comparison: Comparison, figure: str) -> str:
    word, margin = NAMES[figure].split()[0], comparison.margins.get(figure)
    return word if margin is None else f"{word} (at most {margin:g} worse)"


def section(claim: Claim, measured: Measured, picture: tuple[str, int] | None) -> list[str]:
    """A claim's tables.

    Args:
        picture: path and scene of its picture.
    """
    lines = [f"## {claim.number}. {claim.title}", "", *fill(f"{claim.says} ({claim.source})")]
    lines += ["", *fill(claim.note)] if claim.note else []
    figures = shown(claim)
    for kinds, names in claim.groups.items():
        lines += ["", *_means(names, kinds, measured, figures)]
    outcomes = [measured.outcome(comparison) for comparison in claim.comparisons]
    if run := [outcome for outcome in outcomes if outcome.differences]:
        lines += ["", *_differences(run, figures)]
    left = [o.comparison for o in outcomes if not o.differences]
    lines += [f"\nNot run: {each.ours} minus {each.other}." for each in left]
    if picture is not None:
        path, scene = picture
        figure = NAMES[claim.comparisons[0].headline[0]].split()[0]
        lines += [
            "",
            f"![{claim.title}: source, truth and conditions]({path})",
            "",
            f"Scene {scene}, first seed: the scene in the middle of the differences in {figure} "
            f"(first comparison). A row goes from its clip's first frame to its last.",
        ]
    return [*lines, ""]


def shown(claim: Claim) -> list[str]:
    """The figures that a claim's tables have: those of the gate, and what decides."""
    headline = {figure for each in claim.comparisons for figure in each.headline}
    if "evolved" in headline:
        headline.add("early_db")  # what the frames before pay
    return [figure for figure in BETTER if figure in ALWAYS or figure in headline]


def _means(
    names: Sequence[str], kinds: Sequence[str], measured: Measured, figures: Sequence[str]
) -> list[str]:
    known = [name for name in names if measured.seeds([name], kinds)]
    if not known:
        return [f"Not run{_kinds(kinds)}."]
    rows = []
    for name in known:
        seeds = measured.seeds([name], kinds)
        values = measured.values(name, kinds, seeds)
        cells = [_spread(values[f], f) if f in values else "–" for f in figures]
        rows.append((name, str(len(seeds)), *cells))
    scenes = len(scenes_of(kinds, measured.scenes))
    return [
        f"Means ± standard deviations over {scenes} scenes{_kinds(kinds)}:",
        "",
        *table(("", "seeds", *(NAMES[f] for f in figures)), rows),
    ]


def _differences(outcomes: Sequence[Outcome], figures: Sequence[str]) -> list[str]:
    rows = []
    for outcome in outcomes:
        each, cells = outcome.comparison, []
        for figure in figures:
            found = outcome.differences.get(figure)
            told = "–" if found is None or np.isnan(found.mean) else _told(found, figure)
            cells.append(f"**{told}**" if figure in each.headline else told)
        what = f"{each.ours} minus {each.other}{_kinds(each.kinds)}"
        size = f"{outcome.scenes} × {len(outcome.seeds)}"
        rows.append((what, size, *cells, f"**{outcome.mark}**"))
    margins = {k: v for outcome in outcomes for k, v in outcome.comparison.margins.items()}
    allowed = ", ".join(f"{NAMES[f].split()[0]} {margin:g}" for f, margin in margins.items())
    note = f" “No worse” allows {allowed}." if margins else ""
    return [
        f"Paired differences with 95 % intervals, headline figures bold.{note}",
        "",
        *table(("", "scenes × seeds", *(NAMES[f] for f in figures), "mark"), rows),
    ]


def chosen(settings: Settings) -> list[str]:
    """Which settings were chosen out of which."""
    rows = [
        (what, f"{recipe.lr:g}", str(recipe.steps),
         ", ".join(f"{t['lr']:g} × {t['steps']}: {t['figure']:.2f}"
                   for t in settings.tried if t["recipe"] == what))
        for what, recipe in settings.recipes.items()
    ]  # fmt: skip
    return table(("stage, conditioning", "learning rate", "steps", "tried (rate × steps)"), rows)


def fill(text: str) -> list[str]:
    """A paragraph in lines of 100 characters."""
    return textwrap.wrap(text, 100)


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows of Markdown."""
    return [f"| {' | '.join(row)} |" for row in (header, ("---",) * len(header), *rows)]


def _kinds(kinds: Sequence[str]) -> str:
    return "" if len(kinds) == 3 else f" (edits of {' and '.join(kinds)})"


def _spread(values: Values, figure: str) -> str:
    scenes = list(by_scene(values).values())
    digits = DIGITS.get(figure, 1)
    return f"{np.nanmean(scenes):.{digits}f} ± {np.nanstd(scenes, ddof=1):.{digits}f}"


def _told(interval: Interval, figure: str) -> str:
    digits = DIGITS.get(figure, 1)
    return f"{interval.mean:+.{digits}f} [{interval.low:+.{digits}f}, {interval.high:+.{digits}f}]"
