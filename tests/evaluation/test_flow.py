"""Motion: known shifts are found, hidden pixels are left out, still frames follow nothing."""

import cv2
import numpy as np
import pytest

from maskora.evaluation.metrics import following, measure_flow, warp_error

WHERE = np.zeros((96, 128), bool)
WHERE[20:76, 30:98] = True


def texture(shift_x: int = 0, shift_y: int = 0) -> np.ndarray:
    """A window of a wide blurred noise, (96, 128, 3); the picture moves right and down."""
    noise = np.random.default_rng(0).normal(size=(160, 200, 3))
    picture = np.clip(128 + 300 * cv2.GaussianBlur(noise, (0, 0), 2.5), 0, 255).astype(np.uint8)
    return picture[30 - shift_y : 126 - shift_y, 30 - shift_x : 158 - shift_x].copy()


@pytest.mark.parametrize(("x", "y"), [(3, 0), (0, -2), (4, 3)])
def test_a_shift_is_found(x: int, y: int) -> None:
    flow = measure_flow(texture(), texture(x, y))
    assert np.median(flow.forward_HW2[WHERE], axis=0) == pytest.approx([x, y], abs=0.1)
    assert flow.seen_HW[WHERE].mean() > 0.98


def test_what_moves_as_a_whole_has_no_warp_error() -> None:
    first, second = texture(), texture(4, 3)
    error = warp_error(first, second, measure_flow(first, second), WHERE)
    assert error is not None
    assert error < 1.0
    assert np.abs(first.astype(int) - second)[WHERE].mean() > 10


def test_noise_that_is_new_in_each_frame_is_a_warp_error() -> None:
    random = np.random.default_rng(1)
    first, second = (
        np.clip(frame + random.normal(0, 30, frame.shape), 0, 255).astype(np.uint8)
        for frame in (texture(), texture(4, 3))
    )
    error = warp_error(first, second, measure_flow(first, second), WHERE)
    assert error is not None
    assert error > 10


def test_what_leaves_the_picture_is_not_seen() -> None:
    flow = measure_flow(texture(), texture(8, 0))
    assert flow.seen_HW[30:60, 30:90].mean() > 0.9
    assert not flow.seen_HW[:, -6:].any()


def test_hidden_pixels_are_not_seen() -> None:
    first, second = texture(), texture()
    second[30:60, 50:80] = texture(-25, 7)[30:60, 50:80]
    seen = measure_flow(first, second).seen_HW
    assert seen[36:54, 56:74].mean() < 0.5
    assert seen[:, :40].mean() > 0.95


def test_frames_follow_themselves() -> None:
    flow = measure_flow(texture(), texture(3, 1))
    found = following(flow, flow, WHERE)
    assert found is not None
    assert found.along == pytest.approx(found.source)
    assert found.speed == pytest.approx(found.source_speed)


def test_a_still_picture_follows_nothing() -> None:
    still, moving = measure_flow(texture(), texture()), measure_flow(texture(), texture(3, 1))
    found = following(still, moving, WHERE)
    assert found is not None
    assert abs(found.along) < 0.02 * found.source
    assert found.speed < 0.02 * found.source_speed


def test_motion_the_other_way_counts_against() -> None:
    back, forth = measure_flow(texture(3, 0), texture()), measure_flow(texture(), texture(3, 0))
    found = following(back, forth, WHERE)
    assert found is not None
    assert found.along == pytest.approx(-found.source, rel=0.05)
    assert found.speed == pytest.approx(found.source_speed, rel=0.05)


def test_where_the_source_stands_still_there_is_nothing_to_follow() -> None:
    still, moving = measure_flow(texture(), texture()), measure_flow(texture(), texture(3, 1))
    assert following(moving, still, WHERE) is None


def test_without_a_region_there_are_no_numbers() -> None:
    flow = measure_flow(texture(), texture(3, 1))
    nowhere = np.zeros_like(WHERE)
    assert warp_error(texture(), texture(3, 1), flow, nowhere) is None
    assert following(flow, flow, nowhere) is None
