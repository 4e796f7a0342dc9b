"""Prompts: what a person marks on frames, each for one object: clicks, boxes, painted masks.

Frames are numbered from 0 within the clip. Coordinates are pixels with the origin at the picture's
top left corner; which picture (the original's or the workspace's) is the caller's business.
"""

import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from maskora.errors import UserError
from maskora.masks import Silhouette

MOST_OBJECTS = 254  # labels are bytes, and 255 is an image editor's white


@dataclass(frozen=True)
class Click:
    """One click: this point belongs to the object, or (not positive) does not."""

    frame: int
    x: float
    y: float
    positive: bool = True
    object_id: int = 1

    def __str__(self) -> str:
        sign = "+" if self.positive else "-"
        return f"{self.frame},{self.x:g},{self.y:g},{sign}{_suffix(self.object_id)}"


@dataclass(frozen=True)
class Box:
    """A rectangle drawn around the object: left, top, width, height."""

    frame: int
    x: float
    y: float
    width: float
    height: float
    object_id: int = 1

    def __str__(self) -> str:
        sides = f"{self.x:g},{self.y:g},{self.width:g},{self.height:g}"
        return f"{self.frame},{sides}{_suffix(self.object_id)}"


@dataclass(frozen=True)
class Painting:
    """All of an object in a frame, as a person painted it; nothing where it is not seen there.

    Attributes:
        shape: (H, W) of the workspace's frames.
        packed: its silhouette, compressed.
    """

    frame: int
    shape: tuple[int, int]
    packed: bytes
    object_id: int = 1

    @classmethod
    def of(cls, frame: int, silhouette_HW: Silhouette, object_id: int = 1) -> "Painting":
        """The painting of a silhouette."""
        height, width = silhouette_HW.shape
        packed = zlib.compress(np.packbits(silhouette_HW).tobytes(), 1)
        return cls(frame, (height, width), packed, object_id)

    @property
    def silhouette_HW(self) -> Silhouette:
        """Where the object is."""
        bits = np.frombuffer(zlib.decompress(self.packed), np.uint8)
        count = self.shape[0] * self.shape[1]
        return np.unpackbits(bits, count=count).reshape(self.shape).astype(np.bool_)

    def __str__(self) -> str:
        return f"the painting of object {self.object_id} in frame {self.frame}"


Prompt = Click | Box  # what a tracker is asked about
Mark = Prompt | Painting


def _suffix(object_id: int) -> str:
    return f",{object_id}" if object_id != 1 else ""


def parse_click(text: str) -> Click:
    """Read ``FRAME,X,Y,+|-[,OBJECT]``. Raises UserError."""
    parts = [part.strip() for part in text.split(",")]
    numbers = _numbers(parts[:3])
    if len(parts) not in (4, 5) or numbers is None or parts[3] not in ("+", "-"):
        raise UserError(
            f"click {text!r}: write FRAME,X,Y,+ for a point of the object, FRAME,X,Y,- for one "
            f"that does not belong to it, and the object's number after it where there are "
            f"several: 0,640,360,+,2"
        )
    frame, object_id = _whole(parts[0], text), _object_id(parts[4:], text)
    return Click(frame, numbers[1], numbers[2], parts[3] == "+", object_id)


def parse_box(text: str) -> Box:
    """Read ``FRAME,X,Y,W,H[,OBJECT]``. Raises UserError."""
    parts = [part.strip() for part in text.split(",")]
    numbers = _numbers(parts[:5])
    if len(parts) not in (5, 6) or numbers is None:
        raise UserError(
            f"box {text!r}: write FRAME,X,Y,W,H (left, top, width, height), and the object's "
            f"number after it where there are several: 0,600,300,80,120,2"
        )
    _, x, y, width, height = numbers
    if width <= 0 or height <= 0:
        raise UserError(f"box {text!r}: its width and height must be above 0")
    return Box(_whole(parts[0], text), x, y, width, height, _object_id(parts[5:], text))


def parse_paint(text: str) -> tuple[int, str, int]:
    """Read ``FRAME,PNG[,OBJECT]``: the frame, the picture's path, the object. Raises UserError."""
    frame, _, rest = text.partition(",")
    path, comma, last = (part.strip() for part in rest.rpartition(","))
    if not (comma and last.isdecimal()):
        path, last = rest.strip(), "1"
    if not path:
        raise UserError(
            f"paint {text!r}: write FRAME,PNG (a picture that is white where the object is), and "
            f"the object's number after it where there are several: 12,mask.png,2"
        )
    return _whole(frame.strip(), text), path, _object_id([last], text)


def _numbers(parts: Sequence[str]) -> list[float] | None:
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        return None
    return numbers if all(math.isfinite(number) for number in numbers) else None


def _whole(part: str, text: str) -> int:
    if not (part.isascii() and part.isdecimal() and len(part) < 10):
        raise UserError(f"{text!r}: {part!r} is no frame number; frames are counted from 0")
    return int(part)


def _object_id(parts: Sequence[str], text: str) -> int:
    if not parts:
        return 1
    is_number = parts[0].isascii() and parts[0].isdecimal() and len(parts[0]) < 10
    if not (is_number and 1 <= int(parts[0]) <= MOST_OBJECTS):
        raise UserError(
            f"{text!r}: {parts[0]!r} is no object; they are numbered 1 to {MOST_OBJECTS}"
        )
    return int(parts[0])


def common_box(boxes: Sequence[Box]) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of the smallest rectangle around at least one box."""
    return (
        min(box.x for box in boxes),
        min(box.y for box in boxes),
        max(box.x + box.width for box in boxes),
        max(box.y + box.height for box in boxes),
    )


def check_inside(prompts: Iterable[Mark], frames: int, width: int, height: int) -> None:
    """Raises UserError where a prompt is on no frame of the clip or beside its picture."""
    for prompt in prompts:
        if not 1 <= prompt.object_id <= MOST_OBJECTS:
            raise UserError(f"{prompt}: objects are numbered 1 to {MOST_OBJECTS}")
        if prompt.frame >= frames:
            raise UserError(f"{prompt}: the clip has frames 0 to {frames - 1} only")
        if isinstance(prompt, Painting):
            continue
        right = prompt.x + (prompt.width if isinstance(prompt, Box) else 0)
        bottom = prompt.y + (prompt.height if isinstance(prompt, Box) else 0)
        if right < 0 or bottom < 0 or prompt.x >= width or prompt.y >= height:
            raise UserError(f"{prompt}: it lies outside the picture, which is {width}x{height}")
