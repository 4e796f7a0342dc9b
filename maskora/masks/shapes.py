"""From silhouettes to the region that is edited.

A box is (x0, y0, x1, y1) in pixels, half-open; ``boxes_NT4`` holds one per object and frame, as
floats, with NaN where the object is absent. ``labels_THW`` is uint8: 0 = keep, 1..n = objects.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt

from maskora.config.tables import Mask
from maskora.errors import UserError
from maskora.frames import Frames, LazyFrames, PackedLabels
from maskora.masks import Labels, Silhouette
from maskora.masks.tracking import combine, split

Boxes = npt.NDArray[np.float64]
NOISY_GRID = 7  # cells per side of the degraded mask of the paper's appendix B.2
ROUNDING = 1e-6  # pixels by which a side may stray through float arithmetic


def final_masks(labels_THW: Frames, mask: Mask, cell: int) -> tuple[Frames, tuple[str, ...]]:
    """Turn silhouettes into the region that is edited, in one of the shapes the paper compares.

    Args: mask: its shape is "box" (covers the silhouette; uses margin, smooth and cell), "hull"
        (covers it; uses margin), "tight" (the silhouette itself), "noisy" (degraded through a 7x7
        grid) or "full" (everything); cell: side of a latent cell in pixels.
    Returns: labels_THW, and notes for the person.
    """
    if mask.shape == "full":
        full_HW = np.ones(labels_THW.shape[1:], np.uint8)
        return LazyFrames(lambda _: full_HW, labels_THW.shape), ()
    final_THW, notes = _shaped(labels_THW, mask, cell)
    filled = [frame for frame, final_HW in enumerate(final_THW) if final_HW.all()]
    if filled:
        name = "box" if mask.shape == "box" else "mask"
        notes += (
            f"the {name} covers the whole frame: nothing is left to keep"
            f" (frames {frame_ranges(filled)}).",
        )
    return final_THW, notes


def _shaped(labels_THW: Frames, mask: Mask, cell: int) -> tuple[Frames, tuple[str, ...]]:
    """Silhouettes as boxes, hulls, … and the notes about what was left out of them."""
    if mask.shape == "box":
        height, width = labels_THW.shape[1:]
        boxes_NT4, object_ids, notes = object_boxes(labels_THW, mask.min_area)
        boxes_NT4 = final_boxes(boxes_NT4, mask, cell, width, height)
        return render_boxes(boxes_NT4, object_ids, height, width), notes
    cleaned_THW, notes = clean_silhouettes(labels_THW, mask.min_area)
    if mask.shape == "hull":
        return redraw(cleaned_THW, partial(hull, margin=mask.margin)), notes
    return (redraw(cleaned_THW, noisy) if mask.shape == "noisy" else cleaned_THW), notes


def static_box_labels(
    box_xywh: tuple[float, float, float, float], frames: int, height: int, width: int
) -> Frames:
    """One rectangle as the silhouette of object 1 in every frame, clipped to the picture.

    Args: box_xywh: left, top, width, height in pixels, rounded outward.
    Returns: labels_THW.
    Raises: UserError where the box has no size or lies outside the picture.
    """
    x, y, box_width, box_height = box_xywh
    box = f"box {x:g},{y:g},{box_width:g},{box_height:g} (x,y,width,height)"
    if box_width <= 0 or box_height <= 0:
        raise UserError(f"{box}: it has no size. The picture is {width}x{height} pixels.")
    if x >= width or y >= height or x + box_width <= 0 or y + box_height <= 0:
        raise UserError(f"{box}: it lies outside the picture, which is {width}x{height} pixels.")
    box_4 = np.array([x, y, x + box_width, y + box_height], np.float64)
    return render_boxes(np.broadcast_to(box_4, (1, frames, 4)), (1,), height, width)


def frame_ranges(frames: Sequence[int]) -> str:
    """Frame numbers in few words: ``[0, 1, 2, 7]`` becomes ``"0-2, 7"``."""
    runs: list[list[int]] = []
    for frame in frames:
        if runs and frame == runs[-1][-1] + 1:
            runs[-1].append(frame)
        else:
            runs.append([frame])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def clean_silhouettes(labels_THW: Frames, min_area: float) -> tuple[Frames, tuple[str, ...]]:
    """Drop every connected part of an object that is smaller than ``min_area`` of the picture.

    An object that is that small in all frames keeps its biggest part in each: it was marked, so
    it stays.

    Returns: labels_THW without the specks, and notes that name the frames in which an object
        was dropped or kept for its biggest part only.
    """
    frames, height, width = labels_THW.shape
    min_pixels = min_area * height * width
    seen: dict[int, list[int]] = {}  # object number -> its frames
    dropped: dict[int, list[int]] = {}

    def large(frame: int) -> Labels:
        cleaned_HW = np.zeros((height, width), np.uint8)
        for number, silhouette_HW in split(labels_THW[frame]).items():
            large_HW, _ = _components(silhouette_HW, min_pixels)
            cleaned_HW[large_HW] = number
            seen.setdefault(number, []).append(frame)
            if not large_HW.any():
                dropped.setdefault(number, []).append(frame)
        return cleaned_HW

    cleaned_THW = PackedLabels(map(large, range(frames)))
    notes = []
    for number, lost in sorted(dropped.items()):
        small = lost == seen[number]
        for frame in lost if small else ():
            _, biggest_HW = _components(labels_THW[frame] == number, min_pixels)
            cleaned_THW[frame] = np.where(biggest_HW, np.uint8(number), cleaned_THW[frame])
        which = f"frames {frame_ranges(lost)}: ignored there as noise."
        notes.append(
            f"object {number} is smaller than mask.min_area ({min_area:g} of the picture) in"
            f" {'every frame: its biggest part is kept.' if small else which}"
        )
    return cleaned_THW, tuple(notes)


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


def grow_silhouette(silhouette_HW: Silhouette, pixels: float) -> Silhouette:
    """A silhouette with everything that is within so many pixels of it."""
    if not silhouette_HW.any():
        return silhouette_HW
    outside_HW = (~silhouette_HW).astype(np.uint8)
    away_HW = cv2.distanceTransform(outside_HW, cv2.DIST_L2, cv2.DIST_MASK_5)
    return np.asarray(away_HW <= pixels)


def noisy(silhouette_HW: Silhouette) -> Silhouette:
    """The silhouette degraded through a 7x7 grid over its box; parts of it may be uncovered.

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


def redraw(labels_THW: Frames, draw: Callable[[Silhouette], Silhouette]) -> Frames:
    """Replace each object's silhouette by ``draw(silhouette_HW)``; the smaller one is in front."""
    shape = labels_THW.shape[1:]
    drawn = ({n: draw(one_HW) for n, one_HW in split(each_HW).items()} for each_HW in labels_THW)
    return PackedLabels(combine(silhouettes, shape) for silhouettes in drawn)


def object_boxes(
    labels_THW: Frames, min_area: float
) -> tuple[Boxes, tuple[int, ...], tuple[str, ...]]:
    """The box of every object in every frame, specks left out (see ``clean_silhouettes``).

    Returns: boxes_NT4, the N object numbers in rising order, and notes for the person.
    """
    cleaned_THW, notes = clean_silhouettes(labels_THW, min_area)
    found = [
        {number: silhouette_box(silhouette_HW) for number, silhouette_HW in split(one_HW).items()}
        for one_HW in cleaned_THW
    ]
    object_ids = tuple(sorted({number for boxes in found for number in boxes}))
    boxes_NT4 = np.full((len(object_ids), len(found), 4), np.nan)
    for boxes_T4, number in zip(boxes_NT4, object_ids, strict=True):
        for frame, boxes in enumerate(found):
            if number in boxes:
                boxes_T4[frame] = boxes[number]
    return boxes_NT4, object_ids, notes


def final_boxes(boxes_NT4: Boxes, mask: Mask, cell: int, width: int, height: int) -> Boxes:
    """Objects' boxes as they are edited: grown, steadied, snapped to cells; see ``final_masks``."""
    steadied_NT4 = smooth_boxes(grow_boxes(boxes_NT4, mask.margin), mask.smooth)
    return snap_boxes(steadied_NT4, cell, width, height)


def grow_boxes(boxes_NT4: Boxes, margin: float) -> Boxes:
    """Move each side outward by ``margin`` times the box's width or height."""
    grow = margin * (boxes_NT4[..., 2:] - boxes_NT4[..., :2])
    return np.concatenate([boxes_NT4[..., :2] - grow, boxes_NT4[..., 2:] + grow], axis=-1)


def smooth_boxes(boxes_NT4: Boxes, window: int) -> Boxes:
    """Calm the boxes over ``window`` frames; each still contains the box it came from.

    An absence of fewer than ``window`` frames is bridged, a longer one stays absent.
    """
    smoothed_NT4 = np.full_like(boxes_NT4, np.nan)
    outward = np.array([-1.0, -1.0, 1.0, 1.0])
    for boxes_T4, smoothed_T4 in zip(boxes_NT4, smoothed_NT4, strict=True):
        bridged_T4 = _bridge_gaps(boxes_T4, window)
        present = np.flatnonzero(~np.isnan(bridged_T4[:, 0]))
        for run in np.split(present, np.flatnonzero(np.diff(present) > 1) + 1):
            if len(run):
                smoothed_T4[run] = outward * _smooth_run(outward * bridged_T4[run], max(window, 1))
    return smoothed_NT4


def _bridge_gaps(boxes_T4: Boxes, window: int) -> Boxes:
    """Interpolate over absences of fewer than ``window`` frames; longer ones stay."""
    bridged_T4 = boxes_T4.copy()
    present = np.flatnonzero(~np.isnan(boxes_T4[:, 0]))
    for before, after in pairwise(present.tolist()):
        if 1 < after - before <= window:
            share = (np.arange(before + 1, after) - before)[:, None] / (after - before)
            step_4 = boxes_T4[after] - boxes_T4[before]
            bridged_T4[before + 1 : after] = boxes_T4[before] + share * step_4
    return bridged_T4


def _smooth_run(outward_T4: Boxes, window: int) -> Boxes:
    """Running maximum, then the mean over the mirrored window: never below the input."""
    frames, back = len(outward_T4), window // 2
    ahead = window - 1 - back
    highest_T4 = np.stack(
        [outward_T4[max(0, t - back) : t + ahead + 1].max(axis=0) for t in range(frames)]
    )
    mean_T4 = np.stack(
        [highest_T4[max(0, t - ahead) : t + back + 1].mean(axis=0) for t in range(frames)]
    )
    smooth_T4: Boxes = np.maximum(mean_T4, outward_T4)
    return smooth_T4


def snap_boxes(boxes_NT4: Boxes, cell: int, width: int, height: int) -> Boxes:
    """Move each side outward to a multiple of ``cell`` pixels, then clip to the picture."""
    low = np.floor(boxes_NT4[..., :2] / cell + ROUNDING) * cell
    high = np.ceil(boxes_NT4[..., 2:] / cell - ROUNDING) * cell
    size = np.array([width, height], np.float64)
    return np.concatenate([np.clip(low, 0, size), np.clip(high, 0, size)], axis=-1)


def render_boxes(boxes_NT4: Boxes, object_ids: Sequence[int], height: int, width: int) -> Frames:
    """Draw the boxes, sides rounded outward to pixels; where two overlap the smaller is in front.

    Returns: labels_THW.
    """
    boxes_NT4 = snap_boxes(boxes_NT4, 1, width, height)
    sizes_NT = (boxes_NT4[..., 2:] - boxes_NT4[..., :2]).prod(axis=-1)

    def draw(frame: int) -> Labels:
        labels_HW = np.zeros((height, width), np.uint8)
        for which in np.argsort(-sizes_NT[:, frame], kind="stable"):
            if not np.isnan(sizes_NT[which, frame]):
                x0, y0, x1, y1 = boxes_NT4[which, frame].astype(int)
                labels_HW[y0:y1, x0:x1] = object_ids[which]
        return labels_HW

    return LazyFrames(draw, (boxes_NT4.shape[1], height, width))
