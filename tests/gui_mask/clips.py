"""A workspace whose masks are still to be clicked."""

from pathlib import Path

from maskora.app.prepare import prepare_workspace
from maskora.app.workspace import Workspace


def make_workspace(root: Path, clip: Path, model: Path, *overrides: str) -> Workspace:
    """Prepare a clip at 160x96 without a mask."""
    prepare_workspace(
        video=clip,
        root=root,
        mask=None,
        box=None,
        base=None,
        given={"video.size": "160x96", "video.frames": 9, "model.path": str(model)},
        overrides=list(overrides),
        overwrite=False,
    )
    return Workspace(root)
