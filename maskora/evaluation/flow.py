"""What moves, by optical flow: how well frames follow each other, and follow the source.

``flow_HW2`` says where a pixel of one frame is in the other: at its own (x, y) plus the flow.
"""

from dataclasses import dataclass

import cv2
import numpy as np

MOVES = 0.5  # pixels per frame: slower than that counts as standing still
LEAST = 0.01  # share of a region that must be seen in both frames for a number to mean something


@dataclass(frozen=True)
class Flow:
    """Optical flow between two frames, both ways.

    Attributes:
        forward_HW2: from the first to the second.
        seen_HW: pixels of the first that are seen in the second: the flow there and back meets.
    """

    forward_HW2: np.ndarray
    seen_HW: np.ndarray


@dataclass(frozen=True)
class Following:
    """How far one flow follows another, as sums over pixels that may be added up over frames.

    Attributes:
        along: the dot products of the two.
        source: squared lengths of the flow that is to be followed.
        speed: lengths of the one that follows.
        source_speed: lengths of the one that is to be followed.
    """

    along: float
    source: float
    speed: float
    source_speed: float


def measure_flow(first_HWC: np.ndarray, second_HWC: np.ndarray) -> Flow:
    """Dense inverse search flow (Kroeger et al. 2016) of two uint8 RGB frames.

    A pixel is seen in the second frame where it stays in the picture and the way there and back is
    closed, by the bound of Sundaram et al. 2010.
    """
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (first_HWC, second_HWC)]
    finder = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    still_HW2 = np.zeros((*grey[0].shape, 2), np.float32)  # what it starts from
    forward_HW2 = np.asarray(finder.calc(grey[0], grey[1], still_HW2.copy()))
    backward_HW2 = np.asarray(finder.calc(grey[1], grey[0], still_HW2.copy()))
    back_HW2, inside_HW = sample(backward_HW2, forward_HW2)
    gap = np.square(forward_HW2 + back_HW2).sum(axis=-1)
    lengths = np.square(forward_HW2).sum(axis=-1) + np.square(back_HW2).sum(axis=-1)
    return Flow(forward_HW2, inside_HW & (gap <= 0.01 * lengths + 0.5))


def sample(image_HWC: np.ndarray, flow_HW2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bring a frame to where its pixels come from; and which of them lie in the picture."""
    height, width = flow_HW2.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    x, y = x + flow_HW2[..., 0], y + flow_HW2[..., 1]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    moved = cv2.remap(image_HWC, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved), inside


def warp_error(
    first_HWC: np.ndarray, second_HWC: np.ndarray, flow: Flow, where_HW: np.ndarray
) -> float | None:
    """How much a frame differs from the one before, brought along its flow (Lai et al. 2018).

    Args:
        flow: from the first to the second, of these frames or of others that move alike.
        where_HW: the pixels of the first that count.

    Returns:
        the mean absolute difference in levels of 255 over the pixels seen in both; None where
        there are too few.
    """
    counted = where_HW & flow.seen_HW
    if counted.sum() <= LEAST * where_HW.sum():
        return None
    back_HWC, _ = sample(second_HWC, flow.forward_HW2)
    error = first_HWC[counted].astype(np.float64) - back_HWC[counted]
    return float(np.abs(error).mean())


def following(result: Flow, source: Flow, where_HW: np.ndarray) -> Following | None:
    """How far the result's motion follows the source's, where that one moves.

    None where the source stands still (or is hidden in the next frame) nearly everywhere.
    """
    speeds_HW = np.linalg.norm(source.forward_HW2, axis=-1)
    moving = where_HW & source.seen_HW & (speeds_HW >= MOVES)
    if moving.sum() <= LEAST * where_HW.sum():
        return None
    ours_N2, theirs_N2 = (f.forward_HW2[moving].astype(np.float64) for f in (result, source))
    return Following(
        along=float((ours_N2 * theirs_N2).sum()),
        source=float(np.square(theirs_N2).sum()),
        speed=float(np.linalg.norm(ours_N2, axis=-1).sum()),
        source_speed=float(np.linalg.norm(theirs_N2, axis=-1).sum()),
    )
