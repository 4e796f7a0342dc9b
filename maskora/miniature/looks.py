"""How sprites look: shapes as signed distances, textures, tones. Pure functions of arrays.

A sprite's own coordinates (x, y) turn with it: its centre is (0, 0), its radius 1, and y points
down while it is not turned.
"""

import colorsys
from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Shape = Literal["disc", "square", "triangle", "cross"]
Texture = Literal["halves", "bands", "core", "plain"]

SATURATION_LIGHT, VALUE_LIGHT = 0.55, 1.0
SATURATION_DARK, VALUE_DARK = 0.85, 0.5
# Of equal weight to the eye, though not of equal area.
SQUARE_HALF, TRIANGLE_INNER, CROSS_LENGTH, CROSS_WIDTH = 0.886, 0.65, 1.1, 0.45


def _disc(x: Array, y: Array) -> Array:
    return np.hypot(x, y) - np.float32(1)


def _square(x: Array, y: Array) -> Array:
    return np.maximum(np.abs(x), np.abs(y)) - np.float32(SQUARE_HALF)


def _triangle(x: Array, y: Array) -> Array:
    slanted = np.float32(np.sqrt(0.75)) * np.abs(x) - np.float32(0.5) * y
    return np.maximum(slanted, y) - np.float32(TRIANGLE_INNER)


def _cross(x: Array, y: Array) -> Array:
    across, down = np.abs(x), np.abs(y)
    length, width = np.float32(CROSS_LENGTH), np.float32(CROSS_WIDTH)
    lying = np.maximum(across - length, down - width)
    return np.minimum(lying, np.maximum(across - width, down - length))


SHAPES: dict[Shape, Callable[[Array, Array], Array]] = {
    "disc": _disc,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
}


def distance(shape: Shape, x: Array, y: Array) -> Array:
    """How far outside a shape's edge points lie, in radii; negative inside.

    Near corners it is at most the true distance.
    """
    return SHAPES[shape](x, y)


def lightness(texture: Texture, x: Array, y: Array, radius: Array) -> Array:
    """Which share of the light tone a texture has at points, 0 to 1, softened over one pixel.

    Args:
        radius: in pixels, of the sprite; of a shape that fits the points'.
    """
    if texture == "plain":
        return np.ones_like(x)
    edge = {
        "halves": lambda: -y,
        "bands": lambda: np.float32(0.3) - np.abs(y),
        "core": lambda: np.float32(0.5) - np.hypot(x, y),
    }[texture]()
    return covered(-edge * radius)


def covered(distance_px: Array) -> Array:
    """Which share of a pixel lies inside an edge that is so many pixels away."""
    return np.clip(np.float32(0.5) - distance_px, 0, 1)


def tones(hue: float | None) -> Array:
    """The light and the dark tone of a hue (in turns; None is dark grey), (2, 3) in 0 to 1."""
    if hue is None:
        return np.array([[0.24, 0.24, 0.26], [0.13, 0.13, 0.15]], np.float32)
    light = colorsys.hsv_to_rgb(hue % 1, SATURATION_LIGHT, VALUE_LIGHT)
    dark = colorsys.hsv_to_rgb(hue % 1, SATURATION_DARK, VALUE_DARK)
    return np.array([light, dark], np.float32)
