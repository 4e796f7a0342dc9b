"""To the model's grid and back, without moving the picture."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskora.video.fit import (
    Fit,
    FramePlacement,
    auto_size,
    fit_image,
    fit_labels,
    place,
    unfit_image,
    unfit_mask,
)

FITS: tuple[Fit, ...] = ("crop", "pad", "stretch")
SIDES = st.integers(16, 90)
PLACEMENTS = st.builds(
    place, st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES), st.sampled_from(FITS)
)


def ramp(width: int, height: int) -> np.ndarray:
    """(H, W, 3): red is the pixel centre's x, green its y, as exact as 8 bits are (times 2)."""
    y, x = np.mgrid[:height, :width] + 0.5
    return np.stack([x * 2, y * 2, 0 * x], axis=-1).round().astype(np.uint8)


def shown(placement: FramePlacement, margin: int) -> tuple[slice, slice]:
    """Rows and columns of the original that the workspace shows, less a margin."""
    (full_width, full_height), (x, y, w, h) = placement.original_size, placement.region
    return (
        slice(max(y, 0) + margin, min(y + h, full_height) - margin),
        slice(max(x, 0) + margin, min(x + w, full_width) - margin),
    )


@pytest.mark.parametrize(
    ("size", "multiple", "expected"),
    [((832, 480), 16, (832, 480)), ((480, 832), 16, (480, 832)), ((512, 512), 16, (640, 640))],
)
def test_auto_size_of_known_clips(
    size: tuple[int, int], multiple: int, expected: tuple[int, int]
) -> None:
    assert auto_size(*size, multiple) == expected


@given(st.integers(100, 4000), st.integers(100, 4000), st.sampled_from([8, 16, 32]))
def test_auto_size_keeps_aspect_and_area(width: int, height: int, multiple: int) -> None:
    found = auto_size(width, height, multiple)
    assert found[0] % multiple == found[1] % multiple == 0
    assert min(found) >= multiple
    if 1 / 3 < width / height < 3:
        assert abs(np.log(found[0] / found[1] * height / width)) < 0.08
        assert abs(np.log(found[0] * found[1] / (832 * 480))) < 0.1


@given(st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES), st.sampled_from(FITS))
def test_regions_are_centred_and_of_the_right_shape(
    original_size: tuple[int, int], size: tuple[int, int], fit: Fit
) -> None:
    placement = place(original_size, size, fit)
    (full_width, full_height), (x, y, w, h) = placement.original_size, placement.region
    assert abs((x + w / 2) - full_width / 2) <= 0.5
    assert abs((y + h / 2) - full_height / 2) <= 0.5
    if fit == "stretch":
        assert placement.region == (0, 0, full_width, full_height)
    else:
        assert min(x, y) >= 0 if fit == "crop" else max(x, y) <= 0
        assert (w == full_width) or (h == full_height)
        ideal = placement.size[0] / placement.size[1]
        assert abs(w - h * ideal) <= 0.51 * max(1, ideal)


@settings(deadline=None)
@given(PLACEMENTS)
def test_there_and_back_moves_nothing(placement: FramePlacement) -> None:
    """A ramp comes back as the same ramp: half a pixel's shift would be a whole level."""
    original = ramp(*placement.original_size)
    back = unfit_image(fit_image(original, placement), placement)
    assert back.shape == original.shape
    scale = max(placement.region[2] / placement.size[0], placement.region[3] / placement.size[1])
    inner = shown(placement, margin=int(3 * scale) + 3)
    error = back[inner].astype(float) - original[inner]
    if error.size:
        assert abs(error).max() <= 2
    if min(error.shape[:2]) >= 8:  # enough for rounding to even out
        assert abs(error.mean((0, 1))).max() < 0.7


@settings(deadline=None)
@given(PLACEMENTS)
def test_pixel_centres_are_exact(placement: FramePlacement) -> None:
    """Each workspace pixel shows the place in the original that its centre maps to."""
    fitted = fit_image(ramp(*placement.original_size), placement).astype(float)
    (width, height), (x, _, w, _) = placement.size, placement.region
    expected = x + (np.arange(width) + 0.5) * w / width
    margin = 3 * max(1, w / width)
    inner = (expected > max(x, 0) + margin) & (
        expected < min(x + w, placement.original_size[0]) - margin
    )
    row = fitted[height // 2, :, 0] / 2
    if inner.any():
        assert abs(row - expected)[inner].max() <= 0.75, "8 bits and an even count of pixels"
        assert abs((row - expected)[inner].mean()) < 0.3


@settings(deadline=None)
@given(PLACEMENTS, st.randoms(use_true_random=False))
def test_masks_come_back_where_they_were(placement: FramePlacement, chance) -> None:  # type: ignore[no-untyped-def]
    """A rectangle in the workspace lies in the original where its corners map to."""
    width, height = placement.size
    x0, y0 = chance.randrange(width // 2), chance.randrange(height // 2)
    x1, y1 = chance.randrange(width // 2, width) + 1, chance.randrange(height // 2, height) + 1
    mask = np.zeros((height, width), bool)
    mask[y0:y1, x0:x1] = True
    found = unfit_mask(mask, placement)
    assert found.shape == placement.original_size[::-1]
    assert found.dtype == bool
    x, y, w, h = placement.region
    rows, columns = np.mgrid[: found.shape[0], : found.shape[1]] + 0.5
    in_x, in_y = (columns - x) * width / w, (rows - y) * height / h
    expected = (in_x > x0) & (in_x < x1) & (in_y > y0) & (in_y < y1)
    edge = np.minimum.reduce([abs(in_x - x0), abs(in_x - x1), abs(in_y - y0), abs(in_y - y1)])
    sure = edge > 1e-3
    np.testing.assert_array_equal(found[sure], expected[sure])


@settings(deadline=None)
@given(PLACEMENTS)
def test_labels_are_those_under_each_pixel(placement: FramePlacement) -> None:
    """Growing: the one under the centre. Shrinking: one of those the pixel covers most of."""
    (full_width, full_height), (width, height) = placement.original_size, placement.size
    x, _, w, _ = placement.region
    numbers = np.arange(1, full_width + 1, dtype=np.uint8)
    fitted = fit_labels(np.tile(numbers, (full_height, 1)), placement)[height // 2]
    edges = x + np.arange(width + 1) * w / width
    starts, ends = edges[:-1, None], edges[1:, None]
    if w > width:
        overlaps = np.minimum(ends, numbers) - np.maximum(starts, numbers - 1.0)
        found = overlaps[np.arange(width), fitted.astype(int) - 1]
        sure = abs(overlaps.max(axis=1)) > 2e-3
        expected_any = overlaps.max(axis=1) > 0
        np.testing.assert_array_equal((fitted > 0)[sure], expected_any[sure])
        labelled = sure & (fitted > 0)
        assert (overlaps.max(axis=1) - found)[labelled].max(initial=0) < 5e-3
    else:
        under = (starts + ends)[:, 0] / 2
        sure = abs(under - np.round(under)) > 1e-3
        inside = (under > 0) & (under < full_width)
        expected = np.where(inside, np.floor(under) + 1, 0)
        np.testing.assert_array_equal(fitted[sure], expected[sure])


@settings(deadline=None)
@given(PLACEMENTS, st.data())
def test_nothing_small_is_lost(placement: FramePlacement, data: st.DataObject) -> None:
    """A single pixel of the original that the workspace shows is there, at its place."""
    rows, columns = shown(placement, margin=0)
    row = data.draw(st.integers(rows.start, rows.stop - 1))
    column = data.draw(st.integers(columns.start, columns.stop - 1))
    labels = np.zeros(placement.original_size[::-1], np.uint8)
    labels[row, column] = 3
    marked = np.argwhere(fit_labels(labels, placement) == 3)
    (width, height), (x, y, w, h) = placement.size, placement.region
    assert len(marked), "lost"
    middle = (marked + 0.5).mean(axis=0) * (h / height, w / width) + (y, x)
    assert abs(middle - (row + 0.5, column + 0.5)).max() <= 1 + max(h / height, w / width)


def test_the_label_of_the_largest_area_is_taken() -> None:
    labels = np.zeros((4, 12), np.uint8)
    labels[:2, :4], labels[2, :4] = 1, 2
    labels[:1, 4:8], labels[1:, 4:8] = 1, 2
    labels[3, 8] = 2
    fitted = fit_labels(labels, place((12, 4), (3, 1), "stretch"))
    assert fitted.tolist() == [[1, 2, 2]]


def test_labels_keep_their_numbers() -> None:
    labels = np.zeros((60, 100), np.uint8)
    labels[10:30, 20:50], labels[40:50, 70:90] = 1, 2
    for fit in FITS:
        placement = place((100, 60), (64, 64), fit)
        fitted = fit_labels(labels, placement)
        assert fitted.shape == (64, 64)
        assert set(np.unique(fitted)) <= {0, 1, 2}
        back_HW = unfit_mask(fitted == 1, placement)
        inner = shown(placement, margin=0)
        assert (back_HW[inner] != (labels == 1)[inner]).mean() < 0.05


def test_padding_is_black_and_unlabelled() -> None:
    placement = place((100, 50), (64, 64), "pad")
    image, labels = np.full((50, 100, 3), 255, np.uint8), np.ones((50, 100), np.uint8)
    fitted, fitted_labels = fit_image(image, placement), fit_labels(labels, placement)
    for edge in (slice(0, 14), slice(50, 64)):
        assert not fitted[edge].any()
        assert not fitted_labels[edge].any()
    assert (fitted[18:46] == 255).all()


def test_cropping_leaves_the_outside_empty_on_the_way_back() -> None:
    placement = place((100, 50), (64, 64), "crop")
    back = unfit_image(np.full((64, 64, 3), 255, np.uint8), placement)
    mask = unfit_mask(np.ones((64, 64), bool), placement)
    assert mask.sum() == 50 * 50
    assert not back[~mask].any()
    assert (back[mask] == 255).all()


def test_fine_detail_is_averaged_when_shrinking() -> None:
    checkers = (np.indices((120, 160)).sum(0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, -1)
    fitted = fit_image(checkers, place((160, 120), (40, 32), "stretch"))
    assert np.ptp(fitted) < 60
    assert abs(float(fitted.mean()) - 127.5) < 3


def test_a_crop_to_a_sliver_keeps_a_pixel() -> None:
    """Half a pixel of width is one, not none."""
    assert place((16, 16), (16, 512), "crop").region == (7, 0, 1, 16)
