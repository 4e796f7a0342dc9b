"""A tracker whose answers are known: a disc per click, which moves one pixel right per frame."""

from collections.abc import Iterator, Sequence

import numpy as np

from maskora.masks import Labels, Silhouette
from maskora.masks.prompts import Box, Prompt
from maskora.masks.tracking import Anchors, Silhouettes

RADIUS = 4


class DiscTracker:
    """Fulfils the Protocol with arithmetic alone."""

    label = "discs"

    def __init__(self, height: int, width: int) -> None:
        self.y_HW, self.x_HW = np.mgrid[0:height, 0:width]
        self.closed = False

    def segment(self, frame: int, prompts: Sequence[Prompt], before_HW: Labels) -> Silhouette:
        own_HW = before_HW == prompts[0].object_id
        for prompt in prompts:
            if isinstance(prompt, Box):
                own_HW = own_HW | self._rectangle(prompt)
            else:
                disc_HW = np.hypot(self.x_HW - prompt.x, self.y_HW - prompt.y) <= RADIUS
                own_HW = own_HW | disc_HW if prompt.positive else own_HW & ~disc_HW
        return own_HW

    def _rectangle(self, box: Box) -> Silhouette:
        across_HW = (self.x_HW >= box.x) & (self.x_HW < box.x + box.width)
        return across_HW & (self.y_HW >= box.y) & (self.y_HW < box.y + box.height)

    def propagate(self, path: Sequence[int], anchors: Anchors) -> Iterator[Silhouettes]:
        current: dict[int, Silhouette] = {}
        step = path[1] - path[0] if len(path) > 1 else 1
        for frame in path:
            current = {number: shifted(one, step) for number, one in current.items()}
            current |= anchors.get(frame, {})
            yield dict(current)

    def close(self) -> None:
        self.closed = True


def shifted(silhouette_HW: Silhouette, step: int) -> Silhouette:
    """Moved sideways; what leaves the picture is gone."""
    moved_HW = np.roll(silhouette_HW, step, axis=1)
    moved_HW[:, 0 if step > 0 else -1] = False
    return moved_HW
