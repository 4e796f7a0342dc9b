"""A small clip and an edit of it, built in memory."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from maskora.app.edits import Clip, Edit, EditedFrame
from maskora.app.workspace import Source
from maskora.config import Config
from maskora.method.conditioning import to_unit
from maskora.video.differences import Leakage

FRAMES, HEIGHT, WIDTH = 9, 32, 48
CAPTION = "a blue ball"
EDITED_CAPTION = "an orange ball"


def configured(**tables: dict[str, object]) -> Config:
    """The defaults, but for what is given."""
    return Config.model_validate(tables)


def picture(seed: int) -> np.ndarray:
    """Random pixels of the clip's size."""
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def unit(image_HWC: np.ndarray) -> Tensor:
    """A picture as (3, H, W) in [-1, 1]."""
    return to_unit(torch.from_numpy(image_HWC)[None])[:, 0]


def small_clip() -> Clip:
    """Random frames; a box of 16x16 in cells of 8, one cell further to the right every 4 frames."""
    labels_THW = np.zeros((FRAMES, HEIGHT, WIDTH), np.uint8)
    for frame in range(FRAMES):
        left = 8 * (1 + (frame + 3) // 4)
        labels_THW[frame, 8:24, left : left + 16] = 1
    size = (WIDTH, HEIGHT)
    source = Source(
        origin="clip.mp4", start=0, every=1, frames=FRAMES, fps="16", original_size=size,
        size=size, cell=8, fit="crop", region=(0, 0, WIDTH, HEIGHT),
    )  # fmt: skip
    frames_THWC = np.stack([picture(frame) for frame in range(FRAMES)])
    return Clip(source, frames_THWC, labels_THW)


def edited_frame(image_HWC: np.ndarray, caption: str) -> EditedFrame:
    """A picture as an edited frame."""
    spill = Leakage(0.0, 0.0, np.zeros((HEIGHT, WIDTH), np.uint8))
    return EditedFrame(Path("edited.png"), image_HWC, image_HWC, image_HWC, spill, caption, "")


def small_edit() -> Edit:
    """The first frame, and frames 4 and 8 with captions of their own."""
    return Edit(
        edited_frame(picture(100), EDITED_CAPTION),
        {
            4: edited_frame(picture(104), "an orange ball at rest"),
            8: edited_frame(picture(108), "an orange ball, gone"),
        },
    )
