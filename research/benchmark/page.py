"""results.json, table.md and index.html: the same outcomes for programs and for people."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from maskora.evaluation.judge import GROUPS, MEASURES, format_value
from maskora.files import write_text
from research.benchmark.results import (
    Mean,
    Outcome,
    Results,
    best_presets,
    mean_over_cases,
)

ARROWS = {"higher": "↑", "lower": "↓", None: ""}
UNDER_A_CLIP = ("hit_rate", "edit_colours", "motion_followed", "clip_score", "outside_psnr")
MOST_UNDER_A_CLIP = 3
NOTES = (
    "Means over the cases that a preset has; (n) where these are not all. The best is bold, where "
    "all presets have the same cases.",
    "Training: seconds of all steps of the LoRAs that a preset uses, although presets that train "
    "alike share them. Generating: seconds of encoding, denoising (and inverting) and writing.",
    "CLIP-FD: Fréchet distance of the frames of all results and of all sources, over CLIP's "
    "features of length one. It is no FID, which takes Inception's. It is left out where there are "
    "not more frames than features. The sources themselves have 0, and so has an edit that changes "
    "nothing.",
)


class Line(NamedTuple):
    """A line of the table: what it is, its explanation, and a cell per preset."""

    title: str
    meaning: str
    cells: list[str]
    best: list[bool]


def write_results(results: Results, folder: Path) -> Path:
    """Write the three files. Returns index.html."""
    write_text(folder / "results.json", json.dumps(as_json(results), indent=2) + "\n")
    write_text(folder / "table.md", as_markdown(results))
    page = folder / "index.html"
    write_text(page, as_page(results))
    return page


def as_json(results: Results) -> dict[str, Any]:
    """The content of results.json; an infinite PSNR is "identical"."""
    return {
        "facts": results.facts,
        "presets": {
            preset: {
                "cases": len(results.judged(preset)),
                "clip_fd": asdict(results.distances[preset]) if results.distances else None,
                "means": {
                    key: {**asdict(mean), "value": _plain(mean.value)}
                    for key in MEASURES
                    if (mean := mean_over_cases(results.judged(preset), key)) is not None
                },
            }
            for preset in results.presets
        },
        "runs": [
            {"case": case.name, "preset": preset, **outcome.model_dump(mode="json")}
            for case in results.cases
            for preset, outcome in case.outcomes.items()
        ],
    }


def _plain(value: float) -> float | str:
    return "identical" if math.isinf(value) else value


def table(results: Results) -> list[tuple[str, list[Line]]]:
    """The lines of the table by group; a measure that no case has is left out."""
    groups = [("The runs", run_lines(results))]
    for title, keys in GROUPS.items():
        lines = [line for key in keys if (line := measure_line(results, key)) is not None]
        groups.append((title, lines))
    if results.distances:
        groups.append(("Over all frames", [distance_line(results)]))
    return [(title, lines) for title, lines in groups if lines]


def run_lines(results: Results) -> list[Line]:
    """How many cases are done, what they took, and how many have bad signs."""
    judged = [results.judged(preset) for preset in results.presets]
    rows = {
        "Cases": [f"{len(some)} of {len(results.cases)}" for some in judged],
        "Training, s": [_mean_seconds([one.training for one in some]) for some in judged],
        "Generating, s": [_mean_seconds([one.generating for one in some]) for some in judged],
        "Cases with bad signs": [str(sum(bool(one.signs) for one in some)) for some in judged],
    }
    meanings = {"Training, s": NOTES[1], "Generating, s": NOTES[1]}
    return [
        Line(title, meanings.get(title, ""), cells, [False] * len(cells))
        for title, cells in rows.items()
    ]


def _mean_seconds(seconds: Sequence[float]) -> str:
    return f"{math.fsum(seconds) / len(seconds):.1f}" if seconds else "–"


def measure_line(results: Results, key: str) -> Line | None:
    """A measure's means; None where no case has it."""
    means = {p: mean_over_cases(results.judged(p), key) for p in results.presets}
    if not any(means.values()):
        return None
    best, measure = best_presets(key, means), MEASURES[key]
    cells = [_cell(key, mean, len(results.cases)) for mean in means.values()]
    title = f"{measure.title} {ARROWS[measure.better]}".strip()
    return Line(title, measure.meaning, cells, [preset in best for preset in results.presets])


def _cell(key: str, mean: Mean | None, cases: int) -> str:
    if mean is None:
        return "–"
    some = [f"n {mean.count}"] if mean.count < cases else []
    if mean.identical and not math.isinf(mean.value):
        some.append(f"and {mean.identical} identical")
    return format_value(key, mean.value) + (f" ({', '.join(some)})" if some else "")


def distance_line(results: Results) -> Line:
    """CLIP-FD, or why there is none."""
    found = [results.distances.get(preset) for preset in results.presets]
    cells = [
        "–" if one is None
        else f"{one.value:.4f}" if one.value is not None
        else f"too few frames ({one.frames} for {one.features} features)"
        for one in found
    ]  # fmt: skip
    values = [math.inf if one is None or one.value is None else one.value for one in found]
    alike = len({one.frames if one else 0 for one in found}) == 1 < len(found)
    best = [alike and value == min(values) < math.inf for value in values]
    return Line("CLIP-FD to the sources ↓", NOTES[2], cells, best)


def as_markdown(results: Results) -> str:
    """The content of table.md."""
    lines = [f"| | {' | '.join(results.presets)} |", f"|---|{'---|' * len(results.presets)}"]
    for title, rows in table(results):
        lines.append(f"| **{title}** |{' |' * len(results.presets)}")
        for row in rows:
            cells = [f"**{c}**" if best else c for c, best in zip(row.cells, row.best, strict=True)]
            lines.append(f"| {row.title} | {' | '.join(cells)} |")
    facts = [f"{name}: {value}" for name, value in results.facts.items() if value is not None]
    notes = [f"- {note}" for note in (*NOTES, *facts)]
    return "\n".join([*lines, "", *notes, ""])


def as_page(results: Results) -> str:
    """The content of index.html, which needs the clips beside it and nothing else."""
    environment = Environment(
        loader=PackageLoader("research.benchmark", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"quote": quote, "figures": figures}
    return environment.get_template("page.html").render(
        results=results, groups=table(results), notes=NOTES[: 3 if results.distances else 2]
    )


def figures(outcome: Outcome) -> list[tuple[str, str]]:
    """The most telling figures of a run, for below its clip."""
    keys = [key for key in UNDER_A_CLIP if key in outcome.means][:MOST_UNDER_A_CLIP]
    return [(MEASURES[key].title, format_value(key, _number(outcome.means[key]))) for key in keys]


def _number(value: float | str) -> float:
    return math.inf if isinstance(value, str) else value
