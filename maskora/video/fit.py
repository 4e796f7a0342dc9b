"""Fitting pictures to the model's grid, and the exact way back.

A rectangle of whole pixels of the original (it may reach beyond it, for "pad") becomes the whole
workspace frame. Only whole pixels are cut or added, so resizing that rectangle back and laying it
where it came from is the exact inverse of the geometry: nothing shifts by half a pixel.
"""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

Fit = Literal["crop", "pad", "stretch"]


@dataclass(frozen=True)
class FramePlacement:
    """The place of a workspace frame in the original.

    Attributes:
        original_size: (width, height) of the original.
        size: (width, height) of the workspace frame.
        region: (x, y, width, height) in original pixels that the workspace frame shows; beyond the
            original the frame is black.
    """

    original_size: tuple[int, int]
    size: tuple[int, int]
    region: tuple[int, int, int, int]

    @property
    def scale(self) -> float:
        """Original pixels per workspace pixel, the mean of both directions."""
        return (self.region[2] / self.size[0] + self.region[3] / self.size[1]) / 2


def auto_size(width: int, height: int, multiple: int, area: int = 832 * 480) -> tuple[int, int]:
    """(width, height) of about this area, with the clip's aspect, in multiples of the grid."""
    aspect = width / height
    ideal = (area * aspect) ** 0.5, (area / aspect) ** 0.5
    sides = [
        sorted({max(1, int(side // multiple)), max(1, int(side // multiple) + 1)}) for side in ideal
    ]

    def error(size: tuple[int, int]) -> float:
        return abs(np.log(size[0] / size[1] / aspect)) + 0.5 * abs(np.log(size[0] * size[1] / area))

    sizes = [(w * multiple, h * multiple) for w in sides[0] for h in sides[1]]
    return min(sizes, key=error)


def place(original_size: tuple[int, int], size: tuple[int, int], fit: Fit) -> FramePlacement:
    """Choose the region: centred, for "crop" inside the original, for "pad" around it."""
    (full_width, full_height), (width, height) = original_size, size
    if fit == "stretch":
        return FramePlacement(original_size, size, (0, 0, full_width, full_height))
    ratios = width / full_width, height / full_height
    if fit == "crop":
        scale = max(ratios)
        sides = max(1, round(width / scale)), max(1, round(height / scale))
        cut = min(full_width, sides[0]), min(full_height, sides[1])
    else:
        scale = min(ratios)
        cut = max(full_width, round(width / scale)), max(full_height, round(height / scale))
    corner = (full_width - cut[0]) // 2, (full_height - cut[1]) // 2
    return FramePlacement(original_size, size, (*corner, *cut))


def fit_image(image_HWC: np.ndarray, placement: FramePlacement) -> np.ndarray:
    """An original frame (H0, W0, 3) at the workspace's size; black beyond the original."""
    return resize(_cut(image_HWC, placement), placement.size)


def fit_labels(labels_HW: np.ndarray, placement: FramePlacement) -> np.ndarray:
    """Labels (H0, W0) at the workspace's size; 0 beyond the original.

    When shrinking, a pixel takes the label that covers most of it, and 0 only where none does, so
    that nothing small or thin is lost. When growing it takes the nearest.
    """
    cut = _cut(labels_HW, placement)
    (height, width), size = cut.shape, placement.size
    covered = _cover(cut, (min(width, size[0]), min(height, size[1])))
    return np.asarray(cv2.resize(covered, size, interpolation=cv2.INTER_NEAREST_EXACT))


def unfit_image(image_HWC: np.ndarray, placement: FramePlacement) -> np.ndarray:
    """A workspace frame at the original's size; black where it shows nothing of the original."""
    return _lay(resize(image_HWC, placement.region[2:]), placement)


def unfit_mask(mask_HW: np.ndarray, placement: FramePlacement) -> np.ndarray:
    """A workspace mask at the original's size by the nearest pixel, bool; False outside."""
    size = placement.region[2:]
    whole = cv2.resize(mask_HW.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT)
    return _lay(np.asarray(whole), placement) > 0


def resize(image_HWC: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """At another (width, height): areas averaged when shrinking, so that nothing flickers; cubic
    when growing."""
    height, width = image_HWC.shape[:2]
    if (width, height) == tuple(size):
        return image_HWC.copy()
    shrinks = size[0] <= width and size[1] <= height
    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image_HWC, tuple(size), interpolation=method))


def _cover(labels_HW: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Labels shrunk to (width, height): the label of the largest area in each pixel, if any."""
    if labels_HW.shape[::-1] == size:
        return labels_HW
    covering, most = np.zeros(size[::-1], labels_HW.dtype), np.zeros(size[::-1], np.float32)
    for label in np.unique(labels_HW[labels_HW > 0]):
        mask = (labels_HW == label).astype(np.float32)
        area = np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_AREA))
        covering[area > most] = label
        most = np.maximum(most, area)
    return covering


def _overlap(placement: FramePlacement) -> tuple[slice, slice, slice, slice]:
    """Rows and columns of the original that the region shows, and where they lie in it."""
    x, y, width, height = placement.region
    full_width, full_height = placement.original_size
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + width, full_width), min(y + height, full_height)
    return (
        slice(top, bottom),
        slice(left, right),
        slice(top - y, bottom - y),
        slice(left - x, right - x),
    )


def _cut(image: np.ndarray, placement: FramePlacement) -> np.ndarray:
    rows, columns, own_rows, own_columns = _overlap(placement)
    _, _, width, height = placement.region
    cut = np.zeros((height, width, *image.shape[2:]), image.dtype)
    cut[own_rows, own_columns] = image[rows, columns]
    return cut


def _lay(region: np.ndarray, placement: FramePlacement) -> np.ndarray:
    rows, columns, own_rows, own_columns = _overlap(placement)
    width, height = placement.original_size
    laid = np.zeros((height, width, *region.shape[2:]), region.dtype)
    laid[rows, columns] = region[own_rows, own_columns]
    return laid
