"""The tracker that needs no download: GrabCut from what is pointed at, optical flow in between.

It works on frames of reduced size (long side `LONG_SIDE`) and gives silhouettes at full size. It
knows colours and motion and no objects: it follows what differs from its surroundings, or moves
otherwise than they do, and loses its way where something alike comes close, or where the object is
hidden for a while.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from maskora.masks import Labels
from maskora.masks.prompts import Box, Click, Prompt
from maskora.masks.shapes import Silhouette
from maskora.masks.trackers import carry
from maskora.masks.trackers import carry as evidence
from maskora.masks.trackers.carry import Backdrop, Field, Image, Marks, keep_parts, settle
from maskora.masks.tracking import Anchors, Silhouettes

SEED = 4  # radius of a click, in pixels
# Of the long side: radii of an object that is clicked on, each of which is tried.
RADII = (0.03, 0.05, 0.075, 0.11, 0.16, 0.24, 0.36)
REACH = 1.8  # of such a radius: beyond it is background
SLACK = 0.15  # of a box's sides: how far beyond it the object may be
BOX_CORE = 0.3  # of a box's axes: the ellipse in which the object is for certain
NEAR = 0.07  # of the long side: a click this near an outline corrects it, up to twice as far
USUAL, SPREAD = 0.1, 1.6  # size of an object by the long side, and how far its logarithm varies
MISSED = 0.7  # how far the logarithm of a size may be off the size that was tried
LARGE = 0.1  # of the largest part: smaller ones are dropped where none is known to be the object's
CLEAR = 95  # percentile of the edges that is as clear as can be

Point = tuple[int, int]
Sides = tuple[int, int, int, int]


@dataclass(frozen=True)
class Pointed:
    """What is pointed at for one object: pixels (x, y) and half-open boxes (x0, y0, x1, y1)."""

    inside: tuple[Point, ...]
    outside: tuple[Point, ...]
    boxes: tuple[Sides, ...]


def find(
    image_HWC: Image,
    permanence_HW: Field,
    pointed: Pointed,
    before_HW: Silhouette,
    others_HW: Silhouette,
) -> Silhouette:
    """The silhouette_HW of the object that is pointed at.

    Args:
        permanence_HW: as in `backdrop`.
        before_HW: where it was thought to be; empty if nowhere.
        others_HW: where other objects are; they are background.
    """

    def settled(marks_HW: Marks) -> Silhouette:
        marks_HW[others_HW] = cv2.GC_BGD
        for points, kind in ((pointed.outside, cv2.GC_BGD), (pointed.inside, cv2.GC_FGD)):
            for point in points:
                cv2.circle(marks_HW, point, SEED, kind, thickness=-1)
        silhouette_HW = settle(image_HWC, permanence_HW, marks_HW)
        hint_HW = silhouette_HW & (marks_HW == cv2.GC_FGD)
        if hint_HW.any() and (pointed.inside or before_HW.any()):
            return keep_parts(silhouette_HW, hint_HW, 0)
        return keep_parts(silhouette_HW, silhouette_HW, LARGE)

    if before_HW.any() and not _is_elsewhere(pointed, before_HW):
        return settled(_correction(pointed, before_HW))
    if pointed.boxes:
        return settled(_boxed(pointed, before_HW.shape))
    if not pointed.inside:
        return np.zeros_like(before_HW)
    marks = _extents(pointed, before_HW.shape)
    sizes = [float(np.sqrt((marks_HW & 1).sum())) for marks_HW in marks]
    return _best([settled(one_HW) for one_HW in marks], sizes, _edges(image_HWC, permanence_HW))


def _extents(pointed: Pointed, shape: tuple[int, ...]) -> list[Marks]:
    """One guess of where a clicked object is for each of `RADII`."""
    away_HW = _away(pointed.inside, shape)
    return [_discs(away_HW, share * max(shape), pointed) for share in RADII]


def _discs(away_HW: Field, radius: float, pointed: Pointed) -> Marks:
    """An object about as large as a disc around the clicks."""
    marks_HW = np.full(away_HW.shape, cv2.GC_BGD, np.uint8)
    marks_HW[away_HW <= REACH * radius] = cv2.GC_PR_BGD
    marks_HW[away_HW <= radius] = cv2.GC_PR_FGD
    for x, y in pointed.outside:
        off = min(radius, float(away_HW[y, x])) / 2
        cv2.circle(marks_HW, (x, y), round(off), cv2.GC_PR_BGD, thickness=-1)
    return marks_HW


def _boxed(pointed: Pointed, shape: tuple[int, ...]) -> Marks:
    """An object that fills boxes about."""
    marks_HW = np.full(shape, cv2.GC_BGD, np.uint8)
    for x0, y0, x1, y1 in pointed.boxes:
        wide, high = round(SLACK * (x1 - x0)), round(SLACK * (y1 - y0))
        rows, columns = slice(max(y0 - high, 0), y1 + high), slice(max(x0 - wide, 0), x1 + wide)
        marks_HW[rows, columns] = cv2.GC_PR_BGD
    for share, kind in ((1.0, cv2.GC_PR_FGD), (BOX_CORE, cv2.GC_FGD)):
        for x0, y0, x1, y1 in pointed.boxes:
            axes = round(share * (x1 - x0) / 2), round(share * (y1 - y0) / 2)
            centre = (x0 + x1) // 2, (y0 + y1) // 2
            cv2.ellipse(marks_HW, centre, axes, 0, 0, 360, kind, thickness=-1)
    return marks_HW


def _is_elsewhere(pointed: Pointed, before_HW: Silhouette) -> bool:
    """Whether all that is pointed at lies away from where the object was thought to be."""
    if pointed.boxes:
        return not (before_HW & _in_boxes(pointed.boxes, before_HW.shape)).any()
    reached_HW = _around(pointed.inside, NEAR, before_HW.shape)
    return bool(pointed.inside) and not (before_HW & reached_HW).any()


def _correction(pointed: Pointed, before_HW: Silhouette) -> Marks:
    """Clicks add or take away around them and nowhere else; what is outside of boxes goes."""
    shape = before_HW.shape
    missing = [(x, y) for x, y in pointed.inside if not before_HW[y, x]]
    marks_HW = np.where(before_HW, cv2.GC_FGD, cv2.GC_BGD).astype(np.uint8)
    if pointed.boxes:
        marks_HW = np.where(before_HW, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
        marks_HW[~_in_boxes(pointed.boxes, shape)] = cv2.GC_BGD
    marks_HW[~before_HW & _around(missing, 2 * NEAR, shape)] = cv2.GC_PR_BGD
    marks_HW[~before_HW & _around(missing, NEAR / 2, shape)] = cv2.GC_PR_FGD
    marks_HW[before_HW & _around(pointed.outside, 2 * NEAR, shape)] = cv2.GC_PR_FGD
    marks_HW[before_HW & _around(pointed.outside, NEAR / 2, shape)] = cv2.GC_PR_BGD
    return marks_HW


def _in_boxes(boxes: Sequence[Sides], shape: tuple[int, ...]) -> Silhouette:
    within_HW = np.zeros(shape, np.bool_)
    for x0, y0, x1, y1 in boxes:
        within_HW[y0:y1, x0:x1] = True
    return within_HW


def _around(points: Sequence[Point], share: float, shape: tuple[int, ...]) -> Silhouette:
    """Discs around points, of a radius that is a share of the picture's long side."""
    canvas_HW = np.zeros(shape, np.uint8)
    for point in points:
        cv2.circle(canvas_HW, point, round(share * max(shape)), 1, thickness=-1)
    return canvas_HW > 0


def _away(points: Sequence[Point], shape: tuple[int, ...]) -> Field:
    """How far each pixel is from the points and what lies between them."""
    canvas_HW = np.ones(shape, np.uint8)
    hull = cv2.convexHull(np.array(points, np.int32).reshape(-1, 1, 2))
    cv2.fillConvexPoly(canvas_HW, hull, 0)
    cv2.polylines(canvas_HW, [hull], True, 0)
    return np.asarray(cv2.distanceTransform(canvas_HW, cv2.DIST_L2, 5))


def _edges(image_HWC: Image, permanence_HW: Field) -> Field:
    """How much colours and permanence change at each pixel."""
    layers_HWC = np.dstack([evidence.colours(image_HWC).astype(np.float32), 255 * permanence_HW])
    smooth_HWC = cv2.GaussianBlur(layers_HWC, (0, 0), 2)
    dx, dy = (cv2.Sobel(smooth_HWC, cv2.CV_32F, *way, ksize=3) for way in ((1, 0), (0, 1)))
    return np.asarray(np.sqrt((dx**2 + dy**2).sum(axis=-1)))


def _best(tries: Sequence[Silhouette], sizes: Sequence[float], edges_HW: Field) -> Silhouette:
    """Of tries that each took the object for about as large as a size: the most convincing."""
    ratings = [
        _rating(one_HW, size, edges_HW) * _agreement(one_HW, tries)
        for one_HW, size in zip(tries, sizes, strict=True)
    ]
    return tries[int(np.argmax(ratings))]


def _rating(silhouette_HW: Silhouette, size: float, edges_HW: Field) -> float:
    """How clearly an outline follows edges; less for sizes that are unusual or were not tried."""
    if not silhouette_HW.any():
        return 0.0
    kernel = np.ones((3, 3), np.uint8)
    rim_HW = cv2.morphologyEx(silhouette_HW.astype(np.uint8), cv2.MORPH_GRADIENT, kernel) > 0
    on_rim = np.minimum(edges_HW[rim_HW], np.percentile(edges_HW, CLEAR))
    own = float(np.sqrt(silhouette_HW.sum()))
    unusual = np.log(own / (USUAL * max(silhouette_HW.shape))) / SPREAD
    untried = np.log(own / size) / MISSED
    return float(on_rim.mean() * np.exp(-0.5 * (unusual**2 + untried**2)))


def _agreement(silhouette_HW: Silhouette, tries: Sequence[Silhouette]) -> float:
    """How much other tries overlap a silhouette: what is found again and again is an object."""
    shared = [float((silhouette_HW & one_HW).sum()) for one_HW in tries]
    either = [float((silhouette_HW | one_HW).sum()) for one_HW in tries]
    return float(np.mean(np.array(shared) / np.maximum(either, 1)))


LONG_SIDE = 848  # pixels
LOST = 0.02  # of the area at the last anchor: what is smaller has left the picture

Frame = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class _Followed:
    """One object on its way along the path; all arrays are at the reduced size."""

    silhouette_HW: Silhouette
    look: carry.Look
    least_area: float


class SimpleTracker:
    """GrabCut and DIS optical flow on the frames of one clip.

    Attributes:
        label: what it is called towards the person.
    """

    label = "simple (GrabCut and optical flow)"

    def __init__(self, frames_THWC: Frame) -> None:
        """frames_THWC: uint8 RGB."""
        self._height, self._width = frames_THWC.shape[1:3]
        self._scale = min(1.0, LONG_SIDE / max(self._height, self._width))
        size = (max(1, round(self._width * self._scale)), max(1, round(self._height * self._scale)))
        self._frames_THWC = np.stack(
            [cv2.resize(frame_HWC, size, interpolation=cv2.INTER_AREA) for frame_HWC in frames_THWC]
        )
        self._backdrop = Backdrop(self._frames_THWC)
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def segment(self, frame: int, prompts: Sequence[Prompt], before_HW: Labels) -> Silhouettes:
        """As `Tracker.segment`: clicks are kept to exactly, boxes nearly (`find.SLACK`)."""
        found: dict[int, Silhouette] = {}
        permanence_HW = self._backdrop.permanence(frame)
        for number in sorted({prompt.object_id for prompt in prompts}):
            own = [prompt for prompt in prompts if prompt.object_id == number]
            pointed = self._pointed(own)
            before = self._reduce(before_HW == number)
            others = self._reduce((before_HW != number) & (before_HW > 0))
            small_HW = find(self._frames_THWC[frame], permanence_HW, pointed, before, others)
            found[number] = self._with_clicks(self._enlarge(small_HW), own)
        return found

    def propagate(self, path: Sequence[int], anchors: Anchors) -> Iterator[Silhouettes]:
        """As `Tracker.propagate`: each object is carried on from its last anchor on the path."""
        followed: dict[int, _Followed | None] = {}  # None: it is out of sight
        previous = path[0]
        for frame in path:
            anchored = anchors.get(frame, {})
            carried = [number for number in followed if number not in anchored]
            found = dict(anchored)
            if any(followed[number] for number in carried):
                moved = self._motion(frame, previous)
            for number in carried:
                before = followed[number]
                after = followed[number] = before and self._step(frame, before, moved)
                found[number] = self._enlarge(after.silhouette_HW) if after else self._nothing()
            followed |= {n: self._anchor(frame, anchored[n]) for n in anchored}
            yield found
            previous = frame

    def close(self) -> None:
        """Free the reduced frames."""
        self._frames_THWC = self._frames_THWC[:0]
        self._backdrop.close()

    def _anchor(self, frame: int, silhouette_HW: Silhouette) -> _Followed | None:
        small_HW = self._reduce(silhouette_HW)
        if not small_HW.any():
            return None
        look = carry.look(self._frames_THWC[frame], small_HW)
        return _Followed(small_HW, look, max(2.0, LOST * float(small_HW.sum())))

    def _step(self, frame: int, before: _Followed, moved: carry.Motion) -> _Followed | None:
        image_HWC = self._frames_THWC[frame]
        carried_HW = carry.carry(
            image_HWC, before.silhouette_HW, moved, before.look, self._backdrop.permanence(frame)
        )
        if carried_HW.sum() < before.least_area:
            return None
        return replace(before, silhouette_HW=carried_HW)

    def _motion(self, frame: int, previous: int) -> carry.Motion:
        here_HW, there_HW = (
            cv2.cvtColor(self._frames_THWC[number], cv2.COLOR_RGB2GRAY)
            for number in (frame, previous)
        )
        return carry.motion(self._flow, here_HW, there_HW)

    def _pointed(self, prompts: Sequence[Prompt]) -> Pointed:
        """The prompts of one object, in pixels of the reduced frame."""
        height, width = self._frames_THWC.shape[1:3]
        clicks = [prompt for prompt in prompts if isinstance(prompt, Click)]
        boxes = [prompt for prompt in prompts if isinstance(prompt, Box)]

        def pixel(click: Click) -> tuple[int, int]:
            x, y = int(click.x * self._scale), int(click.y * self._scale)
            return min(max(x, 0), width - 1), min(max(y, 0), height - 1)

        def sides(box: Box) -> tuple[int, int, int, int]:
            x0, y0 = np.floor(np.array([box.x, box.y]) * self._scale).astype(int).tolist()
            far = np.array([box.x + box.width, box.y + box.height]) * self._scale
            x1, y1 = np.ceil(far).astype(int).tolist()
            return max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)

        return Pointed(
            inside=tuple(pixel(click) for click in clicks if click.positive),
            outside=tuple(pixel(click) for click in clicks if not click.positive),
            boxes=tuple(sides(box) for box in boxes),
        )

    def _with_clicks(self, silhouette_HW: Silhouette, prompts: Sequence[Prompt]) -> Silhouette:
        """Full size: a pixel that was clicked on is what the click says."""
        canvas_HW = silhouette_HW.astype(np.uint8)
        radius = round(0.5 / self._scale)
        for prompt in prompts:
            if isinstance(prompt, Click):
                x = min(max(int(prompt.x), 0), self._width - 1)
                y = min(max(int(prompt.y), 0), self._height - 1)
                cv2.circle(canvas_HW, (x, y), radius, int(prompt.positive), thickness=-1)
        return canvas_HW > 0

    def _reduce(self, silhouette_HW: Silhouette) -> Silhouette:
        """To the reduced size; a silhouette that is not empty keeps a pixel."""
        height, width = self._frames_THWC.shape[1:3]
        share_HW = cv2.resize(
            silhouette_HW.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA
        )
        return np.asarray(share_HW > 0) & (share_HW >= min(0.5, float(share_HW.max())))

    def _enlarge(self, small_HW: Silhouette) -> Silhouette:
        share_HW = cv2.resize(
            small_HW.astype(np.float32),
            (self._width, self._height),
            interpolation=cv2.INTER_LINEAR,
        )
        return np.asarray(share_HW >= 0.5)

    def _nothing(self) -> Silhouette:
        return np.zeros((self._height, self._width), np.bool_)
