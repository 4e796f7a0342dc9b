"""Clips as pictures: a row of frames, and rows under one another with what they are."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from maskora.video.images import read_image, write_png

COLUMNS, ZOOM, GAP = 5, 2, 4
LABELS = 210  # pixels


def as_row(frames_THWC: np.ndarray) -> np.ndarray:
    """Some frames of a clip side by side, from the first to the last."""
    chosen = np.linspace(0, len(frames_THWC) - 1, COLUMNS).round().astype(int)
    return np.concatenate(list(frames_THWC[chosen]), axis=1)


def write_row(folder: Path, condition: str, scene: int, frames_THWC: np.ndarray) -> None:
    """Keep some frames of a clip for `read_row`."""
    write_png(row_path(folder, condition, scene), as_row(frames_THWC))


def read_row(folder: Path, condition: str, scene: int) -> np.ndarray | None:
    """A kept row, (H, W, 3) uint8; None where there is none."""
    path = row_path(folder, condition, scene)
    return read_image(path) if path.exists() else None


def row_path(folder: Path, condition: str, scene: int) -> Path:
    """Where a row is kept."""
    return folder / f"{condition.replace(', ', '-').replace(' ', '-')}-{scene}.png"


def strip(rows: Mapping[str, np.ndarray]) -> Image.Image:
    """Rows of one size under one another, each with its name at the left."""
    height, width = next(iter(rows.values())).shape[:2]
    down = ZOOM * height + GAP
    sheet = Image.new("RGB", (LABELS + ZOOM * width, down * len(rows) - GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=15)
    for number, (name, row_HWC) in enumerate(rows.items()):
        picture = Image.fromarray(row_HWC).resize(
            (ZOOM * width, ZOOM * height), Image.Resampling.NEAREST
        )
        sheet.paste(picture, (LABELS, number * down))
        draw.text((0, number * down + ZOOM * height / 2), name, "black", font, anchor="lm")
    return sheet
