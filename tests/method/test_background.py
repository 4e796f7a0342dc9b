"""A picture without a thing: against the truth, which a rendered scene has."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from maskora.method.background import RADIUS, without_thing
from maskora.miniature.world import Scene, SpriteMotion, render
from tests.sprite_scene import BACKDROP, SCENE, SPRITE


def psnr(picture_HWC: np.ndarray, truth_HWC: np.ndarray, where_HW: np.ndarray) -> float:
    apart = picture_HWC[where_HW].astype(float) - truth_HWC[where_HW]
    return float(10 * np.log10(255**2 / np.mean(apart**2)))


def test_what_a_thing_hides_is_taken_from_frames_that_show_it() -> None:
    clip, size = render(SCENE, size=192), 192
    inside_THW = clip.labels_THW > 0
    picture_HWC, share = without_thing(clip.frames_THWC, inside_THW)
    truth_HWC = render(SCENE.without(0), frames=1, size=size).frames_THWC[0]
    hidden_HW = inside_THW[0]
    guess_HWC = cv2.inpaint(
        clip.frames_THWC[0], hidden_HW.astype(np.uint8), RADIUS, cv2.INPAINT_TELEA
    )
    assert share > 0.7
    assert psnr(picture_HWC, truth_HWC, hidden_HW) > 28
    assert psnr(picture_HWC, truth_HWC, hidden_HW) > psnr(guess_HWC, truth_HWC, hidden_HW) + 8
    near_HW = cv2.dilate(hidden_HW.astype(np.uint8), np.ones((25, 25), np.uint8)) > 0
    assert np.array_equal(picture_HWC[~near_HW], clip.frames_THWC[0][~near_HW])


@pytest.mark.parametrize("cut", [False, True])
def test_what_no_frame_shows_is_painted_over(cut: bool) -> None:
    still = replace(SPRITE, motion=SpriteMotion((0.3, 0.4), (0.0, 0.0), 0.3, 0.0, 0.0))
    scene = Scene(replace(BACKDROP, pan=(0.0, 0.0)), (still,))
    clip = render(SCENE if cut else scene, size=96)
    frames_THWC = clip.frames_THWC.copy()
    if cut:  # the other frames are of another scene, which is not taken for the background
        frames_THWC[1:] = np.random.default_rng(0).integers(0, 256, frames_THWC[1:].shape)
    inside_THW = clip.labels_THW > 0
    picture_HWC, share = without_thing(frames_THWC, inside_THW)
    assert share == 0
    assert not np.array_equal(picture_HWC[inside_THW[0]], frames_THWC[0][inside_THW[0]])
    colours = render(Scene(scene.backdrop, ()), frames=1, size=96).frames_THWC[0]
    assert psnr(picture_HWC, colours, inside_THW[0]) > 12
