"""One pass over a result's frames: each is read once, judged, and let go."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from maskora.evaluation.clip import PictureEncoder, Rater, quality_of
from maskora.evaluation.measures import Row
from maskora.evaluation.metrics import (
    EditColours,
    centroid_error,
    change_kept,
    colours_kept,
    compare,
    find_object,
    following,
    hit_rate,
    is_found,
    measure_flow,
    orientation_error,
    palette,
    warp_error,
)

Columns = dict[str, float | None]


@dataclass(frozen=True)
class Truth:
    """What a frame should have become.

    Attributes:
        edited_HWC: the true edited frame, uint8 RGB.
        object_HW: where the edited object is in it, bool.
        background_HWC: the scene without the object, where it is known.
    """

    edited_HWC: np.ndarray
    object_HW: np.ndarray
    background_HWC: np.ndarray | None


@dataclass(frozen=True)
class Moment:
    """One frame of everything, all of one size.

    Attributes:
        result_HWC: of the result, uint8 RGB.
        source_HWC: of the source.
        inside_HW: where the mask is, bool.
        keyframe_HWC: the edited keyframe, where the person gave one (beside the first).
        truth: where it is known.
    """

    result_HWC: np.ndarray
    source_HWC: np.ndarray
    inside_HW: np.ndarray
    keyframe_HWC: np.ndarray | None = None
    truth: Truth | None = None


@dataclass(frozen=True)
class Sight:
    """Models that look at whole frames.

    Attributes:
        first_HWC: the edited first frame, which frames are compared with.
        clip: for similarities; None: they are not taken.
        rater: for the quality without a reference; None: it is not taken.
    """

    first_HWC: np.ndarray
    clip: PictureEncoder | None = None
    rater: Rater | None = None


def judge(moments: Iterable[Moment], edit: EditColours, sight: Sight) -> Iterator[Row]:
    """The numbers of every frame, in order, as they are read.

    Against the truth frame 0 has none: it was given.
    """
    looks = _Looks(sight)
    before: Moment | None = None
    for moment in moments:
        yield {
            **_outside(moment),
            **_edit(moment, edit),
            **(_against_truth(moment, moment.truth) if before and moment.truth else {}),
            **(_motion(before, moment) if before else {}),
            **looks.at(moment),
        }
        before = moment


def _outside(moment: Moment) -> Columns:
    found = compare(moment.result_HWC, moment.source_HWC, ~moment.inside_HW)
    if found is None:
        return {}
    return {"outside_mse": found.mse, "outside_ssim": found.ssim, "outside_l1": found.l1}


def _edit(moment: Moment, edit: EditColours) -> Columns:
    given = moment.result_HWC, moment.source_HWC, moment.inside_HW
    columns = {"edit_colours": colours_kept(*given, edit), "edit_change": change_kept(*given, edit)}
    if moment.keyframe_HWC is not None:
        found = compare(moment.result_HWC, moment.keyframe_HWC, moment.inside_HW)
        columns["keyframe_mse"] = None if found is None else found.mse
    return columns


def _against_truth(moment: Moment, truth: Truth) -> Columns:
    result_HWC, edited_HWC, inside_HW = moment.result_HWC, truth.edited_HWC, moment.inside_HW
    rivals = [moment.source_HWC]
    if truth.background_HWC is not None:
        rivals.append(truth.background_HWC)
    columns: Columns = {"hit_rate": hit_rate(result_HWC, edited_HWC, rivals, truth.object_HW)}
    if difference := compare(result_HWC, edited_HWC, inside_HW):
        columns |= {"inside_mse": difference.mse, "inside_ssim": difference.ssim}
    # The true object by the same means, so that the truth itself has no error.
    colours_N3 = palette(edited_HWC, truth.object_HW)
    true_HW = find_object(edited_HWC, colours_N3, rivals, inside_HW)
    if true_HW.any():
        found_HW = find_object(result_HWC, colours_N3, rivals, inside_HW)
        columns |= {
            "object_found": float(is_found(found_HW, true_HW)),
            "centroid_error": centroid_error(found_HW, true_HW),
            "orientation_error": orientation_error(result_HWC, found_HW, edited_HWC, true_HW),
        }
    return columns


def _motion(first: Moment, second: Moment) -> Columns:
    """How the inside got from one frame to the next, in the result and in the source."""
    inside_HW = first.inside_HW
    if not inside_HW.any():
        return {}
    ours, theirs = (first.result_HWC, second.result_HWC), (first.source_HWC, second.source_HWC)
    flow, source_flow = measure_flow(*ours), measure_flow(*theirs)
    columns: Columns = {
        "warp_error": warp_error(*ours, flow, inside_HW),
        "follow_error": warp_error(*ours, source_flow, inside_HW),
        "source_warp_error": warp_error(*theirs, source_flow, inside_HW),
        "step": _step(*ours, inside_HW),
        "source_step": _step(*theirs, inside_HW),
    }
    if follows := following(flow, source_flow, inside_HW):
        columns |= {
            "motion_along": follows.along,
            "motion_source": follows.source,
            "motion_speed_sum": follows.speed,
            "motion_speed_source": follows.source_speed,
        }
    return columns


def _step(one_HWC: np.ndarray, other_HWC: np.ndarray, where_HW: np.ndarray) -> float:
    """Mean absolute difference in levels."""
    difference = one_HWC[where_HW].astype(np.float64) - other_HWC[where_HW]
    return float(np.abs(difference).mean())


class _Looks:
    """Whole frames by their features; only those of the frame before are kept."""

    def __init__(self, sight: Sight) -> None:
        self._clip, self._rater = sight.clip, sight.rater
        self._first = None if sight.clip is None else sight.clip([sight.first_HWC])[0]
        self._before: np.ndarray | None = None

    def at(self, moment: Moment) -> Columns:
        """The columns of the next frame."""
        pictures = moment.result_HWC, moment.source_HWC
        columns: Columns = {}
        seen = None if self._clip is None else self._clip(pictures)
        if seen is not None:
            columns |= {
                "clip_score": float(seen[0] @ self._first),
                "input_similarity": float(seen[0] @ seen[1]),
            }
        if seen is not None and self._before is not None:
            columns["clip_steadiness"] = float(seen[0] @ self._before[0])
            columns["source_clip_steadiness"] = float(seen[1] @ self._before[1])
        self._before = seen
        if (rater := self._rater) is not None:
            if seen is None or rater.encode is not self._clip:
                seen = rater.encode(pictures)
            rated = quality_of(seen, rater.prompts_2D)
            columns |= {"quality": float(rated[0]), "source_quality": float(rated[1])}
        return columns
