"""The trackers, a file each, by name. None imports torch before it is opened.

A new one is a file here with a class that fulfils `maskora.masks.tracking.ObjectTracker`, a name in
`TrackerKind` of `maskora.config.tables` (`--tracker` lists it), and a case in `open_tracker`.
"""

import os
from pathlib import Path

from maskora.config.tables import Tracker
from maskora.errors import UserError
from maskora.frames import Frames
from maskora.hub import locate
from maskora.masks.tracking import ObjectTracker

KEY = "[tracker] checkpoint"
ORIGINAL = (".pt", ".pth")  # endings of SAM2's original checkpoints


def open_tracker(settings: Tracker, frames_THWC: Frames, relative_to: Path) -> ObjectTracker:
    """The configured tracker for one clip.

    Args:
        frames_THWC: uint8 RGB frames at the workspace's size.
        relative_to: where a relative checkpoint path counts from.

    Raises:
        UserError: there is no such checkpoint, or it is not one of SAM2.
    """
    checkpoint = settings.checkpoint
    if settings.type == "simple":
        from maskora.masks.trackers.simple import SimpleTracker

        return SimpleTracker(frames_THWC)
    if checkpoint.endswith(ORIGINAL):
        file = _find_file(checkpoint, relative_to)
        from maskora.masks.trackers.sam2_package import Sam2PackageTracker

        return Sam2PackageTracker(file, frames_THWC)
    folder = locate(checkpoint, relative_to, ["*.json", "*.safetensors"], key=KEY)
    from maskora.masks.trackers.sam2 import Sam2Tracker

    return Sam2Tracker(folder, checkpoint.rstrip("/").rpartition("/")[2], frames_THWC)


def _find_file(checkpoint: str, relative_to: Path) -> Path:
    path = Path(os.path.expanduser(checkpoint))
    for file in (relative_to / path, path):
        if file.is_file():
            return file.resolve()
    raise UserError(
        f"{KEY}: there is no file {checkpoint!r} (relative paths count from {relative_to}). Fetch "
        f"it, or name a checkpoint on the hub such as facebook/sam2.1-hiera-large."
    )
