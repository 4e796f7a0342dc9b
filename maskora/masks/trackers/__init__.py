"""The trackers, by name. None imports torch before it is opened."""

from pathlib import Path
from typing import Literal

import numpy as np

from maskora.masks.tracking import Tracker

TrackerKind = Literal["simple", "sam2"]


def open_tracker(
    kind: TrackerKind, checkpoint: str, frames_THWC: np.ndarray, relative_to: Path
) -> Tracker:
    """A tracker for one clip.

    Args:
        kind: "simple" needs nothing; "sam2" a checkpoint.
        checkpoint: a hub id, a local folder in transformers' layout, or an original .pt file.
        frames_THWC: uint8 RGB frames at the workspace's size.
        relative_to: where a relative checkpoint path counts from.

    Raises:
        UserError: there is no such checkpoint, or it is not one of SAM2.
    """
    raise NotImplementedError(kind)
