"""Following objects through a clip: the Protocol of a tracker, and passes of it as labels.

A *silhouette_HW* is a bool array. An *anchor* is an object's silhouette in a frame in which the
person has pointed at it: it is taken as it is, and everything else follows from the nearest one.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, Protocol

import numpy as np

from maskora.masks import Labels, Silhouette
from maskora.masks.prompts import Prompt

Silhouettes = Mapping[int, Silhouette]  # object number -> silhouette_HW
Anchors = Mapping[int, Silhouettes]  # frame -> the objects that are anchored there
Direction = Literal["both", "forward", "backward"]


class ObjectTracker(Protocol):
    """Follows objects through the one clip that it was opened with.

    Attributes:
        label: its name on the page.
    """

    label: str

    def segment(self, frame: int, prompts: Sequence[Prompt], before_HW: Labels) -> Silhouette:
        """The silhouette_HW, in one frame, of the object that is pointed at; it may be empty.

        Args:
            frame: the frame's number.
            prompts: all of this frame's for one object, in workspace pixels; at least one.
            before_HW: labels of this frame as tracked so far (0 where nothing is): an object that
                is there already is refined, not found anew.
        """
        ...

    def propagate(self, path: Sequence[int], anchors: Anchors) -> Iterator[Silhouettes]:
        """Carry the anchored objects along a path of frames.

        Args:
            path: at least one frame number, consecutive, rising or falling.
            anchors: at least one; those that lie on the path come back as they are, and the objects
                follow from them. Anchors off the path may be used as memory.

        Yields:
            for each frame of the path, in order, a silhouette_HW of every object that has had an
            anchor on the path so far; an empty one where it is out of sight.
        """
        ...

    def close(self) -> None:
        """Free the memory that it holds."""
        ...


def combine(silhouettes: Silhouettes, shape: tuple[int, ...]) -> Labels:
    """Labels_HW of this shape from silhouettes; where two overlap the smaller one is in front."""
    labels_HW = np.zeros(shape, np.uint8)
    for number in sorted(silhouettes, key=lambda n: -int(silhouettes[n].sum())):
        labels_HW[silhouettes[number]] = number
    return labels_HW


def split(labels_HW: Labels) -> dict[int, Silhouette]:
    """The silhouette_HW of each object in the labels."""
    return {int(n): labels_HW == n for n in np.unique(labels_HW[labels_HW > 0])}


def follow(
    tracker: ObjectTracker,
    anchors: Anchors,
    frames: int,
    start: int | None = None,
    direction: Direction = "both",
) -> Iterator[tuple[int, Silhouettes]]:
    """Propagate from every anchor, or from one frame in one direction.

    Args:
        anchors: at least one.
        frames: of the clip.
        start: where to start; it must be anchored. None: from the outermost anchors.
        direction: "both" follows each object from its nearest anchor.

    Yields:
        (frame, the objects that are now known there), the start frame's own among them. A frame may
        come twice, with other objects.
    """
    for path in paths(anchors, frames, start, direction):
        yield from _pass(tracker, path, anchors, direction)


def paths(anchors: Anchors, frames: int, start: int | None, direction: Direction) -> list[range]:
    """The frames of each pass that `follow` makes."""
    first, last = (min(anchors), max(anchors)) if start is None else (start, start)
    ahead, back = range(first, frames), range(last, -1, -1)
    return {"both": [ahead, back], "forward": [ahead], "backward": [back]}[direction]


def _pass(
    tracker: ObjectTracker, path: range, anchors: Anchors, direction: Direction
) -> Iterator[tuple[int, Silhouettes]]:
    for frame, silhouettes in zip(path, tracker.propagate(path, anchors), strict=True):
        if direction == "both":
            nearest = [n for n in silhouettes if _is_nearest(frame, n, anchors, path.step)]
            silhouettes = {number: silhouettes[number] for number in nearest}
        yield frame, silhouettes


def _is_nearest(frame: int, number: int, anchors: Anchors, step: int) -> bool:
    """True if the object's nearest anchor lies behind on the pass (ties: only when forward)."""
    ahead_by = [step * (at - frame) for at, objects in anchors.items() if number in objects]
    behind = min((-distance for distance in ahead_by if distance <= 0), default=None)
    ahead = min((distance for distance in ahead_by if distance >= 0), default=None)
    if behind is None or ahead is None:
        return behind is not None
    return behind < ahead or (behind == ahead and step > 0)
