"""A region of the first frame, carried through the clip by what it is to move with.

For something that is not there yet, so that no tracker finds it: it moves with the background, or
with a thing that is there.
"""

from collections.abc import Iterable, Iterator, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from maskora.masks import Labels, Silhouette
from maskora.masks.trackers.simple import BACKDROP_SIDE, Affine, camera_path, grey, shrunk


def background_path(
    frames: Iterable[npt.NDArray[np.uint8]], things: Sequence[Silhouette] | None = None
) -> list[Affine]:
    """For each frame: from the first one's pixels to its own, as the background moves.

    Args:
        frames: uint8 RGB, of which a small grey copy is kept.
        things: where in each frame something else moves, if that is known.
    """
    greys, scale = list[npt.NDArray[np.uint8]](), 1.0
    for frame_HWC in frames:
        small_1HWC, scale = shrunk(frame_HWC[None], BACKDROP_SIDE)
        greys.append(grey(small_1HWC[0]))
    smaller = np.array([[scale, 0, (scale - 1) / 2], [0, scale, (scale - 1) / 2], [0, 0, 1]])
    larger, size = np.linalg.inv(smaller), greys[0].shape[::-1]
    scenes: list[Silhouette] | None = None
    if things is not None:
        shares = (thing_HW.astype(np.float32) for thing_HW in things)
        scenes = [cv2.resize(one, size, interpolation=cv2.INTER_AREA) == 0 for one in shares]
    return [larger @ np.linalg.inv(to_first) @ smaller for to_first in camera_path(greys, scenes)]


def thing_path(silhouettes: Iterable[Silhouette]) -> list[Affine | None]:
    """For each frame: from the first one's pixels to its own, as a thing moves and grows.

    By its centre and the root of its area; None where it is out of sight.

    Args:
        silhouettes: of every frame; that of the first is not empty.
    """
    sights = [_centre_and_size(one_HW) if one_HW.any() else None for one_HW in silhouettes]
    assert sights[0] is not None
    x0, y0, size0 = sights[0]
    path: list[Affine | None] = []
    for sight in sights:
        if sight is None:
            path.append(None)
            continue
        x, y, size = sight
        scale = size / size0
        path.append(np.array([[scale, 0, x - scale * x0], [0, scale, y - scale * y0], [0, 0, 1]]))
    return path


def _centre_and_size(silhouette_HW: Silhouette) -> tuple[float, float, float]:
    y_N, x_N = np.nonzero(silhouette_HW)
    return float(x_N.mean()), float(y_N.mean()), float(len(x_N)) ** 0.5


def carried_region(region_HW: Silhouette, path: Iterable[Affine | None]) -> Iterator[Labels]:
    """Labels_HW of each frame: a region of the first one along a path, as object 1.

    Where the path is None, or leads out of the picture, there is no region.
    """
    share_HW, size = region_HW.astype(np.float32), region_HW.shape[::-1]
    for there in path:
        if there is None:
            yield np.zeros(region_HW.shape, np.uint8)
        else:
            inside_HW = np.asarray(cv2.warpAffine(share_HW, there[:2], size) >= 0.5)
            yield inside_HW.astype(np.uint8)
