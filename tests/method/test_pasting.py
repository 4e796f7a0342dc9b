"""Masks over background, in the miniature's world: where they are, and what they teach."""

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maskora.config.tables import PLACES, MaskVariant, Motion
from maskora.masks.shapes import render_boxes, silhouette_box, snap_boxes
from maskora.method.conditioning import Sample, motion_sample, to_unit
from maskora.method.objective import region_weights
from maskora.method.pasting import (
    carried_mask,
    free_places,
    masked_sample,
    reshaped,
    shifted,
    shown_masks,
    with_thing,
)
from maskora.miniature.world import RenderedClip, Scene, render
from tests.sprite_scene import BACKDROP, SCENE

SIZE, CELL = 96, 8
REMOVE, ADD = Motion(task="remove"), Motion(task="add")


def boxes(clip: RenderedClip) -> np.ndarray:
    """The sprite's box in every frame, in whole cells, as a mask."""
    sides = np.array([[silhouette_box(labels_HW > 0) for labels_HW in clip.labels_THW]], float)
    snapped_NT4 = snap_boxes(sides, CELL, SIZE, SIZE)
    labels_THW = render_boxes(snapped_NT4, (1,), SIZE, SIZE)
    return np.stack([labels_HW > 0 for labels_HW in labels_THW])


def window_of(clip: RenderedClip, inside_THW: np.ndarray) -> Sample:
    video = to_unit(torch.from_numpy(clip.frames_THWC))
    keep = torch.from_numpy(~inside_THW).float()
    return motion_sample(video, keep, 0, len(inside_THW), "masked", "words")


def masked_samples(
    window: Sample, inside: torch.Tensor, motion: Motion, cell: int, seed: tuple[int, int]
) -> list[Sample]:
    """The window under every mask that it is shown under."""
    masks = shown_masks(inside.numpy(), motion, cell, seed)
    return [masked_sample(window, inside, mask, motion.trained_task) for mask in masks]


def samples_of(motion: Motion, scene: Scene = SCENE) -> tuple[np.ndarray, list[Sample]]:
    """The scene's own mask, and its window under other ones."""
    clip = render(scene, size=SIZE)
    inside_THW = boxes(clip)
    window = window_of(clip, inside_THW)
    return inside_THW, masked_samples(window, torch.from_numpy(inside_THW), motion, CELL, (0, 0))


def test_a_change_is_learned_from_the_window_itself() -> None:
    clip = render(SCENE, size=SIZE)
    inside_THW = boxes(clip)
    window = window_of(clip, inside_THW)
    inside = torch.from_numpy(inside_THW)
    for motion in (
        Motion(),
        Motion(task="remove", mask_shapes=["hull"], conditioning="first-frame"),
    ):
        (only,) = masked_samples(window, inside, motion, CELL, (0, 0))
        assert only is window


def test_a_removal_is_learned_where_the_object_is_not() -> None:
    inside_THW, samples = samples_of(REMOVE)
    background = to_unit(torch.from_numpy(render(SCENE.without(0), size=SIZE).frames_THWC))
    inside, asked = torch.from_numpy(inside_THW), set()
    assert len(samples) == PLACES
    for sample in samples:
        assert sample.ignored_THW is not None
        assert sample.target_CTHW is not None
        pasted = (sample.keep_THW == 0) & ~inside
        assert torch.equal(sample.keep_THW == 0, pasted | inside)
        assert torch.equal(sample.ignored_THW, inside)
        assert not pasted[0].any()  # the first frame is given, but for the object
        assert pasted[1:].flatten(1).any(dim=1).sum() >= 4
        # To be painted is background, and nothing of the object is shown.
        assert torch.equal(sample.target_CTHW[:, pasted], background[:, pasted])
        assert (sample.condition_CTHW[:, pasted | inside] == 0).all()
        kept = ~(pasted | inside)
        assert torch.equal(sample.condition_CTHW[:, kept], sample.target_CTHW[:, kept])
        assert torch.equal(sample.reference_CHW, sample.condition_CTHW[:, 0])
        asked.add(sample.name)
    assert len(asked) == PLACES


def test_the_loss_does_not_judge_the_object() -> None:
    inside_THW, samples = samples_of(REMOVE)
    shape = torch.Size((16, 3, SIZE // CELL, SIZE // CELL))
    for sample in samples:
        weights = region_weights(sample.keep_THW, shape, 2.0, sample.ignored_THW)[0]
        assert weights.mean() == pytest.approx(1.0)
        pixels = weights.repeat_interleave(CELL, 1).repeat_interleave(CELL, 2)
        of_frame = torch.cat([pixels[:1], pixels[1:].repeat_interleave(4, 0)])
        assert (of_frame[torch.from_numpy(inside_THW)] == 0).all()
        judged = of_frame > 0
        assert judged[(sample.keep_THW == 0) & ~torch.from_numpy(inside_THW)].any()
        assert judged.float().mean() > 0.5


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 4, 8]))
def test_a_free_place_meets_nothing_and_none_is_left_out(seed: int, cell: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = 24, 32
    inside_THW = np.zeros((3, height, width), bool)
    for inside_HW in inside_THW:
        y, x = rng.integers(0, height - 6), rng.integers(0, width - 6)
        inside_HW[y : y + rng.integers(1, 7), x : x + rng.integers(1, 7)] = True
    found = set(free_places(inside_THW, inside_THW, cell))
    cells_THW = inside_THW.reshape(3, height // cell, cell, width // cell, cell).any(axis=(2, 4))
    cells_THW = cells_THW.repeat(cell, 1).repeat(cell, 2)
    for down in range(-height, height, cell):
        for across in range(-width, width, cell):
            moved_THW = shifted(cells_THW, (down, across))
            free = not (moved_THW & cells_THW).any() and moved_THW.sum() >= cells_THW.sum() / 2
            assert ((down, across) in found) == free


def test_a_mask_that_finds_no_free_place_is_cut_where_it_meets_the_object() -> None:
    clip = render(SCENE, size=SIZE)
    inside_THW = np.zeros(clip.labels_THW.shape, bool)
    for frame, inside_HW in enumerate(inside_THW):  # it sweeps over the whole width
        inside_HW[24:88, 4 * frame : 4 * frame + 64] = True
    window, inside = window_of(clip, inside_THW), torch.from_numpy(inside_THW)
    samples = masked_samples(window, inside, REMOVE, CELL, (0, 0))
    assert len(samples) == PLACES
    for sample in samples:
        pasted = (sample.keep_THW == 0) & ~inside
        assert (sample.keep_THW == 0)[inside].all()
        assert pasted.sum() > 0.15 * inside.sum()  # a fifth, but for the first frame


def test_an_object_that_fills_the_picture_leaves_no_place() -> None:
    full_THW = np.ones((9, SIZE, SIZE), bool)
    assert free_places(full_THW, full_THW, CELL) == []
    assert free_places(~full_THW, full_THW, CELL) == []
    clip = render(SCENE, size=SIZE)
    window = window_of(clip, full_THW)
    assert masked_samples(window, torch.from_numpy(full_THW), REMOVE, CELL, (0, 0)) == []


def test_to_add_is_learned_from_things_that_are_pasted_and_all_of_it_counts() -> None:
    inside_THW, samples = samples_of(ADD)
    plain = window_of(render(SCENE, size=SIZE), inside_THW)
    assert len(samples) == 1 + PLACES
    assert torch.equal(samples[0].keep_THW, plain.keep_THW)  # in its own place, too
    assert plain.target_CTHW is not None
    for sample in samples:
        assert sample.ignored_THW is None
        assert sample.target_CTHW is not None
        assert sample.keep_THW[0].all()
        new = (sample.target_CTHW != plain.target_CTHW).any(dim=0)
        assert new.flatten(1).any(dim=1).all()
        assert not (new[1:] & (sample.keep_THW[1:] == 1)).any()
        assert torch.equal(sample.reference_CHW, sample.target_CTHW[:, 0])
        hidden = sample.keep_THW == 0
        assert (sample.condition_CTHW[:, hidden] == 0).all()
        assert torch.equal(sample.condition_CTHW[:, ~hidden], sample.target_CTHW[:, ~hidden])
    assert not any(torch.equal(one.keep_THW, plain.keep_THW) for one in samples[1:])


def test_a_pasted_thing_moves_with_the_background() -> None:
    clip = render(Scene(BACKDROP, ()), size=SIZE)
    inside_THW = np.zeros((9, SIZE, SIZE), bool)
    inside_THW[:, 16:56, 16:56] = True
    way = np.array(BACKDROP.pan) * SIZE  # over a beat of eight frames
    for seed in range(3):
        shown_THWC = with_thing(clip.frames_THWC, inside_THW, np.random.default_rng(seed))
        new_THW = np.abs(shown_THWC.astype(int) - clip.frames_THWC).max(axis=-1) > 12
        assert not (new_THW & ~inside_THW).any()
        assert new_THW[0].sum() > 150
        again_THWC = with_thing(clip.frames_THWC, inside_THW, np.random.default_rng(seed))
        assert np.array_equal(shown_THWC, again_THWC)
        x, y = np.rint(way).astype(int)
        rows, columns = np.nonzero(new_THW[0] & shifted(inside_THW[:1], (-y, -x))[0])
        thing_NC = shown_THWC[0, rows, columns].astype(int)
        moved = np.abs(shown_THWC[8, rows + y, columns + x] - thing_NC).mean()
        stayed = np.abs(shown_THWC[8, rows, columns] - thing_NC).mean()
        assert moved < 0.5 * stayed


def test_a_carried_mask_moves_with_the_background() -> None:
    clip = render(Scene(BACKDROP, ()), size=SIZE)
    first_HW = np.zeros((SIZE, SIZE), bool)
    first_HW[16:48, 16:48] = True
    way = np.array(BACKDROP.pan) * SIZE  # over a beat of eight frames
    carried_THW = carried_mask(first_HW, clip.frames_THWC)
    assert np.array_equal(carried_THW[0], first_HW)
    y, x = (np.flatnonzero(carried_THW[8].any(axis=axis)).mean() for axis in (1, 0))
    assert abs(x - (31.5 + way[0])) < 1.5
    assert abs(y - (31.5 + way[1])) < 1.5


def test_the_same_seed_draws_the_same_masks() -> None:
    _, once = samples_of(REMOVE)
    _, again = samples_of(REMOVE)
    assert [one.name for one in once] == [other.name for other in again]
    inside_THW = boxes(render(SCENE, size=SIZE))
    drawn = [shown_masks(inside_THW, REMOVE, CELL, (0, start)) for start in (0, 4)]
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize("variant", get_args(MaskVariant))
def test_a_variant_covers_the_mask_in_its_own_shape(variant: MaskVariant) -> None:
    inside_THW = render(SCENE, size=SIZE).labels_THW > 0
    inside_THW[:, 90:94, 2:6] = True  # a second part, far off
    shaped_THW = reshaped(inside_THW, variant, 0.2)
    assert (shaped_THW >= inside_THW).all()
    assert shaped_THW.sum() > inside_THW.sum()
    between = (slice(None), slice(60, 80), slice(0, 8))
    assert not shaped_THW[between].any()  # each part for itself
    if variant == "box":
        x0, y0, x1, y1 = silhouette_box(inside_THW[0, :80])
        assert shaped_THW[0, y0:y1, x0:x1].all()
        assert shaped_THW[0].sum() == (x1 - x0) * (y1 - y0) + 16
    empty_THW = np.zeros_like(inside_THW)
    assert not reshaped(empty_THW, variant, 0.2).any()


def test_masks_of_other_shapes_are_shown_beside_their_own() -> None:
    clip = render(SCENE, size=SIZE)
    tight_THW = clip.labels_THW > 0
    window, inside = window_of(clip, tight_THW), torch.from_numpy(tight_THW)
    shapes = ["box", "expanded"]
    own, box, wider = masked_samples(window, inside, Motion(mask_shapes=shapes), CELL, (0, 0))
    assert [one.name for one in (own, box, wider)] == [
        "motion 0-8", "motion 0-8 box", "motion 0-8 expanded",
    ]  # fmt: skip
    assert torch.equal(own.keep_THW, window.keep_THW)
    for other in (box, wider):
        assert (other.keep_THW <= own.keep_THW).all()
        assert other.keep_THW.sum() < own.keep_THW.sum()
        assert (other.condition_CTHW[:, other.keep_THW == 0] == 0).all()
    removal = Motion(task="remove", mask_shapes=shapes)
    assert len(masked_samples(window, inside, removal, CELL, (0, 0))) == 3 * PLACES
    boxed_THW = boxes(clip)  # a box again is nothing new
    window, inside = window_of(clip, boxed_THW), torch.from_numpy(boxed_THW)
    again = masked_samples(window, inside, Motion(mask_shapes=["box", "hull"]), CELL, (0, 0))
    assert len(again) == 1
