"""GrabCut on one picture, from marks; and the parts of what it gives.

Everything here is at one size, the picture's; images_HWC are uint8 RGB.
"""

import cv2
import numpy as np
import numpy.typing as npt

from maskora.masks.silhouettes import Silhouette, silhouette_box
from maskora.masks.trackers import evidence
from maskora.masks.trackers.evidence import Field, Image

MOST_PIXELS = 160_000  # that are cut at full size
AROUND = 0.4  # of the region's longer side: how much of what lies around it is looked at
ROUNDS = 2  # in which marks are put right by what they gave
PRIOR = 0.7  # belief that a mark of probability stands for
GONE, DOUBTED = 0.2, 0.3  # belief below which nothing is taken, and below which no outline is
OUTLINE = 0.1  # of the object's size: how far from a rough outline the exact one may be

Marks = npt.NDArray[np.uint8]  # GrabCut's four kinds of pixel


def settle(image_HWC: Image, permanence_HW: Field, marks_HW: Marks) -> Silhouette:
    """The silhouette_HW that marks, colours and comings and goings agree upon.

    Each round cuts, learns the colours and the permanence of what it got, and lets these decide
    where they are sure. Marks that are certain stay.

    Args:
        permanence_HW: as in `backdrop`.
    """
    silhouette_HW = np.zeros(marks_HW.shape, np.bool_)
    if not (marks_HW & 1).any():
        return silhouette_HW
    window = window_around(marks_HW != cv2.GC_BGD)
    colours_HWC = evidence.colours(image_HWC[window])
    given_HW, kept_HW = marks_HW[window], permanence_HW[window]
    moves_HW = evidence.mobility(kept_HW, (given_HW & 1) > 0)
    inside_HW = cut(colours_HWC, _informed(given_HW, moves_HW))
    for _ in range(ROUNDS):
        if not inside_HW.any():
            return silhouette_HW
        alike_HW = evidence.likeness(colours_HWC, evidence.learn(colours_HWC, inside_HW))
        belief_HW = evidence.weigh(alike_HW, evidence.mobility(kept_HW, inside_HW))
        inside_HW = _region(colours_HWC, _informed(given_HW, belief_HW), belief_HW)
    silhouette_HW[window] = cut(colours_HWC, _outlined(given_HW, inside_HW, belief_HW))
    return silhouette_HW


def _region(colours_HWC: Image, marks_HW: Marks, belief_HW: Field) -> Silhouette:
    """A rough silhouette_HW: where the belief is high, as far as lightness and hue agree."""
    belief_HW1 = (255 * belief_HW[..., None]).astype(np.uint8)
    return cut(np.dstack([belief_HW1, colours_HWC[..., [0, 2]] // 2]), marks_HW)


def _informed(given_HW: Marks, belief_HW: Field) -> Marks:
    """The marks, which where they are not certain give way to a stronger belief."""
    prior_HW = np.where(given_HW == cv2.GC_PR_FGD, PRIOR, 1 - PRIOR).astype(np.float32)
    both_HW = evidence.weigh(belief_HW, prior_HW)
    marks_HW = np.where(both_HW >= 0.5, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    marks_HW[both_HW < GONE] = cv2.GC_BGD
    return _with_certain(marks_HW, given_HW)


def _outlined(given_HW: Marks, inside_HW: Silhouette, belief_HW: Field) -> Marks:
    """Marks for a silhouette of which only the outline is in doubt."""
    band = max(2.0, OUTLINE * float(np.sqrt(inside_HW.sum())))
    depth_HW, away_HW = (
        cv2.distanceTransform(part_HW.astype(np.uint8), cv2.DIST_L2, 3)
        for part_HW in (inside_HW, ~inside_HW)
    )
    marks_HW = np.where(inside_HW, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    marks_HW[(away_HW > band) | (belief_HW < DOUBTED)] = cv2.GC_BGD
    marks_HW[depth_HW > band] = cv2.GC_FGD
    return _with_certain(marks_HW, given_HW)


def _with_certain(marks_HW: Marks, given_HW: Marks) -> Marks:
    certain_HW = (given_HW == cv2.GC_BGD) | (given_HW == cv2.GC_FGD)
    return np.where(certain_HW, given_HW, marks_HW)


def cut(colours_HWC: Image, marks_HW: Marks) -> Silhouette:
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
