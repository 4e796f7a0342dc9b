"""The miniature's world: scenes as data, rendered with the truth about every pixel.

Pure functions of numpy arrays. Edges are softened over one pixel, sharp corners over two; a pixel
belongs to what covers more than half of it.
"""

import colorsys
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Shape = Literal["disc", "square", "triangle", "cross"]
Texture = Literal["halves", "bands", "core", "plain"]

SIZE, FRAMES = 64, 9  # pixels, frames
BEAT = 8  # frames
SWING = 4  # beats
MARGIN = 0.22  # sprites turn back so far from the picture's edge
SATURATION_LIGHT, VALUE_LIGHT = 0.55, 1.0
SATURATION_DARK, VALUE_DARK = 0.85, 0.5
# Of equal weight to the eye, though not of equal area.
SQUARE_HALF, TRIANGLE_INNER, CROSS_LENGTH, CROSS_WIDTH = 0.886, 0.65, 1.1, 0.45


@dataclass(frozen=True)
class SpritePart:
    """A disc fixed to a sprite, in units of the sprite's radius.

    Attributes:
        angle, distance: where its centre is.
        size: its radius when it is fully grown.
        growth: beats it takes to grow from nothing at the clip's start; 0 if it is there at once.
    """

    hue: float
    angle: float
    distance: float
    size: float
    growth: float = 0.0


@dataclass(frozen=True)
class Look:
    """A sprite's appearance; an edit changes this and nothing else.

    Attributes:
        hue: of both tones; None is dark grey.
        drift: turns of hue per beat.
    """

    shape: Shape
    texture: Texture
    hue: float | None
    drift: float = 0.0
    part: SpritePart | None = None


@dataclass(frozen=True)
class SpriteMotion:
    """A sprite's motion: straight on, thrown back near the picture's edge.

    Attributes:
        start, velocity: (x, y), per beat.
        angle, spin: at the start, and per beat.
        pulse: by which share its size swings, with a period of four beats.
    """

    start: tuple[float, float]
    velocity: tuple[float, float]
    angle: float
    spin: float
    pulse: float


@dataclass(frozen=True)
class Sprite:
    """A thing that moves."""

    look: Look
    motion: SpriteMotion
    radius: float


@dataclass(frozen=True)
class Wave:
    """A ripple of the background: cycles per side (x, y), phase in turns, and its colour."""

    cycles: tuple[float, float]
    phase: float
    colour: tuple[float, float, float]


@dataclass(frozen=True)
class Backdrop:
    """A background of ripples around a colour (0 to 1), which pans by so much per beat."""

    colour: tuple[float, float, float]
    waves: tuple[Wave, ...]
    pan: tuple[float, float]


@dataclass(frozen=True)
class Scene:
    """A background and what moves before it, the hindmost first."""

    backdrop: Backdrop
    sprites: tuple[Sprite, ...]

    def with_look(self, index: int, look: Look) -> "Scene":
        """The scene with one sprite looking otherwise; it moves as before."""
        changed = replace(self.sprites[index], look=look)
        return replace(self, sprites=(*self.sprites[:index], changed, *self.sprites[index + 1 :]))

    def without(self, index: int) -> "Scene":
        """The scene with one sprite gone."""
        return replace(self, sprites=(*self.sprites[:index], *self.sprites[index + 1 :]))


@dataclass(frozen=True)
class RenderedClip:
    """A rendered scene.

    Attributes:
        frames_THWC: uint8 RGB.
        labels_THW: uint8; 0 is background, k the k-th sprite of the scene, counted from 1.
    """

    frames_THWC: npt.NDArray[np.uint8]
    labels_THW: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Pose:
    """A sprite's place per frame: centre in pixels (T, 2), angle (T,), radius in pixels (T,)."""

    centre_T2: Array
    angle_T: Array
    radius_T: Array

    def own(self, pixels: Array) -> tuple[Array, Array]:
        """All pixels in the sprite's own coordinates, two arrays (T, H, W)."""
        x_THW = pixels - self.centre_T2[:, 0, None, None]
        y_THW = pixels[:, None] - self.centre_T2[:, 1, None, None]
        scale_T = 1 / self.radius_T
        cos = (np.cos(self.angle_T) * scale_T)[:, None, None]
        sin = (np.sin(self.angle_T) * scale_T)[:, None, None]
        return cos * x_THW + sin * y_THW, cos * y_THW - sin * x_THW


def render(scene: Scene, frames: int = FRAMES, size: int = SIZE) -> RenderedClip:
    """A scene's first frames, in `size` x `size` pixels, and whose each pixel is."""
    beats_T, pixels = raster(frames, size)
    video_CTHW = _paint_backdrop(scene.backdrop, beats_T, pixels)
    labels_THW = np.zeros(video_CTHW.shape[1:], np.uint8)
    for number, sprite in enumerate(scene.sprites, start=1):
        pose = pose_of(sprite.motion, sprite.radius, beats_T, size)
        cover_THW = _paint_sprite(video_CTHW, sprite, beats_T, pose, *pose.own(pixels))
        labels_THW[cover_THW > 0.5] = number
    bytes_CTHW = np.rint(video_CTHW.clip(0, 1) * np.float32(255)).astype(np.uint8)
    return RenderedClip(np.ascontiguousarray(bytes_CTHW.transpose(1, 2, 3, 0)), labels_THW)


def raster(frames: int, size: int) -> tuple[Array, Array]:
    """The times of frames in beats, and where pixels' centres are."""
    beats_T = np.arange(frames, dtype=np.float32) / np.float32(BEAT)
    return beats_T, np.arange(size, dtype=np.float32) + np.float32(0.5)


def pose_of(motion: SpriteMotion, radius: float, beats_T: Array, size: int) -> Pose:
    """The pose of a sprite at some times."""
    way_T2 = np.array(motion.start) + beats_T[:, None] * np.array(motion.velocity)
    # Thrown back at both ends of the stretch: a triangle wave of twice its length.
    stretch = 1 - 2 * MARGIN
    folded_T2 = stretch - np.abs((way_T2 - MARGIN) % (2 * stretch) - stretch) + MARGIN
    swing_T = 1 + motion.pulse * np.sin(2 * np.pi / SWING * beats_T)
    return Pose(
        (folded_T2 * size).astype(np.float32),
        (motion.angle + motion.spin * beats_T).astype(np.float32),
        (radius * size * swing_T).astype(np.float32),
    )


def _paint_backdrop(backdrop: Backdrop, beats_T: Array, pixels: Array) -> Array:
    """The background alone, (3, T, H, W) in 0 to 1."""
    size = len(pixels)
    video_CTHW = np.empty((3, len(beats_T), size, size), np.float32)
    video_CTHW[:] = np.array(backdrop.colour, np.float32)[:, None, None, None]
    for wave in backdrop.waves:
        across, down = wave.cycles
        panned_T = beats_T * (across * backdrop.pan[0] + down * backdrop.pan[1])
        plane_HW = (across * pixels + down * pixels[:, None]) / size + wave.phase
        ripple_THW = np.sin(2 * np.pi * (plane_HW - panned_T[:, None, None]))
        for plane_THW, amount in zip(video_CTHW, wave.colour, strict=True):
            plane_THW += amount * ripple_THW
    return video_CTHW


def _paint_sprite(
    video_CTHW: Array, sprite: Sprite, beats_T: Array, pose: Pose, x_THW: Array, y_THW: Array
) -> Array:
    """Paint a sprite over a video, in place; returns which share of each pixel it covers."""
    look, radius_T11 = sprite.look, pose.radius_T[:, None, None]
    cover_THW = covered(distance(look.shape, x_THW, y_THW) * radius_T11)
    light_THW = lightness(look.texture, x_THW, y_THW, radius_T11)
    disc_THW = None
    if (part := look.part) is not None:
        grown_T = np.minimum(1, beats_T / part.growth) if part.growth else np.ones_like(beats_T)
        away_THW = np.hypot(
            x_THW - part.distance * math.cos(part.angle),
            y_THW - part.distance * math.sin(part.angle),
        )
        disc_THW = covered((away_THW - part.size * grown_T[:, None, None]) * radius_T11)
        disc_THW = disc_THW * (grown_T > 0)[:, None, None]
        cover_THW = np.maximum(cover_THW, disc_THW)
    tones_2CT11 = drifting_tones(sprite, beats_T).transpose(1, 2, 0)[..., None, None]
    for channel, plane_THW in enumerate(video_CTHW):
        light, dark = tones_2CT11[:, channel]
        colour_THW = dark + light_THW * (light - dark)
        if part is not None and disc_THW is not None:
            colour_THW += disc_THW * (tones(part.hue)[0, channel] - colour_THW)
        plane_THW += cover_THW * (colour_THW - plane_THW)
    return cover_THW


def drifting_tones(sprite: Sprite, beats_T: Array) -> Array:
    """A sprite's light and dark tone per frame, (T, 2, 3) in 0 to 1."""
    hue, drift = sprite.look.hue, sprite.look.drift
    if hue is None or not drift:
        return np.broadcast_to(tones(hue), (len(beats_T), 2, 3))
    return np.stack([tones(hue + drift * float(beat)) for beat in beats_T])


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
    """The distance of points from a shape's edge, in radii; negative inside.

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
