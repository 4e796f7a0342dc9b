"""Whether the edit is still there, without a truth: by its colours, and by what it changed."""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter

from maskora.evaluation.object import differs

BINS = 16  # per colour
BLUR = 0.75  # bins: neighbouring colours count for each other
TELLING = 0.3  # what the source has of the edit's colours must be less, relative to the edit


@dataclass(frozen=True)
class EditColours:
    """The colours that an edit has brought in.

    Attributes:
        density: how often each colour is among the edited pixels, (16, 16, 16), sums to 1.
        share: how much of the first frame's mask the edit's colours cover there.
        change: how much the edited first frame differs from its source inside the mask, mean
            absolute difference in levels of 255.
        telling: whether the colours tell the edit from the source: an edit of the shape alone has
            the source's own.
    """

    density: np.ndarray
    share: float
    change: float
    telling: bool


def edit_colours(frames: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> EditColours:
    """Learn the colours of an edit from its edited frames, the first frame first.

    Args:
        frames: for each the edited frame and its source (uint8 RGB), and where the mask is.
    """
    given = list(frames)
    density = _density(
        np.concatenate([edited[mask & differs(edited, source)] for edited, source, mask in given])
    )
    edited_HWC, source_HWC, inside_HW = given[0]
    share = _edit_coloured(edited_HWC, source_HWC, inside_HW, density)
    return EditColours(
        density=density,
        share=share,
        change=_change(edited_HWC, source_HWC, inside_HW) or 0.0,
        telling=_edit_coloured(source_HWC, source_HWC, inside_HW, density) < TELLING * share,
    )


def colours_kept(
    result_HWC: np.ndarray, source_HWC: np.ndarray, inside_HW: np.ndarray, edit: EditColours
) -> float | None:
    """How much of the mask has the edit's colours, relative to the edited first frame.

    A pixel has them where its colour is more frequent in the edit than in the source frame's mask
    (the ratio histogram of Swain and Ballard 1991). None without a mask, or where the edit's
    colours are the source's.
    """
    if not edit.telling or not inside_HW.any():
        return None
    return _edit_coloured(result_HWC, source_HWC, inside_HW, edit.density) / edit.share


def change_kept(
    result_HWC: np.ndarray, source_HWC: np.ndarray, inside_HW: np.ndarray, edit: EditColours
) -> float | None:
    """How much a frame differs from its source inside the mask, relative to the edited first frame.

    None without a mask, or where the edited first frame is its source.
    """
    change = _change(result_HWC, source_HWC, inside_HW)
    return change / edit.change if change is not None and edit.change else None


def _edit_coloured(
    picture_HWC: np.ndarray, source_HWC: np.ndarray, inside_HW: np.ndarray, density: np.ndarray
) -> float:
    """The share of the mask that has colours of the edit rather than of the source; 0 for none."""
    rival = _density(source_HWC[inside_HW])
    r, g, b = (picture_HWC[inside_HW] // (256 // BINS)).T
    likely_N = density[r, g, b] > rival[r, g, b]
    return float(likely_N.mean()) if likely_N.size else 0.0


def _density(colours_N3: np.ndarray) -> np.ndarray:
    """A smooth histogram of uint8 colours, which sums to 1 (to 0 where there are none)."""
    r, g, b = (colours_N3 // (256 // BINS)).T.astype(np.int64)
    counts = np.bincount((r * BINS + g) * BINS + b, minlength=BINS**3).reshape(BINS, BINS, BINS)
    smooth = gaussian_filter(counts.astype(np.float64), BLUR)
    return np.asarray(smooth / max(smooth.sum(), 1e-12))


def _change(one_HWC: np.ndarray, other_HWC: np.ndarray, inside_HW: np.ndarray) -> float | None:
    if not inside_HW.any():
        return None
    return float(cv2.absdiff(one_HWC, other_HWC)[inside_HW].mean())
