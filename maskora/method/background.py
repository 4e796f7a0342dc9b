"""A picture without a thing: its place filled with what other frames show there, or painted over.

Pure functions of numpy arrays; pictures are uint8 RGB, a homography maps (x, y, 1) to pixels.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from maskora.masks import Silhouette
from maskora.masks.following import background_path
from maskora.masks.shapes import grow_silhouette
from maskora.masks.trackers.simple import CORNERS, LEAST

Image = npt.NDArray[np.uint8]
Homography = npt.NDArray[np.float64]
MARGIN, MARGIN_SHARE = 3.0, 0.03  # pixels by which the place is grown, and per root of its area
RING = 12.0  # pixels around the place, where a frame must agree with the picture
AGREEING = 10.0  # levels by which it may differ there, in the median
SAMPLES = 16  # frames that are looked at
RADIUS = 5  # pixels, of the painting over


def without_thing(frames_THWC: Image, inside_THW: npt.NDArray[np.bool_]) -> tuple[Image, float]:
    """The first frame without what is inside its mask, and which share of that place is genuine.

    The background moves otherwise than the thing, so other frames show it: each is laid upon the
    first by the motion of what is outside the mask (points followed, a homography by RANSAC), and
    of those that agree with it around the place the median counts. What no frame shows is painted
    over from its surroundings (Telea 2004, "An image inpainting technique based on the fast
    marching method").

    Args:
        inside_THW: where the thing is; something of the first frame must be outside.
    """
    first_HWC, hole_HW = frames_THWC[0], _hole(inside_THW[0])
    picture_HWC, seen_HW = first_HWC.copy(), np.zeros_like(hole_HW)
    views = _aligned(frames_THWC, [_hole(one_HW) for one_HW in inside_THW])
    if views:
        colours_NPC = np.stack([view_HWC[hole_HW] for view_HWC, _ in views])
        colours_NPC[~np.stack([shown_HW[hole_HW] for _, shown_HW in views])] = np.nan
        shown_P = ~np.isnan(colours_NPC[..., 0]).all(axis=0)
        seen_HW[hole_HW] = shown_P
        colours_PC = np.nanmedian(colours_NPC[:, shown_P], axis=0)
        picture_HWC[seen_HW] = np.rint(colours_PC).astype(np.uint8)
    unseen_HW = (hole_HW & ~seen_HW).astype(np.uint8)
    painted_HWC = cv2.inpaint(picture_HWC, unseen_HW, RADIUS, cv2.INPAINT_TELEA)
    return np.asarray(painted_HWC, np.uint8), float(seen_HW.sum() / max(hole_HW.sum(), 1))


def _hole(inside_HW: Silhouette) -> Silhouette:
    return grow_silhouette(inside_HW, MARGIN + MARGIN_SHARE * float(inside_HW.sum()) ** 0.5)


def _aligned(
    frames_THWC: Image, holes: Sequence[Silhouette]
) -> list[tuple[npt.NDArray[np.float32], Silhouette]]:
    """Other frames as the first one's camera sees them, and where each shows background."""
    greys = [cv2.cvtColor(one_HWC, cv2.COLOR_RGB2GRAY) for one_HWC in frames_THWC]
    first_HWC, hole_HW = frames_THWC[0], holes[0]
    points = cv2.goodFeaturesToTrack(greys[0], CORNERS, 0.005, 8, mask=_mask(~hole_HW))
    ring_HW = grow_silhouette(hole_HW, RING) & ~hole_HW
    paths, views = background_path(frames_THWC, holes), []
    size = hole_HW.shape[1], hole_HW.shape[0]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    for number in np.unique(np.linspace(1, len(greys) - 1, SAMPLES).round().astype(int)):
        there = _refined(greys[0], greys[number], paths[number], points)
        other_HWC = frames_THWC[number].astype(np.float32)
        view_HWC = cv2.warpPerspective(other_HWC, there, size, flags=flags)
        shown_HW = cv2.warpPerspective(_mask(~holes[number]), there, size, flags=flags) == 255
        judged_HW = ring_HW & shown_HW
        apart = np.abs(view_HWC[judged_HW] - first_HWC[judged_HW])
        if len(apart) and np.median(apart) <= AGREEING:
            views.append((np.asarray(view_HWC, np.float32), np.asarray(shown_HW)))
    return views


def _refined(
    first_HW: Image, other_HW: Image, guess: Homography, points: npt.NDArray[Any] | None
) -> Homography:
    """A rough way from one picture to another, made exact by points where these agree."""
    if points is None:
        return guess
    near = cv2.perspectiveTransform(points, guess)
    found, is_found, _ = cv2.calcOpticalFlowPyrLK(
        first_HW, other_HW, points, near.copy(), flags=cv2.OPTFLOW_USE_INITIAL_FLOW
    )
    kept = is_found[:, 0] > 0
    if kept.sum() < LEAST:
        return guess
    exact, inliers = cv2.findHomography(points[kept], found[kept], cv2.RANSAC, 1.5)
    if exact is None or inliers.sum() < max(LEAST, len(points) / 2):
        return guess
    return np.asarray(exact)


def _mask(silhouette_HW: Silhouette) -> Image:
    return silhouette_HW.astype(np.uint8) * 255
