"""Silhouettes: cleaned of specks, as hulls, degraded. labels_THW and labels_HW are uint8."""

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from maskora.masks import Labels

Silhouette = npt.NDArray[np.bool_]

NOISY_GRID = 7  # cells per side of the degraded mask of the paper's appendix B.2


def frame_ranges(frames: Sequence[int]) -> str:
    """Frame numbers in few words: ``[0, 1, 2, 7]`` becomes ``"0-2, 7"``."""
    runs: list[list[int]] = []
    for frame in frames:
        if runs and frame == runs[-1][-1] + 1:
            runs[-1].append(frame)
        else:
            runs.append([frame])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _components(silhouette_HW: Silhouette, min_pixels: float) -> tuple[Silhouette, Silhouette]:
    """The connected parts of at least ``min_pixels``, and the biggest part alone."""
    _, parts_HW, stats, _ = cv2.connectedComponentsWithStats(
        silhouette_HW.astype(np.uint8), connectivity=8
    )
    areas = stats[:, cv2.CC_STAT_AREA]
    areas[0] = 0  # part 0 is the background
    biggest = np.arange(len(areas)) == areas.argmax()
    biggest[0] = False
    large = areas >= max(min_pixels, 1)
    return large[parts_HW], biggest[parts_HW]


def clean_silhouettes(labels_THW: Labels, min_area: float) -> tuple[Labels, tuple[str, ...]]:
    """Drop every connected part of an object that is smaller than ``min_area`` of the picture.

    An object that is that small in all frames keeps its biggest part in each: it was marked, so
    it stays.

    Returns: labels_THW without the specks, and notes that name the frames in which an object
        was dropped or kept for its biggest part only.
    """
    cleaned_THW = np.zeros_like(labels_THW)
    notes: list[str] = []
    min_pixels = min_area * labels_THW.shape[1] * labels_THW.shape[2]
    for number in np.unique(labels_THW[labels_THW > 0]).tolist():
        frames = np.flatnonzero((labels_THW == number).any(axis=(1, 2))).tolist()
        parts = [_components(labels_THW[frame] == number, min_pixels) for frame in frames]
        found = [bool(large_HW.any()) for large_HW, _ in parts]
        dropped = [frame for frame, one in zip(frames, found, strict=True) if not one]
        small = len(dropped) == len(frames)
        for frame, (large_HW, biggest_HW) in zip(frames, parts, strict=True):
            cleaned_THW[frame][biggest_HW if small else large_HW] = number
        if small:
            notes.append(
                f"object {number} is smaller than mask.min_area ({min_area:g} of the picture) in"
                " every frame: its biggest part is kept."
            )
        elif dropped:
            notes.append(
                f"object {number} is smaller than mask.min_area ({min_area:g} of the picture) in"
                f" frames {frame_ranges(dropped)}: ignored there as noise."
            )
    return cleaned_THW, tuple(notes)


def silhouette_box(silhouette_HW: Silhouette) -> tuple[int, int, int, int]:
    """The half-open pixel box (x0, y0, x1, y1) of a silhouette that is not empty."""
    columns = np.flatnonzero(silhouette_HW.any(axis=0))
    rows = np.flatnonzero(silhouette_HW.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def hull(silhouette_HW: Silhouette, margin: float) -> Silhouette:
    """The convex hull, grown by an ellipse of ``margin`` times the box's width and height."""
    x0, y0, x1, y1 = silhouette_box(silhouette_HW)
    angles = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    radii = np.ceil([margin * (x1 - x0), margin * (y1 - y0)])
    offsets = np.round(np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii).astype(np.int32)
    points = cv2.convexHull(np.argwhere(silhouette_HW)[:, ::-1].astype(np.int32)).reshape(-1, 2)
    grown = cv2.convexHull((points[:, None] + offsets[None]).reshape(-1, 2))
    canvas_HW = silhouette_HW.astype(np.uint8)
    cv2.fillConvexPoly(canvas_HW, grown, 1)
    return canvas_HW.astype(np.bool_)


def noisy(silhouette_HW: Silhouette) -> Silhouette:
    """Degraded through a 7x7 grid over the silhouette's box; it may uncover the silhouette.

    A cell counts as filled from half of the fullest one, so that a thin silhouette never vanishes.
    """
    x0, y0, x1, y1 = silhouette_box(silhouette_HW)
    crop = silhouette_HW[y0:y1, x0:x1].astype(np.float32)
    grid = cv2.resize(crop, (NOISY_GRID, NOISY_GRID), interpolation=cv2.INTER_AREA)
    filled = (grid >= 0.5 * grid.max()).astype(np.uint8)
    size = (x1 - x0, y1 - y0)
    noisy_HW = np.zeros_like(silhouette_HW)
    noisy_HW[y0:y1, x0:x1] = cv2.resize(filled, size, interpolation=cv2.INTER_NEAREST) > 0
    return noisy_HW


def redraw(labels_THW: Labels, draw: Callable[[Silhouette], Silhouette]) -> Labels:
    """Replace each object's silhouette by ``draw(silhouette_HW)``; the smaller one is in front."""
    drawn_THW = np.zeros_like(labels_THW)
    for labels_HW, drawn_HW in zip(labels_THW, drawn_THW, strict=True):
        numbers = np.unique(labels_HW[labels_HW > 0]).tolist()
        shapes = {number: draw(labels_HW == number) for number in numbers}
        for number in sorted(numbers, key=lambda n: -int(shapes[n].sum())):
            drawn_HW[shapes[number]] = number
    return drawn_THW
