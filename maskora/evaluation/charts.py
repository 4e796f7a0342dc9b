"""Curves over the frames as SVG, for a page that may be light or dark."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from maskora.evaluation.measures import MEASURES, Numbers


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
