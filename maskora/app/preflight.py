"""check: everything that can be known to be wrong before a model is loaded."""

from collections.abc import Callable
from pathlib import Path

from maskora.app.base import find_base, find_files
from maskora.app.captions import foresee_caption
from maskora.app.masking import load_masks
from maskora.app.workspace import (
    EditFiles,
    Source,
    Workspace,
    check_edit_size,
    check_video_settings,
)
from maskora.config import Config
from maskora.errors import UserError
from maskora.hub import find_local, is_hub_id
from maskora.models.registry import open_source, read_sizes
from maskora.video.images import image_size


def check_workspace(config: Config, workspace: Workspace, edit: str | None) -> None:
    """Print what train and infer would work on, or raise UserError with all that is wrong."""
    source = workspace.read_source()
    problems: list[str] = []
    notes: list[str | None] = []

    def attempt(look: Callable[[], object]) -> None:
        try:
            look()
        except UserError as error:
            if str(error) not in problems:
                problems.append(str(error))

    def look_at_caption(image: Path) -> None:
        notes.append(foresee_caption(config, workspace, image))

    attempt(lambda: check_video_settings(workspace, config, source))
    attempt(lambda: look_at_caption(workspace.source_frame(0)))
    attempt(lambda: _check_frames(workspace, source))
    attempt(lambda: load_masks(workspace, config.mask, source))
    attempt(lambda: _check_paths(config, workspace))
    attempt(lambda: notes.append(_look_at_base(config, workspace)))
    files = EditFiles(workspace.edits_dir, {})
    try:
        files = workspace.find_edits(edit, source.frames)
    except UserError as error:
        problems.append(str(error))
    for path in files.images.values():
        attempt(lambda path=path: look_at_caption(path))  # type: ignore[misc]
        attempt(lambda path=path: check_edit_size(path, image_size(path), source))  # type: ignore[misc]
    if problems:
        count = f"{len(problems)} thing{'s' if len(problems) > 1 else ''} to mend"
        lines = [f"  {problem}" for problem in problems]
        raise UserError("\n".join([f"{workspace.root}: {count}", *lines]))
    _tell(config, workspace, source, files)
    for note in filter(None, notes):
        print(note)


def _tell(config: Config, workspace: Workspace, source: Source, files: EditFiles) -> None:
    width, height = source.size
    print(f"{workspace.root}: {source.frames} frames of {width}x{height}")
    if 0 not in files.images:
        print(f"edited first frame: not there yet ({files.folder / '00000.png'})")
    stages = "motion, then appearance" if files.keyframes else "motion"
    print(f"stages: {stages} (keyframes: {', '.join(map(str, files.keyframes)) or 'none'})")


def _check_frames(workspace: Workspace, source: Source) -> None:
    for number in range(source.frames):
        path = workspace.source_frame(number)
        if image_size(path) != source.size:
            raise UserError(f"{path}: its size is not {source.size[0]}x{source.size[1]}")


def _look_at_base(config: Config, workspace: Workspace) -> str:
    """What the base's files are; what would have to be fetched is not looked at."""
    model, root = config.model, workspace.root
    if is_hub_id(model.path) and find_local(model.path, root) is None:
        files = find_files(model, root)
        return f"base: {open_source(None, files).told if files else model.path}"
    found = find_base(model, root)
    read_sizes(model.family, found)  # its configurations, one by one
    return f"base: {found.told}"


def _check_paths(config: Config, workspace: Workspace) -> None:
    for item in config.inference.loras:
        if not (workspace.root / Path(item.path).expanduser()).is_file():
            raise UserError(f"[inference] loras: {item.path} does not exist")
