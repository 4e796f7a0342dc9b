"""Silhouettes: specks, hulls, and the degraded mask."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskora.masks.shapes import (
    clean_silhouettes,
    frame_ranges,
    hull,
    noisy,
    redraw,
    silhouette_box,
)

HEIGHT, WIDTH = 60, 100


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
    assert frame_ranges(frames) == words


def test_specks_and_small_silhouettes_are_dropped_and_told() -> None:
    cleaned, notes = clean_silhouettes(scene(), min_area=0.01)
    expected = np.zeros_like(scene())
    expected[0, 10:30, 10:30] = 1
    np.testing.assert_array_equal(cleaned, expected)
    (note,) = notes
    assert "object 1" in note
    assert "frames 1:" in note


def test_parts_of_exactly_the_least_area_stay() -> None:
    cleaned, notes = clean_silhouettes(scene(), min_area=4 / (HEIGHT * WIDTH))
    np.testing.assert_array_equal(cleaned, scene())
    assert notes == ()


def test_parts_that_touch_at_a_corner_are_one() -> None:
    labels = np.zeros((1, HEIGHT, WIDTH), np.uint8)
    labels[0, 10:20, 10:20] = labels[0, 20:22, 20:22] = 1
    cleaned, _ = clean_silhouettes(labels, min_area=0.01)
    np.testing.assert_array_equal(cleaned, labels)


def test_an_object_that_is_always_small_keeps_its_biggest_part() -> None:
    labels = scene()
    labels[:, 2:4, 60:62] = labels[:, 40, 40] = 7
    cleaned, notes = clean_silhouettes(labels, min_area=0.01)
    expected = np.zeros_like(labels)
    expected[:, 2:4, 60:62] = 7
    np.testing.assert_array_equal(cleaned == 7, expected == 7)
    assert any("object 7" in note and "biggest part" in note for note in notes)


def test_nothing_marked_stays_nothing() -> None:
    cleaned, notes = clean_silhouettes(np.zeros((3, HEIGHT, WIDTH), np.uint8), min_area=0.01)
    assert not cleaned.any()
    assert notes == ()


def test_silhouette_box_is_half_open() -> None:
    assert silhouette_box(scene()[0] > 0) == (10, 10, 92, 52)


@settings(deadline=None, max_examples=60)
@given(silhouettes(), st.floats(0, 0.5))
def test_the_hull_covers_and_has_no_holes(silhouette: np.ndarray, margin: float) -> None:
    region = hull(silhouette, margin)
    assert region[silhouette].all()
    for lines in (region, region.T):
        for line in lines:
            inside = np.flatnonzero(line)
            assert len(inside) == 0 or inside[-1] - inside[0] + 1 == len(inside)


def test_the_hull_grows_by_the_margin_of_the_box() -> None:
    silhouette = np.zeros((HEIGHT, WIDTH), bool)
    silhouette[20:40, 30:70] = True
    assert silhouette_box(hull(silhouette, 0.0)) == (30, 20, 70, 40)
    region = hull(silhouette, 0.25)
    assert silhouette_box(region) == (20, 15, 80, 45)
    assert not region[15, 20]  # the corner is rounded


def test_the_hull_of_a_corner_fills_the_triangle_between() -> None:
    silhouette = np.zeros((HEIGHT, WIDTH), bool)
    silhouette[10:50, 10] = silhouette[49, 10:50] = True
    region = hull(silhouette, 0.0)
    assert region[40, 20]
    assert not region[20, 40]


@settings(deadline=None, max_examples=60)
@given(silhouettes())
def test_noisy_stays_in_the_box_and_never_vanishes(silhouette: np.ndarray) -> None:
    region = noisy(silhouette)
    x0, y0, x1, y1 = silhouette_box(silhouette)
    assert region[y0:y1, x0:x1].any()
    region[y0:y1, x0:x1] = False
    assert not region.any()


def test_noisy_has_the_blocks_of_a_seven_by_seven_grid() -> None:
    rows, columns = np.mgrid[:70, :70]
    disc = (rows - 34.5) ** 2 + (columns - 34.5) ** 2 <= 35**2
    region = noisy(disc)
    blocks = region.reshape(7, 10, 7, 10).transpose(0, 2, 1, 3).reshape(49, 100)
    assert ((blocks == blocks[:, :1]).all(axis=1)).all()
    assert (region != disc).any()
    assert abs(int(region.sum()) - int(disc.sum())) < 0.1 * disc.sum()


def test_noisy_keeps_a_thin_line() -> None:
    line = np.eye(HEIGHT, WIDTH, dtype=bool)
    region = noisy(line)
    assert region.any()
    assert not region.all()


@pytest.mark.parametrize("numbers", [(1, 2), (2, 1)])
def test_the_smaller_object_is_in_front(numbers: tuple[int, int]) -> None:
    frame, inner = numbers
    labels = np.zeros((1, HEIGHT, WIDTH), np.uint8)
    labels[0, 10:50, 10:90] = frame
    labels[0, 20:30, 20:30] = inner
    np.testing.assert_array_equal(redraw(labels, lambda silhouette: hull(silhouette, 0)), labels)
