"""A contact sheet: some frames at a glance, with the masks drawn."""

from collections.abc import Sequence

import cv2
import numpy as np

COLOURS = ((255, 70, 70), (70, 200, 90), (80, 140, 255), (250, 190, 40), (210, 90, 230))
GAP, TINT = 4, 0.12


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
