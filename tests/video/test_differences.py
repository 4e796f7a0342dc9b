"""Differences outside the mask, measured and shown."""

import numpy as np
import pytest

from maskora.video.differences import heat, measure_leakage


def test_leakage_is_measured_outside_the_mask_alone() -> None:
    source, labels = np.full((8, 8, 3), 100, np.uint8), np.zeros((8, 8), np.uint8)
    labels[:4] = 2  # an object: half of the picture is outside
    edited = source.copy()
    edited[:4] = 255
    edited[4, :, 0] = 70  # a row of four, visibly
    edited[5, :, 1] = 110  # another, hardly
    found = measure_leakage(edited, source, labels)
    assert found.share == 0.25
    assert found.mean == pytest.approx((30 + 10) / (4 * 3))
    assert np.unique(found.difference_HW[:4]).tolist() == [0]
    assert found.difference_HW[4:6, 0].tolist() == [30, 10]
    seen = heat(found.difference_HW).astype(int).sum(axis=-1)
    assert seen[4, 0] > seen[5, 0] > seen[0, 0]
    nothing = measure_leakage(edited, source, np.ones_like(labels))
    assert (nothing.mean, nothing.share) == (0.0, 0.0)
