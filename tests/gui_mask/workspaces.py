"""Small workspaces of a rolling ball, prepared once and copied for each test."""

import shutil
from pathlib import Path
from typing import Any

from gui_mask.jobs import Job
from maskora.app.prepare import prepare_workspace
from maskora.app.workspace import Workspace

FAST = [
    "model.dtype=float32", "optimizer.type=adamw", "optimizer.lr=1e-3", "motion.window=5",
    "motion.steps=2", "appearance.steps=2", "training.checkpoint_every=1", "inference.steps=2",
]  # fmt: skip
CAPTIONS = {"prompt.caption": "a blue ball", "prompt.edited_caption": "an orange ball"}


def make_workspace(
    root: Path, clip: Path, model: Path, *overrides: str, box: str | None = None,
    overwrite: bool = False, **video: Any,
) -> Workspace:  # fmt: skip
    """Prepare a clip, by default nine frames at 160x96, without a mask."""
    settings = {"size": "160x96", "frames": 9, **video}
    given = {f"video.{key}": value for key, value in settings.items()}
    prepare_workspace(
        video=clip, root=root, mask=None, box=box, base=None,
        given={"model.path": str(model), **CAPTIONS, **given},
        overrides=[*FAST, *overrides], overwrite=overwrite,
    )  # fmt: skip
    return Workspace(root)


def copied(workspace: Workspace, root: Path) -> Workspace:
    """A workspace of its own."""
    shutil.copytree(workspace.root, root)
    return Workspace(root)


def job_of(workspace: Workspace) -> Job:
    """runs/job.json"""
    return Job.model_validate_json(workspace.job_record.read_text())
