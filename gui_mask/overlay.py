"""What the viewer draws over a frame: outlines, as flat lists of whole pixels."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from maskora.masks import Labels
from maskora.masks.prompts import Box, Prompt
from maskora.masks.shapes import Boxes

Outline = list[int]  # x0, y0, x1, y1, … of one closed line


def outlines(labels_HW: Labels) -> list[tuple[int, list[Outline]]]:
    """The outer and inner outlines of each object, as (object number, outlines)."""
    found = []
    for number in np.unique(labels_HW[labels_HW > 0]).tolist():
        lines, _ = cv2.findContours(
            (labels_HW == number).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE
        )
        thinned = [cv2.approxPolyDP(line, 0.8, True) for line in lines]
        found.append((int(number), [line.reshape(-1).tolist() for line in thinned]))
    return found


def box_outlines(
    boxes_NT4: Boxes, object_ids: Sequence[int], frame: int
) -> list[tuple[int, list[Outline]]]:
    """The boxes of one frame in the same form."""
    found = []
    for number, box_4 in zip(object_ids, boxes_NT4[:, frame], strict=True):
        if not np.isnan(box_4[0]):
            x0, y0, x1, y1 = (int(side) for side in box_4)
            found.append((number, [[x0, y0, x1, y0, x1, y1, x0, y1]]))
    return found


def marks(prompts: Sequence[Prompt], frame: int) -> list[dict[str, Any]]:
    """The clicks and boxes of one frame."""
    return [
        {"x": one.x, "y": one.y, "object": one.object_id}
        | (
            {"width": one.width, "height": one.height}
            if isinstance(one, Box)
            else {"positive": one.positive}
        )
        for one in prompts
        if one.frame == frame
    ]
