"""Laying generated pictures over the source, so that outside the mask nothing changes."""

import cv2
import numpy as np

from maskora.video.fit import Placement, unfit_image, unfit_mask


def feather_alpha(edit_HW: np.ndarray, feather: float) -> np.ndarray:
    """How much of the generated picture shows, (H, W) float32 in [0, 1].

    0 outside the edit region, rising from its inner edge to 1 at `feather` pixels deep. The blend
    lies wholly inside the region; there is none towards the picture's border.

    Args:
        edit_HW: True where the edit is.
        feather: in pixels; 0 is a hard edge. At most half as deep as the region is, so that the
            generated picture always shows somewhere.
    """
    inside = edit_HW.astype(np.uint8)
    if feather <= 0.5 or inside.all():  # the outermost pixels' centres are 0.5 deep
        return inside.astype(np.float32)
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    feather = min(feather, max(float(depth.max()) / 2, 0.5))
    return np.clip((depth - 0.5) / feather, 0, 1).astype(np.float32) * inside


def composite(
    source_HWC: np.ndarray, generated_HWC: np.ndarray, alpha_HW: np.ndarray
) -> np.ndarray:
    """Blend two uint8 frames: exactly the source where alpha is 0, the generated where it is 1."""
    alpha = alpha_HW[..., None]
    blend = source_HWC * (1 - alpha) + generated_HWC * alpha
    return np.rint(blend).astype(np.uint8)


def paste_over_original(
    original_HWC: np.ndarray,
    generated_HWC: np.ndarray,
    edit_HW: np.ndarray,
    placement: Placement,
    feather: float,
) -> np.ndarray:
    """Paste a workspace frame's edit region over a frame of the original's size.

    Args:
        original_HWC: the original frame, uint8; outside the region it comes back as it is.
        generated_HWC: the generated frame at the workspace's size, uint8.
        edit_HW: True where the edit is, at the workspace's size.
        feather: in workspace pixels.
    """
    region = unfit_mask(edit_HW, placement)
    x, y, width, height = cv2.boundingRect(region.astype(np.uint8))
    if not width:
        return original_HWC.copy()
    # One pixel more on each side, where there is one, so that the feather knows its edges.
    rows = slice(max(y - 1, 0), y + height + 1)
    columns = slice(max(x - 1, 0), x + width + 1)
    alpha = feather_alpha(region[rows, columns], feather * placement.scale)
    whole = unfit_image(generated_HWC, placement)
    result = original_HWC.copy()
    result[rows, columns] = composite(original_HWC[rows, columns], whole[rows, columns], alpha)
    return result
