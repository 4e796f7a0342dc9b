"""The prompts of one clip and the silhouettes that came of them; every action can be undone.

Two labels_THW are kept. ``before_THW`` is what a tracker carried into each frame; ``shown_THW`` is
the same after the frame's own clicks, boxes and paintings, so these can be taken back one by one.
Positions are in pixels of the workspace's frames.
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
from maskora.masks.prompts import Click, Mark, Painting, check_inside
from maskora.masks.tracking import Direction, ObjectTracker, Silhouettes, combine, split

MOST_UNDO = 100


@dataclass(frozen=True)
class _Step:
    """The prompts and frames that an action changed, as they were before."""

    prompts: tuple[Mark, ...]
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
        self, before_THW: LabelStore, shown_THW: LabelStore, prompts: Iterable[Mark] = ()
    ) -> None:
        self.before_THW = before_THW
        self.shown_THW = shown_THW
        self.prompts = tuple(prompts)
        self.changed: set[int] = set()
        self._done: list[_Step] = []
        self._undone: list[_Step] = []

    @property
    def objects(self) -> list[int]:
        """The numbers of all objects that are pointed at or shown."""
        shown = {number for labels_HW in self.shown_THW for number in split(labels_HW)}
        return sorted(shown | {prompt.object_id for prompt in self.prompts})

    def point(self, tracker: ObjectTracker, prompts: Iterable[Mark]) -> None:
        """Add prompts, and find what they mean. Raises UserError; then nothing changed."""
        added = tuple(prompts)
        frames, height, width = self.shown_THW.shape
        check_inside(added, frames, width, height)
        new, touched = (*self.prompts, *added), sorted({prompt.frame for prompt in added})
        found = {frame: self._segment(tracker, frame, new) for frame in touched}
        self._remember(touched)
        self.prompts = new
        for frame, labels_HW in found.items():
            self.shown_THW[frame] = labels_HW

    def paint(self, frame: int, object_id: int, brush_HW: Silhouette, positive: bool) -> None:
        """Paint with a brush in a frame, or erase with it (not positive).

        What is shown there of every object that was pointed at in this frame is from then on what
        was painted; clicks there have done their part, and go. Raises UserError; then nothing
        changed.
        """
        shown_HW = self.shown_THW[frame]
        own_HW = shown_HW == object_id
        if not (positive or (own_HW & brush_HW).any()):
            raise UserError(f"object {object_id} is not where the eraser went in frame {frame}")
        painted_HW = own_HW | brush_HW if positive else own_HW & ~brush_HW
        others = {p.object_id for p in self.prompts if p.frame == frame} - {object_id}
        painted = {n: (shown_HW == n) & ~painted_HW for n in sorted(others)}
        painted[object_id] = painted_HW
        new = [Painting.of(frame, one_HW, number) for number, one_HW in painted.items()]
        check_inside(new, *self.shown_THW.shape)
        self._remember([frame])
        self.prompts = (*(p for p in self.prompts if p.frame != frame), *new)
        self.shown_THW[frame] = _with_painted(split(self.before_THW[frame]), painted, own_HW.shape)

    def undo(self) -> int | None:
        """Take the last action back. Returns a frame that changed; None: there was nothing."""
        return self._return(self._done, self._undone)

    def redo(self) -> int | None:
        """Do again what was taken back last; as `undo`."""
        return self._return(self._undone, self._done)

    def _return(self, steps: list[_Step], others: list[_Step]) -> int | None:
        """Go to how it was at the last of some steps; the way back goes to the others."""
        if not steps:
            return None
        step = steps.pop()
        others.append(self._as_it_is(step.frames))
        self.prompts = step.prompts
        for frame, packed in step.frames.items():
            before, shown = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(
                2, *self.shown_THW.shape[1:]
            )
            self.before_THW[frame], self.shown_THW[frame] = before, shown
        self.changed.update(step.frames)
        return min(step.frames, default=None)

    def clear_frame(self, frame: int) -> None:
        """Take all prompts of a frame back."""
        self._remember([frame])
        self.prompts = tuple(prompt for prompt in self.prompts if prompt.frame != frame)
        self.shown_THW[frame] = self.before_THW[frame]

    def clear_object(self, number: int) -> None:
        """Remove an object everywhere, its prompts too."""
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
            start: from this frame, whatever is shown there; None: from every prompt.

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

    def _segment(self, tracker: ObjectTracker, frame: int, prompts: Iterable[Mark]) -> Labels:
        given = [prompt for prompt in prompts if prompt.frame == frame]
        painted = {p.object_id: p.silhouette_HW for p in given if isinstance(p, Painting)}
        own = [prompt for prompt in given if not isinstance(prompt, Painting)]
        shape = self.shown_THW.shape[1:]
        before_HW = _with_painted(split(self.before_THW[frame]), painted, shape)
        there = split(before_HW)
        positive = {p.object_id for p in own if not isinstance(p, Click) or p.positive}
        begun = positive | there.keys() | painted.keys()
        for prompt in own:
            if prompt.object_id not in begun:
                raise UserError(
                    f"object {prompt.object_id} is not in frame {frame} yet: first click a point "
                    f"that belongs to it, then what does not"
                )
        for number in sorted({prompt.object_id for prompt in own}):
            of_object = [prompt for prompt in own if prompt.object_id == number]
            there[number] = tracker.segment(frame, of_object, before_HW)
            painted.pop(number, None)  # it is refined
        return _with_painted(there, painted, shape)

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
        step = self._as_it_is(frames)
        self._done = [*self._done, step][-MOST_UNDO:]
        self._undone.clear()
        self.changed.update(step.frames)

    def _as_it_is(self, frames: Iterable[int]) -> _Step:
        packed = {
            frame: zlib.compress(
                self.before_THW[frame].tobytes() + self.shown_THW[frame].tobytes(), 1
            )
            for frame in frames
        }
        return _Step(self.prompts, packed)


def _with_painted(found: Silhouettes, painted: Silhouettes, shape: tuple[int, ...]) -> Labels:
    """Labels_HW of silhouettes; what was painted is in front, exactly as it was painted."""
    labels_HW = combine({n: one for n, one in found.items() if n not in painted}, shape)
    for number, silhouette_HW in painted.items():
        labels_HW[silhouette_HW] = number
    return labels_HW
