"""A region of the first frame, carried by the background or by a thing."""

from dataclasses import replace

import numpy as np
import pytest

from maskora.masks.following import background_path, carried_region, thing_path
from maskora.masks.shapes import silhouette_box
from maskora.miniature.world import Scene, SpriteMotion, pose_of, raster, render
from tests.sprite_scene import BACKDROP, SCENE, SPRITE

SIZE, FRAMES = 192, 9
BOX_HW = np.zeros((SIZE, SIZE), bool)
BOX_HW[100:140, 110:150] = True


def middle(silhouette_HW: np.ndarray) -> np.ndarray:
    x0, y0, x1, y1 = silhouette_box(silhouette_HW)
    return np.array([x0 + x1, y0 + y1]) / 2


def test_a_region_moves_with_the_background() -> None:
    clip = render(SCENE, FRAMES, SIZE)
    things = [labels_HW > 0 for labels_HW in clip.labels_THW]
    way = np.array(BACKDROP.pan) * SIZE * (FRAMES - 1) / 8
    for path in (background_path(clip.frames_THWC), background_path(clip.frames_THWC, things)):
        labels_THW = np.stack(list(carried_region(BOX_HW, path)))
        assert np.array_equal(labels_THW[0] > 0, BOX_HW)
        moved = middle(labels_THW[-1] > 0) - middle(BOX_HW)
        assert np.allclose(moved, way, atol=1.5)


def test_a_region_moves_and_grows_with_a_thing() -> None:
    motion = SpriteMotion((0.4, 0.5), (0.2, 0.0), 0.0, 0.0, 0.3)
    thing = replace(SPRITE, motion=motion, radius=0.1)
    clip = render(Scene(BACKDROP, (thing,)), FRAMES, SIZE)
    silhouettes = [labels_HW > 0 for labels_HW in clip.labels_THW]
    silhouettes[4] = np.zeros_like(silhouettes[4])  # out of sight
    pose = pose_of(motion, 0.1, raster(FRAMES, SIZE)[0], SIZE)
    box_HW = np.zeros((SIZE, SIZE), bool)
    box_HW[84:100, 68:84] = True  # around the thing's middle, and to the left of it
    labels_THW = np.stack(list(carried_region(box_HW, thing_path(silhouettes))))
    assert not labels_THW[4].any()
    growth = pose.radius_T[-1] / pose.radius_T[0]
    expected = pose.centre_T2[-1] + growth * (middle(box_HW) - pose.centre_T2[0])
    assert np.allclose(middle(labels_THW[-1] > 0), expected, atol=1.5)
    assert labels_THW[-1].sum() / box_HW.sum() == pytest.approx(growth**2, rel=0.15)


def test_a_region_that_leaves_the_picture_is_gone() -> None:
    away = np.array([[1.0, 0, SIZE], [0, 1, 0], [0, 0, 1]])
    labels_THW = np.stack(list(carried_region(BOX_HW, [np.eye(3), None, away])))
    assert labels_THW.any(axis=(1, 2)).tolist() == [True, False, False]
