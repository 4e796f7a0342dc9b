"""Compositing: outside the edit nothing changes, the blend lies inside; and the contact sheet."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskora.video.composite import composite, contact_sheet, feather_alpha, paste_over_original
from maskora.video.fit import Fit, place, unfit_image, unfit_mask

FITS = st.sampled_from(["crop", "pad", "stretch"])


def noise(height: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def box(height: int, width: int, x: int, y: int, w: int, h: int) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[y : y + h, x : x + w] = True
    return mask


@pytest.mark.parametrize("feather", [0, 1, 4, 8.5])
def test_alpha_rises_inside_only(feather: float) -> None:
    edit = box(60, 80, 20, 15, 40, 30)
    alpha = feather_alpha(edit, feather)
    assert alpha.dtype == np.float32
    assert not alpha[~edit].any()
    assert alpha.max() == 1
    row = alpha[30, 20:40]
    assert (np.diff(row) >= 0).all()
    deep = int(np.ceil(feather)) + 1
    assert (row[deep:] == 1).all(), "1 from `feather` pixels deep on"
    if feather > 1:
        assert 0 < row[0] < 0.5
        assert (row[: int(feather) - 1] < 1).all(), "and not before"


def test_no_feather_at_the_border_of_the_picture() -> None:
    alpha = feather_alpha(box(40, 60, 0, 0, 30, 40), 6)
    assert (alpha[:, :20] == 1).all()
    assert (alpha[:, 29] < 0.5).all()
    assert (feather_alpha(np.ones((5, 5), bool), 6) == 1).all()
    assert not feather_alpha(np.zeros((5, 5), bool), 6).any()


@given(st.integers(0, 1000), st.floats(0, 12))
def test_composite_is_exact_at_both_ends(seed: int, feather: float) -> None:
    source, generated = noise(30, 40, seed), noise(30, 40, seed + 1)
    alpha = feather_alpha(box(30, 40, seed % 7, seed % 5, 25, 20), feather)
    result = composite(source, generated, alpha)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result[alpha == 0], source[alpha == 0])
    np.testing.assert_array_equal(result[alpha == 1], generated[alpha == 1])
    low, high = np.minimum(source, generated), np.maximum(source, generated)
    assert ((result >= low) & (result <= high)).all()


@settings(deadline=None)
@given(FITS, st.integers(24, 90), st.integers(24, 90), st.floats(0, 10), st.integers(0, 99))
def test_pasting_touches_the_region_alone(
    fit: Fit, width: int, height: int, feather: float, seed: int
) -> None:
    placement = place((width, height), (48, 32), fit)
    original, generated = noise(height, width, seed), noise(32, 48, seed + 1)
    edit = box(32, 48, seed % 20, seed % 11, 20, 16)
    kept = original.copy()
    result = paste_over_original(original, generated, edit, placement, feather)
    region = unfit_mask(edit, placement)
    np.testing.assert_array_equal(result[~region], kept[~region])
    np.testing.assert_array_equal(original, kept, "the original is left alone")
    if feather == 0:
        whole = unfit_image(generated, placement)
        np.testing.assert_array_equal(result[region], whole[region])


def test_a_pasted_edge_lies_where_the_mask_says() -> None:
    """White over black, twice as large: the square's edges, and its feather, scale with it."""
    placement = place((160, 96), (80, 48), "stretch")
    white, black = np.full((48, 80, 3), 255, np.uint8), np.zeros((96, 160, 3), np.uint8)
    edit = box(48, 80, 10, 12, 40, 30)
    hard = paste_over_original(black, white, edit, placement, 0)
    assert (hard[24:84, 20:100] == 255).all()
    assert hard.sum() == 60 * 80 * 3 * 255
    soft = paste_over_original(black, white, edit, placement, 4)
    row = soft[50, 20:60, 0].astype(int)
    assert row[0] < 40
    assert row[6] < 255
    assert (row[8:] == 255).all(), "4 workspace pixels are 8 of the original"
    column = soft[24:84, 60, 0]
    np.testing.assert_array_equal(column[:30], row[:30], "the same from above")
    np.testing.assert_array_equal(column[30:], row[:30][::-1], "and from below")


def test_an_empty_mask_changes_nothing() -> None:
    original = noise(40, 60, 1)
    empty = np.zeros((32, 48), bool)
    placement = place((60, 40), (48, 32), "crop")
    result = paste_over_original(original, noise(32, 48, 2), empty, placement, 4)
    np.testing.assert_array_equal(result, original)
    assert result is not original


def test_a_sheet_shows_frames_boxes_and_numbers() -> None:
    frames = [np.full((120, 160, 3), 40 * (i + 1), np.uint8) for i in range(5)]
    labels = [np.zeros((120, 160), np.uint8) for _ in frames]
    labels[1][60:100, 20:60], labels[1][60:100, 90:140] = 1, 2
    sheet = contact_sheet(frames, labels, range(5), columns=3, width=600)
    assert sheet.dtype == np.uint8
    assert abs(sheet.shape[1] - 600) <= 12
    assert sheet.shape[0] > 2 * 140, "two rows"
    plain = contact_sheet(frames, [np.zeros_like(x) for x in labels], range(5), 3, 600)
    changed = np.argwhere((sheet != plain).any(-1))
    assert changed.size, "the boxes are drawn"
    assert (changed[:, 0] < sheet.shape[0] // 2).all(), "on the second frame alone"
    assert (abs(changed[:, 1] - 300) < 110).all()
    coloured = {tuple(c) for c in sheet.reshape(-1, 3) if np.ptp(c.astype(int)) > 100}
    assert len(coloured) == 2, "a colour for each object"
    numbered = contact_sheet(frames, labels, range(5, 10), 3, 600)
    assert (numbered != sheet).any()


def test_an_outline_follows_the_shape() -> None:
    """Of an L, the corner that is left out stays as it was."""
    frame = np.full((120, 160, 3), 90, np.uint8)
    labels = np.zeros((120, 160), np.uint8)
    labels[40:100, 40:60], labels[80:100, 40:140] = 1, 1
    sheets = [contact_sheet([frame], [x], [""], 1, 168) for x in (labels, np.zeros_like(labels))]
    changed = (sheets[0] != sheets[1]).any(-1)[4:124, 4:164]
    assert changed[labels > 0].all()
    assert not changed[36:76, 66:146].any(), "no bounding box around it"
    assert not changed[:, 144:].any()
