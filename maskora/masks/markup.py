"""The prompts of one clip and the silhouettes that came of them; every action can be undone.

Two labels_THW are kept. ``before_THW`` is what a tracker carried into each frame; ``shown_THW`` is
the same after the frame's own clicks and boxes, so these can be taken back one by one. Positions
are in pixels of the workspace's frames.
"""

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import numpy as np

from maskora.errors import UserError
from maskora.frames import Frames
from maskora.masks import Labels, Silhouette, tracking
from maskora.masks.prompts import Box, Prompt, check_inside
from maskora.masks.tracking import Direction, ObjectTracker, combine, split

MOST_UNDO = 100


@dataclass(frozen=True)
class _Step:
    """The prompts and frames that an action changed, as they were before."""

    prompts: tuple[Prompt, ...]
    frames: dict[int, bytes]


class LabelStore(Frames, Protocol):
    """Labels of a clip, a frame of which can be replaced: `PackedLabels`, or an array."""

    def __setitem__(self, frame: int, labels_HW: Labels, /) -> None: ...


class Markup:
    """The prompts and silhouettes of one clip.

    Attributes:
        prompts: in the order in which they were made.
        before_THW, shown_THW: labels, uint8.
        changed: frames whose labels have changed since they were last stored.
    """

    def __init__(
        self, before_THW: LabelStore, shown_THW: LabelStore, prompts: Iterable[Prompt] = ()
    ) -> None:
        self.before_THW = before_THW
        self.shown_THW = shown_THW
        self.prompts = tuple(prompts)
        self.changed: set[int] = set()
        self._done: list[_Step] = []

    @property
    def objects(self) -> list[int]:
        """The numbers of all objects that are pointed at or shown."""
        shown = {number for labels_HW in self.shown_THW for number in split(labels_HW)}
        return sorted(shown | {prompt.object_id for prompt in self.prompts})

    def point(self, tracker: ObjectTracker, prompts: Iterable[Prompt]) -> None:
        """Add clicks and boxes, and find what they mean. Raises UserError; then nothing changed."""
        added = tuple(prompts)
        frames, height, width = self.shown_THW.shape
        check_inside(added, frames, width, height)
        new, touched = (*self.prompts, *added), sorted({prompt.frame for prompt in added})
        found = {frame: self._segment(tracker, frame, new) for frame in touched}
        self._remember(touched)
        self.prompts = new
        for frame, labels_HW in found.items():
            self.shown_THW[frame] = labels_HW

    def undo(self) -> int | None:
        """Take the last action back. Returns a frame that changed; None: there was nothing."""
        if not self._done:
            return None
        step = self._done.pop()
        self.prompts = step.prompts
        for frame, packed in step.frames.items():
            before, shown = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(
                2, *self.shown_THW.shape[1:]
            )
            self.before_THW[frame], self.shown_THW[frame] = before, shown
        self.changed.update(step.frames)
        return min(step.frames, default=None)

    def clear_frame(self, frame: int) -> None:
        """Take all clicks and boxes of a frame back."""
        self._remember([frame])
        self.prompts = tuple(prompt for prompt in self.prompts if prompt.frame != frame)
        self.shown_THW[frame] = self.before_THW[frame]

    def clear_object(self, number: int) -> None:
        """Remove an object everywhere, its clicks and boxes too."""
        self._remember(range(len(self.shown_THW)))
        self.prompts = tuple(prompt for prompt in self.prompts if prompt.object_id != number)
        for labels_THW in (self.shown_THW, self.before_THW):
            for frame, labels_HW in enumerate(labels_THW):
                labels_THW[frame] = np.where(labels_HW == number, np.uint8(0), labels_HW)

    def follow(
        self, tracker: ObjectTracker, start: int | None = None, direction: Direction = "both"
    ) -> Iterator[int]:
        """Propagate; yields each frame when it is done. Stopping early keeps what is done.

        Args:
            start: from this frame, whatever is shown there; None: from every click and box.

        Raises:
            UserError: there is nothing to start from.
        """
        anchors = self._anchors(start)
        steps = tracking.follow(tracker, anchors, len(self.shown_THW), start, direction)
        first = next(steps)  # a tracker that cannot begin changes nothing
        self._remember(range(len(self.shown_THW)))
        for frame, silhouettes in chain([first], steps):
            anchored = anchors.get(frame, {})
            carried = {n: one for n, one in silhouettes.items() if n not in anchored}
            if carried:
                for labels_THW in (self.before_THW, self.shown_THW):
                    labels_HW = labels_THW[frame]
                    labels_THW[frame] = combine({**split(labels_HW), **carried}, labels_HW.shape)
                self.changed.add(frame)
            yield frame

    def steps(self, start: int | None = None, direction: Direction = "both") -> int:
        """The number of frames that `follow` will yield. Raises UserError where it cannot start."""
        anchors, frames = self._anchors(start), len(self.shown_THW)
        return sum(len(path) for path in tracking.paths(anchors, frames, start, direction))

    def absences(self) -> dict[int, list[int]]:
        """The frames in which an object is not seen, for each object with such frames."""
        seen = [split(labels_HW).keys() for labels_HW in self.shown_THW]
        absences = {
            number: [frame for frame, numbers in enumerate(seen) if number not in numbers]
            for number in self.objects
        }
        return {number: frames for number, frames in absences.items() if frames}

    def _segment(self, tracker: ObjectTracker, frame: int, prompts: Iterable[Prompt]) -> Labels:
        own = [prompt for prompt in prompts if prompt.frame == frame]
        before_HW = self.before_THW[frame]
        there = split(before_HW)
        begun = {p.object_id for p in own if isinstance(p, Box) or p.positive} | there.keys()
        for prompt in own:
            if prompt.object_id not in begun:
                raise UserError(
                    f"object {prompt.object_id} is not in frame {frame} yet: first click a point "
                    f"that belongs to it, then what does not"
                )
        for number in sorted({prompt.object_id for prompt in own}):
            of_object = [prompt for prompt in own if prompt.object_id == number]
            there[number] = tracker.segment(frame, of_object, before_HW)
        return combine(there, before_HW.shape)

    def _anchors(self, start: int | None) -> dict[int, dict[int, Silhouette]]:
        anchors: dict[int, dict[int, Silhouette]] = {}
        for prompt in self.prompts:
            shown_HW = self.shown_THW[prompt.frame]
            anchors.setdefault(prompt.frame, {})[prompt.object_id] = shown_HW == prompt.object_id
        if start is not None:
            anchors[start] = {**split(self.shown_THW[start]), **anchors.get(start, {})}
        if not anchors:
            raise UserError("nothing is clicked yet: click the object in any frame first")
        if start is not None and not anchors[start]:
            raise UserError(f"nothing is marked in frame {start}: click the object there first")
        return anchors

    def _remember(self, frames: Iterable[int]) -> None:
        packed = {
            frame: zlib.compress(
                self.before_THW[frame].tobytes() + self.shown_THW[frame].tobytes(), 1
            )
            for frame in frames
        }
        self._done = [*self._done, _Step(self.prompts, packed)][-MOST_UNDO:]
        self.changed.update(packed)
