"""--follow: the box of something that is to be added, carried through the clip."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

import numpy as np

from maskora.app.masking import load_frames, to_workspace
from maskora.app.workspace import Source, Workspace
from maskora.config.tables import Task, Tracker
from maskora.errors import UserError
from maskora.frames import Frames, PackedLabels
from maskora.masks import Silhouette
from maskora.masks.following import background_path, carried_region, thing_path
from maskora.masks.prompts import Click, check_inside
from maskora.masks.shapes import frame_ranges
from maskora.masks.trackers import open_tracker
from maskora.masks.trackers.simple import Affine
from maskora.progress import track


@dataclass(frozen=True)
class Follow:
    """What a box moves with: a thing, by a point on it in pixels of the original; or background."""

    thing: Click | None


def parse_follow(text: str | None, box: str | None, task: Task) -> Follow | None:
    """Read --follow; where something is to be added, its box moves with the background.

    Returns:
        None where the box stays where it is.

    Raises:
        UserError: it says something else, or there is no box.
    """
    if text is None:
        return Follow(None) if box and task == "add" else None
    if box is None:
        raise UserError(f"--follow {text}: it carries a box through the clip; give --box, too")
    if text == "background":
        return Follow(None)
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        x = y = float("nan")
    if not np.isfinite([x, y]).all():
        raise UserError(
            f"--follow {text}: write background, or X,Y: a point, in pixels of the original, on "
            f"the thing in the first frame that the box moves with"
        )
    return Follow(Click(0, x, y))


def carry_box(
    workspace: Workspace, box_HW: Silhouette, follow: Follow, settings: Tracker, source: Source
) -> tuple[Frames, list[str]]:
    """The first frame's box in every frame, as labels (T, H, W), and notes for the person.

    Args:
        workspace: with its frames.

    Raises:
        UserError: there is no thing at the point, or the tracker cannot be had.
    """
    frames_THWC = load_frames(workspace, source)
    first_shot = min(source.shot_starts, default=source.frames)
    path: Sequence[Affine | None]
    if follow.thing is None:
        path = background_path(islice(frames_THWC, first_shot))
    else:
        click = to_workspace(follow.thing, source.placement)
        assert isinstance(click, Click)
        check_inside([click], source.frames, *source.size)
        with closing(open_tracker(settings, frames_THWC, workspace.root)) as tracker:
            thing_HW = tracker.segment(0, [click], np.zeros(box_HW.shape, np.uint8))
            if not thing_HW.any():
                raise UserError(
                    f"--follow {follow.thing.x:g},{follow.thing.y:g}: the tracker finds no thing "
                    f"there in the first frame; point at its middle"
                )
            steps = tracker.propagate(range(source.frames), {0: {1: thing_HW}})
            path = thing_path(step[1] for step in track(steps, "follow", source.frames))
    beyond: list[Affine | None] = [None] * (source.frames - first_shot)
    labels_THW = PackedLabels(carried_region(box_HW, [*path[:first_shot], *beyond]))
    return labels_THW, _absences(labels_THW)


def _absences(labels_THW: Frames) -> list[str]:
    absent = [frame for frame, labels_HW in enumerate(labels_THW) if not labels_HW.any()]
    if not absent:
        return []
    return [
        f"what the box follows has left the picture, is lost, or in another shot, in frames "
        f"{frame_ranges(absent)}: "
        f"nothing is added there"
    ]
