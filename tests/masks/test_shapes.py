"""From silhouettes to the region: specks, hulls, boxes over time, and the shapes of the paper."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskora.config.tables import Mask, MaskShape
from maskora.errors import UserError
from maskora.masks import shapes

HEIGHT, WIDTH = 64, 96
NAN_BOX = [np.nan] * 4
quick = settings(deadline=None, max_examples=60)


@st.composite
def silhouettes(draw: st.DrawFn) -> np.ndarray:
    """A scatter of up to five rectangles, one pixel at least."""
    silhouette = np.zeros((HEIGHT, WIDTH), bool)
    for _ in range(draw(st.integers(1, 5))):
        y, x = draw(st.integers(0, HEIGHT - 1)), draw(st.integers(0, WIDTH - 1))
        silhouette[y : y + draw(st.integers(1, 20)), x : x + draw(st.integers(1, 20))] = True
    return silhouette


def scene() -> np.ndarray:
    """Two frames: object 1 of 400 pixels with a speck of 4 beside it; in frame 1 only the speck."""
    labels = np.zeros((2, HEIGHT, WIDTH), np.uint8)
    labels[0, 10:30, 10:30] = 1
    labels[:, 50:52, 90:92] = 1
    return labels


@pytest.mark.parametrize(
    ("frames", "words"), [([], ""), ([4], "4"), ([0, 1, 2, 7], "0-2, 7"), ([1, 3, 4], "1, 3-4")]
)
def test_frame_ranges(frames: list[int], words: str) -> None:
    assert shapes.frame_ranges(frames) == words


def test_specks_are_dropped_and_noted() -> None:
    cleaned, (note,) = shapes.clean_silhouettes(scene(), min_area=0.01)
    expected = scene()
    expected[:, 50:52, 90:92] = 0
    np.testing.assert_array_equal(cleaned, expected)
    assert "object 1" in note
    assert "frames 1:" in note


def test_parts_of_the_least_area_and_those_that_touch_at_a_corner_stay() -> None:
    touching = np.zeros((1, HEIGHT, WIDTH), np.uint8)
    touching[0, 10:20, 10:20] = touching[0, 20:22, 20:22] = 1
    nothing = np.zeros((3, HEIGHT, WIDTH), np.uint8)
    for labels, least in ((scene(), 4 / (HEIGHT * WIDTH)), (touching, 0.01), (nothing, 0.01)):
        cleaned, notes = shapes.clean_silhouettes(labels, least)
        np.testing.assert_array_equal(cleaned, labels)
        assert notes == ()


def test_an_object_that_is_always_small_keeps_its_biggest_part() -> None:
    labels = scene()
    labels[:, 2:4, 60:62] = labels[:, 40, 40] = 7
    cleaned, notes = shapes.clean_silhouettes(labels, min_area=0.01)
    labels[:, 40, 40] = 0
    np.testing.assert_array_equal(cleaned[:] == 7, labels == 7)
    assert any("object 7" in note and "biggest part" in note for note in notes)


def test_silhouette_box_is_half_open() -> None:
    assert shapes.silhouette_box(scene()[0] > 0) == (10, 10, 92, 52)


@quick
@given(silhouettes(), st.floats(0, 0.5))
def test_the_hull_covers_and_has_no_holes(silhouette: np.ndarray, margin: float) -> None:
    region = shapes.hull(silhouette, margin)
    assert region[silhouette].all()
    for lines in (region, region.T):
        for line in lines:
            inside = np.flatnonzero(line)
            assert len(inside) == 0 or inside[-1] - inside[0] + 1 == len(inside)


def test_the_hull_grows_by_the_margin_of_the_box_and_fills_corners() -> None:
    silhouette = np.zeros((HEIGHT, WIDTH), bool)
    silhouette[20:40, 30:70] = True
    assert shapes.silhouette_box(shapes.hull(silhouette, 0.0)) == (30, 20, 70, 40)
    region = shapes.hull(silhouette, 0.25)
    assert shapes.silhouette_box(region) == (20, 15, 80, 45)
    assert not region[15, 20]  # the corner is rounded
    corner = np.zeros((HEIGHT, WIDTH), bool)
    corner[10:50, 10] = corner[49, 10:50] = True
    region = shapes.hull(corner, 0.0)
    assert region[40, 20]
    assert not region[20, 40]


@quick
@given(silhouettes())
def test_noisy_stays_in_the_box_and_never_vanishes(silhouette: np.ndarray) -> None:
    region = shapes.noisy(silhouette)
    x0, y0, x1, y1 = shapes.silhouette_box(silhouette)
    assert region[y0:y1, x0:x1].any()
    region[y0:y1, x0:x1] = False
    assert not region.any()


def test_noisy_has_the_blocks_of_a_seven_by_seven_grid() -> None:
    rows, columns = np.mgrid[:70, :70]
    disc = (rows - 34.5) ** 2 + (columns - 34.5) ** 2 <= 35**2
    region = shapes.noisy(disc)
    blocks = region.reshape(7, 10, 7, 10).transpose(0, 2, 1, 3).reshape(49, 100)
    assert ((blocks == blocks[:, :1]).all(axis=1)).all()
    assert (region != disc).any()
    assert abs(int(region.sum()) - int(disc.sum())) < 0.1 * disc.sum()
    line = shapes.noisy(np.eye(HEIGHT, WIDTH, dtype=bool))
    assert line.any(), "a thin line does not vanish"
    assert not line.all()


@pytest.mark.parametrize("numbers", [(1, 2), (2, 1)])
def test_the_smaller_silhouette_is_in_front(numbers: tuple[int, int]) -> None:
    frame, inner = numbers
    labels = np.zeros((1, HEIGHT, WIDTH), np.uint8)
    labels[0, 10:50, 10:90] = frame
    labels[0, 20:30, 20:30] = inner
    np.testing.assert_array_equal(
        shapes.redraw(labels, lambda silhouette: shapes.hull(silhouette, 0)), labels
    )


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
    grown = shapes.grow_boxes(boxes, margin)
    assert contains(grown, boxes)
    middle = boxes[..., :2] + boxes[..., 2:]
    np.testing.assert_allclose(grown[..., :2] + grown[..., 2:], middle)


def test_growing_is_by_the_boxs_own_size() -> None:
    np.testing.assert_allclose(
        shapes.grow_boxes(np.array([[[10.0, 20.0, 30.0, 60.0], NAN_BOX]]), 0.1),
        [[[8.0, 16.0, 32.0, 64.0], NAN_BOX]],
    )


@quick
@given(box_tracks(), st.integers(0, 8))
def test_smoothing_only_grows(boxes: np.ndarray, window: int) -> None:
    smoothed = shapes.smooth_boxes(boxes, window)
    assert contains(smoothed, boxes)
    assert np.nanmin(smoothed, initial=0) >= 0
    assert np.nanmax(smoothed, initial=0) <= WIDTH


@quick
@given(box_tracks(gaps=False), st.integers(2, 8))
def test_smoothing_never_adds_jitter(boxes: np.ndarray, window: int) -> None:
    before = np.abs(np.diff(boxes, axis=1)).sum(axis=1)
    after = np.abs(np.diff(shapes.smooth_boxes(boxes, window), axis=1)).sum(axis=1)
    assert (after <= before + 1e-9).all()


def test_smoothing_calms_a_trembling_box() -> None:
    rng = np.random.default_rng(0)
    boxes = np.array([30.0, 20, 60, 50]) + rng.uniform(-3, 3, (1, 40, 4))
    jitter, calm = (
        np.abs(np.diff(b, axis=1)).mean() for b in (boxes, shapes.smooth_boxes(boxes, 5))
    )
    assert calm < 0.4 * jitter


@pytest.mark.parametrize("window", [2, 3, 4, 5])
def test_one_larger_box_swells_and_shrinks_alike(window: int) -> None:
    boxes = np.tile([20.0, 20, 40, 40], (1, 21, 1))
    boxes[0, 10] = [10, 15, 50, 60]
    smoothed = shapes.smooth_boxes(boxes, window)
    np.testing.assert_allclose(smoothed, smoothed[:, ::-1])
    assert (smoothed[0, 9] != boxes[0, 9]).all()


@quick
@given(box_tracks())
def test_a_window_of_one_frame_and_a_still_box_change_nothing(boxes: np.ndarray) -> None:
    np.testing.assert_array_equal(shapes.smooth_boxes(boxes, 1), boxes)
    still = np.tile([3.25, 4.5, 10.125, 20.0], (1, 9, 1))
    np.testing.assert_array_equal(shapes.smooth_boxes(still, 5), still)


def test_short_absences_are_bridged_and_long_ones_stay() -> None:
    boxes = np.full((1, 12, 4), np.nan)
    boxes[0, [1, 4, 8, 9]] = [[0, 0, 8, 8], [12, 6, 20, 14], [40, 40, 48, 48], [40, 40, 48, 48]]
    smoothed = shapes.smooth_boxes(boxes, 3)
    present = ~np.isnan(smoothed[0, :, 0])
    assert np.flatnonzero(present).tolist() == [1, 2, 3, 4, 8, 9]  # 2 absent < 3, 3 are not
    straight = np.array([[4, 2, 12, 10], [8, 4, 16, 12]], float)
    assert contains(smoothed[0, 2:4], straight, slack=1e-9)
    np.testing.assert_allclose(smoothed[0, 8], [40, 40, 48, 48])  # no mixing over the absence


@quick
@given(box_tracks(), st.sampled_from([1, 8, 16]))
def test_snapping_is_outward_to_the_grid_and_idempotent(boxes: np.ndarray, cell: int) -> None:
    snapped = shapes.snap_boxes(boxes, cell, WIDTH, HEIGHT)
    assert contains(snapped, boxes, slack=1e-4)
    present = ~np.isnan(boxes[..., 0])
    assert (snapped[present] % cell == 0).all()
    assert (np.abs(snapped - boxes)[present] < cell).all()
    np.testing.assert_array_equal(shapes.snap_boxes(snapped, cell, WIDTH, HEIGHT), snapped)


def test_snapping_clips_to_the_picture_and_forgives_float_arithmetic() -> None:
    boxes = np.array([[[-5.0, -9.0, 101.0, 59.0], [16 - 1e-9, 7.9, 24 + 1e-9, 8.1], NAN_BOX]])
    snapped = shapes.snap_boxes(boxes, 8, width=100, height=60)
    np.testing.assert_array_equal(snapped, [[[0, 0, 100, 60], [16, 0, 24, 16], NAN_BOX]])
    np.testing.assert_array_equal(shapes.snap_boxes(snapped, 8, 100, 60), snapped)


def test_the_smaller_box_is_in_front() -> None:
    boxes = np.array([[[2.0, 2, 6, 6], NAN_BOX], [[0.0, 0, 10, 10], [1.5, 1.5, 2.5, 2.5]]])
    labels = shapes.render_boxes(boxes, (4, 9), height=12, width=12)
    expected = np.zeros((2, 12, 12), np.uint8)
    expected[0, :10, :10], expected[0, 2:6, 2:6], expected[1, 1:3, 1:3] = 9, 4, 9
    np.testing.assert_array_equal(labels, expected)


def walking_objects() -> np.ndarray:
    """Object 1 (a cross) walks right, object 3 (a square) is gone in the last two frames."""
    labels = np.zeros((9, HEIGHT, WIDTH), np.uint8)
    for frame, picture in enumerate(labels):
        x = 20 + 3 * frame + 2 * (frame % 2)
        picture[20:44, x + 4 : x + 8] = picture[28:32, x : x + 12] = 1
        if frame < 7:
            picture[50:60, 4:14] = 3
    return labels


def test_boxes_of_objects_without_specks() -> None:
    labels = walking_objects()
    labels[2, 0, 95] = 1
    boxes, object_ids, notes = shapes.object_boxes(labels, min_area=0.001)
    assert object_ids == (1, 3)
    assert notes == ()
    assert boxes.shape == (2, 9, 4)
    assert boxes[0, 2].tolist() == [26, 20, 38, 44]
    assert boxes[1, 6].tolist() == [4, 50, 14, 60]
    assert np.isnan(boxes[1, 7:]).all()


@pytest.mark.parametrize("shape", get_args(MaskShape))
@pytest.mark.parametrize("margin", [0.0, 0.1, 0.4])
def test_every_shape_gives_labels_and_box_and_hull_cover_the_silhouettes(
    shape: MaskShape, margin: float
) -> None:
    mask = Mask(shape=shape, margin=margin, min_area=0.0)
    final_THW, notes = shapes.final_masks(walking_objects(), mask, cell=8)
    final = final_THW[:]
    assert final.shape == walking_objects().shape
    assert final.dtype == np.uint8
    assert final.any()
    assert notes == (), "for a full frame that is wanted, too"
    if shape in ("box", "hull"):
        assert (final[walking_objects() > 0] > 0).all()
    if shape in ("hull", "noisy"):
        assert set(np.unique(final)) == {0, 1, 3}
        assert (final != walking_objects()).any()
        assert not (final[7:] == 3).any()
    if shape == "full":
        assert (final == 1).all()


def test_the_box_is_made_of_whole_latent_cells() -> None:
    final = shapes.final_masks(walking_objects(), Mask(), cell=8)[0][:]
    cells = (final > 0).reshape(9, HEIGHT // 8, 8, WIDTH // 8, 8)
    np.testing.assert_array_equal(cells.all(axis=(2, 4)), cells.any(axis=(2, 4)))
    assert cells.any()
    assert not cells.all()
    assert set(np.unique(final)) == {0, 1, 3}


def test_the_box_uses_margin_and_smoothing() -> None:
    def area(margin: float, smooth: int) -> int:
        mask = Mask(margin=margin, smooth=smooth, min_area=0)
        final, _ = shapes.final_masks(walking_objects(), mask, cell=1)
        return int((final[:] > 0).sum())

    assert area(0, 1) < area(0.2, 1) < area(0.2, 5)


def test_tight_is_the_cleaned_silhouette() -> None:
    labels = walking_objects()
    labels[2, 0, 95] = 1
    final, _ = shapes.final_masks(labels, Mask(shape="tight", min_area=0.001), cell=8)
    np.testing.assert_array_equal(final, walking_objects())


def test_a_box_over_the_whole_frame_is_noted() -> None:
    labels = np.zeros((3, HEIGHT, WIDTH), np.uint8)
    labels[:, 30:34, 40:44] = 1
    labels[1, 4:60, 4:92] = 1
    final, notes = shapes.final_masks(labels, Mask(margin=0.0, smooth=1, min_area=0.0), cell=8)
    assert (final[1] == 1).all()
    (note,) = notes
    assert "the box covers the whole frame: nothing is left to keep (frames 1)" in note


@pytest.mark.parametrize("shape", ["box", "tight"])
def test_the_notes_about_small_objects_come_through(shape: MaskShape) -> None:
    _, notes = shapes.final_masks(walking_objects(), Mask(shape=shape, min_area=0.5), cell=8)
    assert len(notes) == 2


@pytest.mark.parametrize(
    ("box", "rows", "columns"),
    [
        ((4, 8, 20, 10), slice(8, 18), slice(4, 24)),
        ((-5, 60.5, 10.2, 100), slice(60, HEIGHT), slice(0, 6)),  # rounded outward, and clipped
    ],
)
def test_a_static_box(box: tuple[float, float, float, float], rows: slice, columns: slice) -> None:
    expected = np.zeros((3, HEIGHT, WIDTH), np.uint8)
    expected[:, rows, columns] = 1
    np.testing.assert_array_equal(shapes.static_box_labels(box, 3, HEIGHT, WIDTH), expected)


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ((10, 10, 0, 5), "no size"),
        ((10, 10, 5, -5), "no size"),
        ((96, 10, 5, 5), "outside"),
        ((10, -5, 5, 5), "outside"),
    ],
)
def test_an_impossible_static_box(box: tuple[float, float, float, float], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        shapes.static_box_labels(box, frames=3, height=HEIGHT, width=WIDTH)
    assert "96x64" in str(caught.value)
