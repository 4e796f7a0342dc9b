"""report.json and report.html: the same numbers for programs and for people."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any, NamedTuple

import cv2
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from maskora.evaluation.judge import (
    GROUPS,
    MEASURES,
    FrameSet,
    Numbers,
    SegmentMeans,
    format_value,
)
from maskora.evaluation.verdict import Sign, Worst, bad_signs, worst_frames
from maskora.video.differences import HEAT, heat

SHOWN = 6  # frames spread over the clip, beside the worst
ALL_SHOWN = 12  # frames of a clip that is shown whole
UNSEEN = 40.0  # dB: from there on nobody sees a difference
AGAINST_TRUTH = ("hit_rate", "centroid_error", "orientation_error")  # what the summary has of it
WIDEST = 400  # pixels, of the pictures in the page
# Colours that are put into a chart and then handed to the page's style sheet.
INK, REFERENCE, LINES = "#010101", "#010102", ("#010103", "#010104", "#010105")
LEAST_GRAINS = 6  # an axis spans at least so many of what a person would notice
STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "maskora", "font.size": 9} | dict.fromkeys(
    ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK
)


class Chart(NamedTuple):
    """Measures that are drawn together: by key, and what their lines are called.

    `reference` is a height to compare with.
    """

    title: str
    lines: dict[str, str]
    reference: float | None = None


CHARTS = (
    Chart("Outside the mask: PSNR to the source, dB (gap: identical)", {"outside_psnr": "result"}),
    Chart("What is kept of the edit", {
        "edit_colours": "its colours", "edit_change": "difference to the source",
    }, 1.0),
    Chart("How the inside moves, the source being 1", {
        "motion_followed": "source's motion followed", "motion_speed": "speed",
    }, 1.0),
    Chart("Warp error inside, levels", {
        "follow_error": "by the source's motion", "warp_error": "by its own",
        "source_warp_error": "source by its own",
    }),
    Chart("Warp error of whole frames", {
        "frame_warp_error": "result", "source_frame_warp_error": "source",
    }),
    Chart("Change from frame to frame inside, levels", {"step": "result", "source_step": "source"}),
    Chart("Similarity by CLIP", {
        "clip_score": "to the edited first frame", "input_similarity": "to the source",
        "clip_steadiness": "to the frame before",
    }),
    Chart("Similarity by CLIP to the caption", {
        "text_alignment": "whole frame", "region_text_alignment": "region",
    }),
    Chart("Similarity by CLIP of the region to the reference", {"reference_similarity": "result"}),
    Chart("Quality by CLIP-IQA", {"quality": "result", "source_quality": "source"}),
    Chart("Hit rate against the truth", {"hit_rate": "result"}, 1.0),
    Chart("Error of place, pixels", {"centroid_error": "result"}),
    Chart("Error of orientation, degrees", {"orientation_error": "result"}),
    Chart("Inside the mask: PSNR to the truth, dB", {"inside_psnr": "result"}),
)  # fmt: skip


@dataclass(frozen=True)
class Report:
    """A judged result.

    Attributes:
        title: whose result it is.
        facts: what was judged, and by what: names and values, None where there is no such.
        notes: what the reader should know about how the numbers came about.
        segments: of a clip that was generated in several, else none.
    """

    title: str
    facts: dict[str, Any]
    notes: list[str]
    numbers: Numbers
    segments: Sequence[SegmentMeans]
    signs: list[Sign]
    worst: list[Worst]


class Picture(NamedTuple):
    """A picture for the page: what it is, and its JPEG file as a data URL."""

    title: str
    url: str


def report_on(
    title: str,
    facts: dict[str, Any],
    notes: list[str],
    numbers: Numbers,
    segments: Sequence[SegmentMeans] = (),
) -> Report:
    """Numbers with their verdict; arguments as of `Report`."""
    signs, worst = bad_signs(numbers, segments), worst_frames(numbers)
    return Report(title, facts, notes, numbers, segments, signs, worst)


def summary(report: Report) -> list[str]:
    """The verdict in lines of plain text."""
    numbers = report.numbers
    lines = [background_sentence(numbers)]
    measured = [key for key in AGAINST_TRUTH if numbers.means.get(key) is not None]
    parts = [f"{MEASURES[k].title.lower()} {format_value(k, numbers.means[k])}" for k in measured]
    lines += [f"against the truth: {', '.join(parts)}"] if parts else []
    lines += [f"issue: {s.title}. {s.message}" for s in report.signs] or ["no known issue"]
    return lines + [f"frame {w.frame} stands out: {worst_reason(w)}" for w in report.worst]


def background_sentence(numbers: Numbers) -> str:
    """A sentence on the outside of the mask."""
    curve = [value for value in numbers.curves.get("outside_psnr", []) if value is not None]
    if not curve:
        return "the mask covers the whole picture: there is no outside"
    same = sum(math.isinf(value) for value in curve)
    if same == len(curve):
        return f"outside the mask all {same} frames are identical to the source"
    mean = format_value("outside_psnr", numbers.means["outside_psnr"])
    if min(curve) >= UNSEEN:
        return (
            f"outside the mask no frame differs visibly from the source; PSNR {mean} (a compressed "
            f"video is never quite identical)"
        )
    return (
        f"outside the mask {same} of {len(curve)} frames are identical to the source; PSNR {mean}"
    )


def worst_reason(worst: Worst) -> str:
    """Why a frame stands out."""
    value, typical = (format_value(worst.key, number) for number in (worst.value, worst.typical))
    return f"{MEASURES[worst.key].title} {value} (median {typical})"


def as_json(report: Report) -> dict[str, Any]:
    """The content of report.json; an infinite PSNR is "identical"."""
    numbers = report.numbers
    return {
        "judged": report.facts,
        "notes": report.notes,
        "verdict": {
            "background": background_sentence(numbers),
            "signs": [asdict(sign) for sign in report.signs],
            "worst_frames": [
                {**asdict(w), "value": _plain(w.value), "typical": _plain(w.typical)}
                for w in report.worst
            ],
        },
        "means": {key: _plain(value) for key, value in numbers.means.items()},
        "curves": {key: [_plain(v) for v in curve] for key, curve in numbers.curves.items()},
        **({"segments": [_segment(one) for one in report.segments]} if report.segments else {}),
        "measures": {
            key: {"title": m.title, "unit": m.unit, "better": m.better, "meaning": m.meaning}
            for key, m in MEASURES.items()
            if key in numbers.curves
        },
    }


def _segment(segment: SegmentMeans) -> dict[str, Any]:
    means = {key: _plain(value) for key, value in segment.means.items()}
    return {**asdict(segment), "means": means}


def _plain(value: float | None) -> float | str | None:
    """A number that JSON can hold."""
    return "identical" if value is not None and math.isinf(value) else value


def shown_frames(report: Report) -> list[int]:
    """Numbers of the frames that the page shows: some spread over the clip, and the worst.

    Of a short clip, all.
    """
    last = report.numbers.frames - 1
    if last < ALL_SHOWN:
        return [*range(last + 1)]
    spread = {round(n * last / (SHOWN - 1)) for n in range(SHOWN)}
    return sorted(spread | {worst.frame for worst in report.worst})


def as_page(report: Report, album: Mapping[int, list[Picture]]) -> str:
    """report.html, which needs nothing beside itself.

    Args:
        album: the pictures of each of the `shown_frames`.
    """
    numbers = report.numbers
    reasons = {worst.frame: worst_reason(worst) for worst in report.worst}
    environment = Environment(
        loader=PackageLoader("maskora.evaluation", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    groups = [
        (title, [_row(numbers, key) for key in keys if key in numbers.means])
        for title, keys in GROUPS.items()
    ]
    return environment.get_template("report.html").render(
        report=report,
        style=files("maskora.evaluation").joinpath("report.css").read_text("utf-8"),
        background=background_sentence(numbers),
        groups=[(title, rows) for title, rows in groups if rows],
        frames=[(n, reasons.get(n), album[n]) for n in shown_frames(report)],
        worst=[(worst.frame, reasons[worst.frame]) for worst in report.worst],
        measures=[MEASURES[key].title for key in _shown(numbers)],
        segments=[
            (segment, [format_value(key, segment.means.get(key)) for key in _shown(numbers)])
            for segment in report.segments
        ],
        charts=draw_charts(numbers, [segment.start for segment in report.segments]),
    )


def _shown(numbers: Numbers) -> list[str]:
    """The measures that there are, but for those that stand beside others."""
    return [key for keys in GROUPS.values() for key in keys if key in numbers.means]


def _row(numbers: Numbers, key: str) -> dict[str, str]:
    measure = MEASURES[key]
    beside = measure.beside
    return {
        "title": measure.title,
        "value": format_value(key, numbers.means[key]),
        "source": format_value(beside, numbers.means.get(beside)) if beside else "",
        "better": f"{measure.better} is better" if measure.better else "",
        "meaning": measure.meaning,
    }


def pictures(frame: FrameSet) -> list[Picture]:
    """One frame of everything, small."""
    shown = {
        "source, with the mask": _outlined(frame.source_HWC, frame.inside_HW),
        "result": frame.result_HWC,
    }
    if frame.truth is not None:
        shown["truth"] = frame.truth.edited_HWC
    difference_HW = cv2.absdiff(frame.result_HWC, frame.source_HWC).max(axis=-1)
    shown[f"difference to the source, × {HEAT}"] = heat(difference_HW)
    return [Picture(title, _small_jpeg(picture)) for title, picture in shown.items()]


def _outlined(frame_HWC: np.ndarray, inside_HW: np.ndarray) -> np.ndarray:
    picture = np.ascontiguousarray(frame_HWC).copy()
    outlines, _ = cv2.findContours(
        inside_HW.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
    )
    thickness = max(1, round(frame_HWC.shape[1] / WIDEST * 1.5))
    return np.asarray(cv2.drawContours(picture, outlines, -1, (255, 70, 70), thickness))


def _small_jpeg(picture_HWC: np.ndarray) -> str:
    """A picture, not wider than WIDEST, as a data URL."""
    height, width = picture_HWC.shape[:2]
    if width > WIDEST:
        size = WIDEST, max(1, round(height * WIDEST / width))
        picture_HWC = np.asarray(cv2.resize(picture_HWC, size, interpolation=cv2.INTER_AREA))
    file = io.BytesIO()
    Image.fromarray(picture_HWC).save(file, format="JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def draw_charts(numbers: Numbers, begins: Sequence[int] = ()) -> list[tuple[str, str]]:
    """The charts that there are numbers for: title and SVG element.

    Args:
        begins: frames before which a line is drawn, but the first: where segments begin.
    """
    found = []
    for chart in CHARTS:
        heights = {name: _heights(numbers, key) for key, name in chart.lines.items()}
        # Pictures that are identical throughout leave nothing to draw.
        heights = {name: curve for name, curve in heights.items() if not np.isnan(curve).all()}
        if heights:
            found.append((chart.title, _draw(chart, heights, begins)))
    return found


def _heights(numbers: Numbers, key: str) -> list[float]:
    """A curve with gaps where there is no value, or an infinite one."""
    curve = numbers.curves.get(key, [None])
    return [np.nan if v is None or np.isinf(v) else v for v in curve]


def _draw(chart: Chart, heights: dict[str, list[float]], begins: Sequence[int]) -> str:
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    frames = max(map(len, heights.values()))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.4, 2.5), layout="constrained")
        axes = figure.subplots()
        if chart.reference is not None:
            axes.axhline(chart.reference, color=REFERENCE, linewidth=1)
        if where := [begin - 0.5 for begin in begins[1:]]:
            height = axes.get_xaxis_transform()
            axes.vlines(where, 0, 1, REFERENCE, linewidth=1, linestyle=":", transform=height)
        for (name, curve), colour in zip(heights.items(), LINES, strict=False):
            axes.plot(curve, color=colour, lw=1.6, marker="." if frames <= 60 else "", label=name)
        axes.set(xlabel="frame", xlim=(-0.5, frames - 0.5))
        axes.set_ylim(*_range(chart, [height for curve in heights.values() for height in curve]))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        axes.patch.set_alpha(0)
        figure.patch.set_alpha(0)
        if len(heights) > 1:
            figure.legend(frameon=False, loc="outside upper left", ncols=3, columnspacing=1.2)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    names = {INK: "currentColor", REFERENCE: "var(--rule)"}  # the style sheet's
    names |= {colour: f"var(--line-{number})" for number, colour in enumerate(LINES, 1)}
    for colour, name in names.items():
        svg = svg.replace(colour, name)
    return svg[svg.index("<svg") :]


def _range(chart: Chart, heights: Sequence[float]) -> tuple[float, float]:
    """From where to where an axis goes: so far that nobody takes a ripple for a wave.

    It starts at 0, or below where something does, where less is better or there is a reference.
    """
    measure = MEASURES[next(iter(chart.lines))]
    from_zero = measure.better == "lower" or chart.reference is not None
    if chart.reference is not None:
        heights = [*heights, chart.reference]
    lowest, high = float(np.nanmin(heights)), float(np.nanmax(heights))
    low = min(lowest, 0.0) if from_zero else lowest
    spare = max(LEAST_GRAINS * measure.grain - (high - low), 0.1 * (high - low))
    low -= 0.0 if from_zero and low == 0.0 else spare / 2
    return (max(low, 0.0) if lowest >= 0 else low), high + spare / 2
