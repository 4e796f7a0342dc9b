"""Visible differences of two pictures: where they are, how much of them leaks, and as colours."""

from dataclasses import dataclass

import cv2
import numpy as np

VISIBLE = 20  # levels of 255 in some colour: pictures that differ by less look alike here
HEAT = 4  # times brighter than it is a difference is shown


def differs(one_HWC: np.ndarray, other_HWC: np.ndarray) -> np.ndarray:
    """The pixels where two uint8 RGB pictures differ by more than 20 levels in some colour."""
    difference = cv2.absdiff(one_HWC, other_HWC)
    return np.asarray(difference.max(axis=-1) > VISIBLE)


@dataclass(frozen=True)
class Leakage:
    """The difference of an edited frame from its source outside the mask, where it should be none.

    Attributes:
        mean: mean absolute difference in levels of 255.
        share: share of the outside that differs visibly.
        difference_HW: the largest difference over the colours, 0 inside the mask; uint8.
    """

    mean: float
    share: float
    difference_HW: np.ndarray


def measure_leakage(
    edited_HWC: np.ndarray, source_HWC: np.ndarray, labels_HW: np.ndarray
) -> Leakage:
    """Compare two uint8 frames where the labels are 0."""
    outside = labels_HW == 0
    difference = cv2.absdiff(edited_HWC, source_HWC)
    largest = np.where(outside, difference.max(axis=-1), 0).astype(np.uint8)
    if not outside.any():
        return Leakage(0.0, 0.0, largest)
    return Leakage(
        mean=float(difference[outside].mean()),
        share=float((largest[outside] > VISIBLE).mean()),
        difference_HW=largest,
    )


def heat(difference_HW: np.ndarray) -> np.ndarray:
    """Differences as colours, (H, W, 3) uint8: the brighter, the more; none is black."""
    levels = cv2.convertScaleAbs(difference_HW, alpha=HEAT)
    return np.asarray(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO))[..., ::-1]
