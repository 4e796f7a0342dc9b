"""GrabCut on one frame, from clicks and boxes.

Everything here is at one size, the frame's; images_HWC are uint8 RGB.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from maskora.masks.silhouettes import Silhouette, silhouette_box

SEED = 4  # radius of a click, in pixels
SURE, NEAR, FAR = 0.03, 0.07, 0.25  # of the long side: around a lone click the object lies for
# certain, probably, and not beyond
MOST_PIXELS = 160_000  # that are cut at full size
ROUNDS = 2  # of GrabCut where something is found anew
BOX_CORE = 0.6  # of a box's axes: the ellipse in which the object is for certain
AROUND = 0.4  # of the region's longer side: how much of what lies around it is looked at
HUE = 3.0  # by how much Lab's hues are spread
BAND = 0.10  # of the object's size: how far from a known outline a better one may be

Point = tuple[int, int]
Sides = tuple[int, int, int, int]
Image = npt.NDArray[np.uint8]
Marks = npt.NDArray[np.uint8]  # GrabCut's four kinds of pixel


@dataclass(frozen=True)
class Pointed:
    """What is pointed at for one object: pixels (x, y) and half-open boxes (x0, y0, x1, y1)."""

    inside: tuple[Point, ...]
    outside: tuple[Point, ...]
    boxes: tuple[Sides, ...]


def find(
    image_HWC: Image, pointed: Pointed, before_HW: Silhouette, others_HW: Silhouette
) -> Silhouette:
    """The silhouette_HW of the object that is pointed at.

    Args:
        before_HW: where it was thought to be; empty if nowhere.
        others_HW: where other objects are; they are background.
    """
    marks_HW = _first_marks(pointed, before_HW)
    marks_HW[others_HW] = cv2.GC_BGD
    for point in pointed.outside:
        cv2.circle(marks_HW, point, SEED, cv2.GC_BGD, thickness=-1)
    for point in pointed.inside:
        cv2.circle(marks_HW, point, SEED, cv2.GC_FGD, thickness=-1)
    silhouette_HW = np.zeros_like(before_HW)
    maybe_HW = marks_HW != cv2.GC_BGD
    if maybe_HW.any():
        window = window_around(maybe_HW)
        silhouette_HW[window] = cut(colours(image_HWC[window]), marks_HW[window], ROUNDS)
    return _clicked_parts(silhouette_HW, pointed)


def colours(image_HWC: Image) -> Image:
    """Lab with its two hues spread: greys that differ little in RGB come apart."""
    lab_HWC = cv2.cvtColor(image_HWC, cv2.COLOR_RGB2LAB).astype(np.float32)
    lab_HWC[..., 1:] = 128 + HUE * (lab_HWC[..., 1:] - 128)
    return np.clip(lab_HWC, 0, 255).astype(np.uint8)


def _first_marks(pointed: Pointed, before_HW: Silhouette) -> Marks:
    """A guess of where the object is, for GrabCut to put right; without the seeds of clicks."""
    shape = before_HW.shape
    marks_HW = np.full(shape, cv2.GC_BGD, np.uint8)
    in_boxes_HW = np.zeros(shape, np.bool_)
    for x0, y0, x1, y1 in pointed.boxes:
        in_boxes_HW[y0:y1, x0:x1] = True
    if before_HW.any():
        marks_HW[_grown(before_HW)] = cv2.GC_PR_BGD
        marks_HW[_discs(shape, pointed.outside, NEAR) & (marks_HW > 0)] = cv2.GC_PR_BGD
        marks_HW[before_HW | _discs(shape, pointed.inside, NEAR)] = cv2.GC_PR_FGD
        marks_HW[_discs(shape, pointed.outside, NEAR / 2)] = cv2.GC_PR_BGD
    elif not pointed.boxes:
        marks_HW[_discs(shape, pointed.inside, FAR)] = cv2.GC_PR_BGD
        marks_HW[_discs(shape, pointed.inside, NEAR)] = cv2.GC_PR_FGD
        marks_HW[_discs(shape, pointed.inside, SURE)] = cv2.GC_FGD
    if pointed.boxes and not (before_HW & in_boxes_HW).any():
        marks_HW[in_boxes_HW] = cv2.GC_PR_BGD
        for share, kind in ((1.0, cv2.GC_PR_FGD), (BOX_CORE, cv2.GC_FGD)):
            _fill_ellipses(marks_HW, pointed.boxes, share, kind)
    if pointed.boxes:
        marks_HW[~in_boxes_HW] = cv2.GC_BGD
    return marks_HW


def _grown(silhouette_HW: Silhouette) -> Silhouette:
    """With a rim in which its outline may be put right."""
    away_HW = cv2.distanceTransform((~silhouette_HW).astype(np.uint8), cv2.DIST_L2, 3)
    return np.asarray(away_HW <= max(2.0, BAND * float(np.sqrt(silhouette_HW.sum()))))


def _discs(shape: tuple[int, ...], points: Sequence[Point], share: float) -> Silhouette:
    """Discs around points, of a radius that is a share of the picture's long side."""
    canvas_HW = np.zeros(shape, np.uint8)
    for point in points:
        cv2.circle(canvas_HW, point, round(share * max(shape)), 1, thickness=-1)
    return canvas_HW > 0


def _fill_ellipses(marks_HW: Marks, boxes: Sequence[Sides], share: float, kind: int) -> None:
    """The ellipses inscribed in boxes, shrunk to a share of their axes."""
    for x0, y0, x1, y1 in boxes:
        axes = round(share * (x1 - x0) / 2), round(share * (y1 - y0) / 2)
        cv2.ellipse(marks_HW, ((x0 + x1) // 2, (y0 + y1) // 2), axes, 0, 0, 360, kind, thickness=-1)


def cut(colours_HWC: Image, marks_HW: Marks, rounds: int) -> Silhouette:
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
    cv2.grabCut(small_HWC, cut_HW, (0, 0, 1, 1), *models, rounds, cv2.GC_INIT_WITH_MASK)
    share_HW = (np.asarray(cut_HW, np.uint8) & 1).astype(np.float32)
    return np.asarray(cv2.resize(share_HW, full, interpolation=cv2.INTER_LINEAR) >= 0.5)


def _clicked_parts(silhouette_HW: Silhouette, pointed: Pointed) -> Silhouette:
    """The connected parts that were clicked on; without clicks, the large ones."""
    seeds_HW = _discs(silhouette_HW.shape, pointed.inside, 0) & silhouette_HW
    if seeds_HW.any():
        return keep_parts(silhouette_HW, seeds_HW, 0)
    return keep_parts(silhouette_HW, silhouette_HW, 0.1)


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
