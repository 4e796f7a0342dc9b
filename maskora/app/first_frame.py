"""The edited first frame of a removal, where the person has made none: the thing, taken out."""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np

from maskora.app.workspace import Record, Workspace, read_record, working
from maskora.files import sha256_file
from maskora.frames import digest_inside
from maskora.method.background import without_thing
from maskora.video.images import read_image, write_png

AHEAD = 48  # frames after the first that may show what the thing hides
MADE = ".made.json"  # beside a first frame that was made


class Made(Record):
    """edits/.made.json: a first frame that was made, not a person's: its content, and its mask's.

    Attributes:
        picture: SHA-256 of the file.
        inside: of the masks that it was made with.
    """

    picture: str
    inside: str


def make_first_frame(
    workspace: Workspace, edit: str | None, labels_THW: Iterable[np.ndarray]
) -> str | None:
    """Write an edited first frame without what is inside its mask, where an edit has none.

    One that was made so before is made anew where the mask has changed; a person's stays.

    Args:
        edit: the name of a further edit, whose folder is there.
        labels_THW: the mask, or better the silhouettes.

    Returns:
        a line for the person; None where the first frame stays, or all of it is masked.
    """
    source = workspace.read_source()
    seen = min(1 + AHEAD, *source.shot_starts, source.frames)
    inside_THW = np.stack([labels_HW > 0 for labels_HW in islice(labels_THW, seen)])
    path, inside = workspace.edited_frame(edit, 0, ".png"), digest_inside(inside_THW)
    with working(workspace):
        if not _may_write(workspace, edit, inside) or inside_THW[0].all():
            return None
        said = _write(workspace, path, inside_THW)
        Made(picture=sha256_file(path), inside=inside).write(path.parent / MADE)
    return said


def _may_write(workspace: Workspace, edit: str | None, inside: str) -> bool:
    """True where there is no first frame, or one that was made with another mask."""
    if not workspace.edited_files(edit, 0):
        return True
    made = made_first_frame(workspace, edit)
    return made is not None and made.inside != inside


def made_first_frame(workspace: Workspace, edit: str | None) -> Made | None:
    """The record of a first frame that was made; None where there is none, or a person's.

    Raises:
        UserError: the record is damaged.
    """
    path = workspace.edited_frame(edit, 0, ".png")
    record = path.parent / MADE
    if workspace.edited_files(edit, 0) != [path] or not record.is_file():
        return None
    made = read_record(Made, record, f"remove it; {path} stays as it is then")
    return made if made.picture == sha256_file(path) else None


def _write(workspace: Workspace, path: Path, inside_THW: np.ndarray) -> str:
    if not inside_THW[0].any():
        write_png(path, read_image(workspace.source_frame(0)))
        return f"{path}: frame 0 as it is, because there is nothing to be removed in it yet"
    frames = [read_image(workspace.source_frame(number)) for number in range(len(inside_THW))]
    picture_HWC, share = without_thing(np.stack(frames), inside_THW)
    write_png(path, picture_HWC)
    return (
        f"{path}: frame 0 without what is inside the mask ({share:.0%} of its place is seen in "
        f"other frames, the rest is painted over); save a better one there if it needs it"
    )
