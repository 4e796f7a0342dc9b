"""Clips and masks of the claims, and the figures of evolving looks."""

from pathlib import Path

import numpy as np
import pytest
import torch

from research.claims.claims import EVOLVING, FIRST, REMOVING, Subject, kind
from research.claims.trials import EARLY, LATE, Bench, draw_task, evolved, figures, open_base

BOX = draw_task(FIRST + 1, Subject())


def test_the_box_covers_the_edited_sprite_though_it_comes_from_the_source() -> None:
    for number in range(FIRST, FIRST + 12):
        case = draw_task(number, Subject())
        sprite_THW = case.sprite_THW
        assert (case.keep_THW.numpy() == 0)[sprite_THW].mean() > 0.99


def test_a_tight_mask_is_the_sources_outline() -> None:
    case = draw_task(FIRST + 1, Subject(mask="tight"))
    assert np.array_equal(case.keep_THW == 0, case.source_sprite_THW)


@pytest.mark.parametrize("mask", ["tight", "noisy"])
def test_whatever_the_mask_results_are_judged_in_the_box(mask: str) -> None:
    case = draw_task(FIRST + 1, Subject(mask=mask))  # type: ignore[arg-type]
    assert not np.array_equal(case.keep_THW, BOX.keep_THW)
    assert np.array_equal(case.region_THW, BOX.region_THW)
    assert np.array_equal(case.edited_THWC, BOX.edited_THWC)


@pytest.mark.parametrize("number", [FIRST, FIRST + 1])  # a growing disc, a drifting hue
def test_the_truth_has_evolved_and_the_still_look_has_not(number: int) -> None:
    case = draw_task(number, EVOLVING)
    assert np.array_equal(case.still_THWC[0], case.edited_THWC[0])
    right = figures(case.edited_THWC, case)
    wrong = figures(case.still_THWC, case)
    assert right["evolved"] == 1.0
    assert right["late_db"] == float("inf")
    assert wrong["evolved"] == 0.0
    assert wrong["late_db"] < 30
    assert right["early_db"] == float("inf")


def test_a_look_that_comes_too_early_is_told() -> None:
    case = draw_task(FIRST + 1, EVOLVING)
    hasty = case.edited_THWC.copy()
    hasty[1:5] = hasty[5:9]
    found = figures(hasty, case)
    assert (found["evolved"], found["late_db"]) == (1.0, float("inf"))
    assert found["early_db"] < 30


def test_a_clip_with_the_sources_colours_has_faded() -> None:
    number = next(each for each in range(FIRST, FIRST + 3) if kind(each) == "hue")
    case = draw_task(number, Subject())
    assert figures(case.edited_THWC, case)["faded"] == 0.0
    assert figures(case.source_THWC, case)["faded"] == 1.0
    assert figures(case.background_THWC, case)["faded"] == 0.0, "what is gone has not faded"
    half = np.where(np.arange(9)[:, None, None, None] < 5, case.edited_THWC, case.source_THWC)
    assert 0.4 < figures(half, case)["faded"] < 0.6


def test_a_clip_turned_back_into_its_source_has_not_grown() -> None:
    case = draw_task(FIRST + 1, Subject())
    assert (case.sprite_THW & ~case.source_sprite_THW).any()
    assert figures(case.edited_THWC, case)["grown"] == 1.0
    assert figures(case.source_THWC, case)["grown"] == 0.0
    # Which is why "hit" cannot tell: an edit of the shape keeps its colours.
    assert figures(case.source_THWC, case)["hit"] > 0.5


def test_of_a_removal_the_background_is_the_truth() -> None:
    case = draw_task(FIRST + 1, REMOVING)
    assert np.array_equal(case.edited_THWC, case.background_THWC)
    assert np.array_equal(case.keep_THW, BOX.keep_THW)
    right, wrong = (figures(shown, case) for shown in (case.background_THWC, case.source_THWC))
    assert right["inside_db"] == float("inf")
    assert wrong["inside_db"] < 20


def test_a_removal_is_learned_without_the_thing(untrained: Path, tmp_path: Path) -> None:
    case = draw_task(FIRST + 1, REMOVING)
    bench = Bench(open_base(untrained), case, tmp_path, seed=0)
    inside_THW, places = case.keep_THW == 0, set()
    for sample in bench.over_background(9):
        assert sample.ignored_THW is not None
        assert torch.equal(sample.ignored_THW, inside_THW)
        shown_CTHW = sample.condition_CTHW[:, inside_THW]
        assert (shown_CTHW == 0).all(), "of the thing nothing is shown"
        emptied_THW = (sample.keep_THW == 0) & ~inside_THW
        assert emptied_THW.any(), "and background is asked for elsewhere"
        places.add(sample.name)
    assert len(places) == 3


def test_half_of_the_pixels_evolved_is_half() -> None:
    truth = np.full((1, 2, 2, 3), 200, np.uint8)
    still = np.zeros((1, 2, 2, 3), np.uint8)
    background = np.full((1, 2, 2, 3), 60, np.uint8)
    result = truth.copy()
    result[:, 0] = 10
    assert evolved(result, truth, still, background, np.ones((1, 2, 2), bool)) == 0.5


def test_early_and_late_frames_are_the_second_latent_frame_and_the_last() -> None:
    assert list(range(9))[EARLY] == [1, 2, 3, 4]
    assert list(range(9))[LATE] == [5, 6, 7, 8]
    assert list(range(13))[LATE] == [9, 10, 11, 12]
