"""The tracker that needs no download: GrabCut for what is pointed at, optical flow in between.

It works on frames of reduced size (long side `LONG_SIDE`) and returns silhouettes at full size. It
knows colours and motion, not objects: it follows what differs from its surroundings or moves
otherwise than they do, and it loses an object when something alike comes close or when the object
is hidden for a while.

From top to bottom: the tracker, an object in one frame from prompts (`find_object`), an object from
one frame to the next (`carry`), the cut that both end with (`refine`), the beliefs that guide the
cut (colours, and how much a pixel moves), and the scene without what moves (`BackdropModel`). In
all of it, images_HWC are uint8 RGB of one size, a belief_HW is a probability per pixel, and
permanence_HW is how much of a pixel's surroundings in time looks the same once the camera's motion
is undone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from maskora.frames import Frames, LazyFrames
from maskora.masks import Labels, Silhouette
from maskora.masks.prompts import Box, Click, Prompt
from maskora.masks.shapes import silhouette_box
from maskora.masks.tracking import Anchors, Silhouettes

Image = npt.NDArray[np.uint8]
Field = npt.NDArray[np.float32]
Marks = npt.NDArray[np.uint8]  # GrabCut's four kinds of pixel
Affine = npt.NDArray[np.float64]  # (3, 3), maps (x, y, 1)
Point = tuple[int, int]
Sides = tuple[int, int, int, int]

LONG_SIDE = 848  # pixels
LAST = 16  # reduced frames that are kept
VANISHED = 0.02  # of the area at the last anchor: what is smaller has left the picture


@dataclass(frozen=True)
class ObjectColours:
    """The colours of an object and its surroundings in the frame where it was anchored.

    Attributes:
        colours_HWC: the frame's `colours`, cut out around the object.
        marks_HW: where in it the object is (GC_FGD), and where not (GC_BGD).
        learnt: as from `learn_colours`.
    """

    colours_HWC: Image
    marks_HW: Marks
    learnt: Field


@dataclass(frozen=True)
class PixelMotion:
    """From one frame back to another.

    Attributes:
        back_HW2: the way to where each pixel was before.
        sure_HW: where the flow there leads back here; elsewhere something hid or appeared.
    """

    back_HW2: Field
    sure_HW: Silhouette


@dataclass(frozen=True)
class Pointed:
    """The prompts of one object: pixels (x, y) and half-open boxes (x0, y0, x1, y1)."""

    inside: tuple[Point, ...]
    outside: tuple[Point, ...]
    boxes: tuple[Sides, ...]


@dataclass(frozen=True)
class _Followed:
    """One object at one frame of the path; all arrays are at the reduced size."""

    silhouette_HW: Silhouette
    look: ObjectColours
    least_area: float


class SimpleTracker:
    """A `ObjectTracker` by GrabCut and DIS optical flow."""

    label = "simple (GrabCut and optical flow)"

    def __init__(self, frames_THWC: Frames) -> None:
        """frames_THWC: uint8 RGB."""
        self._height, self._width = frames_THWC.shape[1:3]
        self._frames_THWC, self._scale = shrunk(frames_THWC, LONG_SIDE)
        self._backdrop = BackdropModel(self._frames_THWC)
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def segment(self, frame: int, prompts: Sequence[Prompt], before_HW: Labels) -> Silhouette:
        """As `ObjectTracker.segment`: clicks are kept to exactly, boxes nearly (`SLACK`)."""
        image_HWC, permanence_HW = self._frames_THWC[frame], self._backdrop.permanence(frame)
        own_HW = before_HW == prompts[0].object_id
        before, others = self._reduce(own_HW), self._reduce(~own_HW & (before_HW > 0))
        small_HW = find_object(image_HWC, permanence_HW, self._pointed(prompts), before, others)
        return self._with_clicks(self._enlarge(small_HW), prompts)

    def propagate(self, path: Sequence[int], anchors: Anchors) -> Iterator[Silhouettes]:
        """Each object is carried on from its last anchor on the path."""
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
                nothing_HW = np.zeros((self._height, self._width), np.bool_)
                found[number] = self._enlarge(after.silhouette_HW) if after else nothing_HW
            followed |= {n: self._anchor(frame, anchored[n]) for n in anchored}
            yield found
            previous = frame

    def close(self) -> None:
        """Free what is kept of the frames; the tracker cannot be used any more."""
        del self._frames_THWC, self._backdrop

    def _anchor(self, frame: int, silhouette_HW: Silhouette) -> _Followed | None:
        small_HW = self._reduce(silhouette_HW)
        if not small_HW.any():
            return None
        look = remember(self._frames_THWC[frame], small_HW)
        return _Followed(small_HW, look, max(2.0, VANISHED * float(small_HW.sum())))

    def _step(self, frame: int, before: _Followed, moved: PixelMotion) -> _Followed | None:
        image_HWC = self._frames_THWC[frame]
        carried_HW = carry(
            image_HWC, before.silhouette_HW, moved, before.look, self._backdrop.permanence(frame)
        )
        if carried_HW.sum() < before.least_area:
            return None
        return replace(before, silhouette_HW=carried_HW)

    def _motion(self, frame: int, previous: int) -> PixelMotion:
        here_HW, there_HW = (grey(self._frames_THWC[number]) for number in (frame, previous))
        return motion_between(self._flow, here_HW, there_HW)

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
        size = self._width, self._height
        share_HW = cv2.resize(small_HW.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
        return np.asarray(share_HW >= 0.5)


def grey(frame_HWC: npt.NDArray[Any]) -> Image:
    """A frame without its colours, (H, W) uint8."""
    return np.asarray(cv2.cvtColor(frame_HWC, cv2.COLOR_RGB2GRAY), np.uint8)


def shrunk(frames_THWC: Frames, long_side: int) -> tuple[Frames, float]:
    """Frames whose longer side is at most so many pixels, and how much smaller they are.

    Each is made when it is asked for; those asked for last are kept.
    """
    height, width = frames_THWC.shape[1:3]
    scale = min(1.0, long_side / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))

    @lru_cache(maxsize=LAST)
    def small(number: int) -> Image:
        return np.asarray(cv2.resize(frames_THWC[number], size, interpolation=cv2.INTER_AREA))

    return LazyFrames(small, (len(frames_THWC), *size[::-1], 3)), scale


# An object in one frame, from what is pointed at.

SEED = 4  # radius of a click, in pixels
PRICK = 4 * SEED**2 * np.pi  # pixels: a hole that is no larger is the click's own
# Of the long side: radii of an object that is clicked on, each of which is tried.
RADII = (0.03, 0.05, 0.075, 0.11, 0.16, 0.24, 0.36)
DISC_REACH = 1.8  # of such a radius: beyond it is background
SLACK = 0.15  # of a box's sides: how far beyond it the object may be
BOX_CORE = 0.3  # of a box's axes: the ellipse in which the object is for certain
# Of the long side: a click this near an outline corrects it, up to twice as far; one that is
# farther away points at a further part.
NEAR = 0.07
USUAL_SIZE = 0.1  # of an object, by the long side
SIZE_SPREAD = 1.6  # how far its logarithm varies
MISSED = 0.7  # how far the logarithm of a size may be off the size that was tried
LARGE = 0.1  # of the largest part: smaller ones are dropped where none is known to be the object's
CLEAR = 95  # percentile of the edges that is as clear as can be


def find_object(
    image_HWC: Image,
    permanence_HW: Field,
    pointed: Pointed,
    before_HW: Silhouette,
    others_HW: Silhouette,
) -> Silhouette:
    """The silhouette_HW of the object that prompts point at.

    Args:
        permanence_HW: from `BackdropModel`.
        before_HW: where it was thought to be; empty if nowhere.
        others_HW: where other objects are; they are background.
    """

    cutter = _Cutter(image_HWC, permanence_HW, others_HW)
    if not before_HW.any() or _is_elsewhere(pointed.boxes, before_HW):
        found_HW = cutter.find_anew(pointed, before_HW)
        return _open_pricks(found_HW, pointed)
    far = () if pointed.boxes else _far_from(before_HW, pointed.inside)
    near = replace(pointed, inside=tuple(p for p in pointed.inside if p not in far))
    found_HW = before_HW & ~others_HW
    if near.boxes or near.inside or near.outside:
        found_HW = cutter.cut(_mark_correction(near, before_HW), near, is_known=True)
    if far:  # a part of the object that is not beside the others: what is there stays
        further = replace(pointed, inside=far)
        found_HW = found_HW | cutter.find_anew(further, np.zeros_like(before_HW))
    return _open_pricks(_without_refused(found_HW, pointed), pointed)


@dataclass(frozen=True)
class _Cutter:
    """Cuts one object out of a frame; the other objects are background."""

    image_HWC: Image
    permanence_HW: Field
    others_HW: Silhouette

    def find_anew(self, pointed: Pointed, before_HW: Silhouette) -> Silhouette:
        """The object by boxes, else by clicks alone; empty where neither says where it is."""
        is_known = bool(pointed.inside) or bool(before_HW.any())
        if pointed.boxes:
            return self.cut(_mark_boxes(pointed, before_HW.shape), pointed, is_known)
        if not pointed.inside:
            return np.zeros_like(before_HW)
        away_HW, long_side = _distance(pointed.inside, before_HW.shape), max(before_HW.shape)
        marks = [_mark_disc(away_HW, share * long_side, pointed) for share in RADII]
        sizes = [float(np.sqrt((marks_HW & 1).sum())) for marks_HW in marks]
        tries = [self.cut(one_HW, pointed, is_known) for one_HW in marks]
        return _best(tries, sizes, _edges(self.image_HWC, self.permanence_HW))

    def cut(self, marks_HW: Marks, pointed: Pointed, is_known: bool) -> Silhouette:
        """The silhouette that marks and clicks lead to.

        Args:
            is_known: a place is known that is the object's for certain.
        """
        marks_HW[self.others_HW] = cv2.GC_BGD
        for points, kind in ((pointed.outside, cv2.GC_BGD), (pointed.inside, cv2.GC_FGD)):
            for point in points:
                cv2.circle(marks_HW, point, SEED, kind, thickness=-1)
        silhouette_HW = refine(self.image_HWC, self.permanence_HW, marks_HW)
        hint_HW = silhouette_HW & (marks_HW == cv2.GC_FGD)
        if hint_HW.any() and is_known:
            return keep_parts(silhouette_HW, hint_HW, 0)
        return keep_parts(silhouette_HW, silhouette_HW, LARGE)


def _without_refused(silhouette_HW: Silhouette, pointed: Pointed) -> Silhouette:
    """Without parts that a click refuses, where another click says which part is the object."""
    _, parts_HW = cv2.connectedComponents(silhouette_HW.astype(np.uint8))
    meant = {int(parts_HW[y, x]) for x, y in pointed.inside}
    reach = (SEED + 2) / max(parts_HW.shape)
    around = (_discs_around([point], reach, parts_HW.shape) for point in pointed.outside)
    refused = {part for disc_HW in around for part in np.unique(parts_HW[disc_HW]).tolist()}
    if meant <= {0}:
        return silhouette_HW
    return silhouette_HW & ~np.isin(parts_HW, [*(refused - meant - {0})])


def _open_pricks(silhouette_HW: Silhouette, pointed: Pointed) -> Silhouette:
    """A refused point near the outline takes what lies between, too, and leaves no mere prick."""
    if not pointed.outside or not silhouette_HW.any():
        return silhouette_HW
    outlines, _ = cv2.findContours(
        silhouette_HW.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    filled_HW = cv2.drawContours(np.zeros(silhouette_HW.shape, np.uint8), outlines, -1, 1, -1)
    depth_HW = cv2.distanceTransform(np.pad(filled_HW, 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    _, gaps_HW, stats, _ = cv2.connectedComponentsWithStats((~silhouette_HW).astype(np.uint8))
    bites_HW = np.zeros(silhouette_HW.shape, np.uint8)
    for x, y in pointed.outside:
        depth, area = float(depth_HW[y, x]), stats[gaps_HW[y, x], cv2.CC_STAT_AREA]
        if gaps_HW[y, x] and area <= PRICK and depth <= NEAR / 2 * max(silhouette_HW.shape):
            others = [np.hypot(x - a, y - b) / 2 for a, b in pointed.inside]
            radius = min([depth + SEED, *others])
            cv2.circle(bites_HW, (x, y), round(radius), 1, thickness=-1)
    return silhouette_HW & (bites_HW == 0)


def _mark_disc(away_HW: Field, radius: float, pointed: Pointed) -> Marks:
    """An object about as large as a disc around the clicks."""
    marks_HW = np.full(away_HW.shape, cv2.GC_BGD, np.uint8)
    marks_HW[away_HW <= DISC_REACH * radius] = cv2.GC_PR_BGD
    marks_HW[away_HW <= radius] = cv2.GC_PR_FGD
    for x, y in pointed.outside:
        off = min(radius, float(away_HW[y, x])) / 2
        cv2.circle(marks_HW, (x, y), round(off), cv2.GC_PR_BGD, thickness=-1)
    return marks_HW


def _mark_boxes(pointed: Pointed, shape: tuple[int, ...]) -> Marks:
    """An object that roughly fills boxes."""
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


def _is_elsewhere(boxes: Sequence[Sides], before_HW: Silhouette) -> bool:
    """Whether boxes are drawn, and none where the object was thought to be."""
    return bool(boxes) and not (before_HW & _in_boxes(boxes, before_HW.shape)).any()


def _far_from(before_HW: Silhouette, points: Sequence[Point]) -> tuple[Point, ...]:
    """The points that are not near a silhouette."""
    discs = {point: _discs_around([point], NEAR, before_HW.shape) for point in points}
    return tuple(point for point in points if not (before_HW & discs[point]).any())


def _mark_correction(pointed: Pointed, before_HW: Silhouette) -> Marks:
    """Clicks add or take away around them and nowhere else; what is outside of boxes goes."""
    shape = before_HW.shape
    missing = [(x, y) for x, y in pointed.inside if not before_HW[y, x]]
    marks_HW = np.where(before_HW, cv2.GC_FGD, cv2.GC_BGD).astype(np.uint8)
    if pointed.boxes:
        marks_HW = np.where(before_HW, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
        marks_HW[~_in_boxes(pointed.boxes, shape)] = cv2.GC_BGD
    marks_HW[~before_HW & _discs_around(missing, 2 * NEAR, shape)] = cv2.GC_PR_BGD
    marks_HW[~before_HW & _discs_around(missing, NEAR / 2, shape)] = cv2.GC_PR_FGD
    marks_HW[before_HW & _discs_around(pointed.outside, 2 * NEAR, shape)] = cv2.GC_PR_FGD
    marks_HW[before_HW & _discs_around(pointed.outside, NEAR / 2, shape)] = cv2.GC_PR_BGD
    return marks_HW


def _in_boxes(boxes: Sequence[Sides], shape: tuple[int, ...]) -> Silhouette:
    within_HW = np.zeros(shape, np.bool_)
    for x0, y0, x1, y1 in boxes:
        within_HW[y0:y1, x0:x1] = True
    return within_HW


def _discs_around(points: Sequence[Point], share: float, shape: tuple[int, ...]) -> Silhouette:
    """Discs around points, of a radius that is a share of the picture's long side."""
    canvas_HW = np.zeros(shape, np.uint8)
    for point in points:
        cv2.circle(canvas_HW, point, round(share * max(shape)), 1, thickness=-1)
    return canvas_HW > 0


def _distance(points: Sequence[Point], shape: tuple[int, ...]) -> Field:
    """The distance of each pixel from the points' convex hull."""
    canvas_HW = np.ones(shape, np.uint8)
    hull = cv2.convexHull(np.array(points, np.int32).reshape(-1, 1, 2))
    cv2.fillConvexPoly(canvas_HW, hull, 0)
    cv2.polylines(canvas_HW, [hull], True, 0)
    return np.asarray(cv2.distanceTransform(canvas_HW, cv2.DIST_L2, 5))


def _edges(image_HWC: Image, permanence_HW: Field) -> Field:
    """The strength of the edges of colours and permanence at each pixel."""
    layers_HWC = np.dstack([colours(image_HWC).astype(np.float32), 255 * permanence_HW])
    smooth_HWC = cv2.GaussianBlur(layers_HWC, (0, 0), 2)
    dx, dy = (cv2.Sobel(smooth_HWC, cv2.CV_32F, *way, ksize=3) for way in ((1, 0), (0, 1)))
    return np.asarray(np.sqrt((dx**2 + dy**2).sum(axis=-1)))


def _best(tries: Sequence[Silhouette], sizes: Sequence[float], edges_HW: Field) -> Silhouette:
    """The most convincing of several tries, each of which assumed a size of the object."""
    ratings = [
        _rating(one_HW, size, edges_HW) * _agreement(one_HW, tries)
        for one_HW, size in zip(tries, sizes, strict=True)
    ]
    return tries[int(np.argmax(ratings))]


def _rating(silhouette_HW: Silhouette, size: float, edges_HW: Field) -> float:
    """A score for an outline along edges, less for sizes that are unusual or were not tried."""
    if not silhouette_HW.any():
        return 0.0
    kernel = np.ones((3, 3), np.uint8)
    rim_HW = cv2.morphologyEx(silhouette_HW.astype(np.uint8), cv2.MORPH_GRADIENT, kernel) > 0
    on_rim = np.minimum(edges_HW[rim_HW], np.percentile(edges_HW, CLEAR))
    own = float(np.sqrt(silhouette_HW.sum()))
    unusual = np.log(own / (USUAL_SIZE * max(silhouette_HW.shape))) / SIZE_SPREAD
    untried = np.log(own / size) / MISSED
    return float(on_rim.mean() * np.exp(-0.5 * (unusual**2 + untried**2)))


def _agreement(silhouette_HW: Silhouette, tries: Sequence[Silhouette]) -> float:
    """The mean overlap with all tries: what is found again and again is an object."""
    shared = [float((silhouette_HW & one_HW).sum()) for one_HW in tries]
    either = [float((silhouette_HW | one_HW).sum()) for one_HW in tries]
    return float(np.mean(np.array(shared) / np.maximum(either, 1)))


# From one frame to the next: motion first, beliefs where it is unsure.

BAND = 0.2  # of the object's size: how far from where motion puts it new parts are looked for
RIM = 1.0  # pixels next to an outline that are always left to GrabCut
LOST, UNLIKE = 0.1, 0.3  # belief below which nothing is taken, and below which motion is doubted
ALIKE = 0.75  # belief from which a place outside may yet be the object's
LEFT_BEHIND = 0.7  # belief that keeps what moves with the surroundings
SPECK = 0.2  # of the largest part: smaller parts are dropped


def remember(image_HWC: Image, silhouette_HW: Silhouette) -> ObjectColours:
    """Remember how an object and its surroundings look; the silhouette is not empty."""
    window = window_around(silhouette_HW)
    inside_HW = silhouette_HW[window]
    colours_HWC = colours(image_HWC[window])
    marks_HW = np.where(inside_HW, cv2.GC_FGD, cv2.GC_BGD).astype(np.uint8)
    return ObjectColours(colours_HWC, marks_HW, learn_colours(colours_HWC, inside_HW))


def motion_between(flow: cv2.DISOpticalFlow, grey_HW: Image, before_HW: Image) -> PixelMotion:
    """The motion from one grey frame back to another, and where it can be trusted."""
    still_HW2 = np.zeros((*grey_HW.shape, 2), np.float32)  # what it starts from
    back_HW2 = np.asarray(flow.calc(grey_HW, before_HW, still_HW2.copy()), np.float32)
    forth_HW2 = np.asarray(flow.calc(before_HW, grey_HW, still_HW2.copy()), np.float32)
    returned_HW2 = _fetch(forth_HW2, back_HW2)
    error_HW = np.linalg.norm(back_HW2 + returned_HW2, axis=-1)
    length_HW = np.linalg.norm(back_HW2, axis=-1) + np.linalg.norm(returned_HW2, axis=-1)
    return PixelMotion(back_HW2, np.asarray(error_HW <= 1 + 0.1 * length_HW))


def warp(silhouette_HW: Silhouette, back_HW2: Field) -> Silhouette:
    """A pixel is inside if the place that it came from was; what came from outside is not."""
    return np.asarray(_fetch(silhouette_HW.astype(np.float32), back_HW2) >= 0.5)


def carry(
    image_HWC: Image,
    before_HW: Silhouette,
    moved: PixelMotion,
    memory: ObjectColours,
    permanence_HW: Field,
) -> Silhouette:
    """The silhouette_HW in a frame, from the one in the frame before.

    Args:
        moved: from this frame back to the one before.
        memory: how the object looked at its anchor.
        permanence_HW: of this frame, from `BackdropModel`.
    """
    warped_HW = warp(before_HW, moved.back_HW2)
    if not _opened(warped_HW & moved.sure_HW).any():
        return np.zeros_like(before_HW)
    window = window_around(warped_HW)
    colours_HWC = colours(image_HWC[window])
    belief_HW = combined(
        colour_belief(colours_HWC, memory.learnt),
        moving_belief(permanence_HW[window], warped_HW[window]),
    )
    moved_there = PixelMotion(moved.back_HW2[window], moved.sure_HW[window])
    marks_HW = _mark_moved(warped_HW[window], moved_there, belief_HW)
    carried_HW = np.zeros_like(before_HW)
    carried_HW[window] = _cut_beside(colours_HWC, marks_HW, memory)
    return keep_parts(carried_HW, warped_HW, SPECK)


def _mark_moved(warped_HW: Silhouette, moved: PixelMotion, belief_HW: Field) -> Marks:
    """GrabCut's marks: certain where motion and belief agree, left to it elsewhere."""
    inside_HW = _opened(warped_HW & moved.sure_HW)
    outside_HW = _opened(~warped_HW & moved.sure_HW)
    band = max(2.0, BAND * float(np.sqrt(warped_HW.sum())))
    depth_HW, away_HW = _depths(inside_HW), _depths(~warped_HW)
    marks_HW = np.full(warped_HW.shape, cv2.GC_PR_BGD, np.uint8)
    marks_HW[inside_HW] = cv2.GC_PR_FGD
    marks_HW[(_depths(outside_HW) > RIM) & (belief_HW < ALIKE)] = cv2.GC_BGD
    marks_HW[away_HW > band] = cv2.GC_BGD
    deep = min(RIM, 0.9 * float(depth_HW.max()))
    marks_HW[(depth_HW > deep) & (belief_HW >= UNLIKE)] = cv2.GC_FGD
    marks_HW[warped_HW & (belief_HW < UNLIKE)] = cv2.GC_PR_BGD
    marks_HW[belief_HW < LOST] = cv2.GC_BGD
    around_HW = ~warped_HW & (away_HW <= band)
    marks_HW[_left_behind(inside_HW, around_HW, warped_HW, moved, belief_HW)] = cv2.GC_PR_BGD
    return marks_HW


def _left_behind(
    inside_HW: Silhouette,
    around_HW: Silhouette,
    warped_HW: Silhouette,
    moved: PixelMotion,
    belief_HW: Field,
) -> Silhouette:
    """Parts that move as the surroundings do while the object moves otherwise."""
    if not inside_HW.any() or not around_HW.any():
        return np.zeros_like(warped_HW)
    own, other = (np.median(moved.back_HW2[part], axis=0) for part in (inside_HW, around_HW))
    apart = float(np.linalg.norm(own - other))
    if apart < 1.5:
        return np.zeros_like(warped_HW)
    stays_HW = np.linalg.norm(moved.back_HW2 - other, axis=-1) < 0.25 * apart
    return np.asarray(warped_HW & stays_HW & (belief_HW < LEFT_BEHIND))


def _cut_beside(colours_HWC: Image, marks_HW: Marks, memory: ObjectColours) -> Silhouette:
    """GrabCut whose colours are learnt from the anchor's picture too, laid below this one."""
    height, width = marks_HW.shape
    size = (width, height)
    pictures = [colours_HWC, cv2.resize(memory.colours_HWC, size, interpolation=cv2.INTER_AREA)]
    marks = [marks_HW, cv2.resize(memory.marks_HW, size, interpolation=cv2.INTER_NEAREST)]
    return grab_cut(np.concatenate(pictures), np.concatenate(marks))[:height]


def _fetch(values_HWx: Field, back_HW2: Field) -> Field:
    """The values from where each pixel was before; 0 beyond the picture."""
    height, width = back_HW2.shape[:2]
    y_HW, x_HW = np.mgrid[0:height, 0:width].astype(np.float32)
    x_HW, y_HW = x_HW + back_HW2[..., 0], y_HW + back_HW2[..., 1]
    moved_HWx = cv2.remap(
        values_HWx, x_HW, y_HW, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0
    )
    return np.asarray(moved_HWx)


def _opened(silhouette_HW: Silhouette) -> Silhouette:
    kernel = np.ones((3, 3), np.uint8)
    return cv2.morphologyEx(silhouette_HW.astype(np.uint8), cv2.MORPH_OPEN, kernel) > 0


def _depths(part_HW: Silhouette) -> Field:
    """The distance of each pixel from the part's outline; the picture's edge is none."""
    padded = np.pad(part_HW.astype(np.uint8), 1, mode="edge")
    return np.asarray(cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1])


# Cutting an object out where marks, colours and permanence agree.

MOST_PIXELS = 160_000  # that are cut at full size
AROUND = 0.4  # of the region's longer side: how much of what lies around it is looked at
ROUNDS = 2  # in which marks are put right by what they gave
PRIOR = 0.7  # belief that a mark of probability stands for
GONE, DOUBTED = 0.2, 0.3  # belief below which nothing is taken, and below which no outline is
OUTLINE = 0.1  # of the object's size: how far from a rough outline the exact one may be


def refine(image_HWC: Image, permanence_HW: Field, marks_HW: Marks) -> Silhouette:
    """The silhouette_HW that marks, colours and permanence agree upon.

    Each round cuts, learns the colours and the permanence of what it got, and lets these decide
    where they are sure. Marks that are certain stay.

    Args:
        permanence_HW: from `BackdropModel`.
    """
    silhouette_HW = np.zeros(marks_HW.shape, np.bool_)
    if not (marks_HW & 1).any():
        return silhouette_HW
    window = window_around(marks_HW != cv2.GC_BGD)
    colours_HWC = colours(image_HWC[window])
    given_HW, kept_HW = marks_HW[window], permanence_HW[window]
    moves_HW = moving_belief(kept_HW, (given_HW & 1) > 0)
    inside_HW = grab_cut(colours_HWC, _mark_by_belief(given_HW, moves_HW))
    for _ in range(ROUNDS):
        if not inside_HW.any():
            return silhouette_HW
        alike_HW = colour_belief(colours_HWC, learn_colours(colours_HWC, inside_HW))
        belief_HW = combined(alike_HW, moving_belief(kept_HW, inside_HW))
        inside_HW = _region(colours_HWC, _mark_by_belief(given_HW, belief_HW), belief_HW)
    silhouette_HW[window] = grab_cut(colours_HWC, _mark_outline(given_HW, inside_HW, belief_HW))
    return silhouette_HW


def _region(colours_HWC: Image, marks_HW: Marks, belief_HW: Field) -> Silhouette:
    """A rough silhouette_HW: where the belief is high, as far as lightness and hue agree."""
    belief_HW1 = (255 * belief_HW[..., None]).astype(np.uint8)
    return grab_cut(np.dstack([belief_HW1, colours_HWC[..., [0, 2]] // 2]), marks_HW)


def _mark_by_belief(given_HW: Marks, belief_HW: Field) -> Marks:
    """The marks; those that are not certain give way to a stronger belief."""
    prior_HW = np.where(given_HW == cv2.GC_PR_FGD, PRIOR, 1 - PRIOR).astype(np.float32)
    both_HW = combined(belief_HW, prior_HW)
    marks_HW = np.where(both_HW >= 0.5, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    marks_HW[both_HW < GONE] = cv2.GC_BGD
    return _keep_certain(marks_HW, given_HW)


def _mark_outline(given_HW: Marks, inside_HW: Silhouette, belief_HW: Field) -> Marks:
    """Marks for a silhouette of which only the outline is in doubt."""
    band = max(2.0, OUTLINE * float(np.sqrt(inside_HW.sum())))
    depth_HW, away_HW = (
        cv2.distanceTransform(part_HW.astype(np.uint8), cv2.DIST_L2, 3)
        for part_HW in (inside_HW, ~inside_HW)
    )
    marks_HW = np.where(inside_HW, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    marks_HW[(away_HW > band) | (belief_HW < DOUBTED)] = cv2.GC_BGD
    marks_HW[depth_HW > band] = cv2.GC_FGD
    return _keep_certain(marks_HW, given_HW)


def _keep_certain(marks_HW: Marks, given_HW: Marks) -> Marks:
    certain_HW = (given_HW == cv2.GC_BGD) | (given_HW == cv2.GC_FGD)
    return np.where(certain_HW, given_HW, marks_HW)


def grab_cut(colours_HWC: Image, marks_HW: Marks) -> Silhouette:
    """GrabCut; where nothing is marked as one of the two kinds there is nothing to cut.

    A picture of more than `MOST_PIXELS` is cut at a smaller size.
    """
    is_object_HW = (marks_HW & 1) > 0  # GC_FGD and GC_PR_FGD are odd
    if is_object_HW.all() or not is_object_HW.any():
        return np.asarray(is_object_HW)
    scale = min(1.0, (MOST_PIXELS / marks_HW.size) ** 0.5)
    full = marks_HW.shape[1], marks_HW.shape[0]
    size = max(1, round(full[0] * scale)), max(1, round(full[1] * scale))
    small_HWC = cv2.resize(colours_HWC, size, interpolation=cv2.INTER_AREA)
    cut_HW = cv2.resize(marks_HW, size, interpolation=cv2.INTER_NEAREST)
    cv2.setRNGSeed(0)  # it clusters colours from random seeds
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(small_HWC, cut_HW, (0, 0, 1, 1), *models, 1, cv2.GC_INIT_WITH_MASK)
    share_HW = (np.asarray(cut_HW, np.uint8) & 1).astype(np.float32)
    return np.asarray(cv2.resize(share_HW, full, interpolation=cv2.INTER_LINEAR) >= 0.5)


def keep_parts(silhouette_HW: Silhouette, hint_HW: Silhouette, share: float) -> Silhouette:
    """The connected parts that overlap the hint and have this share of the largest one's area."""
    _, parts_HW, stats, _ = cv2.connectedComponentsWithStats(silhouette_HW.astype(np.uint8))
    areas = stats[:, cv2.CC_STAT_AREA]
    areas[0] = 0  # part 0 is what is not in the silhouette
    kept = [n for n in np.unique(parts_HW[hint_HW]).tolist() if areas[n] >= share * areas.max()]
    return np.isin(parts_HW, [n for n in kept if n > 0])


def window_around(silhouette_HW: Silhouette) -> tuple[slice, slice]:
    """The silhouette's box with its surroundings, as slices of rows and columns."""
    x0, y0, x1, y1 = silhouette_box(silhouette_HW)
    grow = 8 + round(AROUND * max(x1 - x0, y1 - y0))
    return slice(max(y0 - grow, 0), y1 + grow), slice(max(x0 - grow, 0), x1 + grow)


# Beliefs: what colours, and what permanence, say about each pixel.

HUE = 3.0  # by how much Lab's hues are spread
BINS = 16  # of the colours, per channel
STEPS = 10  # of permanence, finer where it is high
NEIGHBOURS = (0.1, 0.8, 0.1)  # of a pixel's permanence over neighbouring steps
CLEANED = 0.9  # how much of what the inside has in common with its surroundings is taken off it
RARE = 0.02  # share below which a permanence says nothing
LIMIT = 3.0  # log odds that permanence can give
ENOUGH = 0.3  # of the inside must be unlike its surroundings for the full odds
BLUR = 1.2  # pixels over which a colour's belief is averaged


def colours(image_HWC: Image) -> Image:
    """Lab with its two hues spread: greys that differ little in RGB come apart."""
    lab_HWC = cv2.cvtColor(image_HWC, cv2.COLOR_RGB2LAB).astype(np.float32)
    lab_HWC[..., 1:] = 128 + HUE * (lab_HWC[..., 1:] - 128)
    return np.clip(lab_HWC, 0, 255).astype(np.uint8)


def learn_colours(colours_HWC: Image, inside_HW: Silhouette) -> Field:
    """(BINS, BINS, BINS), for each colour: how much more common it is inside than outside."""
    bins_HWC = _bins(colours_HWC)
    inside, outside = (_histogram(bins_HWC, part_HW) for part_HW in (inside_HW, ~inside_HW))
    return np.asarray((inside + 1e-6) / (inside + outside + 2e-6), np.float32)


def colour_belief(colours_HWC: Image, learnt: Field) -> Field:
    """The belief that learnt colours give to each pixel, a little smoothed."""
    belief_HW = learnt[tuple(np.moveaxis(_bins(colours_HWC), -1, 0))]
    return np.asarray(cv2.GaussianBlur(belief_HW, (0, 0), BLUR))


def moving_belief(permanence_HW: Field, inside_HW: Silhouette) -> Field:
    """The belief that each pixel is the object's, from how much it comes and goes.

    0.5 everywhere for an object that stays as its surroundings do, and where these do not stay:
    there the camera's motion is not known.
    """
    if inside_HW.all() or not inside_HW.any():
        return np.full_like(permanence_HW, 0.5)
    bins_HW = (STEPS * np.sqrt(np.clip(1 - permanence_HW, 0, 0.999))).astype(np.intp)
    inside, outside = (
        np.convolve(
            np.bincount(bins_HW[part_HW], minlength=STEPS) / part_HW.sum(), NEIGHBOURS, "same"
        )
        for part_HW in (inside_HW, ~inside_HW)
    )
    usual = outside.argmax()
    mixed = min(float(inside[usual] / outside[usual]), 1.0)  # the surroundings' share of the inside
    own = np.maximum(inside - CLEANED * mixed * outside, 0)
    odds = np.clip(np.log((own / own.sum() + RARE) / (outside + RARE)), -LIMIT, LIMIT)
    steady = float(np.mean(permanence_HW[~inside_HW] > 0.5))
    odds *= min((1 - mixed) / ENOUGH, 1.0) * max(2 * steady - 1, 0.0)
    return np.asarray(1 / (1 + np.exp(-odds[bins_HW])), np.float32)


def combined(one_HW: Field, other_HW: Field) -> Field:
    """Two beliefs as one, by the product of their odds."""
    both_HW, neither_HW = one_HW * other_HW, (1 - one_HW) * (1 - other_HW)
    return np.asarray(both_HW / np.maximum(both_HW + neither_HW, 1e-9))


def _bins(colours_HWC: Image) -> npt.NDArray[np.intp]:
    return (colours_HWC // (256 // BINS)).astype(np.intp)


def _histogram(bins_HWC: npt.NDArray[np.intp], part_HW: Silhouette) -> Field:
    """The share of each colour in a part of the picture, a little smoothed."""
    flat = np.ravel_multi_index(tuple(bins_HWC[part_HW].T), (BINS, BINS, BINS))
    counts = np.bincount(flat, minlength=BINS**3).reshape(BINS, BINS, BINS).astype(np.float32)
    for axis in range(3):
        padded = np.pad(counts, [(1, 1) if n == axis else (0, 0) for n in range(3)], mode="edge")
        before, after = (np.take(padded, range(at, at + BINS), axis) for at in (0, 2))
        counts = ((before + 2 * counts + after) / 4).astype(np.float32)
    return (counts / max(float(part_HW.sum()), 1.0)).astype(np.float32)


# The scene as a camera that stands still would see it.

BACKDROP_SIDE = 424  # pixels
WITHIN, SAMPLES = 60, 16  # how many frames to either side are looked at, and how many of them
NOISE = 5.0  # colours that differ by this much may still be the same
SHARP = 1 / 6  # of the contrast around a pixel, in addition: the camera is known only so well
WEIGHTS = (0.7, 1.5, 1.5)  # of Lab's channels in that difference
CORNERS, LEAST = 500, 12  # points that are followed to see the camera move; with fewer, it stands
AGREEING = 0.5  # of these points must move alike, or they are chosen anew


class BackdropModel:
    """The scene of one clip as a camera that stands still would see it."""

    def __init__(self, frames_THWC: Frames) -> None:
        """frames_THWC: uint8 RGB."""
        self._height, self._width = frames_THWC.shape[1:3]
        small = list(shrunk(frames_THWC, BACKDROP_SIDE)[0])
        self._to_first = camera_path([grey(one) for one in small])
        labs = [cv2.cvtColor(cv2.GaussianBlur(one, (0, 0), 1), cv2.COLOR_RGB2LAB) for one in small]
        self._labs_THWC = np.stack(labs)

    def permanence(self, frame: int) -> Field:
        """permanence_HW of a frame's pixels; 0.5 where there is nothing to compare it with."""
        here_HWC = self._labs_THWC[frame].astype(np.float32)
        kernel = np.ones((3, 3), np.uint8)
        contrast_HW = cv2.morphologyEx(here_HWC[..., 0], cv2.MORPH_GRADIENT, kernel)
        tolerance_HW = NOISE + SHARP * contrast_HW
        same_HW: Field = np.zeros(contrast_HW.shape, np.float32)
        seen_HW: Field = np.zeros(contrast_HW.shape, np.float32)
        for other in self._others(frame):
            there_HWC, known_HW = self._seen_from(frame, other)
            apart_HWC = (there_HWC - here_HWC) * np.array(WEIGHTS, np.float32)
            square_HW = np.einsum("hwc,hwc->hw", apart_HWC, apart_HWC)
            same_HW += known_HW * np.asarray(np.exp(-0.5 * square_HW / tolerance_HW**2), np.float32)
            seen_HW += known_HW
        share_HW = np.where(seen_HW > 0, same_HW / np.maximum(seen_HW, 1), np.float32(0.5))
        size = (self._width, self._height)
        return np.asarray(cv2.resize(share_HW, size, interpolation=cv2.INTER_LINEAR), np.float32)

    def _others(self, frame: int) -> list[int]:
        first, last = max(frame - WITHIN, 0), min(frame + WITHIN, len(self._labs_THWC) - 1)
        spread = np.unique(np.linspace(first, last, SAMPLES).round().astype(int))
        return [number for number in spread.tolist() if number != frame]

    def _seen_from(self, frame: int, other: int) -> tuple[Field, Field]:
        """Another frame's colours where this frame's pixels are, and where it has any."""
        there = (np.linalg.inv(self._to_first[other]) @ self._to_first[frame])[:2]
        height, width = self._labs_THWC.shape[1:3]
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        lab_HWC = cv2.warpAffine(self._labs_THWC[other], there, (width, height), flags=flags)
        whole_HW = np.ones((height, width), np.float32)
        known_HW = cv2.warpAffine(whole_HW, there, (width, height), flags=flags)
        return lab_HWC.astype(np.float32), np.asarray(known_HW >= 1).astype(np.float32)


def camera_path(greys: list[Image], scenes: Sequence[Silhouette] | None = None) -> list[Affine]:
    """For each grey frame: from its pixels to the first frame's, as far as the scene stands still.

    Points are followed from one frame for as long as most of them agree, so that small errors do
    not add up.

    Args:
        scenes: for each frame, where points are taken; None: everywhere.
    """
    to_first: list[Affine] = [np.eye(3)]
    key, everywhere = 0, [np.ones(greys[0].shape, np.bool_)] * len(greys)
    scenes = everywhere if scenes is None else scenes
    for number in range(1, len(greys)):
        guess = np.linalg.inv(to_first[number - 1]) @ to_first[key]
        moved, agree = _main_motion(greys[key], greys[number], guess, scenes[key])
        if agree < AGREEING and key != number - 1:
            key = number - 1
            moved, _ = _main_motion(greys[key], greys[number], np.eye(3), scenes[key])
        to_first.append(to_first[key] @ np.linalg.inv(moved))
    return to_first


def _main_motion(
    here_HW: Image, there_HW: Image, guess: Affine, scene_HW: Silhouette
) -> tuple[Affine, float]:
    """The motion of most of the scene between two pictures, and the share of points that do it."""
    points = cv2.goodFeaturesToTrack(here_HW, CORNERS, 0.005, 8, mask=scene_HW.astype(np.uint8))
    if points is None or len(points) < LEAST:
        return guess, 0.0
    points = points.reshape(-1, 2)
    near = (points @ guess[:2, :2].T + guess[:2, 2]).astype(np.float32)
    found, is_found, _ = cv2.calcOpticalFlowPyrLK(
        here_HW, there_HW, points, near.copy(), flags=cv2.OPTFLOW_USE_INITIAL_FLOW
    )
    kept = is_found[:, 0] > 0
    if kept.sum() < LEAST:
        return guess, 0.0
    affine, inliers = cv2.estimateAffine2D(points[kept], found[kept], ransacReprojThreshold=1.5)
    if affine is None or abs(np.linalg.det(affine[:, :2])) < 0.1:
        return guess, 0.0
    return np.vstack([affine, [0, 0, 1]]), float(inliers.sum()) / len(points)
