"""Rules between edit.toml and the workspace that need no torch to check."""

from pathlib import Path

from maskora.config import Config
from maskora.errors import UserError
from maskora.workspace import Source, Workspace


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
