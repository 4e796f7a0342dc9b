"""report.json and report.html: the same numbers for programs and for people."""

import math
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from maskora.evaluation.charts import drawn
from maskora.evaluation.measures import GROUPS, MEASURES, Numbers, told
from maskora.evaluation.pictures import Picture
from maskora.evaluation.verdict import Sign, Worst, bad_signs, worst_frames

SHOWN = 6  # frames spread over the clip, beside the worst
AGAINST_TRUTH = ("hit_rate", "centroid_error", "orientation_error")


@dataclass(frozen=True)
class Report:
    """A judged result.

    Attributes:
        title: whose result it is.
        facts: what was judged, and by what: names and values, None where there is no such.
        notes: what the reader should know about how the numbers came about.
        numbers: what was measured.
        signs: known bad signs.
        worst: frames that stand out.
    """

    title: str
    facts: dict[str, Any]
    notes: list[str]
    numbers: Numbers
    signs: list[Sign]
    worst: list[Worst]


def report_on(title: str, facts: dict[str, Any], notes: list[str], numbers: Numbers) -> Report:
    """Numbers with their verdict."""
    return Report(title, facts, notes, numbers, bad_signs(numbers), worst_frames(numbers))


def summary(report: Report) -> list[str]:
    """The verdict in lines of plain text."""
    lines = [
        told_background(report.numbers),
        *told_truth(report.numbers),
        *(f"bad sign: {s.title}. {s.message}" for s in report.signs),
    ]
    if not report.signs:
        lines.append("no known bad sign")
    lines += [f"frame {worst.frame} stands out: {told_worst(worst)}" for worst in report.worst]
    return lines


def told_background(numbers: Numbers) -> str:
    """What became of the outside of the mask."""
    curve = [value for value in numbers.curves.get("outside_psnr", []) if value is not None]
    if not curve:
        return "the mask covers the whole picture: there is no outside"
    same = sum(math.isinf(value) for value in curve)
    if same == len(curve):
        return f"outside the mask all {same} frames are identical to the source"
    mean = told("outside_psnr", numbers.means["outside_psnr"])
    return (
        f"outside the mask {same} of {len(curve)} frames are identical to the source; PSNR {mean}"
    )


def told_truth(numbers: Numbers) -> list[str]:
    """How near the result is to the truth, in a line, where there is a truth."""
    measured = [key for key in AGAINST_TRUTH if numbers.means.get(key) is not None]
    parts = [f"{MEASURES[key].title.lower()} {told(key, numbers.means[key])}" for key in measured]
    return [f"against the truth: {', '.join(parts)}"] if parts else []


def told_worst(worst: Worst) -> str:
    """Why a frame stands out."""
    title = MEASURES[worst.key].title
    return f"{title} {told(worst.key, worst.value)} (median {told(worst.key, worst.typical)})"


def as_json(report: Report) -> dict[str, Any]:
    """The content of report.json; an infinite PSNR is "identical"."""
    numbers = report.numbers
    return {
        "judged": report.facts,
        "notes": report.notes,
        "verdict": {
            "background": told_background(numbers),
            "signs": [asdict(sign) for sign in report.signs],
            "worst_frames": [
                {**asdict(w), "value": _plain(w.value), "typical": _plain(w.typical)}
                for w in report.worst
            ],
        },
        "means": {key: _plain(value) for key, value in numbers.means.items()},
        "curves": {key: [_plain(v) for v in curve] for key, curve in numbers.curves.items()},
        "measures": {
            key: {"title": m.title, "unit": m.unit, "better": m.better, "meaning": m.meaning}
            for key, m in MEASURES.items()
            if key in numbers.curves
        },
    }


def as_page(report: Report, album: list[list[Picture]]) -> str:
    """report.html, which needs nothing beside itself.

    Args:
        album: the pictures of every frame.
    """
    numbers = report.numbers
    reasons = {worst.frame: told_worst(worst) for worst in report.worst}
    spread = {round(n * (numbers.frames - 1) / (SHOWN - 1)) for n in range(SHOWN)}
    environment = Environment(
        loader=PackageLoader("maskora.evaluation", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(
        report=report,
        style=files("maskora.evaluation").joinpath("report.css").read_text("utf-8"),
        background=told_background(numbers),
        groups=_groups(numbers),
        frames=[(n, reasons.get(n), album[n]) for n in sorted(spread | set(reasons))],
        worst=[(worst.frame, told_worst(worst)) for worst in report.worst],
        charts=drawn(numbers),
    )


def _groups(numbers: Numbers) -> list[tuple[str, list[dict[str, str]]]]:
    """The table's rows under their headings."""
    groups = []
    for title, keys in GROUPS.items():
        rows = [_row(numbers, key) for key in keys if key in numbers.means]
        if rows:
            groups.append((title, rows))
    return groups


def _row(numbers: Numbers, key: str) -> dict[str, str]:
    measure = MEASURES[key]
    beside = measure.beside
    return {
        "title": measure.title,
        "value": told(key, numbers.means[key]),
        "source": told(beside, numbers.means.get(beside)) if beside else "",
        "better": f"{measure.better} is better" if measure.better else "",
        "meaning": measure.meaning,
    }


def _plain(value: float | None) -> float | str | None:
    """A number that JSON can hold."""
    return "identical" if value is not None and math.isinf(value) else value
