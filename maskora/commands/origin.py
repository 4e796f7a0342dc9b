"""The original video of a workspace, which results are pasted over. Imports no torch."""

from pathlib import Path

from maskora.errors import UserError
from maskora.video.fit import Placement
from maskora.video.probe import VideoInfo, probe
from maskora.workspace import Source


def placement_of(source: Source) -> Placement:
    """How the workspace's frames lie in the original."""
    return Placement(source.original_size, source.size, source.region)


def check_origin(source: Source) -> VideoInfo:
    """The original video, still where it was; edited.mp4 is made over its frames."""
    origin = Path(source.origin)
    if not origin.exists():
        raise UserError(
            f"the original video is no longer at {origin}; the result is pasted over its frames. "
            f'Put it back, or change "origin" in source/source.json'
        )
    info = probe(origin)
    if (info.width, info.height) != source.original_size:
        raise UserError(
            f"{origin} is now {info.width}x{info.height}, but was prepared as "
            f"{source.original_size[0]}x{source.original_size[1]}: it is another video"
        )
    return info
