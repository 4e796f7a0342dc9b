"""Known bad results stand below a good one, by the numbers and in words."""

import numpy as np
import pytest

from maskora.evaluation.measures import GROUPS, MEASURES, Numbers
from maskora.evaluation.verdict import bad_signs
from tests.evaluation.judging import judged
from tests.evaluation.scenes import BAD, Scene, draw_scene, good

# What each bad result is known by; those of the truth come last.
WORSE = {
    "frozen": ["motion_followed", "motion_speed", "follow_error", "hit_rate", "centroid_error"],
    "stiff": ["inside_psnr", "orientation_error"],
    "faded": ["edit_colours", "edit_change", "hit_rate", "object_found", "inside_psnr"],
    "vanished": ["edit_colours", "motion_followed", "hit_rate", "object_found", "inside_psnr"],
    "drifting": ["outside_psnr", "outside_ssim", "outside_l1"],
    "flickering": ["warp_error", "follow_error", "hit_rate", "inside_psnr", "inside_ssim"],
}
SIGNS = {
    "frozen": {"frozen", "vanished"},  # the object slides out of its own frozen box
    "faded": {"vanished"},
    "vanished": {"vanished"},
    "drifting": {"background"},
    "flickering": {"flicker"},
}
LARGER_IS_WORSE = {key for key, measure in MEASURES.items() if measure.better == "lower"}


@pytest.fixture(scope="module")
def scene() -> Scene:
    return draw_scene()


@pytest.fixture(scope="module")
def numbers(scene: Scene) -> dict[str, Numbers]:
    return {name: judged(scene, make(scene)) for name, make in {"good": good, **BAD}.items()}


@pytest.mark.parametrize(("name", "key"), [(name, key) for name in WORSE for key in WORSE[name]])
def test_a_bad_result_is_ranked_below_a_good_one(
    numbers: dict[str, Numbers], name: str, key: str
) -> None:
    bad, best = numbers[name].means[key], numbers["good"].means[key]
    margin = MEASURES[key].grain  # what a person would notice
    assert bad > best + margin if key in LARGER_IS_WORSE else bad < best - margin


@pytest.mark.parametrize("name", list(SIGNS))
def test_the_bad_sign_is_named_without_a_truth(scene: Scene, name: str) -> None:
    signs = bad_signs(judged(scene, BAD[name](scene), truth=False))
    assert {sign.name for sign in signs} == SIGNS[name]


def test_a_good_result_has_no_bad_sign(numbers: dict[str, Numbers]) -> None:
    assert bad_signs(numbers["good"]) == []


def test_an_object_that_does_not_turn_is_told_where_there_is_a_truth(
    numbers: dict[str, Numbers],
) -> None:
    (sign,) = bad_signs(numbers["stiff"])
    assert sign.name == "untrue"
    assert "turned by" in sign.message


def test_the_direction_of_fading_is_told(scene: Scene) -> None:
    titles = {
        name: bad_signs(judged(scene, BAD[name](scene), truth=False))[0].title
        for name in ("faded", "vanished")
    }
    assert titles == {
        "faded": "The edit turns back into the source",
        "vanished": "The edit's colours disappear",
    }


def test_the_truth_is_as_good_as_can_be(scene: Scene) -> None:
    means = judged(scene, scene.truth).means
    assert means["hit_rate"] == means["object_found"] == 1.0
    assert means["centroid_error"] == means["orientation_error"] == 0.0
    assert means["inside_psnr"] == means["outside_psnr"] == float("inf")


def test_frame_0_is_given_and_says_nothing_against_the_truth(scene: Scene) -> None:
    """However it came out, the figures are the same."""
    result = good(scene)
    spoilt = np.concatenate([scene.source[:1], result[1:]])
    numbers, other = judged(scene, result), judged(scene, spoilt)
    for key in GROUPS["Against the truth"]:
        assert numbers.curves[key][0] is None
        assert None not in numbers.curves[key][1:]
        assert numbers.means[key] == other.means[key]
        assert "Frame 0" in MEASURES[key].meaning


def test_the_source_follows_itself_exactly(scene: Scene) -> None:
    means = judged(scene, scene.source).means
    assert means["motion_followed"] == pytest.approx(1.0)
    assert means["motion_speed"] == pytest.approx(1.0)
    assert means["warp_error"] == means["follow_error"] == means["source_warp_error"]
    assert means["hit_rate"] == means["edit_change"] == 0.0
