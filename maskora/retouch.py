"""An edited frame made by hand: steps on a picture, held inside the region at the end.

Pictures are uint8 RGB. A point (x, y) is in pixels of the frame and names a pixel's middle, as a
click does. The same steps on the same frame give the same picture, bit for bit.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from maskora.errors import UserError
from maskora.video.composite import composite, feather_alpha

Image = npt.NDArray[np.uint8]
Weight = npt.NDArray[np.float32]
Blend = Literal["normal", "multiply", "screen"]
Area = Literal["object", "region"]
RADIUS = 5  # pixels from which inpainting takes its colours
SURROUNDINGS = 48  # pixels around what is erased that inpainting sees
RIM = 3  # pixels by which a silhouette is grown where it is erased: its edge is never exact
Colour = Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")]
Coordinate = Annotated[float, Field(ge=-20_000, le=20_000)]
Point = tuple[Coordinate, Coordinate]
Points = Annotated[tuple[Point, ...], Field(max_length=20_000)]
Brush = Annotated[float, Field(ge=0.5, le=2_000)]
Share = Annotated[float, Field(ge=0, le=1)]
Change = Annotated[float, Field(ge=-100, le=100)]
Stored = Annotated[str, Field(pattern=r"^[0-9a-f]{20}$")]


@dataclass(frozen=True)
class Frame:
    """What steps work on.

    Attributes:
        source_HWC: as in the video.
        base_HWC: what the steps begin with: the source, or an edit that was there before.
        object_HW: True on the silhouettes.
        region_HW: True where the edit may be.
        picture: a stored picture by its name, (H', W', 3) or with alpha (H', W', 4).
    """

    source_HWC: Image
    base_HWC: Image
    object_HW: npt.NDArray[np.bool_]
    region_HW: npt.NDArray[np.bool_]
    picture: Callable[[str], Image]

    def weight(self, area: Area) -> Weight:
        """How much of each pixel belongs to an area; a silhouette's edge is softened by a pixel."""
        if area == "region":
            return self.region_HW.astype(np.float32)
        return np.asarray(cv2.blur(self.object_HW.astype(np.float32), (3, 3)), np.float32)


class Step(BaseModel):
    """What all steps share."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Recolour(Step):
    """Hue in degrees, saturation and brightness in percent: added, and as shares."""

    tool: Literal["recolour"] = "recolour"
    hue: Annotated[float, Field(ge=-360, le=360)] = 0.0
    saturation: Change = 0.0
    brightness: Change = 0.0
    area: Area = "object"

    def on(self, work_HWC: Image, frame: Frame) -> Image:
        moved_HWC = recolour(work_HWC, self.hue, self.saturation / 100, self.brightness / 100)
        return composite(work_HWC, moved_HWC, frame.weight(self.area))


class Swap(Step):
    """A picked colour becomes another one, and those near it move along."""

    tool: Literal["swap"] = "swap"
    source: Colour
    target: Colour
    tolerance: Annotated[float, Field(gt=0, le=200)] = 25.0
    area: Area = "object"

    def on(self, work_HWC: Image, frame: Frame) -> Image:
        moved_HWC = swap(work_HWC, rgb(self.source), rgb(self.target), self.tolerance)
        return composite(work_HWC, moved_HWC, frame.weight(self.area))


class Paint(Step):
    """A stroke of a brush; without a colour it brings the source back."""

    tool: Literal["paint"] = "paint"
    colour: Colour | None = None
    radius: Brush
    points: Points = Field(min_length=1)
    opacity: Share = 1.0

    def on(self, work_HWC: Image, frame: Frame) -> Image:
        laid_HWC = frame.source_HWC
        if self.colour is not None:
            laid_HWC = np.empty_like(work_HWC)
            laid_HWC[:] = rgb(self.colour)
        weight_HW = stroke(self.points, self.radius, work_HWC.shape[:2]) * np.float32(self.opacity)
        return composite(work_HWC, laid_HWC, weight_HW)


class PlacePicture(Step):
    """A picture laid on: its middle, its width in pixels of the frame, degrees clockwise."""

    tool: Literal["place"] = "place"
    picture: Stored
    x: Coordinate
    y: Coordinate
    width: Annotated[float, Field(gt=0, le=20_000)]
    angle: Annotated[float, Field(ge=-360, le=360)] = 0.0
    blend: Blend = "normal"
    opacity: Share = 1.0

    def on(self, work_HWC: Image, frame: Frame) -> Image:
        size = work_HWC.shape[1], work_HWC.shape[0]
        picture_HWA = frame.picture(self.picture)
        laid_HWC, weight_HW = placed(picture_HWA, size, self.x, self.y, self.width, self.angle)
        blended_HWC = blend(work_HWC, laid_HWC, self.blend)
        return mix(work_HWC, blended_HWC, weight_HW * np.float32(self.opacity))


class Erase(Step):
    """Painted over from its surroundings: a stroke, or without points the whole silhouette."""

    tool: Literal["erase"] = "erase"
    radius: Brush | None = None
    points: Points = ()

    @model_validator(mode="after")
    def _has_a_brush(self) -> "Erase":
        if (self.radius is None) != (not self.points):
            raise ValueError("a stroke has a radius and points, the silhouette has neither")
        return self

    def on(self, work_HWC: Image, frame: Frame) -> Image:
        if self.radius is None:
            size = 2 * RIM + 1
            kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
            hole_HW = cv2.dilate(frame.object_HW.astype(np.uint8), kernel) > 0
        else:
            hole_HW = stroke(self.points, self.radius, work_HWC.shape[:2]) > 0.5
        # Outside the region is what is seen there, not what strokes have left beyond its edge.
        seen_HWC = np.where(frame.region_HW[..., None], work_HWC, frame.base_HWC)
        return erase(seen_HWC, hole_HW & frame.region_HW)


class Lay(Step):
    """A whole picture of the frame's size: another frame, a result, a candidate of a model."""

    tool: Literal["lay"] = "lay"
    picture: Stored
    label: Annotated[str, Field(max_length=2_000)]
    dx: Annotated[int, Field(ge=-20_000, le=20_000)] = 0
    dy: Annotated[int, Field(ge=-20_000, le=20_000)] = 0

    def on(self, work_HWC: Image, frame: Frame) -> Image:
        return lay(work_HWC, frame.picture(self.picture)[..., :3], self.dx, self.dy)


AnyStep: TypeAlias = Annotated[
    Recolour | Swap | Paint | PlacePicture | Erase | Lay, Field(discriminator="tool")
]


def retouched(frame: Frame, steps: Iterable[AnyStep], feather: float) -> Image:
    """The frame after some steps; outside the region exactly what it was before.

    Args:
        feather: pixels over which the change fades in, inside the region.
    """
    work_HWC = frame.base_HWC
    for step in steps:
        work_HWC = step.on(work_HWC, frame)
    return composite(frame.base_HWC, work_HWC, feather_alpha(frame.region_HW, feather))


def recolour(image_HWC: Image, hue: float, saturation: float, brightness: float) -> Image:
    """A picture with its hue turned by degrees; saturation and value grow by shares (-1: none)."""
    hsv_HWC = cv2.cvtColor(image_HWC.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)
    hsv_HWC[..., 0] = (hsv_HWC[..., 0] + hue) % 360
    hsv_HWC[..., 1] = np.clip(hsv_HWC[..., 1] * (1 + saturation), 0, 1)
    hsv_HWC[..., 2] = np.clip(hsv_HWC[..., 2] * (1 + brightness), 0, 1)
    return _levels(cv2.cvtColor(hsv_HWC, cv2.COLOR_HSV2RGB) * 255)


def swap(image_HWC: Image, source: Sequence[int], target: Sequence[int], tolerance: float) -> Image:
    """A picture in which one colour has become another, with its shades.

    Colours move in CIELAB by the way from one to the other: all of it up to `tolerance` away from
    the source colour, none from twice as far on.
    """
    lab_HWC, source_C, target_C = (
        cv2.cvtColor(np.atleast_3d(one).astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
        for one in (image_HWC, np.array([[source]]), np.array([[target]]))
    )
    distance_HW = np.linalg.norm(lab_HWC - source_C, axis=-1)
    share_HW = np.clip(2 - distance_HW / tolerance, 0, 1)
    lab_HWC = lab_HWC + share_HW[..., None] * (target_C - source_C)
    moved_HWC = _levels(cv2.cvtColor(lab_HWC.astype(np.float32), cv2.COLOR_LAB2RGB) * 255)
    return np.where(share_HW[..., None] > 0, moved_HWC, image_HWC)


def stroke(points: Sequence[Point], radius: float, shape: tuple[int, ...]) -> Weight:
    """How much of each pixel a round brush covers that is drawn along points, (H, W) in [0, 1]."""
    weight_HW = np.zeros(shape[:2], np.float32)
    for start, end in zip(points, [*points[1:], points[-1]], strict=True):
        low = np.floor(np.minimum(start, end) - radius - 1).astype(int)
        high = np.ceil(np.maximum(start, end) + radius + 2).astype(int)
        left, top = np.maximum(low, 0)
        rows, columns = slice(top, max(high[1], 0)), slice(left, max(high[0], 0))
        part_HW = weight_HW[rows, columns]
        if part_HW.size:
            y_HW, x_HW = np.mgrid[top : top + part_HW.shape[0], left : left + part_HW.shape[1]]
            away_HW = _distance(x_HW - start[0], y_HW - start[1], np.subtract(end, start))
            np.maximum(part_HW, np.clip(radius + 0.5 - away_HW, 0, 1), out=part_HW)
    return weight_HW


def _distance(
    x_HW: npt.NDArray[np.float64], y_HW: npt.NDArray[np.float64], way: npt.NDArray[np.float64]
) -> npt.NDArray[np.float32]:
    """How far points are from a straight way that begins at the origin."""
    length = float(way @ way)
    along_HW = np.clip((x_HW * way[0] + y_HW * way[1]) / length, 0, 1) if length else 0.0
    return np.hypot(x_HW - along_HW * way[0], y_HW - along_HW * way[1]).astype(np.float32)


def placed(
    picture_HWA: Image, size: tuple[int, int], x: float, y: float, width: float, angle: float
) -> tuple[Weight, Weight]:
    """A picture scaled, turned and moved on an empty frame: its colours, and how opaque it is.

    Args:
        picture_HWA: with or without alpha.
        size: (width, height) of the frame.
        x, y: where its middle is.
        width: of it, in pixels of the frame, before it is turned.
        angle: clockwise, in degrees.
    """
    alpha_HW1 = np.full((*picture_HWA.shape[:2], 1), 255, np.float32)
    if picture_HWA.shape[2] == 4:
        alpha_HW1 = picture_HWA[..., 3:].astype(np.float32)
    # What is hidden must not bleed into what is seen.
    whole_HW4 = np.concatenate([picture_HWA[..., :3] * (alpha_HW1 / 255), alpha_HW1], axis=2)
    scale = width / whole_HW4.shape[1]
    if scale < 1:
        small = (max(1, round(side * scale)) for side in whole_HW4.shape[1::-1])
        whole_HW4 = cv2.resize(whole_HW4, tuple(small), interpolation=cv2.INTER_AREA)
        scale = 1.0
    middle = (whole_HW4.shape[1] - 1) / 2, (whole_HW4.shape[0] - 1) / 2
    turn = cv2.getRotationMatrix2D(middle, -angle, scale)
    turn[:, 2] += np.subtract((x, y), middle)
    laid_HW4 = cv2.warpAffine(
        whole_HW4, turn, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT
    )
    weight_HW = np.clip(laid_HW4[..., 3] / 255, 0, 1)
    colours_HWC = laid_HW4[..., :3] / np.maximum(weight_HW, 1e-6)[..., None]
    return np.clip(colours_HWC, 0, 255), np.asarray(weight_HW, np.float32)


def blend(image_HWC: Image, laid_HWC: Weight, how: Blend) -> Weight:
    """A picture's colours over another's: as they are, as a stain (multiply), as light (screen)."""
    if how == "normal":
        return laid_HWC
    if how == "multiply":
        return np.asarray(image_HWC * laid_HWC / 255, np.float32)
    light_HWC = (255 - image_HWC.astype(np.float32)) * (255 - laid_HWC) / 255
    return np.asarray(255 - light_HWC, np.float32)


def mix(image_HWC: Image, laid_HWC: Weight, weight_HW: Weight) -> Image:
    """Colours laid on a picture with a weight; exactly the picture where it is 0."""
    weight_HW1 = weight_HW[..., None]
    return _levels(image_HWC * (1 - weight_HW1) + laid_HWC * weight_HW1)


def erase(image_HWC: Image, hole_HW: npt.NDArray[np.bool_]) -> Image:
    """A picture with a hole painted over from its surroundings.

    Telea 2004, "An image inpainting technique based on the fast marching method".

    Raises:
        UserError: there is nothing around the hole.
    """
    x, y, width, height = cv2.boundingRect(hole_HW.astype(np.uint8))
    if not width:
        return image_HWC
    rows = slice(max(0, y - SURROUNDINGS), y + height + SURROUNDINGS)
    columns = slice(max(0, x - SURROUNDINGS), x + width + SURROUNDINGS)
    if hole_HW[rows, columns].all():
        raise UserError("all of the picture would be erased, and nothing is left to fill it from")
    filled_HWC = image_HWC.copy()
    part_HWC, hole = np.ascontiguousarray(image_HWC[rows, columns]), hole_HW[rows, columns]
    painted_HWC = cv2.inpaint(part_HWC, hole.astype(np.uint8), RADIUS, cv2.INPAINT_TELEA)
    filled_HWC[rows, columns][hole] = painted_HWC[hole]
    return filled_HWC


def lay(image_HWC: Image, picture_HWC: Image, dx: int, dy: int) -> Image:
    """A picture of the same size laid on, moved by whole pixels; beyond it the old one stays.

    Raises:
        UserError: it has another size.
    """
    if picture_HWC.shape != image_HWC.shape:
        raise UserError("a picture that is laid on has another size than the frame")
    height, width = image_HWC.shape[:2]
    laid_HWC = image_HWC.copy()
    rows, columns = slice(max(dy, 0), height + min(dy, 0)), slice(max(dx, 0), width + min(dx, 0))
    if abs(dy) < height and abs(dx) < width:
        own_rows = slice(max(-dy, 0), height + min(-dy, 0))
        own_columns = slice(max(-dx, 0), width + min(-dx, 0))
        laid_HWC[rows, columns] = picture_HWC[own_rows, own_columns]
    return laid_HWC


def rgb(colour: str) -> tuple[int, int, int]:
    """The levels of "#rrggbb"."""
    red, green, blue = bytes.fromhex(colour[1:])
    return red, green, blue


def hex_colour(levels: Sequence[int]) -> str:
    """The way back."""
    return "#" + bytes(int(one) for one in levels).hex()


def _levels(image_HWC: npt.NDArray[Any]) -> Image:
    return np.clip(np.rint(image_HWC), 0, 255).astype(np.uint8)
