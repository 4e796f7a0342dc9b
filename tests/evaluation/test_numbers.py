"""Means, words and worst frames, on numbers made by hand."""

import math

import pytest

from maskora.evaluation.measures import GROUPS, MEASURES, Numbers, gather, told
from maskora.evaluation.report import told_worst
from maskora.evaluation.verdict import COMPARED, Worst, bad_signs, worst_frames


def test_a_psnr_is_that_of_the_mean_squared_error() -> None:
    numbers = gather([{"outside_mse": 0.0}, {"outside_mse": 2 * 255.0**2 / 1000}])
    assert numbers.curves["outside_psnr"] == [math.inf, pytest.approx(26.9897, abs=1e-4)]
    assert numbers.means["outside_psnr"] == pytest.approx(30.0)


def test_motion_is_weighed_by_how_much_there_is() -> None:
    rows = [{"motion_along": 9.0, "motion_source": 10.0}, {"motion_along": 0.0, "motion_source": 5}]
    numbers = gather(rows)
    assert numbers.curves["motion_followed"] == [0.9, 0.0]
    assert numbers.means["motion_followed"] == pytest.approx(0.6)


def test_frames_without_a_value_are_left_out_of_the_mean() -> None:
    numbers = gather([{}, {"hit_rate": 0.5}, {"hit_rate": None}, {"hit_rate": 1.0}])
    assert numbers.curves == {"hit_rate": [None, 0.5, None, 1.0]}
    assert numbers.means == {"hit_rate": 0.75}
    assert numbers.frames == 4


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("outside_psnr", 31.234, "31.2 dB"),
        ("outside_psnr", math.inf, "identical"),
        ("clip_score", 0.91724, "0.9172"),
        ("orientation_error", 12.34, "12.3°"),
        ("centroid_error", None, "–"),
        ("edit_colours", 0.5, "0.50"),
    ],
)
def test_values_are_told(key: str, value: float | None, words: str) -> None:
    assert told(key, value) == words


def test_every_measure_is_shown_once_or_beside_another() -> None:
    shown = [key for keys in GROUPS.values() for key in keys]
    beside = {measure.beside for measure in MEASURES.values()} - {None}
    assert len(shown) == len(set(shown))
    assert set(shown) | beside == set(MEASURES)
    assert all(MEASURES[key].better is not None for key in COMPARED)


def numbers(**curves: list[float | None]) -> Numbers:
    return Numbers(len(next(iter(curves.values()))), curves, {})


def test_the_worst_frames_are_named_with_their_worst_measure() -> None:
    found = worst_frames(
        numbers(
            hit_rate=[0.9, 0.88, 0.91, 0.2, 0.9, 0.9, None],
            warp_error=[2.0, 2.1, 1.9, 30.0, 2.0, 9.0, 2.0],
        )
    )
    assert found == [Worst(3, "warp_error", 30.0, 2.0), Worst(5, "warp_error", 9.0, 2.0)]


def test_better_frames_do_not_stand_out() -> None:
    assert worst_frames(numbers(outside_psnr=[math.inf, 40.0, 40.0, 40.0, 40.0])) == []


def test_among_identical_frames_one_that_differs_stands_out() -> None:
    found = worst_frames(numbers(outside_psnr=[math.inf, math.inf, math.inf, 41.0]))
    assert found == [Worst(3, "outside_psnr", 41.0, math.inf)]
    assert told_worst(found[0]) == "PSNR outside the mask 41.0 dB (median identical)"


def test_large_errors_are_compared_as_they_are() -> None:
    found = worst_frames(numbers(centroid_error=[120.0, 121.0, 119.0, 300.0]))
    assert found == [Worst(3, "centroid_error", 300.0, 120.5)]


def test_what_nobody_would_notice_does_not_stand_out() -> None:
    assert worst_frames(numbers(hit_rate=[0.9, 0.9, 0.9, 0.9, 0.8])) == []


def test_nothing_measured_is_no_bad_sign() -> None:
    assert bad_signs(Numbers(3, {}, {})) == []
    assert worst_frames(Numbers(3, {}, {})) == []
