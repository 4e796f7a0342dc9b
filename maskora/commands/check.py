"""check: everything that can be known to be wrong before a model is loaded."""

from pathlib import Path

from maskora.commands.rules import (
    check_edit_size,
    check_video_settings,
    edit_caption,
    source_caption,
)
from maskora.config import Config
from maskora.errors import UserError
from maskora.video.images import image_size
from maskora.workspace import Source, Workspace


def check_workspace(config: Config, workspace: Workspace, edit: str | None) -> None:
    """Print what train and infer would work on, or raise UserError with all that is wrong."""
    source = workspace.read_source()
    problems = []
    for look in (_video, _caption, _files):
        try:
            look(workspace, config, source)
        except UserError as error:
            problems.append(str(error))
    files = workspace.find_edits(edit, source.frames)
    for path in files.images.values():
        problems += _edited_frame(config, source, path)
    if problems:
        raise UserError(
            "\n".join(
                [
                    f"{len(problems)} things to mend in {workspace.root}:",
                    *(f"  {problem}" for problem in problems),
                ]
            )
        )
    width, height = source.size
    print(f"{workspace.root}: {source.frames} frames of {width}x{height}, base {config.model.path}")
    if 0 not in files.images:
        print(f"edited first frame: not there yet ({files.folder / '00000.png'})")
    stages = "motion, then appearance" if files.keyframes else "motion"
    print(f"stages: {stages} (keyframes: {', '.join(map(str, files.keyframes)) or 'none'})")


def _video(workspace: Workspace, config: Config, source: Source) -> None:
    check_video_settings(workspace, config, source)


def _caption(workspace: Workspace, config: Config, source: Source) -> None:
    source_caption(workspace, config)


def _files(workspace: Workspace, config: Config, source: Source) -> None:
    for number in range(source.frames):
        for path in (workspace.source_frame(number), workspace.mask(number)):
            if not path.is_file():
                raise UserError(f"{path} is missing: run maskora prepare again, with --overwrite")


def _edited_frame(config: Config, source: Source, path: Path) -> list[str]:
    problems = []
    try:
        edit_caption(config, path)
    except UserError as error:
        problems.append(str(error))
    try:
        check_edit_size(path, image_size(path), source)
    except UserError as error:
        problems.append(str(error))
    return problems
