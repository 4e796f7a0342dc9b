"""Rules between edit.toml and the workspace that need no torch to check."""

from pathlib import Path

from maskora.app.workspace import Source, Workspace
from maskora.config import Config
from maskora.errors import UserError
from maskora.video.fit import Placement
from maskora.video.probe import VideoInfo, probe


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


def check_video_settings(workspace: Workspace, config: Config, source: Source) -> None:
    """[video] must say what `prepare` did: the frames on disk are its result."""
    width, height = source.size
    prepared = {
        "frames": source.frames,
        "size": f"{width}x{height}",
        "start": source.start,
        "every": source.every,
        "fit": source.fit,
    }
    for key, value in prepared.items():
        wanted = getattr(config.video, key)
        if wanted != value and not (key == "size" and config.video.is_auto):
            raise UserError(
                f"[video] {key} is {wanted}, but {workspace.source_dir} was prepared with {value}: "
                f"set it back, or run maskora prepare again with --overwrite"
            )


def check_edit_size(path: Path, size: tuple[int, int], source: Source) -> None:
    """An edited frame has the workspace's or the original's (width, height)."""
    if size not in (source.size, source.original_size):
        raise UserError(
            f"{path} is {size[0]}x{size[1]}; an edited frame has the workspace's size "
            f"{source.size[0]}x{source.size[1]} or the original's "
            f"{source.original_size[0]}x{source.original_size[1]}"
        )
