"""The tracker that needs no download: GrabCut from what is pointed at, optical flow in between.

It works on frames of reduced size (long side `LONG_SIDE`) and gives silhouettes at full size. It
knows colours and motion and no objects: it follows what differs from its surroundings, or moves
otherwise than they do, and loses its way where something alike comes close, or where the object is
hidden for a while.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from maskora.masks import Labels
from maskora.masks.prompts import Box, Click, Prompt
from maskora.masks.silhouettes import Silhouette
from maskora.masks.trackers import carry
from maskora.masks.trackers.backdrop import Backdrop
from maskora.masks.trackers.find import Pointed, find
from maskora.masks.tracking import Anchors, Silhouettes

LONG_SIDE = 848  # pixels
LOST = 0.02  # of the area at the last anchor: what is smaller has left the picture

Frame = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class _Followed:
    """One object on its way along the path; all arrays are at the reduced size."""

    silhouette_HW: Silhouette
    look: carry.Look
    least_area: float


class SimpleTracker:
    """GrabCut and DIS optical flow on the frames of one clip.

    Attributes:
        label: what it is called towards the person.
    """

    label = "simple (GrabCut and optical flow)"

    def __init__(self, frames_THWC: Frame) -> None:
        """frames_THWC: uint8 RGB."""
        self._height, self._width = frames_THWC.shape[1:3]
        self._scale = min(1.0, LONG_SIDE / max(self._height, self._width))
        size = (max(1, round(self._width * self._scale)), max(1, round(self._height * self._scale)))
        self._frames_THWC = np.stack(
            [cv2.resize(frame_HWC, size, interpolation=cv2.INTER_AREA) for frame_HWC in frames_THWC]
        )
        self._backdrop = Backdrop(self._frames_THWC)
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def segment(self, frame: int, prompts: Sequence[Prompt], before_HW: Labels) -> Silhouettes:
        """As `Tracker.segment`: clicks are kept to exactly, boxes nearly (`find.SLACK`)."""
        found: dict[int, Silhouette] = {}
        permanence_HW = self._backdrop.permanence(frame)
        for number in sorted({prompt.object_id for prompt in prompts}):
            own = [prompt for prompt in prompts if prompt.object_id == number]
            pointed = self._pointed(own)
            before = self._reduce(before_HW == number)
            others = self._reduce((before_HW != number) & (before_HW > 0))
            small_HW = find(self._frames_THWC[frame], permanence_HW, pointed, before, others)
            found[number] = self._with_clicks(self._enlarge(small_HW), own)
        return found

    def propagate(self, path: Sequence[int], anchors: Anchors) -> Iterator[Silhouettes]:
        """As `Tracker.propagate`: each object is carried on from its last anchor on the path."""
        followed: dict[int, _Followed | None] = {}  # None: it is out of sight
        previous = path[0]
        for frame in path:
            anchored = anchors.get(frame, {})
            carried = [number for number in followed if number not in anchored]
            found = dict(anchored)
            if any(followed[number] for number in carried):
                moved = self._motion(frame, previous)
            for number in carried:
                before = followed[number]
                after = followed[number] = before and self._step(frame, before, moved)
                found[number] = self._enlarge(after.silhouette_HW) if after else self._nothing()
            followed |= {n: self._anchor(frame, anchored[n]) for n in anchored}
            yield found
            previous = frame

    def close(self) -> None:
        """Free the reduced frames."""
        self._frames_THWC = self._frames_THWC[:0]
        self._backdrop.close()

    def _anchor(self, frame: int, silhouette_HW: Silhouette) -> _Followed | None:
        small_HW = self._reduce(silhouette_HW)
        if not small_HW.any():
            return None
        look = carry.look(self._frames_THWC[frame], small_HW)
        return _Followed(small_HW, look, max(2.0, LOST * float(small_HW.sum())))

    def _step(self, frame: int, before: _Followed, moved: carry.Motion) -> _Followed | None:
        image_HWC = self._frames_THWC[frame]
        carried_HW = carry.carry(
            image_HWC, before.silhouette_HW, moved, before.look, self._backdrop.permanence(frame)
        )
        if carried_HW.sum() < before.least_area:
            return None
        return replace(before, silhouette_HW=carried_HW)

    def _motion(self, frame: int, previous: int) -> carry.Motion:
        here_HW, there_HW = (
            cv2.cvtColor(self._frames_THWC[number], cv2.COLOR_RGB2GRAY)
            for number in (frame, previous)
        )
        return carry.motion(self._flow, here_HW, there_HW)

    def _pointed(self, prompts: Sequence[Prompt]) -> Pointed:
        """The prompts of one object, in pixels of the reduced frame."""
        height, width = self._frames_THWC.shape[1:3]
        clicks = [prompt for prompt in prompts if isinstance(prompt, Click)]
        boxes = [prompt for prompt in prompts if isinstance(prompt, Box)]

        def pixel(click: Click) -> tuple[int, int]:
            x, y = int(click.x * self._scale), int(click.y * self._scale)
            return min(max(x, 0), width - 1), min(max(y, 0), height - 1)

        def sides(box: Box) -> tuple[int, int, int, int]:
            x0, y0 = np.floor(np.array([box.x, box.y]) * self._scale).astype(int).tolist()
            far = np.array([box.x + box.width, box.y + box.height]) * self._scale
            x1, y1 = np.ceil(far).astype(int).tolist()
            return max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)

        return Pointed(
            inside=tuple(pixel(click) for click in clicks if click.positive),
            outside=tuple(pixel(click) for click in clicks if not click.positive),
            boxes=tuple(sides(box) for box in boxes),
        )

    def _with_clicks(self, silhouette_HW: Silhouette, prompts: Sequence[Prompt]) -> Silhouette:
        """Full size: a pixel that was clicked on is what the click says."""
        canvas_HW = silhouette_HW.astype(np.uint8)
        radius = round(0.5 / self._scale)
        for prompt in prompts:
            if isinstance(prompt, Click):
                x = min(max(int(prompt.x), 0), self._width - 1)
                y = min(max(int(prompt.y), 0), self._height - 1)
                cv2.circle(canvas_HW, (x, y), radius, int(prompt.positive), thickness=-1)
        return canvas_HW > 0

    def _reduce(self, silhouette_HW: Silhouette) -> Silhouette:
        """To the reduced size; a silhouette that is not empty keeps a pixel."""
        height, width = self._frames_THWC.shape[1:3]
        share_HW = cv2.resize(
            silhouette_HW.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA
        )
        return np.asarray(share_HW > 0) & (share_HW >= min(0.5, float(share_HW.max())))

    def _enlarge(self, small_HW: Silhouette) -> Silhouette:
        share_HW = cv2.resize(
            small_HW.astype(np.float32),
            (self._width, self._height),
            interpolation=cv2.INTER_LINEAR,
        )
        return np.asarray(share_HW >= 0.5)

    def _nothing(self) -> Silhouette:
        return np.zeros((self._height, self._width), np.bool_)
