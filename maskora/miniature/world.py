"""Rendering: a scene as frames, with the truth about every pixel. Pure functions of numpy arrays.

Edges are softened over one pixel, sharp corners over two; a pixel belongs to what covers more than
half of it.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from maskora.masks.silhouettes import silhouette_box
from maskora.miniature.looks import Array, covered, distance, lightness, tones
from maskora.miniature.scene import BEAT, MARGIN, Backdrop, Motion, Scene, Sprite

SIZE, FRAMES = 64, 9  # pixels, frames
SWING = 4  # beats


@dataclass(frozen=True)
class Clip:
    """A rendered scene.

    Attributes:
        frames_THWC: uint8 RGB.
        labels_THW: uint8; 0 is background, k the k-th sprite of the scene, counted from 1.
    """

    frames_THWC: npt.NDArray[np.uint8]
    labels_THW: npt.NDArray[np.uint8]

    def boxes(self, label: int) -> npt.NDArray[np.float64]:
        """A sprite's box in every frame, (T, 4): x0, y0, x1, y1, half-open; NaN where unseen."""
        boxes_T4 = np.full((len(self.labels_THW), 4), np.nan)
        for box_4, labels_HW in zip(boxes_T4, self.labels_THW, strict=True):
            if (labels_HW == label).any():
                box_4[:] = silhouette_box(labels_HW == label)
        return boxes_T4


@dataclass(frozen=True)
class Pose:
    """Where a sprite is, per frame: centre in pixels (T, 2), angle (T,), radius in pixels (T,)."""

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


def render(scene: Scene, frames: int = FRAMES, size: int = SIZE) -> Clip:
    """A scene's first frames, in `size` x `size` pixels, and whose each pixel is."""
    beats_T, pixels = raster(frames, size)
    video_CTHW = _paint_backdrop(scene.backdrop, beats_T, pixels)
    labels_THW = np.zeros(video_CTHW.shape[1:], np.uint8)
    for number, sprite in enumerate(scene.sprites, start=1):
        pose = pose_of(sprite.motion, sprite.radius, beats_T, size)
        cover_THW = _paint_sprite(video_CTHW, sprite, beats_T, pose, *pose.own(pixels))
        labels_THW[cover_THW > 0.5] = number
    bytes_CTHW = np.rint(video_CTHW.clip(0, 1) * np.float32(255)).astype(np.uint8)
    return Clip(np.ascontiguousarray(bytes_CTHW.transpose(1, 2, 3, 0)), labels_THW)


def flow(scene: Scene, labels_THW: npt.NDArray[np.uint8]) -> Array:
    """Where each pixel of a rendered scene's frames goes in the next, (T - 1, H, W, 2).

    Args:
        labels_THW: whose each pixel is, as `render` tells.

    Returns:
        steps (x, y) in pixels of what is seen at a pixel, be it covered in the next frame or not.
    """
    frames, size = labels_THW.shape[:2]
    beats_T, pixels = raster(frames, size)
    pan = np.array(scene.backdrop.pan, np.float32) * size / BEAT
    flow_THW2 = np.broadcast_to(pan, (frames - 1, size, size, 2))
    for number, sprite in enumerate(scene.sprites, start=1):
        pose = pose_of(sprite.motion, sprite.radius, beats_T, size)
        own_THW = labels_THW[:-1, ..., None] == number
        flow_THW2 = np.where(own_THW, _sprite_flow(pose, pixels), flow_THW2)
    return flow_THW2


def raster(frames: int, size: int) -> tuple[Array, Array]:
    """The times of frames in beats, and where pixels' centres are."""
    beats_T = np.arange(frames, dtype=np.float32) / np.float32(BEAT)
    return beats_T, np.arange(size, dtype=np.float32) + np.float32(0.5)


def pose_of(motion: Motion, radius: float, beats_T: Array, size: int) -> Pose:
    """Where a sprite is at times."""
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


def _sprite_flow(pose: Pose, pixels: Array) -> Array:
    """How far points of a sprite move to the next frame: by its next centre, angle and radius."""
    x_THW, y_THW = (own[:-1] for own in pose.own(pixels))
    radius_T, angle_T = pose.radius_T[1:], pose.angle_T[1:]
    cos, sin = ((radius_T * f(angle_T))[:, None, None] for f in (np.cos, np.sin))
    next_x = cos * x_THW - sin * y_THW + pose.centre_T2[1:, 0, None, None]
    next_y = sin * x_THW + cos * y_THW + pose.centre_T2[1:, 1, None, None]
    return np.stack([next_x - pixels, next_y - pixels[:, None]], axis=-1)
