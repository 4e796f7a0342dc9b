"""Long clips in overlapping segments: which frames go through the base at once, and at what times.

A segment opens at an edited frame, as image-to-video does, or goes on where the one before has
stopped. One that goes on is shown the last frames of that result, whole, and before them the edited
frame that the look comes from, its anchor. The anchor stands at its own time before the others by
the rotary embedding: I2VEdit's skip-interval attention (section 3.2) without stored keys and
values, and in the form in which a base has learned to be given a first frame.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

HELD = 4  # frames per latent frame after the first, on every base
DRIFT = 6.0  # levels by which a segment's colours are moved at most
TELLS = 0.05  # share of the picture that must lie outside the mask to tell of a drift


@dataclass(frozen=True)
class Segment:
    """Frames of a clip that go through the base at once.

    Attributes:
        start, stop: the frames, half-open.
        kept: of these, the first so many are the result of the segment before, shown whole.
        anchor: the edited frame that is shown before them; None: none is, and where nothing is kept
            the frame `start` is an edited one, and given.
    """

    start: int
    stop: int
    kept: int = 0
    anchor: int | None = None

    @property
    def opens(self) -> bool:
        """True where it begins at an edited frame."""
        return not self.kept and self.anchor is None

    @property
    def begins(self) -> int:
        """The first frame that is its own, not the result of the segment before."""
        return self.start + self.kept

    @property
    def led(self) -> int:
        """How many frames are shown before `start`."""
        return int(self.anchor is not None)

    @property
    def given(self) -> int:
        """How many of the first frames that the base is shown are shown whole."""
        return self.led + self.kept + self.opens

    @property
    def shown(self) -> int:
        """How many frames the base is shown: 4k+1, the last one again and again where needed."""
        return whole(self.led + self.stop - self.start)

    @property
    def edited(self) -> int | None:
        """The number of the edited frame that it is shown."""
        return self.start if self.opens else self.anchor

    def look(self, edited: Iterable[int]) -> int:
        """Of the numbers of the edited frames, that of the one which it is to look like."""
        return max(frame for frame in edited if frame <= self.start)

    def times(self, longest: int) -> tuple[int, ...] | None:
        """The latent frames' times, the first one's being 0; None: one follows another.

        Args:
            longest: frames of the longest clips that the base has learned; an anchor that is
                further away is shown no further than these reach.
        """
        if self.anchor is None:
            return None
        later = (self.shown - 1) // HELD
        apart = -(-(self.start - self.anchor) // HELD)
        apart = max(1, min(apart, (longest - 1) // HELD - later + 1))
        return None if apart == 1 else (0, *range(apart, apart + later))


def whole(frames: int) -> int:
    """So many frames, or the next number that fills latent frames: 4k+1."""
    return frames + (1 - frames) % HELD


def plan_segments(
    frames: int, edited: Iterable[int], cuts: Iterable[int], *, segment: int, overlap: int,
    anchored: bool,
) -> list[Segment]:  # fmt: skip
    """The segments of a clip, in order; one alone where the clip is no longer than a segment.

    Each begins in the overlap of the one before. None crosses a cut. Where it comes in the second
    half of a segment, an edited frame opens the next.

    Args:
        frames: of the clip.
        edited: numbers of the edited frames; 0 is one.
        cuts: numbers of the frames at which a shot begins, but the first.
        segment: frames of a segment at most, 4k+1.
        overlap: frames that two segments share, a multiple of 4.
        anchored: segments that go on are shown the edited frame before.
    """
    keyframes = sorted(edited)
    borders = [0, *sorted(cuts), frames]
    return [
        one
        for first, end in pairwise(borders)
        for one in _of_shot(first, end, keyframes, segment, overlap, anchored)
    ]


def _of_shot(
    first: int, end: int, keyframes: Sequence[int], longest: int, overlap: int, anchored: bool
) -> list[Segment]:
    """The segments of a shot of the frames from `first` to before `end`."""
    found: list[Segment] = []
    start, kept = first, 0
    while True:
        anchor = max(frame for frame in keyframes if frame <= start)
        opens = not kept and anchor == start
        led = not opens and (anchored or not kept)
        stop = min(start + longest - led, end)
        found.append(Segment(start, stop, kept, anchor if led else None))
        if stop == end:
            return found
        half = start + (stop - start) // 2
        following = [k for k in keyframes if half <= k <= stop - overlap]
        if following:
            start, kept = following[-1], 0
        else:
            kept = overlap if anchored else overlap + 1
            start = stop - kept


def independent_runs(segments: Sequence[Segment], shared: int) -> list[range]:
    """The segments, counted from 1, in runs of which each is generated without the others.

    One begins where a segment is shown no frame of the one before, and passes none on that it
    blends with that one's.

    Args:
        shared: frames over which one segment goes over into the next.
    """
    starts = [
        number
        for number, segment in enumerate(segments, 1)
        if number == 1 or (not segment.kept and _passes_on_its_own(segments, number, shared))
    ]
    return [range(*pair) for pair in pairwise([*starts, len(segments) + 1])]


def _passes_on_its_own(segments: Sequence[Segment], number: int, shared: int) -> bool:
    """Whether the frames that the next segment begins with are of this one alone."""
    segment, following = segments[number - 1], segments[number : number + 1]
    blended_to = min(segments[number - 2].stop, segment.start + shared)
    return all(not after.kept or after.start >= blended_to for after in following)


def noise_seed(seed: int, segment: int) -> int:
    """The seed of a segment's noise, below 2^32: the first one's is the clip's own."""
    if segment == 0:
        return seed
    return int(np.random.SeedSequence([seed, segment]).generate_state(1)[0])


def blended(before_THWC: np.ndarray, after_THWC: np.ndarray, weights_T: np.ndarray) -> np.ndarray:
    """Frames that two segments have made, the second's by a weight each; uint8."""
    weights = weights_T.astype(np.float32)[:, None, None, None]
    mixed = before_THWC * (1 - weights) + after_THWC * weights
    return np.rint(mixed).astype(np.uint8)


def tells(outside_THW: np.ndarray) -> bool:
    """Whether enough lies outside the mask to tell of a drift of the colours."""
    return bool(outside_THW.mean() >= TELLS)


def drift(
    generated_THWC: np.ndarray, source_THWC: np.ndarray, outside_THW: np.ndarray
) -> np.ndarray | None:
    """By how many levels a result's colours lie above its source's outside the mask, (3,).

    None where too little lies outside to tell.
    """
    if not tells(outside_THW):
        return None
    total_C = np.zeros(3)
    for generated, source, outside in zip(generated_THWC, source_THWC, outside_THW, strict=True):
        total_C += (generated[outside].astype(np.float32) - source[outside]).sum(axis=0)
    return total_C / outside_THW.sum()


def corrected(generated_THWC: np.ndarray, shift_C: np.ndarray) -> np.ndarray:
    """Frames without a drift, of which no more is taken back than `DRIFT`; uint8."""
    moved_C, found_THWC = np.clip(shift_C, -DRIFT, DRIFT).astype(np.float32), generated_THWC.copy()
    for frame_HWC in found_THWC:
        frame_HWC[...] = np.clip(np.rint(frame_HWC - moved_C), 0, 255)
    return found_THWC
