"""Recent projects: the workspaces in the folders that the page may use, the newest first."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from gui_mask import jobs, words
from gui_mask.errors import caught
from gui_mask.waiting import read_queue
from maskora.app.workspace import Workspace
from maskora.config import load_config
from maskora.video.images import read_image

MOST = 6  # that are shown
MOST_LOOKED_AT = 500  # folders beside each other
WIDEST = 320  # pixels, of a thumbnail


@dataclass(frozen=True)
class Project:
    """A workspace on the start page.

    Attributes:
        root: its folder.
        changed: when something was last done in it, seconds since 1970.
        next: how it stands, or what is to be done next, in a few words.
        picture_HWC: its first frame, small, uint8 RGB.
    """

    root: Path
    changed: float
    next: str
    picture_HWC: np.ndarray


def recent_projects(folders: Iterable[Path], most: int = MOST) -> list[Project]:
    """The workspaces among folders and directly in them; one that cannot be read is left out."""
    found = {root.resolve(): _changed(root) for root in _roots(folders)}
    latest = sorted(found, key=lambda root: found[root], reverse=True)
    projects: list[Project] = []
    for root in latest:
        with caught():
            projects.append(_project(root, found[root]))
        if len(projects) == most:
            break
    return projects


def _roots(folders: Iterable[Path]) -> Iterator[Path]:
    for folder in folders:
        with caught():
            inside = [folder, *sorted(folder.iterdir())[:MOST_LOOKED_AT]] if folder.is_dir() else []
            yield from (p for p in inside if not p.is_symlink() and Workspace(p).config.is_file())


def _changed(root: Path) -> float:
    workspace = Workspace(root)
    records = (
        workspace.config, workspace.tracking_record, workspace.mask_record, workspace.edits_dir,
        workspace.job_record, workspace.results_dir,
    )  # fmt: skip
    return max((path.stat().st_mtime for path in records if path.exists()), default=0.0)


def _project(root: Path, changed: float) -> Project:
    """Raises UserError where the folder is no workspace that can be opened."""
    workspace = Workspace.open(root)
    workspace.read_source()
    image_HWC = read_image(workspace.source_frame(0))
    height, width = image_HWC.shape[:2]
    size = min(WIDEST, width), max(1, round(height * min(1, WIDEST / width)))
    small_HWC = np.asarray(cv2.resize(image_HWC, size, interpolation=cv2.INTER_AREA))
    return Project(root, changed, _next(workspace), small_HWC)


def _next(workspace: Workspace) -> str:
    """How a workspace stands, by its files alone."""
    job = jobs.read(workspace)
    if job is not None and job.is_active:
        return f"{job.job.title} {words.RUNNING}"
    if any(ticket.root == workspace.root.absolute() for ticket in read_queue().waiting):
        return words.QUEUED
    if not workspace.mask_record.is_file():
        return words.NO_MASK
    needs_frame = load_config(workspace.config).motion.task != "remove"
    names = (None, *workspace.named_edits())
    if needs_frame and not any(workspace.edited_files(name, 0) for name in names):
        return words.NO_EDIT
    results = (jobs.result(workspace, name) for name in names)
    return words.DONE if any(results) else words.NO_RESULT
