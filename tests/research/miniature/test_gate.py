"""The figures rank results as a person would, and truth against truth is perfect."""

from dataclasses import replace

import numpy as np
import pytest

from research.miniature.gate import (
    Truth,
    angle_error,
    centroid_error,
    psnr,
    score,
    share_of,
    swapped,
)

LIGHT, DARK, GREY = (250, 120, 120), (130, 20, 20), (120, 120, 120)
SOURCE_LIGHT, SOURCE_DARK = (120, 120, 250), (20, 20, 130)
T, H, W, SIDE = 5, 32, 40, 10


def clip(
    places: list[tuple[int, int]], light: tuple[int, ...], dark: tuple[int, ...]
) -> np.ndarray:
    """A square whose upper half is light, at (x, y) per frame, on grey."""
    frames = np.full((T, H, W, 3), GREY, np.uint8)
    for frame, (x, y) in zip(frames, places, strict=True):
        frame[y : y + SIDE, x : x + SIDE] = dark
        frame[y : y + SIDE // 2, x : x + SIDE] = light
    return frames


def tones(light: tuple[int, ...], dark: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(np.array([light, dark], float), (T, 2, 3))


PLACES = [(4 + 4 * t, 6 + 2 * t) for t in range(T)]


@pytest.fixture
def truth() -> Truth:
    sprite, region = np.zeros((2, T, H, W), bool)
    for mask, box, (x, y) in zip(sprite, region, PLACES, strict=True):
        mask[y : y + SIDE, x : x + SIDE] = True
        box[y - 4 : y + SIDE + 4, x - 4 : x + SIDE + 4] = True
    return Truth(
        edited_THWC=clip(PLACES, LIGHT, DARK),
        source_THWC=clip(PLACES, SOURCE_LIGHT, SOURCE_DARK),
        background_THWC=np.full((T, H, W, 3), GREY, np.uint8),
        sprite_THW=sprite,
        source_sprite_THW=sprite,
        tones_T2C=tones(LIGHT, DARK),
        source_tones_T2C=tones(SOURCE_LIGHT, SOURCE_DARK),
        region_THW=region,
    )


def test_truth_against_truth_is_perfect(truth: Truth) -> None:
    perfect = score(truth.edited_THWC, truth)
    assert (perfect.hit, perfect.strict, perfect.centroid, perfect.angle) == (1, 1, 0, 0)
    assert perfect.inside_db == perfect.background_db == np.inf


def test_the_source_and_the_background_do_not_hit(truth: Truth) -> None:
    assert score(truth.source_THWC, truth).hit == 0
    vanished = score(truth.background_THWC, truth)
    assert vanished.hit == 0
    assert vanished.centroid == H / 2
    assert vanished.angle == 90


def test_each_frame_is_compared_with_its_own(truth: Truth) -> None:
    """Against a wrongly broadcast frame 0, a clip of another order would be perfect."""
    backwards = truth.edited_THWC[::-1]
    assert score(backwards, truth).hit < 0.6
    assert score(backwards, truth).centroid > 2


def test_one_wrong_frame_of_four_costs_a_quarter(truth: Truth) -> None:
    result = truth.edited_THWC.copy()
    result[2] = GREY
    assert score(result, truth).hit == pytest.approx(0.75)


def test_frame_0_does_not_count(truth: Truth) -> None:
    result = truth.edited_THWC.copy()
    result[0] = GREY
    assert score(result, truth).hit == 1


def test_displaced_is_told_in_pixels(truth: Truth) -> None:
    moved = clip([(x + 3, y) for x, y in PLACES], LIGHT, DARK)
    told = score(moved, truth)
    assert told.centroid == pytest.approx(3)
    assert told.hit == pytest.approx(0.7)
    assert told.angle == pytest.approx(0, abs=1e-6)


def test_frozen_is_worse_than_displaced_and_vanished_worst(truth: Truth) -> None:
    moved = score(clip([(x + 2, y) for x, y in PLACES], LIGHT, DARK), truth)
    frozen = score(clip([PLACES[0]] * T, LIGHT, DARK), truth)
    vanished = score(truth.background_THWC, truth)
    assert 1 > moved.hit > frozen.hit > vanished.hit
    assert 0 < moved.centroid < frozen.centroid < vanished.centroid


def test_upside_down_hits_but_not_strictly(truth: Truth) -> None:
    turned = clip(PLACES, DARK, LIGHT)
    told = score(turned, truth)
    assert told.hit == 1
    assert told.strict == 0
    assert told.centroid == 0
    assert told.angle == pytest.approx(180)


def test_a_quarter_turn_is_90_degrees(truth: Truth) -> None:
    turned = truth.edited_THWC.copy()
    for frame, (x, y) in zip(turned, PLACES, strict=True):
        frame[y : y + SIDE, x : x + SIDE] = DARK
        frame[y : y + SIDE, x : x + SIDE // 2] = LIGHT
    assert angle_error(turned, truth) == pytest.approx(90)
    assert centroid_error(turned, truth) == 0


def test_what_lies_outside_the_region_is_no_sprite(truth: Truth) -> None:
    result = truth.edited_THWC.copy()
    result[:, :3, -3:] = LIGHT
    told = score(result, truth)
    assert told.centroid == 0
    assert told.inside_db == np.inf
    assert told.background_db < 40


def test_pixels_that_edit_and_source_share_are_hits(truth: Truth) -> None:
    """A shape that keeps its colour: where both are the same, the same is right."""
    same = replace(truth, source_THWC=truth.edited_THWC, source_tones_T2C=truth.tones_T2C)
    assert score(truth.edited_THWC, same).hit == 1
    assert score(truth.background_THWC, same).hit == 0


def test_the_source_upside_down_does_not_hit(truth: Truth) -> None:
    """A source whose tones are nearer to the edit's than to the background and to each other."""
    light, dark = (250, 200, 60), (130, 100, 0)
    near = replace(
        truth, source_THWC=clip(PLACES, light, dark), source_tones_T2C=tones(light, dark)
    )
    assert score(near.source_THWC, near).hit == 0
    assert score(clip(PLACES, dark, light), near).hit == 0


def test_swapping_the_tones_turns_a_sprite_upside_down(truth: Truth) -> None:
    turned = swapped(truth.edited_THWC, truth.sprite_THW, truth.tones_T2C)
    assert np.array_equal(turned, clip(PLACES, DARK, LIGHT))


def test_the_share_is_of_the_sprites_pixels() -> None:
    hits, sprite = np.zeros((2, 2, 3), bool), np.zeros((2, 2, 3), bool)
    sprite[1, 0] = True
    hits[1, 0, 0] = hits[1, 1] = hits[0] = True
    assert share_of(hits, sprite) == pytest.approx(1 / 3)
    with pytest.raises(AssertionError):
        share_of(hits[:, 0], sprite)


def test_psnr_is_in_decibels_of_255() -> None:
    black, where = np.zeros((1, 4, 4, 3), np.uint8), np.ones((1, 4, 4), bool)
    assert psnr(black, black + 255, where) == 0
    assert psnr(black, black + 51, where) == pytest.approx(20 * np.log10(5))
