"""Making a workspace appear whole, or not at all, and never over a person's own files."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

from maskora.commands.hold import only_one
from maskora.errors import UserError
from maskora.files import lies_in, move, remove
from maskora.workspace import Workspace


def check_target(workspace: Workspace, inputs: list[Path], overwrite: bool) -> None:
    """The folder can become a workspace. Raises UserError where anything would be lost.

    Args:
        inputs: the video and the masks, which must not lie where they would be replaced.
        overwrite: an existing workspace may be prepared anew.
    """
    root = workspace.root
    blocking = next((path for path in [root, *root.parents] if path.exists()), None)
    if blocking is not None and not blocking.is_dir():
        raise UserError(f"{root}: {blocking} is a file, not a folder")
    if workspace.config.exists() and not overwrite:
        raise UserError(
            f"{root} is a workspace already; choose another folder, or add --overwrite to prepare "
            f"it anew (edits/ stay; source/, masks/, clicks and edit.toml are replaced)"
        )
    records = {
        workspace.source_dir: workspace.source_record,
        workspace.masks_dir: workspace.mask_record,
    }
    for folder, record in records.items():
        ours = overwrite and record.is_file() and not folder.is_symlink()
        if (folder.exists() or folder.is_symlink()) and not ours:
            raise UserError(f"{folder} is there and was not made by prepare: choose another folder")
        for path in inputs:
            if lies_in(path, folder):
                raise UserError(f"{path} lies in {folder}, which is replaced: move it elsewhere")
    if workspace.edits_dir.exists() and not workspace.edits_dir.is_dir():
        raise UserError(f"{workspace.edits_dir} is a file; edited frames go into a folder there")


@contextmanager
def scaffold(workspace: Workspace) -> Iterator[Workspace]:
    """Yield a scratch workspace to fill; on success it becomes the workspace, edits/ stay.

    Raises:
        UserError: another program has the workspace open.
    """
    root = workspace.root
    if not root.exists():
        root.parent.mkdir(parents=True, exist_ok=True)
    home = root if root.exists() else root.parent
    hold = only_one(workspace) if workspace.config.exists() else nullcontext()
    with hold, tempfile.TemporaryDirectory(dir=home, prefix=".prepare-") as scratch:
        built = Workspace(Path(scratch) / "workspace")
        built.edits_dir.mkdir(parents=True)
        yield built
        if root.exists():
            _exchange(built, workspace, Path(scratch) / "earlier")
        else:
            move(built.root, root)


def _exchange(built: Workspace, workspace: Workspace, aside: Path) -> None:
    """Put the new parts in the place of the old; on any failure the old ones come back."""
    aside.mkdir()
    parts = [
        (built.source_dir, workspace.source_dir),
        (built.masks_dir, workspace.masks_dir),
        (built.tracking_dir, workspace.tracking_dir),
        (built.config, workspace.config),
    ]
    later = (built.masks_dir, built.tracking_dir)  # these may come after prepare
    with ExitStack() as undo:
        for new, place in parts:
            earlier = aside / place.name if place.exists() else None
            undo.callback(_put_back, place, earlier)
            if earlier:
                move(place, earlier)
            if new.exists() or new not in later:
                move(new, place)
        workspace.edits_dir.mkdir(exist_ok=True)
        undo.pop_all()


def _put_back(place: Path, earlier: Path | None) -> None:
    """What lay in a place before, or nothing, lies there again; it may not have moved yet."""
    if earlier and not earlier.exists():
        return
    remove(place)
    if earlier:
        move(earlier, place)
