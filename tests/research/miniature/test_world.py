"""The world's truth agrees with its pixels."""

import math
from dataclasses import replace
from typing import get_args

import cv2
import numpy as np
import pytest

from maskora.miniature import world
from maskora.miniature.world import Look, Scene, Sprite, SpriteMotion, distance, render
from research.miniature.scenes import Edit, draw_scene, edited, sprite_boxes

SEEDS = range(12)


def alone(scene: Scene, **motion: object) -> Scene:
    """A scene's foremost sprite, moved otherwise, before its background."""
    sprite = scene.sprites[-1]
    return Scene(scene.backdrop, (replace(sprite, motion=replace(sprite.motion, **motion)),))


def softened(mask: np.ndarray) -> np.ndarray:
    """Masks and the two pixels around over which sharp corners are softened."""
    return np.stack([cv2.dilate(m.astype(np.uint8), np.ones((5, 5))) for m in mask]) > 0


def test_a_seed_always_gives_the_same_clip() -> None:
    one, other = (render(draw_scene(7)) for _ in range(2))
    assert np.array_equal(one.frames_THWC, other.frames_THWC)
    assert np.array_equal(one.labels_THW, other.labels_THW)
    assert not np.array_equal(one.frames_THWC, render(draw_scene(8)).frames_THWC)


@pytest.mark.parametrize(("frames", "size"), [(5, 64), (13, 96), (49, 128)])
def test_size_and_length_are_parameters(frames: int, size: int) -> None:
    clip = render(draw_scene(3), frames, size)
    assert clip.frames_THWC.shape == (frames, size, size, 3)
    assert clip.labels_THW.shape == (frames, size, size)


def test_a_longer_clip_continues_a_shorter_one() -> None:
    short, long = render(draw_scene(5), 9), render(draw_scene(5), 49)
    assert np.array_equal(long.frames_THWC[:9], short.frames_THWC)


def test_a_larger_clip_shows_the_same() -> None:
    small, large = render(draw_scene(5), 5, 64), render(draw_scene(5), 5, 128)
    halved = np.stack([cv2.resize(f, (64, 64), interpolation=cv2.INTER_AREA)
                       for f in large.frames_THWC])  # fmt: skip
    assert np.abs(halved.astype(int) - small.frames_THWC).mean() < 2


@pytest.mark.parametrize("seed", SEEDS)
def test_masks_are_where_the_sprite_changes_the_picture(seed: int) -> None:
    scene = draw_scene(seed)
    front = len(scene.sprites)
    clip, without = render(scene), render(scene.without(front - 1))
    mask = clip.labels_THW == front
    changed = (clip.frames_THWC != without.frames_THWC).any(axis=-1)
    assert changed[mask].mean() > 0.99
    assert not changed[~softened(mask)].any()


@pytest.mark.parametrize("seed", SEEDS)
def test_boxes_hold_the_mask_and_nothing_more(seed: int) -> None:
    clip = render(draw_scene(seed))
    front = int(clip.labels_THW.max())
    for (x0, y0, x1, y1), labels in zip(
        sprite_boxes(clip, front).astype(int), clip.labels_THW, strict=True
    ):
        y, x = np.nonzero(labels == front)
        assert (x0, y0, x1, y1) == (x.min(), y.min(), x.max() + 1, y.max() + 1)


def test_a_box_of_what_is_unseen_is_nan() -> None:
    assert np.isnan(sprite_boxes(render(draw_scene(0)), 9)).all()


def flow(scene: Scene, labels_THW: np.ndarray) -> world.Array:
    """Where each pixel of a rendered scene's frames goes in the next, (T - 1, H, W, 2).

    Steps (x, y) in pixels of what is seen at a pixel, be it covered in the next frame or not.
    """
    frames, size = labels_THW.shape[:2]
    beats_T, pixels = world.raster(frames, size)
    pan = np.array(scene.backdrop.pan, np.float32) * size / world.BEAT
    flow_THW2 = np.broadcast_to(pan, (frames - 1, size, size, 2))
    for number, sprite in enumerate(scene.sprites, start=1):
        pose = world.pose_of(sprite.motion, sprite.radius, beats_T, size)
        own_THW = labels_THW[:-1, ..., None] == number
        flow_THW2 = np.where(own_THW, _sprite_flow(pose, pixels), flow_THW2)
    return flow_THW2


def _sprite_flow(pose: world.Pose, pixels: world.Array) -> world.Array:
    """How far points of a sprite move to the next frame: by its next centre, angle and radius."""
    x_THW, y_THW = (own[:-1] for own in pose.own(pixels))
    radius_T, angle_T = pose.radius_T[1:], pose.angle_T[1:]
    cos, sin = ((radius_T * f(angle_T))[:, None, None] for f in (np.cos, np.sin))
    next_x = cos * x_THW - sin * y_THW + pose.centre_T2[1:, 0, None, None]
    next_y = sin * x_THW + cos * y_THW + pose.centre_T2[1:, 1, None, None]
    return np.stack([next_x - pixels, next_y - pixels[:, None]], axis=-1)


@pytest.mark.parametrize("seed", SEEDS)
def test_flow_leads_to_the_same_thing_in_the_next_frame(seed: int) -> None:
    """Whatever looks the same at all times is found again where the flow leads."""
    scene = draw_scene(seed)
    look = replace(scene.sprites[-1].look, drift=0.0, part=None)
    scene = scene.with_look(len(scene.sprites) - 1, look)
    clip = render(scene)
    steps = flow(scene, clip.labels_THW)
    at_y, at_x = np.mgrid[:64, :64].astype(np.float32)
    for number in range(8):
        x, y = at_x + steps[number, ..., 0], at_y + steps[number, ..., 1]
        found = cv2.remap(clip.frames_THWC[number + 1], x, y, cv2.INTER_LINEAR)
        same = cv2.remap(clip.labels_THW[number + 1], x, y, cv2.INTER_NEAREST)
        seen = (same == clip.labels_THW[number]) & (x > 0) & (x < 63) & (y > 0) & (y < 63)
        inner = cv2.erode(seen.astype(np.uint8), np.ones((3, 3))) > 0
        error = np.abs(found.astype(int) - clip.frames_THWC[number]).max(axis=-1)[inner]
        assert np.median(error) <= 4
        moved = np.abs(clip.frames_THWC[number + 1].astype(int) - clip.frames_THWC[number])
        assert error.mean() < moved.max(axis=-1)[inner].mean()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("edit", get_args(Edit))
def test_an_edit_changes_its_sprite_and_nothing_else(edit: Edit, seed: int) -> None:
    scene = draw_scene(seed)
    last = len(scene.sprites) - 1
    look = edited(scene.sprites[last].look, edit, np.random.default_rng(seed))
    assert look != scene.sprites[last].look
    before, after = render(scene), render(scene.with_look(last, look))
    changed = (before.frames_THWC != after.frames_THWC).any(axis=-1)
    sprites = (before.labels_THW == last + 1) | (after.labels_THW == last + 1)
    assert changed.any()
    assert not changed[~softened(sprites)].any()


def test_a_bloom_grows() -> None:
    part = world.SpritePart(hue=0.5, angle=0.0, distance=0.2, size=0.7, growth=1.0)
    scene = alone(draw_scene(1), pulse=0.0)
    plain = scene.with_look(0, Look("disc", "plain", hue=0.0))
    bloom = scene.with_look(0, Look("disc", "plain", hue=0.0, part=part))
    changed = (render(plain).frames_THWC != render(bloom).frames_THWC).any(axis=-1)
    grown = changed.sum(axis=(1, 2))
    assert grown[0] == 0
    assert (np.diff(grown) > 0).all()


def test_a_drifting_hue_leaves_the_silhouette() -> None:
    scene = alone(draw_scene(1))
    still = scene.with_look(0, Look("disc", "halves", hue=0.0))
    drifting = scene.with_look(0, Look("disc", "halves", hue=0.0, drift=0.25))
    one, other = render(still), render(drifting)
    assert np.array_equal(one.labels_THW, other.labels_THW)
    assert np.array_equal(one.frames_THWC[0], other.frames_THWC[0])
    assert not np.array_equal(one.frames_THWC[-1], other.frames_THWC[-1])


@pytest.mark.parametrize("shape", world.SHAPES)
def test_edges_are_softened_over_a_pixel_about_the_area(shape: str) -> None:
    motion = SpriteMotion(start=(0.5, 0.5), velocity=(0, 0), angle=0.4, spin=0, pulse=0)
    sprite = Sprite(Look(shape, "plain", hue=0.0), motion, radius=0.2)
    clip = render(Scene(draw_scene(0).backdrop, (sprite,)), frames=1)
    grid = (np.mgrid[:2000, :2000].astype(np.float32) + 0.5) / 500 - 2
    area = (distance(shape, grid[1], grid[0]) < 0).mean() * 16 * (0.2 * 64) ** 2
    assert (clip.labels_THW == 1).sum() == pytest.approx(area, rel=0.05)


def test_sprites_stay_in_the_picture() -> None:
    for seed in SEEDS:
        boxes = sprite_boxes(render(draw_scene(seed), 49), len(draw_scene(seed).sprites))
        middles = (boxes[:, :2] + boxes[:, 2:]) / 2
        assert (middles > 64 * 0.1).all()
        assert (middles < 64 * 0.9).all()


def test_turning_is_clockwise_by_the_angle() -> None:
    """The light half points up at angle 0, right after a quarter turn."""
    motion = SpriteMotion((0.5, 0.5), (0, 0), angle=0.0, spin=math.pi / 2, pulse=0)
    sprite = Sprite(Look("disc", "halves", hue=0.6), motion, radius=0.2)
    frames = render(Scene(draw_scene(0).backdrop, (sprite,))).frames_THWC.astype(int).sum(axis=-1)
    assert frames[0, 26, 32] > frames[0, 38, 32] + 100
    assert frames[8, 32, 38] > frames[8, 32, 26] + 100
