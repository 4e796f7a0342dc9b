"""Results judged: totals and verdict; bad results below a good one, rendered and real."""

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from maskora.evaluation.judge import (
    GROUPS,
    MEASURES,
    FrameSet,
    Numbers,
    Scorers,
    SegmentMeans,
    format_value,
    gather,
    gather_segments,
    judge,
)
from maskora.evaluation.metrics import edit_colours
from maskora.evaluation.report import worst_reason
from maskora.evaluation.verdict import (
    COMPARED,
    MOST_SEGMENTS,
    OF_SEGMENTS,
    Worst,
    bad_signs,
    worst_frames,
)
from maskora.video.probe import probe
from maskora.video.read import read_frames
from tests.evaluation.scenes import SCENE, good, judged, judged_as


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
    assert format_value(key, value) == words


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
    large = worst_frames(numbers(centroid_error=[120.0, 121.0, 119.0, 300.0]))
    assert large == [Worst(3, "centroid_error", 300.0, 120.5)]


def test_among_identical_frames_one_that_differs_stands_out() -> None:
    found = worst_frames(numbers(outside_psnr=[math.inf, math.inf, math.inf, 41.0]))
    assert found == [Worst(3, "outside_psnr", 41.0, math.inf)]
    assert worst_reason(found[0]) == "PSNR outside the mask 41.0 dB (median identical)"


def test_better_frames_and_what_nobody_would_notice_do_not_stand_out() -> None:
    assert worst_frames(numbers(outside_psnr=[math.inf, 40.0, 40.0, 40.0, 40.0])) == []
    assert worst_frames(numbers(hit_rate=[0.9, 0.9, 0.9, 0.9, 0.8])) == []


def test_nothing_measured_is_no_bad_sign() -> None:
    assert bad_signs(Numbers(3, {}, {})) == []
    assert worst_frames(Numbers(3, {}, {})) == []


def test_a_segment_has_the_means_of_its_own_frames() -> None:
    rows = [{"edit_colours": float(n), "outside_mse": 0.0} for n in range(7)]
    first, last = gather_segments(rows, [0, 4, 4])
    assert first == SegmentMeans(1, 0, 4, {"outside_psnr": math.inf, "edit_colours": 1.5})
    assert (last.number, last.start, last.stop, last.means["edit_colours"]) == (3, 4, 7, 5.0)
    assert last.title == "segment 3 (frames 4 to 6)"
    assert gather_segments(rows, []) == []


def in_segments(key: str, *means: float) -> list[SegmentMeans]:
    return [SegmentMeans(n, 9 * n - 9, 9 * n, {key: mean}) for n, mean in enumerate(means, 1)]


@pytest.mark.parametrize(
    ("key", "means", "named"),
    [
        ("edit_colours", (0.95, 0.70, 0.60, 1.2), [3]),
        ("outside_l1", (1.0, 2.4, 2.6, 0.0), [3]),
        ("outside_psnr", (math.inf, 60.0), []),
        ("edit_colours", (0.2, 0.0), []),
    ],
)
def test_segments_are_named_from_three_grains_below_the_first(
    key: str, means: tuple[float, ...], named: list[int]
) -> None:
    signs = bad_signs(Numbers(9, {}, {}), in_segments(key, *means))
    titles = [f"segment {n} (frames {9 * n - 9} to {9 * n - 1})" for n in named]
    assert [sign.name for sign in signs] == ["segments"] * bool(named)
    for sign in signs:
        assert all(title in sign.message.lower() for title in titles)
        assert sign.message.count("in the first") == len(titles), "and none but these"


def test_a_segment_is_named_with_both_numbers_and_not_every_one_is() -> None:
    falling = in_segments("edit_colours", 1.0, *[0.3] * (MOST_SEGMENTS + 2))
    (sign,) = bad_signs(Numbers(9, {}, {}), falling)
    assert sign.message.startswith(
        "Segment 2 (frames 9 to 17): colours of the edit kept 0.30 (in the first 1.00); segment 3 "
    )
    assert "; 2 more. An edited keyframe" in sign.message
    assert f"segment {MOST_SEGMENTS + 2} " not in sign.message
    assert all(MEASURES[key].better is not None for key in OF_SEGMENTS)
    assert bad_signs(Numbers(9, {}, {}), [*falling[:1], SegmentMeans(2, 9, 18, {})]) == []


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


@pytest.mark.parametrize(("name", "key"), [(name, key) for name in WORSE for key in WORSE[name]])
def test_a_bad_result_is_ranked_below_a_good_one(name: str, key: str) -> None:
    bad, best = judged_as(name).means[key], judged_as("good").means[key]
    margin = MEASURES[key].grain  # what a person would notice
    assert bad > best + margin if key in LARGER_IS_WORSE else bad < best - margin


@pytest.mark.parametrize("name", list(SIGNS))
def test_the_bad_sign_is_named_without_a_truth(name: str) -> None:
    signs = bad_signs(judged_as(name, truth=False))
    assert {sign.name for sign in signs} == SIGNS[name]


def test_an_object_that_does_not_turn_is_told_where_there_is_a_truth() -> None:
    assert bad_signs(judged_as("good")) == []
    (sign,) = bad_signs(judged_as("stiff"))
    assert sign.name == "untrue"
    assert "turned by" in sign.message


def test_the_direction_of_fading_is_told() -> None:
    titles = {
        name: bad_signs(judged_as(name, truth=False))[0].title for name in ("faded", "vanished")
    }
    assert titles == {
        "faded": "The edit turns back into the source",
        "vanished": "The edit's colours disappear",
    }


def test_the_truth_is_as_good_as_can_be() -> None:
    means = judged(SCENE.truth).means
    assert means["hit_rate"] == means["object_found"] == 1.0
    assert means["centroid_error"] == means["orientation_error"] == 0.0
    assert means["inside_psnr"] == means["outside_psnr"] == float("inf")


def test_frame_0_is_given_and_says_nothing_against_the_truth() -> None:
    """However it came out, the figures are the same."""
    spoilt = np.concatenate([SCENE.source[:1], good()[1:]])
    numbers, other = judged_as("good"), judged(spoilt)
    for key in GROUPS["Against the truth"]:
        assert numbers.curves[key][0] is None
        assert None not in numbers.curves[key][1:]
        assert numbers.means[key] == other.means[key]
        assert "Frame 0" in MEASURES[key].meaning


def test_the_source_follows_itself_exactly() -> None:
    means = judged(SCENE.source).means
    assert means["motion_followed"] == pytest.approx(1.0)
    assert means["motion_speed"] == pytest.approx(1.0)
    assert means["warp_error"] == means["follow_error"] == means["source_warp_error"]
    assert means["hit_rate"] == means["edit_change"] == 0.0


REAL_FRAMES, SIDE = 13, 256
INSIDE = np.zeros((SIDE, SIDE), bool)
INSIDE[60:250, 75:185] = True


@pytest.fixture(scope="module")
def source(real_clips: Path) -> np.ndarray:
    """A man who walks towards the camera."""
    frames = read_frames(probe(real_clips / "man_walking" / "source.mp4"), 0, REAL_FRAMES)
    size = (SIDE, SIDE)
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames])


def recoloured(frame_HWC: np.ndarray) -> np.ndarray:
    """The inside in other hues."""
    hsv = cv2.cvtColor(frame_HWC, cv2.COLOR_RGB2HSV).astype(int)
    hsv[..., 0] = (hsv[..., 0] + 60) % 180
    hsv[..., 1] = np.clip(hsv[..., 1] * 1.3 + 40, 0, 255)
    shown = cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB)
    return np.where(INSIDE[..., None], shown, frame_HWC)


@pytest.fixture(scope="module")
def real(source: np.ndarray) -> dict[str, np.ndarray]:
    """Results of the real clip: a good one, and some that fail in a known way."""
    edited = np.stack([recoloured(frame) for frame in source])
    blurred = np.stack([cv2.GaussianBlur(frame, (0, 0), 1) for frame in edited])
    drifting = np.stack([np.roll(frame, n // 4, axis=1) for n, frame in enumerate(source)])
    share = np.clip(np.arange(REAL_FRAMES) / 8, 0, 1)[:, None, None, None]
    return {
        "good": np.where(INSIDE[..., None], blurred, source),
        "frozen": np.where(INSIDE[..., None], edited[0], source),
        "faded": np.rint(edited * (1 - share) + source * share).astype(np.uint8),
        "drifting": np.where(INSIDE[..., None], edited, drifting),
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [("good", []), ("frozen", ["frozen"]), ("faded", ["vanished"]), ("drifting", ["background"])],
)
def test_the_signs_of_results_of_a_real_clip(
    source: np.ndarray, real: dict[str, np.ndarray], name: str, expected: list[str]
) -> None:
    first = recoloured(source[0])
    frames = (FrameSet(real[name][n], source[n], INSIDE) for n in range(REAL_FRAMES))
    rows = judge(frames, edit_colours([(first, source[0], INSIDE)]), Scorers(first))
    assert [sign.name for sign in bad_signs(gather(list(rows)))] == expected


def colours(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """A stand-in for a CLIP: a picture's features are its mean colour, of length one."""
    means = np.stack([picture.reshape(-1, 3).mean(axis=0) for picture in pictures])
    return means / np.linalg.norm(means, axis=-1, keepdims=True)


def test_similarities_are_of_frames_or_of_the_region() -> None:
    def painted(background: int, inside: int) -> np.ndarray:
        """A frame of one pure colour with a square of another."""
        frame = np.zeros((8, 8, 3), np.uint8)
        frame[..., background] = 200
        frame[2:6, 2:6] = 0
        frame[2:6, 2:6, inside] = 200
        return frame

    red, green, blue = range(3)
    square = np.zeros((8, 8), bool)
    square[2:6, 2:6] = True
    scorers = Scorers(
        painted(red, green), colours, None, painted(blue, blue), np.array([0.0, 1.0, 0.0])
    )
    result, source = painted(red, green), painted(red, red)
    first = scorers.columns(FrameSet(result, source, square))
    share = 1 / np.hypot(3, 1)  # three quarters of the frame are red, a quarter is green
    assert first == {
        "clip_score": pytest.approx(1.0),
        "input_similarity": pytest.approx(3 * share),
        "text_alignment": pytest.approx(share),
        "region_text_alignment": pytest.approx(1.0),
        "reference_similarity": pytest.approx(0.0),
    }
    second = scorers.columns(FrameSet(painted(red, blue), source, square & False))
    assert second["clip_steadiness"] == pytest.approx(9 * share**2)
    assert second["source_clip_steadiness"] == pytest.approx(1.0)
    assert second.keys().isdisjoint({"region_text_alignment", "reference_similarity"})
