"""What an edited frame changed outside the mask, where nothing should change. Imports no torch."""

from dataclasses import dataclass

import cv2
import numpy as np

NOTICEABLE = 20


@dataclass(frozen=True)
class Spill:
    """How much an edited frame differs from its source outside the mask, where nothing should.

    Attributes:
        mean: mean absolute difference in levels of 255.
        share: share of the outside that differs by more than 20 levels in some colour.
        difference_HW: the largest difference over the colours, 0 inside the mask; uint8.
    """

    mean: float
    share: float
    difference_HW: np.ndarray


def measure_spill(edited_HWC: np.ndarray, source_HWC: np.ndarray, labels_HW: np.ndarray) -> Spill:
    """Compare two uint8 frames where the labels are 0."""
    outside = labels_HW == 0
    difference = np.abs(edited_HWC.astype(np.int16) - source_HWC.astype(np.int16))
    largest = np.where(outside, difference.max(axis=-1), 0).astype(np.uint8)
    if not outside.any():
        return Spill(0.0, 0.0, largest)
    return Spill(
        mean=float(difference[outside].mean()),
        share=float((largest[outside] > NOTICEABLE).mean()),
        difference_HW=largest,
    )


def heat(difference_HW: np.ndarray) -> np.ndarray:
    """Differences as colours, (H, W, 3) uint8: the brighter, the more; none is black."""
    levels = cv2.convertScaleAbs(difference_HW, alpha=4)
    return np.asarray(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO))[..., ::-1]
