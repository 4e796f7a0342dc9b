"""The edited first frame of a removal, where the person has made none: the thing, taken out."""

from collections.abc import Iterable
from itertools import islice

import numpy as np

from maskora.app.workspace import Workspace, working
from maskora.method.background import without_thing
from maskora.video.images import read_image, write_png

AHEAD = 48  # frames after the first that may show what the thing hides


def make_first_frame(
    workspace: Workspace, edit: str | None, labels_THW: Iterable[np.ndarray]
) -> str | None:
    """Write an edited first frame without what is inside its mask, where an edit has none.

    Args:
        edit: the name of a further edit, whose folder is there.
        labels_THW: the mask, or better the silhouettes.

    Returns:
        a line for the person; None where there is a first frame, or all of it is masked.
    """
    inside_THW = np.stack([labels_HW > 0 for labels_HW in islice(labels_THW, 1 + AHEAD)])
    path = workspace.edited_frame(edit, 0, ".png")
    with working(workspace):
        if workspace.edited_files(edit, 0) or inside_THW[0].all():
            return None
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
