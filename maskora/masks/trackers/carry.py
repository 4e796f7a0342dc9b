"""Carrying a silhouette from one frame to the next: motion first, evidence where it is unsure.

Everything here is at one size, the frame's; images_HWC are uint8 RGB, motion is pixels (x, y).
"""

from dataclasses import dataclass

import cv2
import numpy as np

from maskora.masks.silhouettes import Silhouette
from maskora.masks.trackers import evidence
from maskora.masks.trackers.evidence import Field, Image
from maskora.masks.trackers.grabcut import Marks, cut, keep_parts, window_around

BAND = 0.2  # of the object's size: how far from where motion puts it new parts are looked for
RIM = 1.0  # pixels next to an outline that are always left to GrabCut
GONE, UNLIKE = 0.1, 0.3  # belief below which nothing is taken, and below which motion is doubted
ALIKE = 0.75  # belief from which a place outside may yet be the object's
LEFT_BEHIND = 0.7  # belief that keeps what moves with the surroundings
SPECK = 0.2  # of the largest part: smaller parts are dropped


@dataclass(frozen=True)
class Look:
    """How an object and what is around it looked in the frame where it was anchored.

    Attributes:
        colours_HWC: the frame's `colours`, cut around the object.
        marks_HW: where in it the object is (GC_FGD), and where not (GC_BGD).
        learnt: as from `evidence.learn`.
    """

    colours_HWC: Image
    marks_HW: Marks
    learnt: Field


@dataclass(frozen=True)
class Motion:
    """From one frame back to another.

    Attributes:
        back_HW2: the way to where each pixel was before.
        sure_HW: where the flow there leads back here; elsewhere something hid or appeared.
    """

    back_HW2: Field
    sure_HW: Silhouette


def look(image_HWC: Image, silhouette_HW: Silhouette) -> Look:
    """Remember how an object and its surroundings look; the silhouette is not empty."""
    window = window_around(silhouette_HW)
    inside_HW = silhouette_HW[window]
    colours_HWC = evidence.colours(image_HWC[window])
    marks_HW = np.where(inside_HW, cv2.GC_FGD, cv2.GC_BGD).astype(np.uint8)
    return Look(colours_HWC, marks_HW, evidence.learn(colours_HWC, inside_HW))


def motion(flow: cv2.DISOpticalFlow, grey_HW: Image, before_HW: Image) -> Motion:
    """The motion from one grey frame back to another, and where it can be trusted."""
    still_HW2 = np.zeros((*grey_HW.shape, 2), np.float32)  # what it starts from
    back_HW2 = np.asarray(flow.calc(grey_HW, before_HW, still_HW2.copy()), np.float32)
    forth_HW2 = np.asarray(flow.calc(before_HW, grey_HW, still_HW2.copy()), np.float32)
    returned_HW2 = _fetch(forth_HW2, back_HW2)
    error_HW = np.linalg.norm(back_HW2 + returned_HW2, axis=-1)
    length_HW = np.linalg.norm(back_HW2, axis=-1) + np.linalg.norm(returned_HW2, axis=-1)
    return Motion(back_HW2, np.asarray(error_HW <= 1 + 0.1 * length_HW))


def warp(silhouette_HW: Silhouette, back_HW2: Field) -> Silhouette:
    """A pixel is inside if the place that it came from was; what came from outside is not."""
    return np.asarray(_fetch(silhouette_HW.astype(np.float32), back_HW2) >= 0.5)


def carry(
    image_HWC: Image,
    before_HW: Silhouette,
    moved: Motion,
    memory: Look,
    permanence_HW: Field,
) -> Silhouette:
    """The silhouette_HW in a frame, from the one in the frame before.

    Args:
        moved: from this frame back to the one before.
        memory: how the object looked at its anchor.
        permanence_HW: of this frame, as in `backdrop`.
    """
    warped_HW = warp(before_HW, moved.back_HW2)
    if not _opened(warped_HW & moved.sure_HW).any():
        return np.zeros_like(before_HW)
    window = window_around(warped_HW)
    colours_HWC = evidence.colours(image_HWC[window])
    belief_HW = evidence.weigh(
        evidence.likeness(colours_HWC, memory.learnt),
        evidence.mobility(permanence_HW[window], warped_HW[window]),
    )
    moved_there = Motion(moved.back_HW2[window], moved.sure_HW[window])
    marks_HW = _marks(warped_HW[window], moved_there, belief_HW)
    carried_HW = np.zeros_like(before_HW)
    carried_HW[window] = _cut_beside(colours_HWC, marks_HW, memory)
    return keep_parts(carried_HW, warped_HW, SPECK)


def _marks(warped_HW: Silhouette, moved: Motion, belief_HW: Field) -> Marks:
    """What motion and belief are sure of together, and what GrabCut must decide."""
    inside_HW = _opened(warped_HW & moved.sure_HW)
    outside_HW = _opened(~warped_HW & moved.sure_HW)
    band = max(2.0, BAND * float(np.sqrt(warped_HW.sum())))
    depth_HW, away_HW = _depth(inside_HW), _depth(~warped_HW)
    marks_HW = np.full(warped_HW.shape, cv2.GC_PR_BGD, np.uint8)
    marks_HW[inside_HW] = cv2.GC_PR_FGD
    marks_HW[(_depth(outside_HW) > RIM) & (belief_HW < ALIKE)] = cv2.GC_BGD
    marks_HW[away_HW > band] = cv2.GC_BGD
    deep = min(RIM, 0.9 * float(depth_HW.max()))
    marks_HW[(depth_HW > deep) & (belief_HW >= UNLIKE)] = cv2.GC_FGD
    marks_HW[warped_HW & (belief_HW < UNLIKE)] = cv2.GC_PR_BGD
    marks_HW[belief_HW < GONE] = cv2.GC_BGD
    around_HW = ~warped_HW & (away_HW <= band)
    marks_HW[_left_behind(inside_HW, around_HW, warped_HW, moved, belief_HW)] = cv2.GC_PR_BGD
    return marks_HW


def _left_behind(
    inside_HW: Silhouette,
    around_HW: Silhouette,
    warped_HW: Silhouette,
    moved: Motion,
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


def _cut_beside(colours_HWC: Image, marks_HW: Marks, memory: Look) -> Silhouette:
    """GrabCut whose colours are learnt from the anchor's picture too, laid below this one."""
    height, width = marks_HW.shape
    size = (width, height)
    pictures = [colours_HWC, cv2.resize(memory.colours_HWC, size, interpolation=cv2.INTER_AREA)]
    marks = [marks_HW, cv2.resize(memory.marks_HW, size, interpolation=cv2.INTER_NEAREST)]
    return cut(np.concatenate(pictures), np.concatenate(marks))[:height]


def _fetch(values_HWx: Field, back_HW2: Field) -> Field:
    """The values from where each pixel was before; 0 beyond the picture."""
    height, width = back_HW2.shape[:2]
    y_HW, x_HW = np.mgrid[0:height, 0:width].astype(np.float32)
    return np.asarray(
        cv2.remap(
            values_HWx,
            x_HW + back_HW2[..., 0],
            y_HW + back_HW2[..., 1],
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=0,
        )
    )


def _opened(silhouette_HW: Silhouette) -> Silhouette:
    kernel = np.ones((3, 3), np.uint8)
    return cv2.morphologyEx(silhouette_HW.astype(np.uint8), cv2.MORPH_OPEN, kernel) > 0


def _depth(part_HW: Silhouette) -> Field:
    """How far each pixel of a part is from what is not part of it; the picture's edge is no end."""
    padded = np.pad(part_HW.astype(np.uint8), 1, mode="edge")
    return np.asarray(cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1])
