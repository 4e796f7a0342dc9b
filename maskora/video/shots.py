"""Shot changes, found while frames pass: hard cuts, cross-fades, fades through black or white.

Frames are shrunk to thumbnails and compared by correlation, which a change of exposure does not
alter. A cut is a step far above the steps around it; that threshold follows PySceneDetect's
AdaptiveDetector. In a cross-fade each picture is a mixture of one before and one after it, with a
share that rises in time: the model of Lienhart, "Reliable Transition Detection in Videos" (2001).
Both pictures may move: they are looked for a few pixels around.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

Thumbnail = npt.NDArray[np.float32]
SIDE = 48  # pixels of a thumbnail
SHIFT = SIDE // 6  # pixels of it by which a picture is followed
NOISE = 9.0  # variance, of values up to 255, below which a thumbnail shows nothing

NEAR = 12  # steps before and after one, which it is compared with
LEAST_STEP, OVER_MOST, OVER_NEXT = 0.1, 3, 2  # of a cut: its height, and above the steps around it
MOVED = 0.8  # correlation above which a picture has only moved
FLASH = 3  # frames; what is there again after them has not been cut

SPANS = (2, 4, 8, 16, 32, 64)  # frames from before a fade to after it
REACH = SPANS[-1] // 2
SIGHTINGS = 2  # at least, of a fade: by several spans, or in several frames
UNLIKE = 0.5  # correlation below which two pictures are of different shots
LEAST_WEIGHT, MOST_WEIGHT = 0.2, 1.03  # of each in a mixture, and of both: a wave's are more
FIT, UNEXPLAINED = 0.85, 0.5  # of it: explained in all; left, of what one alone leaves
MOST_RISE = 0.8  # of the second picture's share, measured well within the fade
DARK, BRIGHT, CONTRAST = 20, 235, 10  # levels of black and white; deviation of what is neither


@dataclass(frozen=True)
class ShotChange:
    """Where a new shot begins.

    Attributes:
        frame: its first frame; of a fade, the one in the middle.
        first, last: the frames in which a fade takes place; of a cut, both are `frame`.
    """

    kind: Literal["cut", "fade"]
    frame: int
    first: int
    last: int


def find_shots(frames: Iterable[npt.NDArray[np.uint8]]) -> tuple[ShotChange, ...]:
    """The shot changes among frames (H, W, 3), uint8 RGB, in order."""
    finder = ShotFinder()
    for frame_HWC in frames:
        finder.add(frame_HWC)
    return finder.finish()


class ShotFinder:
    """Takes frames one by one and keeps thumbnails of the last 65.

    Not found: jump cuts within a scene, fades during which a picture moves by more than about a
    sixth of its width, fades of more than about 60 frames.
    """

    def __init__(self) -> None:
        self._thumbnails: deque[Thumbnail] = deque(maxlen=2 * REACH + 1)
        self._steps: deque[float] = deque(maxlen=2 * REACH + 1)
        self._added = self._judged = 0
        self._cuts: list[int] = []
        self._sightings: list[_Sighting] = []

    def add(self, frame_HWC: npt.NDArray[np.uint8]) -> None:
        """Take the next frame, uint8 RGB."""
        small = cv2.resize(frame_HWC, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        thumbnail = small.astype(np.float32)
        last = self._thumbnails[-1] if self._thumbnails else thumbnail
        self._steps.append(1 - _likeness(last, thumbnail))
        self._thumbnails.append(thumbnail)
        self._added += 1
        if self._added > REACH:
            self._judge()

    def finish(self) -> tuple[ShotChange, ...]:
        """The shot changes of all frames, in order."""
        while self._judged < self._added:
            self._judge()
        cuts = [ShotChange("cut", frame, frame, frame) for frame in self._cuts]
        fades = [
            fade
            for sightings in _overlapping(self._sightings)
            if len(sightings) >= SIGHTINGS
            and (fade := _combine(sightings, self._added - 1))
            and not any(fade.first <= frame <= fade.last + 1 for frame in self._cuts)
        ]
        return tuple(sorted([*cuts, *fades], key=lambda change: change.frame))

    def _judge(self) -> None:
        """Judge the next frame, of which up to REACH earlier and later ones are known."""
        thumbnails, number = list(self._thumbnails), self._judged
        at = number - (self._added - len(thumbnails))
        if _is_cut(thumbnails, list(self._steps), at):
            self._cuts.append(number)
        for half in (span // 2 for span in SPANS):
            if half <= at < len(thumbnails) - half:
                around = thumbnails[at - half : at + half + 1]
                if (place := _fade(around)) is not None and abs(place[0]) <= half:
                    self._sightings.append(_Sighting(2 * half, number + place[0], place[1]))
        self._judged += 1


def _is_cut(thumbnails: list[Thumbnail], steps: list[float], at: int) -> bool:
    """Whether a shot begins at a frame; not where something moves fast, nor with a flash."""
    before, after = steps[max(1, at - NEAR) : at], steps[at + 1 : at + 1 + NEAR]
    if at == 0 or steps[at] < LEAST_STEP or not (before or after):
        return False
    most, nearest = np.quantile(before + after, 0.75), max(before[-1:] + after[:1])
    if steps[at] < max(OVER_MOST * most, OVER_NEXT * nearest):
        return False
    old, new = thumbnails[at - 1], thumbnails[at]
    if _is_blank(old) or _is_blank(new) or _likeness(_follow(old, new), _centre(new)) > MOVED:
        return False
    back = [_likeness(old, later) for later in thumbnails[at + 1 : at + 1 + FLASH]]
    back += [_likeness(new, earlier) for earlier in thumbnails[max(0, at - 1 - FLASH) : at - 1]]
    return 1 - max(back, default=-1.0) > steps[at] / 2


def _fade(around: list[Thumbnail]) -> tuple[float, float] | None:
    """The fade in whose middle the middle one of some thumbnails may be.

    Returns:
        where its middle is, in frames after that one, and how many frames it has.
    """
    start, middle, end = around[0], around[len(around) // 2], around[-1]
    if _likeness(start, end) > UNLIKE:
        return None
    if _is_blank(middle):
        return _blank_run(around)
    for following in (False, True):
        mixture = _unmix(start, middle, end, following)
        if mixture is not None and mixture.is_sound:
            return _measure(around, mixture.share, following)
    return None


def _blank_run(around: list[Thumbnail]) -> tuple[float, float] | None:
    """The middle and length of the black or white between two shots, which is in the middle."""
    start, end, half = around[0], around[-1], len(around) // 2
    if min(start.std(), end.std()) < CONTRAST:
        return None
    if _likeness(_follow(start, end), _centre(end)) > UNLIKE:
        return None  # it was a flash
    earlier = sum(1 for _ in takewhile(_is_blank, around[half - 1 :: -1]))
    later = sum(1 for _ in takewhile(_is_blank, around[half + 1 :]))
    return (later - earlier) / 2, 1.0 + earlier + later


def _measure(around: list[Thumbnail], share: float, following: bool) -> tuple[float, float] | None:
    """A fade's middle and length by how the second shot's share rises; None where it does not."""
    span = len(around) - 1
    apart = span // 4
    if not apart:
        return 0.0, 1.0
    while (risen := _rise(around, apart, following)) > MOST_RISE and apart > 1:
        apart //= 2  # the fade may be shorter than that
    if risen <= 0:
        return None
    length = max(1.0, min(2 * apart / risen, span) - 1)
    return (0.5 - share) * 2 * apart / risen, length


def _rise(around: list[Thumbnail], apart: int, following: bool) -> float:
    """By how much the share rises from so many frames before the middle to as many after it."""
    half = len(around) // 2
    sides = (around[half - apart], around[half + apart])
    early, late = (_unmix(around[0], side, around[-1], following) for side in sides)
    return late.share - early.share if early and late else 0.0


@dataclass(frozen=True)
class _Mixture:
    """A picture as a weighted sum of two others.

    Attributes:
        fit: share of its variance that both explain; `alone`: that the better one explains.
        likeness: the two others' correlation.
    """

    weights: tuple[float, float]
    fit: float
    alone: float
    likeness: float

    @property
    def share(self) -> float:
        """The second one's weight in both, 0 to 1."""
        first, second = (max(weight, 1e-6) for weight in self.weights)
        return second / (first + second)

    @property
    def is_sound(self) -> bool:
        """Whether it takes both, and they are two different pictures."""
        explained = 1 - self.fit <= UNEXPLAINED * (1 - self.alone) and self.fit >= FIT
        weighed = min(self.weights) >= LEAST_WEIGHT and sum(self.weights) <= MOST_WEIGHT
        return explained and weighed and self.likeness < UNLIKE


def _unmix(start: Thumbnail, middle: Thumbnail, end: Thumbnail, following: bool) -> _Mixture | None:
    """The middle one as a mixture of the others; None where one of the three shows nothing.

    Args:
        following: the others are looked for where they may have moved.
    """
    if following:
        start, end, middle = _follow(start, middle), _follow(end, middle), _centre(middle)
    flat_3N = np.stack([_without_mean(picture) for picture in (start, middle, end)])
    (ss, sm, se), (_, mm, me), (_, _, ee) = (flat_3N @ flat_3N.T / flat_3N.shape[1]).tolist()
    determinant = ss * ee - se * se
    if min(ss, mm, ee) < NOISE or determinant < NOISE * NOISE:
        return None
    first, second = (sm * ee - me * se) / determinant, (me * ss - sm * se) / determinant
    return _Mixture(
        weights=(first, second),
        fit=(first * sm + second * me) / mm,
        alone=max(sm * sm / ss, me * me / ee) / mm,
        likeness=se / (ss * ee) ** 0.5,
    )


@dataclass(frozen=True)
class _Sighting:
    """A fade as one span of thumbnails shows it; a fade has many."""

    span: int
    middle: float
    length: float

    @property
    def ends(self) -> tuple[float, float]:
        return self.middle - self.length / 2, self.middle + self.length / 2


def _overlapping(sightings: list[_Sighting]) -> list[list[_Sighting]]:
    """Sightings of the same fade, each fade's together, in order."""
    groups: list[list[_Sighting]] = []
    reached = -np.inf
    for sighting in sorted(sightings, key=lambda one: one.ends):
        start, end = sighting.ends
        if start > reached + 1:
            groups.append([])
        groups[-1].append(sighting)
        reached = max(reached, end)
    return groups


def _combine(sightings: list[_Sighting], last_frame: int) -> ShotChange | None:
    """One fade of its sightings: short spans see too little of it, long ones too much beside it.

    None where its middle is no frame after the first.
    """
    shortest = min(sighting.span for sighting in sightings)
    means = []
    for span in (shortest, 2 * shortest):
        own = [(one.length, one.middle) for one in sightings if one.span == span]
        if own:
            means.append(np.mean(own, axis=0).tolist())
    length, middle = max(means)
    if not 1 <= round(middle) <= last_frame:
        return None
    first = max(1, round(middle - (length - 1) / 2))
    last = max(first, min(last_frame, round(middle + (length - 1) / 2)))
    return ShotChange("fade", (first + last + 1) // 2, first, last)


def _likeness(one: Thumbnail, other: Thumbnail) -> float:
    """The correlation of two pictures, of all colours together; 1 where neither shows anything."""
    a, b = _without_mean(one), _without_mean(other)
    variances = (np.mean(a * a) + NOISE) * (np.mean(b * b) + NOISE)
    return float((np.mean(a * b) + NOISE) / np.sqrt(variances))


def _without_mean(picture: Thumbnail) -> Thumbnail:
    return (picture - picture.mean(axis=(0, 1))).ravel()


def _is_blank(picture: Thumbnail) -> bool:
    """Whether a picture is black or white all over."""
    return bool(np.var(picture) < NOISE) and not DARK < picture.mean() < BRIGHT


def _centre(picture: Thumbnail) -> Thumbnail:
    return picture[SHIFT:-SHIFT, SHIFT:-SHIFT]


def _follow(picture: Thumbnail, other: Thumbnail) -> Thumbnail:
    """The part of a picture that is most like the centre of another one."""
    centre = _centre(other)
    scores = cv2.matchTemplate(picture, centre, cv2.TM_CCOEFF_NORMED)
    y, x = np.unravel_index(int(scores.argmax()), scores.shape)
    return picture[y : y + len(centre), x : x + len(centre)]
