"""What of a picture stays: the camera's own motion is taken out, then frames are compared.

It works at a small size. A pixel's *permanence*, from 0 to 1, is the share of other frames in which
its place in the scene looks the same: what stands still all the time has about 1, what moves by has
little, and what stood there for half of the time has about a half.
"""

import cv2
import numpy as np
import numpy.typing as npt

from maskora.masks.trackers.evidence import Image

LONG_SIDE = 424  # pixels
REACH, SAMPLES = 60, 16  # how many frames to either side are looked at, and how many of them
NOISE = 5.0  # colours that differ by this much may still be the same
SHARP = 1 / 6  # of the contrast around a pixel, in addition: the camera is known only so well
WEIGHTS = (0.7, 1.5, 1.5)  # of Lab's channels in that difference
CORNERS, LEAST = 500, 12  # points that are followed to see the camera move; with fewer: it stands
CONSENSUS = 0.5  # of these points must move alike, or they are chosen anew

Field = npt.NDArray[np.float32]
Affine = npt.NDArray[np.float64]  # (3, 3), maps (x, y, 1)


class Backdrop:
    """The scene of one clip as it would be seen by a camera that stands still."""

    def __init__(self, frames_THWC: Image) -> None:
        """frames_THWC: uint8 RGB."""
        self._height, self._width = frames_THWC.shape[1:3]
        scale = min(1.0, LONG_SIDE / max(self._height, self._width))
        size = max(1, round(self._width * scale)), max(1, round(self._height * scale))
        small = [cv2.resize(one, size, interpolation=cv2.INTER_AREA) for one in frames_THWC]
        self._to_first = camera([cv2.cvtColor(one, cv2.COLOR_RGB2GRAY) for one in small])
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

    def close(self) -> None:
        """Free the frames."""
        self._labs_THWC = self._labs_THWC[:0]

    def _others(self, frame: int) -> list[int]:
        first, last = max(frame - REACH, 0), min(frame + REACH, len(self._labs_THWC) - 1)
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


def camera(greys: list[Image]) -> list[Affine]:
    """For each grey frame: from its pixels to the first frame's, as far as the scene stands still.

    Points are followed from one frame for as long as most of them agree, so that small errors do
    not add up.
    """
    to_first: list[Affine] = [np.eye(3)]
    key = 0
    for number in range(1, len(greys)):
        guess = np.linalg.inv(to_first[number - 1]) @ to_first[key]
        moved, agree = _affine(greys[key], greys[number], guess)
        if agree < CONSENSUS and key != number - 1:
            key = number - 1
            moved, _ = _affine(greys[key], greys[number], np.eye(3))
        to_first.append(to_first[key] @ np.linalg.inv(moved))
    return to_first


def _affine(here_HW: Image, there_HW: Image, guess: Affine) -> tuple[Affine, float]:
    """How most of the scene moves from one picture to another, and what share of it does."""
    points = cv2.goodFeaturesToTrack(here_HW, CORNERS, 0.005, 8)
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
