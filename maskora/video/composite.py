"""Frames put together: the generated region over the source, and the contact sheet."""

from collections.abc import Sequence

import cv2
import numpy as np

from maskora.video.fit import FramePlacement, unfit_image, unfit_mask

# Of the contact sheet: a colour per object, pixels between frames, and how much masks are tinted.
COLOURS = ((255, 70, 70), (70, 200, 90), (80, 140, 255), (250, 190, 40), (210, 90, 230))
GAP, TINT = 4, 0.12


def feather_alpha(edit_HW: np.ndarray, feather: float) -> np.ndarray:
    """The weight of the generated picture in a blend, (H, W) float32 in [0, 1].

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
    placement: FramePlacement,
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


def contact_sheet(
    frames: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    captions: Sequence[object],
    columns: int = 4,
    width: int = 1200,
) -> np.ndarray:
    """Frames in rows, each with its masks tinted, their outlines drawn, and a caption.

    Args:
        frames: (H, W, 3) uint8 each, of one size.
        labels: (H, W) uint8 each: 0 nothing, 1..n objects.
        captions: what to write on each frame.
        columns: frames per row.
        width: of the sheet in pixels, about.

    Returns:
        the sheet, (H', W', 3) uint8.
    """
    columns = min(columns, len(frames))
    height, full = frames[0].shape[:2]
    wide = max(1, (width - GAP * (columns + 1)) // columns)
    cell = wide, max(1, round(height * wide / full))
    rows = -(-len(frames) // columns)
    sheet = np.full(
        (rows * (cell[1] + GAP) + GAP, columns * (cell[0] + GAP) + GAP, 3), 24, np.uint8
    )
    for index, (frame, label, caption) in enumerate(zip(frames, labels, captions, strict=True)):
        row, column = divmod(index, columns)
        y, x = GAP + row * (cell[1] + GAP), GAP + column * (cell[0] + GAP)
        sheet[y : y + cell[1], x : x + cell[0]] = _draw(frame, label, str(caption), cell)
    return sheet


def _draw(frame: np.ndarray, labels: np.ndarray, caption: str, cell: tuple[int, int]) -> np.ndarray:
    shrinks = cell[0] < frame.shape[1]
    picture = cv2.resize(frame, cell, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    small = cv2.resize(labels, cell, interpolation=cv2.INTER_NEAREST_EXACT)
    for label in np.unique(small[small > 0]):
        colour = COLOURS[(int(label) - 1) % len(COLOURS)]
        inside = small == label
        picture[inside] = (1 - TINT) * picture[inside] + TINT * np.asarray(colour)
        outlines, _ = cv2.findContours(
            inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
        )
        cv2.drawContours(picture, outlines, -1, colour, 2)
    _write(picture, caption, max(0.4, cell[1] / 400))
    return np.asarray(picture)


def _write(picture: np.ndarray, caption: str, size: float) -> None:
    """White with a black rim. Letters of another thickness would stand elsewhere."""
    rim = [(x, y) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    for x, y in [*rim, (0, 0)]:
        white = (x, y) == (0, 0)
        origin = (6 + x, round(26 * size) + 2 + y)
        colour = (255, 255, 255) if white else (0, 0, 0)
        cv2.putText(picture, caption, origin, cv2.FONT_HERSHEY_SIMPLEX, size, colour, 1, 16)
