"""Where the configured base lies. Imports no torch."""

from pathlib import Path

from maskora.config.tables import Model
from maskora.errors import UserError
from maskora.hub import find_file, locate
from maskora.models.registry import Source, open_source


def find_base(model: Model, root: Path, patterns: list[str] | None = None) -> Source:
    """The parts of the base that [model] names.

    Args:
        root: the folder from which relative paths count.
        patterns: which of a hub repository's files are needed; None for all of a model's.

    Raises:
        UserError: a file or folder is not there, or a hub repository cannot be reached.
    """
    files = find_files(model, root)
    if find_file(model.path, root):
        raise UserError(
            f"[model] path: {model.path!r} is a file: name it in [model] files by its part, as in "
            f'files = {{transformer = "{model.path}"}}'
        )
    folder = locate(model.path, root, patterns, without=model.files) if model.path else None
    return open_source(folder, files)


def find_files(model: Model, root: Path) -> dict[str, Path]:
    """Part -> its single file. Raises UserError with all that are not there."""
    found = {part: find_file(path, root) for part, path in model.files.items()}
    missing = [
        f"[model] files: {part} = {model.files[part]!r} does not exist"
        for part, file in found.items()
        if file is None
    ]
    if missing:
        raise UserError("\n".join(missing))
    return {part: file for part, file in found.items() if file is not None}
