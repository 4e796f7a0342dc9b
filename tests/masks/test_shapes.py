"""Boxes over time: grown, smoothed, snapped, drawn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskora.masks.shapes import (
    grow_boxes,
    render_boxes,
    smooth_boxes,
    snap_boxes,
)

HEIGHT, WIDTH = 64, 96
NAN_BOX = [np.nan] * 4
quick = settings(deadline=None, max_examples=80)


@st.composite
def box_tracks(draw: st.DrawFn, gaps: bool = True) -> np.ndarray:
    """boxes_NT4 of one or two objects inside the picture, jittering, with or without absences."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (draw(st.integers(1, 2)), draw(st.integers(1, 17)))
    low = rng.uniform(0, [WIDTH - 8, HEIGHT - 8], (*shape, 2))
    high = low + rng.uniform(0.5, 8, (*shape, 2))
    boxes = np.concatenate([low, high], axis=-1)
    if gaps:
        boxes[rng.random(shape) < draw(st.sampled_from([0.0, 0.2, 0.6]))] = np.nan
    return boxes


def contains(outer: np.ndarray, inner: np.ndarray, slack: float = 0.0) -> bool:
    """Whether every box that is present in ``inner`` lies in its box of ``outer``."""
    present = ~np.isnan(inner[..., 0])
    outer, inner = outer[present], inner[present]
    low, high = outer[:, :2] <= inner[:, :2] + slack, outer[:, 2:] >= inner[:, 2:] - slack
    return bool(low.all() and high.all())


@quick
@given(box_tracks(), st.floats(0, 1))
def test_growing_contains_and_keeps_the_middle(boxes: np.ndarray, margin: float) -> None:
    grown = grow_boxes(boxes, margin)
    assert contains(grown, boxes)
    middle = boxes[..., :2] + boxes[..., 2:]
    np.testing.assert_allclose(grown[..., :2] + grown[..., 2:], middle)


def test_growing_is_by_the_boxs_own_size() -> None:
    np.testing.assert_allclose(
        grow_boxes(np.array([[[10.0, 20.0, 30.0, 60.0], NAN_BOX]]), 0.1),
        [[[8.0, 16.0, 32.0, 64.0], NAN_BOX]],
    )


@quick
@given(box_tracks(), st.integers(0, 8))
def test_smoothing_only_grows(boxes: np.ndarray, window: int) -> None:
    smoothed = smooth_boxes(boxes, window)
    assert contains(smoothed, boxes)
    assert np.nanmin(smoothed, initial=0) >= 0
    assert np.nanmax(smoothed, initial=0) <= WIDTH


@quick
@given(box_tracks(gaps=False), st.integers(2, 8))
def test_smoothing_never_adds_jitter(boxes: np.ndarray, window: int) -> None:
    before = np.abs(np.diff(boxes, axis=1)).sum(axis=1)
    after = np.abs(np.diff(smooth_boxes(boxes, window), axis=1)).sum(axis=1)
    assert (after <= before + 1e-9).all()


def test_smoothing_calms_a_trembling_box() -> None:
    rng = np.random.default_rng(0)
    boxes = np.array([30.0, 20, 60, 50]) + rng.uniform(-3, 3, (1, 40, 4))
    jitter, calm = (np.abs(np.diff(b, axis=1)).mean() for b in (boxes, smooth_boxes(boxes, 5)))
    assert calm < 0.4 * jitter


@quick
@given(box_tracks())
def test_a_window_of_one_frame_changes_nothing(boxes: np.ndarray) -> None:
    np.testing.assert_array_equal(smooth_boxes(boxes, 1), boxes)


@pytest.mark.parametrize("window", [2, 3, 4, 5])
def test_one_larger_box_swells_and_shrinks_alike(window: int) -> None:
    boxes = np.tile([20.0, 20, 40, 40], (1, 21, 1))
    boxes[0, 10] = [10, 15, 50, 60]
    smoothed = smooth_boxes(boxes, window)
    np.testing.assert_allclose(smoothed, smoothed[:, ::-1])
    assert (smoothed[0, 9] != boxes[0, 9]).all()


def test_a_still_box_stays_as_it_is() -> None:
    boxes = np.tile([3.25, 4.5, 10.125, 20.0], (1, 9, 1))
    np.testing.assert_array_equal(smooth_boxes(boxes, 5), boxes)


def test_short_absences_are_bridged_and_long_ones_stay() -> None:
    boxes = np.full((1, 12, 4), np.nan)
    boxes[0, [1, 4, 8, 9]] = [[0, 0, 8, 8], [12, 6, 20, 14], [40, 40, 48, 48], [40, 40, 48, 48]]
    smoothed = smooth_boxes(boxes, 3)
    present = ~np.isnan(smoothed[0, :, 0])
    assert np.flatnonzero(present).tolist() == [1, 2, 3, 4, 8, 9]  # 2 absent < 3, 3 are not
    straight = np.array([[4, 2, 12, 10], [8, 4, 16, 12]], float)
    assert contains(smoothed[0, 2:4], straight, slack=1e-9)
    np.testing.assert_allclose(smoothed[0, 8], [40, 40, 48, 48])  # no mixing over the absence


@quick
@given(box_tracks(), st.sampled_from([1, 8, 16]))
def test_snapping_is_outward_to_the_grid_and_idempotent(boxes: np.ndarray, cell: int) -> None:
    snapped = snap_boxes(boxes, cell, WIDTH, HEIGHT)
    assert contains(snapped, boxes, slack=1e-4)
    present = ~np.isnan(boxes[..., 0])
    assert (snapped[present] % cell == 0).all()
    assert (np.abs(snapped - boxes)[present] < cell).all()
    np.testing.assert_array_equal(snap_boxes(snapped, cell, WIDTH, HEIGHT), snapped)


def test_snapping_clips_to_the_picture_and_forgives_float_arithmetic() -> None:
    boxes = np.array([[[-5.0, -9.0, 101.0, 59.0], [16 - 1e-9, 7.9, 24 + 1e-9, 8.1], NAN_BOX]])
    snapped = snap_boxes(boxes, 8, width=100, height=60)
    np.testing.assert_array_equal(snapped, [[[0, 0, 100, 60], [16, 0, 24, 16], NAN_BOX]])
    np.testing.assert_array_equal(snap_boxes(snapped, 8, 100, 60), snapped)


def test_the_smaller_box_is_in_front() -> None:
    boxes = np.array([[[2.0, 2, 6, 6], NAN_BOX], [[0.0, 0, 10, 10], [1.5, 1.5, 2.5, 2.5]]])
    labels = render_boxes(boxes, (4, 9), height=12, width=12)
    expected = np.zeros((2, 12, 12), np.uint8)
    expected[0, :10, :10], expected[0, 2:6, 2:6], expected[1, 1:3, 1:3] = 9, 4, 9
    np.testing.assert_array_equal(labels, expected)
