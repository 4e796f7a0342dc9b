"""How well an edit is carried, told against the rendered truth. Pure functions of arrays.

Frames are (T, H, W, 3), uint8 or float in 0 to 255; masks are (T, H, W), bool. Frame 0 is given to
the model, so nothing is told about it.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Frames = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Array = npt.NDArray[np.float64]

CHANCE_ANGLE = 90.0  # degrees: what a guess is off by on average
PEAK = 255.0


@dataclass(frozen=True)
class Truth:
    """One edit of a clip, rendered.

    Attributes:
        edited_THWC, source_THWC: the clip with and without the edit.
        background_THWC: the clip without the sprite.
        sprite_THW, source_sprite_THW: where the edited sprite is, and the one that was.
        tones_T2C, source_tones_T2C: their light and dark tone per frame, in 0 to 255.
        region_THW: where the model generates.
    """

    edited_THWC: Frames
    source_THWC: Frames
    background_THWC: Frames
    sprite_THW: Mask
    source_sprite_THW: Mask
    tones_T2C: Array
    source_tones_T2C: Array
    region_THW: Mask


@dataclass(frozen=True)
class Score:
    """How well an edit is carried over frames 1 to T - 1.

    Attributes:
        hit: share of the sprite's pixels nearer to the edit, in either of its two tones, than to
            background or source.
        strict: share of its pixels that hit, and are nearer to the right tone.
        centroid: how far the sprite is from where it should be, in pixels.
        angle: how far its light half points elsewhere, in degrees.
        inside_db, background_db: PSNR in the generated region and outside of it.
    """

    hit: float
    strict: float
    centroid: float
    angle: float
    inside_db: float
    background_db: float


def score(result_THWC: Frames, truth: Truth) -> Score:
    """All figures of a result."""
    hits_THW, strict_THW = hits(result_THWC, truth)
    return Score(
        hit=share_of(hits_THW, truth.sprite_THW),
        strict=share_of(strict_THW, truth.sprite_THW),
        centroid=centroid_error(result_THWC, truth),
        angle=angle_error(result_THWC, truth),
        inside_db=psnr(result_THWC[1:], truth.edited_THWC[1:], truth.region_THW[1:]),
        background_db=psnr(result_THWC[1:], truth.edited_THWC[1:], ~truth.region_THW[1:]),
    )


def hits(result_THWC: Frames, truth: Truth) -> tuple[Mask, Mask]:
    """Where a result's colour is as near to the edit's as to any other, and in the right tone."""
    right_THW, wrong_THW, source_THW, background_THW = distances(result_THWC, truth)
    elsewhere_THW = np.minimum(source_THW, background_THW)
    hits_THW = np.minimum(right_THW, wrong_THW) <= elsewhere_THW
    return hits_THW, hits_THW & (right_THW <= wrong_THW)


def distances(result_THWC: Frames, truth: Truth) -> tuple[Array, Array, Array, Array]:
    """How far a result's colours lie from those that it may have, each (T, H, W).

    Returns:
        the distance from the edit's right tone, from its wrong one, from the nearer of the
        source's two, and from the background.
    """
    turned_THWC = swapped(truth.edited_THWC, truth.sprite_THW, truth.tones_T2C)
    other_THWC = swapped(truth.source_THWC, truth.source_sprite_THW, truth.source_tones_T2C)
    right_THW, wrong_THW, source_THW, other_THW, background_THW = (
        colour_distance(result_THWC, frames)
        for frames in (
            truth.edited_THWC, turned_THWC, truth.source_THWC, other_THWC, truth.background_THWC,
        )
    )  # fmt: skip
    return right_THW, wrong_THW, np.minimum(source_THW, other_THW), background_THW


def swapped(frames_THWC: Frames, sprite_THW: Mask, tones_T2C: Array) -> Array:
    """Frames whose sprite has its light tone where the dark one is, and the other way round."""
    turned_THWC = tones_T2C.sum(axis=1)[:, None, None] - frames_THWC
    return np.where(sprite_THW[..., None], turned_THWC, frames_THWC)


def colour_distance(one: npt.NDArray[np.generic], other: npt.NDArray[np.generic]) -> Array:
    """How far colours lie apart, over the last axis."""
    difference = one.astype(np.float64) - other.astype(np.float64)
    distance: Array = np.sqrt((difference**2).sum(axis=-1))
    return distance


def share_of(hits_THW: Mask, sprite_THW: Mask) -> float:
    """The share of a sprite's pixels, of all frames but the first together, that are hits."""
    assert hits_THW.shape == sprite_THW.shape
    return float(hits_THW[1:][sprite_THW[1:]].mean())


def found(result_THWC: Frames, truth: Truth) -> tuple[Mask, Mask]:
    """Where a result shows the sprite's light and its dark tone, wherever that is in the region.

    A pixel shows the tone that it is nearest to, if it is nearer to it than to the background.
    """
    light_THW, dark_THW = (
        colour_distance(result_THWC, truth.tones_T2C[:, tone, None, None]) for tone in (0, 1)
    )
    background_THW = colour_distance(result_THWC, truth.background_THWC)
    shown_THW = truth.region_THW & (np.minimum(light_THW, dark_THW) < background_THW)
    return shown_THW & (light_THW <= dark_THW), shown_THW & (dark_THW < light_THW)


def centroid_error(result_THWC: Frames, truth: Truth) -> float:
    """Pixels between the middle of what is found and of what should be, mean over frames.

    Where nothing is found it is half the side of the picture.
    """
    light_THW, dark_THW = found(result_THWC, truth)
    lost = result_THWC.shape[1] / 2
    errors = []
    for shown_HW, sprite_HW in zip((light_THW | dark_THW)[1:], truth.sprite_THW[1:], strict=True):
        if sprite_HW.any():
            here, there = middle(shown_HW), middle(sprite_HW)
            errors.append(lost if np.isnan(here[0]) else float(np.hypot(*(here - there))))
    return float(np.mean(errors))


def angle_error(result_THWC: Frames, truth: Truth) -> float:
    """Degrees between the ways from the dark half's middle to the light half's, mean over frames.

    Where a half is not found it is 90.
    """
    given = found(result_THWC, truth)
    right = found(truth.edited_THWC, truth)
    errors = []
    for light_HW, dark_HW, true_light_HW, true_dark_HW in zip(
        given[0][1:], given[1][1:], right[0][1:], right[1][1:], strict=True
    ):
        way = middle(light_HW) - middle(dark_HW)
        true_way = middle(true_light_HW) - middle(true_dark_HW)
        if np.isnan(true_way[0]):
            continue
        turn = np.degrees(np.arctan2(way[1], way[0]) - np.arctan2(true_way[1], true_way[0]))
        error = CHANCE_ANGLE if np.isnan(turn) else abs((turn + 180) % 360 - 180)
        errors.append(float(error))
    return float(np.mean(errors)) if errors else float("nan")


def middle(mask_HW: Mask) -> Array:
    """The middle of a mask's pixels, (x, y); NaN where it is empty."""
    y, x = np.nonzero(mask_HW)
    return np.array([x.mean(), y.mean()]) if len(x) else np.full(2, np.nan)


def psnr(result: npt.NDArray[np.generic], truth: npt.NDArray[np.generic], where: Mask) -> float:
    """Peak signal-to-noise ratio of the pixels of a mask in dB; infinite where they are equal."""
    assert result.shape == truth.shape and result.shape[:-1] == where.shape
    error = (result[where].astype(np.float64) - truth[where].astype(np.float64)) ** 2
    mean = error.mean()
    return float("inf") if mean == 0 else float(10 * np.log10(PEAK**2 / mean))
