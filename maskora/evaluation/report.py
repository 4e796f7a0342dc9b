"""report.json and report.html: the same numbers for programs and for people."""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any

import cv2
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from maskora.evaluation.judge import Moment
from maskora.evaluation.measures import GROUPS, MEASURES, Numbers, told
from maskora.evaluation.verdict import Sign, Worst, bad_signs, worst_frames


@dataclass(frozen=True)
class Chart:
    """Measures that are drawn together.

    Attributes:
        title: what it shows.
        lines: a measure's key and what its line is called.
        reference: a height to compare with.
    """

    title: str
    lines: tuple[tuple[str, str], ...]
    reference: float | None = None


CHARTS = (
    Chart(
        "Outside the mask: PSNR to the source, dB (gap: identical)", (("outside_psnr", "result"),)
    ),
    Chart(
        "What is kept of the edit",
        (("edit_colours", "its colours"), ("edit_change", "difference to the source")),
        1.0,
    ),
    Chart(
        "How the inside moves, the source being 1",
        (("motion_followed", "source's motion followed"), ("motion_speed", "speed")),
        1.0,
    ),
    Chart(
        "Warp error inside, levels",
        (
            ("follow_error", "by the source's motion"),
            ("warp_error", "by its own"),
            ("source_warp_error", "source by its own"),
        ),
    ),
    Chart(
        "Change from frame to frame inside, levels",
        (("step", "result"), ("source_step", "source")),
    ),
    Chart(
        "Similarity by CLIP",
        (
            ("clip_score", "to the edited first frame"),
            ("input_similarity", "to the source"),
            ("clip_steadiness", "to the frame before"),
        ),
    ),
    Chart("Quality by CLIP-IQA", (("quality", "result"), ("source_quality", "source"))),
    Chart("Hit rate against the truth", (("hit_rate", "result"),), 1.0),
    Chart("Error of place, pixels", (("centroid_error", "result"),)),
    Chart("Error of orientation, degrees", (("orientation_error", "result"),)),
    Chart("Inside the mask: PSNR to the truth, dB", (("inside_psnr", "result"),)),
)
# Colours that are put into the picture and then handed to the page's style sheet.
INK, REFERENCE, LINES = "#010101", "#010102", ("#010103", "#010104", "#010105")
LEAST_GRAINS = 6  # an axis spans at least so many of what a person would notice
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "maskora",
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "font.size": 9,
}


def drawn(numbers: Numbers) -> list[tuple[str, str]]:
    """The charts that there are numbers for: title and SVG element."""
    found = []
    for chart in CHARTS:
        lines = [(key, name) for key, name in chart.lines if _is_finite(numbers, key)]
        if lines:
            found.append((chart.title, _draw(numbers, lines, chart)))
    return found


def _is_finite(numbers: Numbers, key: str) -> bool:
    """Whether a measure has something to draw: pictures identical throughout have not."""
    return any(v is not None and np.isfinite(v) for v in numbers.curves.get(key, ()))


def _draw(numbers: Numbers, lines: Sequence[tuple[str, str]], chart: Chart) -> str:
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.4, 2.5), layout="constrained")
        axes = figure.subplots()
        if chart.reference is not None:
            axes.axhline(chart.reference, color=REFERENCE, linewidth=1)
        for (key, name), colour in zip(lines, LINES, strict=False):
            marker = "." if numbers.frames <= 60 else ""
            axes.plot(_heights(numbers, key), color=colour, lw=1.6, marker=marker, label=name)
        axes.set(xlabel="frame", xlim=(-0.5, numbers.frames - 0.5))
        measure = MEASURES[lines[0][0]]
        heights = [height for key, _ in lines for height in _heights(numbers, key)]
        if chart.reference is not None:
            heights.append(chart.reference)
        from_zero = measure.better == "lower" or chart.reference is not None
        axes.set_ylim(*_range(heights, measure.grain, from_zero))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        axes.patch.set_alpha(0)
        figure.patch.set_alpha(0)
        if len(lines) > 1:
            figure.legend(frameon=False, loc="outside upper left", ncols=3, columnspacing=1.2)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return _for_page(text.getvalue())


def _heights(numbers: Numbers, key: str) -> list[float]:
    """A curve with gaps where there is no value, or an infinite one."""
    return [np.nan if v is None or np.isinf(v) else v for v in numbers.curves[key]]


def _range(heights: Sequence[float], grain: float, from_zero: bool) -> tuple[float, float]:
    """From where to where an axis goes: so far that nobody takes a ripple for a wave.

    Args:
        heights: what is drawn.
        from_zero: the axis starts at 0, or below where something does.
    """
    lowest, high = float(np.nanmin(heights)), float(np.nanmax(heights))
    low = min(lowest, 0.0) if from_zero else lowest
    spare = max(LEAST_GRAINS * grain - (high - low), 0.1 * (high - low))
    low -= 0.0 if from_zero and low == 0.0 else spare / 2
    return (max(low, 0.0) if lowest >= 0 else low), high + spare / 2


def _for_page(svg: str) -> str:
    """The svg element alone, its colours named by the style sheet."""
    names = {INK: "currentColor", REFERENCE: "var(--rule)"}
    names |= {colour: f"var(--line-{number})" for number, colour in enumerate(LINES, 1)}
    for colour, name in names.items():
        svg = svg.replace(colour, name)
    return svg[svg.index("<svg") :]


WIDEST = 400
DIFFERENCE = 4  # times brighter than it is


@dataclass(frozen=True)
class Picture:
    """A picture for the page: what it is, and its JPEG file as a data URL."""

    title: str
    url: str


def pictures(moment: Moment) -> list[Picture]:
    """One frame of everything, small."""
    shown = {
        "source, with the mask": _outlined(moment.source_HWC, moment.inside_HW),
        "result": moment.result_HWC,
    }
    if moment.truth is not None:
        shown["truth"] = moment.truth.edited_HWC
    title = f"difference to the source, × {DIFFERENCE}"
    shown[title] = _heat(moment.result_HWC, moment.source_HWC)
    return [Picture(title, _url(_small(picture))) for title, picture in shown.items()]


def _small(picture_HWC: np.ndarray) -> np.ndarray:
    height, width = picture_HWC.shape[:2]
    if width <= WIDEST:
        return picture_HWC
    size = WIDEST, max(1, round(height * WIDEST / width))
    return np.asarray(cv2.resize(picture_HWC, size, interpolation=cv2.INTER_AREA))


def _outlined(frame_HWC: np.ndarray, inside_HW: np.ndarray) -> np.ndarray:
    picture = np.ascontiguousarray(frame_HWC).copy()
    outlines, _ = cv2.findContours(
        inside_HW.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
    )
    thickness = max(1, round(frame_HWC.shape[1] / WIDEST * 1.5))
    return np.asarray(cv2.drawContours(picture, outlines, -1, (255, 70, 70), thickness))


def _heat(one_HWC: np.ndarray, other_HWC: np.ndarray) -> np.ndarray:
    largest_HW = cv2.absdiff(one_HWC, other_HWC).max(axis=-1)
    levels = cv2.convertScaleAbs(largest_HW, alpha=DIFFERENCE)
    return np.asarray(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO))[..., ::-1]


def _url(picture_HWC: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(picture_HWC).save(file, format="JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


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
