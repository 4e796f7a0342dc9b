"""A result judged: the table of measures, the pass over its frames, and the totals."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from maskora.evaluation import metrics
from maskora.evaluation.clip import PictureEncoder, Rater, quality_of
from maskora.evaluation.metrics import EditColours

Row = Mapping[str, float | None]  # of one frame: by a measure's key, or by its raw parts'
Columns = dict[str, float | None]
Better = Literal["higher", "lower"]
GIVEN = "Frame 0, which you gave, does not count."


@dataclass(frozen=True)
class Measure:
    """One number per frame.

    Attributes:
        unit: empty for shares and similarities.
        better: which way is better; None where the number only says something beside another.
        grain: a difference that a person would hardly notice.
        meaning: in a sentence or two, for somebody who has read no paper.
        beside: the measure of the source that it is to be compared with.
        raw: the sums of which it is made, where the whole clip's number is not the frames' mean: a
            mean squared error; or what is divided, and by what.
    """

    title: str
    unit: str
    better: Better | None
    grain: float
    meaning: str
    beside: str | None = None
    raw: tuple[str, ...] = ()


MEASURES: dict[str, Measure] = {
    "outside_psnr": Measure(
        "PSNR outside the mask", "dB", "higher", 1.0,
        "How near everything outside the mask is to the source. From 40 dB on nobody sees a "
        "difference; below 30 it shows.",
        raw=("outside_mse",),
    ),
    "outside_ssim": Measure(
        "SSIM outside the mask", "", "higher", 0.01,
        "The same by structure: 1 is identical, a shift or blur lowers it.",
    ),
    "outside_l1": Measure(
        "Difference outside the mask", "levels", "lower", 0.5,
        "Mean difference to the source per pixel and colour, of 255 levels.",
    ),
    "edit_colours": Measure(
        "Colours of the edit kept", "", "higher", 0.1,
        "How much of the mask has the edit's colours, relative to your edited first frame. Falling "
        "towards 0: the edit disappears.",
    ),
    "edit_change": Measure(
        "Difference to the source kept", "", None, 0.1,
        "How much the inside differs from the source, relative to your edited first frame. Falling "
        "towards 0: the inside turns back into the source.",
    ),
    "keyframe_psnr": Measure(
        "PSNR at your edited keyframes", "dB", "higher", 1.0,
        "How near the inside is to the later frames that you edited yourself.",
        raw=("keyframe_mse",),
    ),
    "motion_followed": Measure(
        "Motion of the source followed", "", "higher", 0.2,
        "How far the inside moves as the source does there, where the source moves. 1: exactly so; "
        "0: not at all, or in another direction.",
        raw=("motion_along", "motion_source"),
    ),
    "motion_speed": Measure(
        "Speed relative to the source", "", None, 0.2,
        "How fast the inside moves in any direction. Towards 0: it is frozen.",
        raw=("motion_speed_sum", "motion_speed_source"),
    ),
    "follow_error": Measure(
        "Warp error along the source's motion", "levels", "lower", 1.0,
        "How much the inside differs from the frame before, that one moved as the source moves.",
        beside="source_warp_error",
    ),
    "warp_error": Measure(
        "Warp error along its own motion", "levels", "lower", 1.0,
        "The same, moved as the result itself moves: what is left is flicker and change of shape.",
        beside="source_warp_error",
    ),
    "source_warp_error": Measure(
        "Warp error of the source", "levels", None, 1.0,
        "The source's own, by the same means: as steady as a real video is here.",
    ),
    "frame_warp_error": Measure(
        "Warp error of whole frames", "", "lower", 0.0005,
        "Mean squared difference (colours from 0 to 1) of each frame and the next one brought back "
        "along the source's motion.",
        beside="source_frame_warp_error",
    ),
    "source_frame_warp_error": Measure(
        "Warp error of the source's whole frames", "", None, 0.0005, "The source's own.",
    ),
    "step": Measure(
        "Change from frame to frame", "levels", None, 1.0,
        "Mean difference between a frame's inside and the one before it.",
        beside="source_step",
    ),
    "source_step": Measure(
        "Change from frame to frame in the source", "levels", None, 1.0, "The source's own.",
    ),
    "clip_score": Measure(
        "CLIP score to the edited first frame", "", "higher", 0.005,
        "Cosine of the CLIP features of each whole frame and of your edited first frame.",
    ),
    "input_similarity": Measure(
        "Input similarity", "", "higher", 0.005,
        "Cosine of the CLIP features of each whole frame and of the source's frame.",
    ),
    "clip_steadiness": Measure(
        "CLIP similarity of neighbours", "", "higher", 0.005,
        "Cosine of the CLIP features of each frame and of the one before it.",
        beside="source_clip_steadiness",
    ),
    "source_clip_steadiness": Measure(
        "CLIP similarity of neighbours in the source", "", None, 0.005, "The source's own.",
    ),
    "text_alignment": Measure(
        "CLIP similarity to the edit's caption", "", "higher", 0.005,
        "Cosine of the CLIP features of each whole frame and of the caption that it was made with.",
    ),
    "region_text_alignment": Measure(
        "CLIP similarity of the region to the caption", "", "higher", 0.005,
        "The same, of the square part of each frame around the mask.",
    ),
    "reference_similarity": Measure(
        "CLIP similarity of the region to the reference", "", "higher", 0.005,
        "Cosine of the CLIP features of that part of each frame and of the reference picture: your "
        "edited first frame's own part, if no other was named.",
    ),
    "quality": Measure(
        "Quality (CLIP-IQA)", "", "higher", 0.05,
        'Whether CLIP finds "Good photo." rather than "Bad photo." in a frame, 0 to 1. Compare it '
        "with the source's.",
        beside="source_quality",
    ),
    "source_quality": Measure(
        "Quality of the source", "", None, 0.05, "The source's own.",
    ),
    "hit_rate": Measure(
        "Hit rate", "", "higher", 0.05,
        "Share of the true edited object's pixels that are nearer to the truth than to the source "
        f"or the empty scene. {GIVEN}",
    ),
    "object_found": Measure(
        "Object found", "", "higher", 0.5,
        "Share of frames in which at least a quarter of the edited object was found; the next two "
        f"are about these alone. {GIVEN}",
    ),
    "centroid_error": Measure(
        "Error of place", "px", "lower", 1.0,
        f"How far the edited object's centre of mass is from the true one. {GIVEN}",
    ),
    "orientation_error": Measure(
        "Error of orientation", "°", "lower", 5.0,
        f"By how much the edited object is turned against the true one. {GIVEN}",
    ),
    "inside_psnr": Measure(
        "PSNR inside the mask, to the truth", "dB", "higher", 1.0,
        "How near the inside is to the truth. Alone it misleads: an object that is gone may be "
        f"nearer than one a little beside its place. {GIVEN}",
        raw=("inside_mse",),
    ),
    "inside_ssim": Measure(
        "SSIM inside the mask, to the truth", "", "higher", 0.02,
        f"The same by structure. {GIVEN}",
    ),
}  # fmt: skip

# As they are shown; those of the source stand beside the result's.
GROUPS: dict[str, tuple[str, ...]] = {
    "The background": ("outside_psnr", "outside_ssim", "outside_l1"),
    "The edit": ("edit_colours", "edit_change", "keyframe_psnr"),
    "The motion": (
        "motion_followed", "motion_speed", "follow_error", "warp_error", "frame_warp_error",
        "step",
    ),
    "By CLIP": (
        "clip_score", "input_similarity", "clip_steadiness", "text_alignment",
        "region_text_alignment", "reference_similarity", "quality",
    ),
    "Against the truth": (
        "hit_rate", "object_found", "centroid_error", "orientation_error", "inside_psnr",
        "inside_ssim",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Truth:
    """The true edited frame, uint8 RGB.

    Attributes:
        object_HW: where the edited object is in it, bool.
        background_HWC: the scene without the object, where it is known.
    """

    edited_HWC: np.ndarray
    object_HW: np.ndarray
    background_HWC: np.ndarray | None


@dataclass(frozen=True)
class FrameSet:
    """One frame of everything that is compared, all of one size, uint8 RGB.

    Attributes:
        inside_HW: where the mask is, bool.
        keyframe_HWC: the edited keyframe, where the person gave one (beside the first).
        truth: where it is known.
    """

    result_HWC: np.ndarray
    source_HWC: np.ndarray
    inside_HW: np.ndarray
    keyframe_HWC: np.ndarray | None = None
    truth: Truth | None = None


class Scorers:
    """Models that score whole frames, one after another.

    Args:
        first_HWC: the edited first frame, which frames are compared with.
        clip: for similarities; None: they are not taken.
        rater: for the quality without a reference; None: it is not taken.
        reference_HWC: a picture that the region is compared with.
        caption_D: features of the edit's caption, by `clip`.
    """

    def __init__(
        self,
        first_HWC: np.ndarray,
        clip: PictureEncoder | None = None,
        rater: Rater | None = None,
        reference_HWC: np.ndarray | None = None,
        caption_D: np.ndarray | None = None,
    ) -> None:
        self._clip, self._rater, self._caption_D = clip, rater, caption_D
        self._first_D = None if clip is None else clip([first_HWC])[0]
        self._reference_D: np.ndarray | None = None
        if clip is not None and reference_HWC is not None:
            self._reference_D = clip([reference_HWC])[0]
        self._before_2D: np.ndarray | None = None  # features of the frame before, and its source

    def columns(self, frame: FrameSet) -> Columns:
        """The numbers of the next frame."""
        pictures = frame.result_HWC, frame.source_HWC
        columns: Columns = {}
        seen_2D = None
        if self._clip is not None:
            region_HWC = metrics.crop_region(frame.result_HWC, frame.inside_HW)
            seen_ND = self._clip([*pictures, *([] if region_HWC is None else [region_HWC])])
            seen_2D = seen_ND[:2]
            columns = self._similarities(seen_2D, None if region_HWC is None else seen_ND[2])
        self._before_2D = seen_2D
        if (rater := self._rater) is not None:
            if seen_2D is None or rater.encode is not self._clip:
                seen_2D = rater.encode(pictures)
            rated = quality_of(seen_2D, rater.prompts_2D)
            columns |= {"quality": float(rated[0]), "source_quality": float(rated[1])}
        return columns

    def _similarities(self, seen_2D: np.ndarray, region_D: np.ndarray | None) -> Columns:
        """Cosines of features of the result and the source, and of the result's region.

        They follow the papers: the mask-aware LoRA's table 1 (the first frame, the input), AnyV2V
        (neighbours as CLIP-Image, the caption as CLIP-Text), VIVID (the region's text alignment)
        and IVEDiff (the reference).
        """
        result_D, source_D = seen_2D
        pairs = {
            "clip_score": (result_D, self._first_D),
            "input_similarity": (result_D, source_D),
            "text_alignment": (result_D, self._caption_D),
            "region_text_alignment": (region_D, self._caption_D),
            "reference_similarity": (region_D, self._reference_D),
        }
        if self._before_2D is not None:
            pairs["clip_steadiness"] = result_D, self._before_2D[0]
            pairs["source_clip_steadiness"] = source_D, self._before_2D[1]
        return {
            key: float(one @ other)
            for key, (one, other) in pairs.items()
            if one is not None and other is not None
        }


def judge(frames: Iterable[FrameSet], edit: EditColours, scorers: Scorers) -> Iterator[Row]:
    """The numbers of every frame, in order, as they are read.

    Against the truth frame 0 has none: it was given.
    """
    before: FrameSet | None = None
    for frame in frames:
        yield {
            **_outside(frame),
            **_edit(frame, edit),
            **(_against_truth(frame, frame.truth) if before and frame.truth else {}),
            **(_motion(before, frame) if before else {}),
            **scorers.columns(frame),
        }
        before = frame


def _outside(frame: FrameSet) -> Columns:
    found = metrics.compare(frame.result_HWC, frame.source_HWC, ~frame.inside_HW)
    if found is None:
        return {}
    return {"outside_mse": found.mse, "outside_ssim": found.ssim, "outside_l1": found.l1}


def _edit(frame: FrameSet, edit: EditColours) -> Columns:
    given = frame.result_HWC, frame.source_HWC, frame.inside_HW
    columns = {
        "edit_colours": metrics.colours_kept(*given, edit),
        "edit_change": metrics.change_kept(*given, edit),
    }
    if frame.keyframe_HWC is not None:
        found = metrics.compare(frame.result_HWC, frame.keyframe_HWC, frame.inside_HW)
        columns["keyframe_mse"] = None if found is None else found.mse
    return columns


def _against_truth(frame: FrameSet, truth: Truth) -> Columns:
    result_HWC, edited_HWC, inside_HW = frame.result_HWC, truth.edited_HWC, frame.inside_HW
    rivals = [frame.source_HWC]
    if truth.background_HWC is not None:
        rivals.append(truth.background_HWC)
    columns: Columns = {
        "hit_rate": metrics.hit_rate(result_HWC, edited_HWC, rivals, truth.object_HW)
    }
    if difference := metrics.compare(result_HWC, edited_HWC, inside_HW):
        columns |= {"inside_mse": difference.mse, "inside_ssim": difference.ssim}
    # The true object by the same means, so that the truth itself has no error.
    colours_N3 = metrics.palette(edited_HWC, truth.object_HW)
    true_HW = metrics.find_object(edited_HWC, colours_N3, rivals, inside_HW)
    if true_HW.any():
        found_HW = metrics.find_object(result_HWC, colours_N3, rivals, inside_HW)
        columns |= {
            "object_found": float(metrics.is_found(found_HW, true_HW)),
            "centroid_error": metrics.centroid_error(found_HW, true_HW),
            "orientation_error": metrics.orientation_error(
                result_HWC, found_HW, edited_HWC, true_HW
            ),
        }
    return columns


def _motion(first: FrameSet, second: FrameSet) -> Columns:
    """The motion inside from one frame to the next, in the result and in the source."""
    inside_HW = first.inside_HW
    ours, theirs = (first.result_HWC, second.result_HWC), (first.source_HWC, second.source_HWC)
    source_flow = metrics.measure_flow(*theirs)
    columns: Columns = {
        "frame_warp_error": metrics.frame_warp_error(*ours, source_flow),
        "source_frame_warp_error": metrics.frame_warp_error(*theirs, source_flow),
    }
    if not inside_HW.any():
        return columns
    flow = metrics.measure_flow(*ours)
    columns |= {
        "warp_error": metrics.warp_error(*ours, flow, inside_HW),
        "follow_error": metrics.warp_error(*ours, source_flow, inside_HW),
        "source_warp_error": metrics.warp_error(*theirs, source_flow, inside_HW),
        "step": metrics.mean_difference(*ours, inside_HW),
        "source_step": metrics.mean_difference(*theirs, inside_HW),
    }
    return columns | (metrics.motion_sums(flow, source_flow, inside_HW) or {})


@dataclass(frozen=True)
class Numbers:
    """Every measure that could be taken.

    Attributes:
        frames: how many frames the clip has.
        curves: a measure's value in each frame; None where it has none there. A PSNR is infinite
            where the pictures are identical.
        means: of the whole clip: mean over the frames, of mean squared errors for a PSNR, of sums
            for the motion.
    """

    frames: int
    curves: dict[str, list[float | None]]
    means: dict[str, float]


def gather(rows: Sequence[Row]) -> Numbers:
    """The curves and means of all frames' rows."""
    curves: dict[str, list[float | None]] = {}
    means: dict[str, float] = {}
    for key, measure in MEASURES.items():
        parts = [_parts(row, measure.raw or (key,)) for row in rows]
        taken = [part for part in parts if part is not None]
        if taken:
            curves[key] = [None if part is None else _combined(part, measure) for part in parts]
            totals = [math.fsum(column) / len(taken) for column in zip(*taken, strict=True)]
            means[key] = _combined(totals, measure)
    return Numbers(len(rows), curves, means)


@dataclass(frozen=True)
class SegmentMeans:
    """The means of one of the segments in which a long clip was generated.

    Attributes:
        number: of the segment, from 1.
        start, stop: its own frames, half-open.
        means: as of `Numbers`, over these frames.
    """

    number: int
    start: int
    stop: int
    means: dict[str, float]

    @property
    def title(self) -> str:
        """ "segment 3 (frames 90 to 130)"."""
        return f"segment {self.number} (frames {self.start} to {self.stop - 1})"


def gather_segments(rows: Sequence[Row], begins: Sequence[int]) -> list[SegmentMeans]:
    """The means of each segment that has frames of its own.

    Args:
        begins: the first own frame of each.
    """
    return [
        SegmentMeans(number, start, stop, gather(rows[start:stop]).means)
        for number, (start, stop) in enumerate(pairwise([*begins, len(rows)]), 1)
        if start < stop
    ]


def _parts(row: Row, needed: Sequence[str]) -> list[float] | None:
    """The sums that a measure is made of in a frame; None where one is missing."""
    found = [value for value in map(row.get, needed) if value is not None]
    return found if len(found) == len(needed) else None


def _combined(parts: Sequence[float], measure: Measure) -> float:
    """A measure from its sums."""
    if len(measure.raw) == 2:
        return parts[0] / parts[1]
    return metrics.psnr(parts[0]) if measure.raw else parts[0]


def format_value(key: str, value: float | None) -> str:
    """A value of a measure as text, to a digit beyond what a person would notice."""
    if value is None:
        return "–"
    if math.isinf(value):
        return "identical"
    measure = MEASURES[key]
    digits = max(1, 1 - math.floor(math.log10(measure.grain)))
    unit = measure.unit if measure.unit == "°" else f" {measure.unit}"
    return f"{value:.{digits}f}{unit}".rstrip()
