"""Intervals of known numbers, and the rule of the marks."""

import math

import pytest
from scipy import stats

from research.claims import claims
from research.claims.claims import CLAIMS, CONDITIONS, Comparison, Interval, interval, mark

ABOVE, BELOW, ACROSS = Interval(2, 1, 3), Interval(-2, -3, -1), Interval(0, -1, 1)


def test_the_interval_is_students_t() -> None:
    values = [0.3, 0.1, 0.5, 0.2, 0.45]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = interval(values)
    assert found.mean == pytest.approx(0.31)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_a_scene_without_a_figure_does_not_count() -> None:
    assert interval([1.0, math.nan, 2.0]) == interval([1.0, 2.0])


def test_of_less_than_two_scenes_nothing_is_known() -> None:
    found = interval([math.nan, 1.0])
    assert math.isnan(found.mean)
    assert found.toward(1, 0.0) == 0
    assert mark(Comparison("a", "b", ("hit",)), {"hit": found}) == "undecided"


def test_a_scene_counts_once_however_many_seeds_it_has() -> None:
    assert claims.by_scene({(7, 0): 1.0, (7, 1): 3.0, (8, 0): 5.0}) == {7: 2.0, 8: 5.0}


def test_pairs_are_of_one_scene_and_seed() -> None:
    ours = {(1, 0): 5.0, (1, 1): 7.0, (2, 0): 1.0, (2, 1): 1.0}
    other = {(2, 1): 2.0, (1, 0): 1.0, (2, 0): 0.0, (1, 1): 1.0}
    assert claims.paired(ours, other) == {1: 5.0, 2: 0.0}


@pytest.mark.parametrize(
    ("strict", "angle", "expected"),
    [
        (ABOVE, BELOW, "reproduced"),  # less of an angle is better
        (ABOVE, ACROSS, "undecided"),
        (ACROSS, ACROSS, "undecided"),
        (ABOVE, ABOVE, "not reproduced"),
        (BELOW, ACROSS, "not reproduced"),
    ],
)
def test_every_headline_figure_must_lie_on_the_claimed_side(
    strict: Interval, angle: Interval, expected: str
) -> None:
    comparison = Comparison("a", "b", ("strict", "angle"))
    assert mark(comparison, {"strict": strict, "angle": angle, "hit": BELOW}) == expected


@pytest.mark.parametrize(
    ("hit", "angle", "expected"),
    [
        (Interval(-0.02, -0.04, 0.0), Interval(1, -3, 5), "reproduced"),
        (Interval(-0.02, -0.06, 0.02), Interval(1, -3, 5), "undecided"),
        (Interval(0.0, -0.01, 0.01), Interval(9, 4, 14), "undecided"),
        (Interval(-0.2, -0.3, -0.1), Interval(1, -3, 5), "not reproduced"),
        (Interval(0.0, -0.01, 0.01), Interval(20, 15, 25), "not reproduced"),
    ],
)
def test_no_worse_allows_its_margin(hit: Interval, angle: Interval, expected: str) -> None:
    comparison = Comparison("a", "b", ("hit", "angle"), {"hit": 0.05, "angle": 10.0})
    assert mark(comparison, {"hit": hit, "angle": angle}) == expected


@pytest.mark.parametrize("kinds", [claims.ALL, claims.SHAPES, claims.HUES])
def test_every_comparison_has_its_scenes(kinds: tuple[str, ...]) -> None:
    numbers = claims.scenes_of(kinds, 16)
    assert len(set(numbers)) == 16
    assert {claims.kind(number) for number in numbers} == set(kinds)


def test_more_is_better_but_of_errors() -> None:
    assert {figure for figure, sign in claims.BETTER.items() if sign < 0} == {
        "centroid", "angle", "faded",
    }  # fmt: skip
    assert set(claims.BETTER.values()) == {1, -1}


def test_figures_that_a_clip_turned_back_would_win_are_asked_of_the_hue() -> None:
    """On an edit of the shape, the source has the right colours in nearly the right place."""
    for claim in CLAIMS:
        for each in claim.comparisons:
            if {"angle", "centroid", "strict", "hit"} & set(each.headline):
                assert each.kinds == claims.HUES


def test_claims_name_conditions_and_figures_that_exist() -> None:
    for claim in CLAIMS:
        for each in claim.comparisons:
            assert {each.ours, each.other, *each.beside} <= CONDITIONS.keys()
            assert set(each.headline) <= claims.BETTER.keys()
            assert set(each.margins) <= set(each.headline)


def test_all_conditions_are_run_and_none_twice() -> None:
    wanted = claims.keys(CLAIMS, 3, 2, tables=True)
    assert len(set(wanted)) == len(wanted)
    assert {name for name, _, _ in wanted} == CONDITIONS.keys()
    assert {seed for _, _, seed in wanted} == {0, 1}


def test_of_long_clips_there_are_fewer_scenes_and_seeds() -> None:
    wanted = claims.keys(CLAIMS, 16, 3, tables=True)
    for name, scenes, seeds in [("i2vedit", 16, 3), ("i2vedit, 49 frames", 8, 1)]:
        own = [(scene, seed) for condition, scene, seed in wanted if condition == name]
        assert len({scene for scene, _ in own}) == scenes
        assert {seed for _, seed in own} == set(range(seeds))
