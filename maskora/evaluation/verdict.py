"""The verdict on a result: known bad signs, and the frames that stand out.

The bounds are rules of thumb: they part the rendered good and bad results of the tests. A sign says
where to look; it proves nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from maskora.evaluation.judge import MEASURES, Numbers, SegmentMeans, format_value

SHOWS = 30.0  # dB: below that a difference is seen
FROZEN = 0.35  # of the source's speed
COLOURS_GONE, CHANGE_GONE = 0.5, 0.35  # of the edited first frame's
FLICKERS, FLICKERS_LEVELS = 2.0, 5.0  # times the source's warp error, and by so many levels
MISSED, TURNED = 0.5, 45.0  # hit rate; degrees
STANDS_OUT = 3.0  # spreads from the median
# By what frames are compared: not by what may well change over a clip, as the content does.
COMPARED = (
    "outside_psnr", "edit_colours", "follow_error", "warp_error", "clip_steadiness", "quality",
    "hit_rate", "centroid_error", "orientation_error", "inside_psnr",
)  # fmt: skip
MOST_FRAMES = 5
# Later segments are compared with the first by these, and named from so many grains on.
OF_SEGMENTS, FALLS, MOST_SEGMENTS = ("edit_colours", "outside_l1"), 3, 5
CEILING = 100.0  # dB: what an identical picture is compared as; it is shown as identical


@dataclass(frozen=True)
class Sign:
    """A known bad sign.

    Attributes:
        name: background, vanished, frozen, flicker, untrue or segments.
        title: the same in a few words.
        message: what was found, and what may help.
    """

    name: str
    title: str
    message: str


@dataclass(frozen=True)
class Worst:
    """A frame that stands out.

    Attributes:
        key: the measure by which it stands out most.
        value: of that frame.
        typical: the median over the clip; infinite where most pictures are identical.
    """

    frame: int
    key: str
    value: float
    typical: float


def bad_signs(numbers: Numbers, segments: Sequence[SegmentMeans] = ()) -> list[Sign]:
    """The known bad signs of a result, in the order in which they are best looked at.

    Args:
        segments: of a clip that was generated in several.
    """
    checks = (_background, _vanished, _frozen, _flicker, _untrue)
    found = [*(check(numbers) for check in checks), _segments(segments)]
    return [sign for sign in found if sign is not None]


def worst_frames(numbers: Numbers) -> list[Worst]:
    """The frames that are much worse than the rest in some measure, the worst first.

    How much worse is counted in spreads of the measure (its median deviation from the median, and
    at least what a person would notice). A frame is named once, by its worst measure.
    """
    found: dict[int, tuple[float, Worst]] = {}
    for key in (key for key in COMPARED if key in numbers.curves):
        measure, curve = MEASURES[key], numbers.curves[key]
        given = np.array([np.nan if v is None else v for v in curve])
        values = np.minimum(given, CEILING) if measure.unit == "dB" else given
        typical = float(np.nanmedian(values))
        spread = max(1.4826 * float(np.nanmedian(np.abs(values - typical))), measure.grain)
        worse = (typical - values) * (1 if measure.better == "higher" else -1) / spread
        for frame in np.flatnonzero(worse >= STANDS_OUT):
            one = Worst(int(frame), key, float(given[frame]), float(np.nanmedian(given)))
            if worse[frame] > found.get(one.frame, (0.0,))[0]:
                found[one.frame] = (float(worse[frame]), one)
    ranked = sorted(found.values(), key=lambda pair: -pair[0])
    return [one for _, one in ranked[:MOST_FRAMES]]


def _background(numbers: Numbers) -> Sign | None:
    values = [v for v in numbers.curves.get("outside_psnr", []) if v is not None]
    if not values or min(values) >= SHOWS:
        return None
    frame = numbers.curves["outside_psnr"].index(min(values))
    return Sign(
        "background",
        "The background is not kept",
        f"Outside the mask the result differs visibly from the source, most in frame {frame} "
        f'(PSNR {min(values):.1f} dB). With inference.lock = "pixel" the outside is the source.',
    )


def _vanished(numbers: Numbers) -> Sign | None:
    colours, change = (_end(numbers, key) for key in ("edit_colours", "edit_change"))
    to_source = change is not None and change < CHANGE_GONE
    if not to_source and (colours is None or colours >= COLOURS_GONE):
        return None
    found = []
    if colours is not None:
        found.append(f"its colours cover {colours:.0%} of what they do in your edited first frame")
    if change is not None:
        found.append(f"the inside differs from the source {change:.2f} times as much as there")
    return Sign(
        "vanished",
        "The edit turns back into the source" if to_source else "The edit's colours disappear",
        f"In the last quarter of the clip {' and '.join(found)}. A later edited keyframe, fewer "
        f'motion steps, or motion.augment = "colour" may help.',
    )


def _frozen(numbers: Numbers) -> Sign | None:
    speed = numbers.means.get("motion_speed")
    if speed is None or speed >= FROZEN:
        return None
    return Sign(
        "frozen",
        "The inside is frozen",
        f"Where the source moves, the inside of the mask moves at {speed:.0%} of its speed. More "
        f"motion steps (motion.steps) may help.",
    )


def _flicker(numbers: Numbers) -> Sign | None:
    own, source = (numbers.means.get(key) for key in ("warp_error", "source_warp_error"))
    if own is None or source is None or own < max(FLICKERS * source, source + FLICKERS_LEVELS):
        return None
    return Sign(
        "flicker",
        "The inside flickers",
        f"From frame to frame the inside changes by {own:.1f} levels beside its motion; the source "
        f"does by {source:.1f}. More denoising steps (inference.steps) may help.",
    )


def _untrue(numbers: Numbers) -> Sign | None:
    hits, turned = (numbers.means.get(key) for key in ("hit_rate", "orientation_error"))
    found = []
    if hits is not None and hits < MISSED:
        found.append(
            f"only {hits:.0%} of the true object's pixels are nearer to the truth than to what "
            f"was there before"
        )
    if turned is not None and turned > TURNED:
        found.append(f"the object is turned by {turned:.0f}° on average")
    if not found:
        return None
    return Sign("untrue", "The edit is far from the truth", f"{'; '.join(found).capitalize()}.")


def _segments(segments: Sequence[SegmentMeans]) -> Sign | None:
    found = [
        f"{later.title}: {' and '.join(worse)}"
        for later in segments[1:]
        if (worse := [_against(later, segments[0], key) for key in _worse(later, segments[0])])
    ]
    if not found:
        return None
    more = len(found) - MOST_SEGMENTS
    if more > 0:
        found = [*found[:MOST_SEGMENTS], f"{more} more"]
    text = "; ".join(found)
    return Sign(
        "segments",
        "A later segment is worse than the first",
        f"{text.capitalize()}. An edited keyframe near where such a segment begins may "
        f'help; with inference.lock = "pixel" the outside is the source.',
    )


def _worse(later: SegmentMeans, first: SegmentMeans) -> list[str]:
    """The measures in which a segment is clearly worse than the first."""
    return [
        key
        for key in OF_SEGMENTS
        if key in later.means and key in first.means
        and (first.means[key] - later.means[key])
        * (1 if MEASURES[key].better == "higher" else -1)
        >= FALLS * MEASURES[key].grain
    ]  # fmt: skip


def _against(later: SegmentMeans, first: SegmentMeans, key: str) -> str:
    own, other = (format_value(key, segment.means[key]) for segment in (later, first))
    return f"{MEASURES[key].title.lower()} {own} (in the first {other})"


def _end(numbers: Numbers, key: str) -> float | None:
    """A measure's mean over the last quarter of the frames that have one."""
    values = [v for v in numbers.curves.get(key, []) if v is not None]
    last = values[-math.ceil(len(values) / 4) :]
    return math.fsum(last) / len(last) if last else None
