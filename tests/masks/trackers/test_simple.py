"""The tracker without a model: drawn scenes, and a real clip with boxes labelled by looking."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskora.masks.prompts import Box, Click
from maskora.masks.shapes import silhouette_box
from maskora.masks.trackers.simple import SimpleTracker
from maskora.video.fit import auto_size, fit_image, place
from maskora.video.probe import probe
from maskora.video.read import read_frames
from tests.ball import FRAMES, ball_centre, draw_frame, draw_mask

RED = (205, 40, 40)

# The dog of dog.mp4 without its leash, (left, top, right, bottom) in pixels of the 848x480
# workspace. Read off by eye from the frames with a grid of 50 pixels drawn over them, before any
# tracker had been run on them; good to about 5 pixels.
DOG = {
    0: (311, 254, 463, 364),
    6: (300, 249, 504, 362),
    12: (297, 235, 462, 362),
    18: (309, 221, 471, 361),
    24: (334, 214, 475, 351),
    30: (365, 219, 471, 351),
    36: (364, 221, 487, 344),
    42: (417, 223, 555, 361),
    48: (507, 166, 658, 359),
}
LEAST_OVERLAP = 0.6  # mean, of the boxes; fixed before it was measured


def overlap(one_HW: np.ndarray, other_HW: np.ndarray) -> float:
    return float((one_HW & other_HW).sum() / (one_HW | other_HW).sum())


def box_overlap(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    width = max(0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return width * height / (sum(areas) - width * height)


def nothing_on(frames_THWC: np.ndarray) -> np.ndarray:
    return np.zeros(frames_THWC.shape[1:3], np.uint8)


@pytest.fixture(scope="module")
def ball() -> np.ndarray:
    return np.stack([draw_frame(number, RED) for number in range(FRAMES)])


@pytest.mark.parametrize(
    "prompt",
    [Click(0, *ball_centre(0)), Box(0, *(np.array(ball_centre(0)) - 30).tolist(), 60, 60)],
    ids=["a click", "a loose box"],
)
def test_a_ball_is_found_and_followed_through_the_clip(
    ball: np.ndarray, prompt: Click | Box
) -> None:
    tracker = SimpleTracker(ball)
    found = tracker.segment(0, [prompt], nothing_on(ball))
    overlaps = [
        overlap(silhouettes[1], draw_mask(frame) > 0)
        for frame, silhouettes in enumerate(tracker.propagate(range(FRAMES), {0: found}))
    ]
    assert len(overlaps) == FRAMES
    assert min(overlaps) > 0.85


def test_a_ball_is_followed_backwards(ball: np.ndarray) -> None:
    path = range(12, -1, -1)
    passes = SimpleTracker(ball).propagate(path, {12: {4: draw_mask(12) > 0}})
    overlaps = [overlap(got[4], draw_mask(at) > 0) for at, got in zip(path, passes, strict=True)]
    assert min(overlaps) > 0.85


def test_anchors_come_back_as_they_are_and_are_followed_from(ball: np.ndarray) -> None:
    wrong_HW = np.zeros(ball.shape[1:3], bool)
    wrong_HW[5:15, 290:310] = True
    anchors = {1: {1: wrong_HW}, 4: {1: draw_mask(4) > 0, 2: wrong_HW}}
    found = list(SimpleTracker(ball).propagate(range(7), anchors))
    assert [sorted(silhouettes) for silhouettes in found] == [[], [1], [1], [1], *[[1, 2]] * 3]
    assert (found[1][1] == wrong_HW).all()
    assert (found[4][1] == (draw_mask(4) > 0)).all()
    assert (found[4][2] == wrong_HW).all()
    assert overlap(found[6][1], draw_mask(6) > 0) > 0.85


def crossing(frames: int) -> np.ndarray:
    """A red square that has left the picture to the right in frame 18; (T, 192, 320, 3)."""
    noise_HWC = np.random.default_rng(0).integers(60, 120, (12, 20, 3), np.uint8)
    meadow_HWC = cv2.resize(noise_HWC, (320, 192), interpolation=cv2.INTER_CUBIC)
    frames_THWC = np.stack([meadow_HWC] * frames)
    for number, frame_HWC in enumerate(frames_THWC):
        frame_HWC[60:120, 180 + 8 * number : 240 + 8 * number] = RED
    return frames_THWC


def test_what_left_the_picture_is_empty_until_its_next_anchor() -> None:
    frames_THWC = crossing(22)
    red_THW = (frames_THWC == RED).all(axis=-1)
    again_HW = np.zeros_like(red_THW[0])
    again_HW[140:180, 20:80] = True
    anchors = {0: {1: red_THW[0]}, 21: {1: again_HW}}
    found = [one[1] for one in SimpleTracker(frames_THWC).propagate(range(22), anchors)]
    assert min(overlap(found[frame], red_THW[frame]) for frame in range(15)) > 0.85
    assert [bool(silhouette_HW.any()) for silhouette_HW in found[18:]] == [False] * 3 + [True]
    assert (found[21] == again_HW).all()


def test_an_empty_anchor_is_followed_by_nothing(ball: np.ndarray) -> None:
    empty_HW = np.zeros(ball.shape[1:3], bool)
    found = list(SimpleTracker(ball).propagate(range(3), {0: {1: empty_HW}}))
    assert [bool(silhouettes[1].any()) for silhouettes in found] == [False] * 3


def test_each_object_gets_its_own_and_leaves_the_others_alone(ball: np.ndarray) -> None:
    x, y = ball_centre(0)
    before_HW = nothing_on(ball)
    before_HW[draw_mask(0) > 0] = 2
    prompts = [Click(0, 200, 40, object_id=5), Click(0, x, y, object_id=2)]
    found = SimpleTracker(ball).segment(0, prompts, before_HW)
    assert sorted(found) == [2, 5]
    assert overlap(found[2], draw_mask(0) > 0) > 0.85
    assert not (found[5] & (draw_mask(0) > 0)).any()


def test_a_negative_click_takes_away_what_is_there_already(ball: np.ndarray) -> None:
    true_HW = draw_mask(0) > 0
    before_HW = true_HW.astype(np.uint8)
    before_HW[60:100, 70:110] = 1  # meadow, beside the ball
    x, y = ball_centre(0)
    prompts = [Click(0, 95, 75, positive=False), Click(0, x, y)]
    found_HW = SimpleTracker(ball).segment(0, prompts, before_HW)[1]
    assert overlap(before_HW > 0, true_HW) < 0.7
    assert overlap(found_HW, true_HW) > 0.85


def test_a_box_is_where_the_object_ends(ball: np.ndarray) -> None:
    x, y = ball_centre(0)
    box = Box(0, x - 30, y - 30, 30, 60)  # the ball's left half
    left, top, right, bottom = silhouette_box(
        SimpleTracker(ball).segment(0, [box], nothing_on(ball))[1]
    )
    assert left >= x - 31
    assert top >= y - 31
    assert right <= x + 1
    assert bottom <= y + 31


def test_what_belongs_to_another_object_is_not_taken(ball: np.ndarray) -> None:
    x, y = ball_centre(0)
    before_HW = nothing_on(ball)
    before_HW[:, : round(x)][draw_mask(0)[:, : round(x)] > 0] = 2  # the ball's left half
    found_HW = SimpleTracker(ball).segment(0, [Click(0, x + 12, y)], before_HW)[1]
    assert found_HW.any()
    assert not (found_HW & (before_HW == 2)).any()


def test_a_box_ends_what_is_there_already_too(ball: np.ndarray) -> None:
    x, y = ball_centre(0)
    before_HW = draw_mask(0)
    found_HW = SimpleTracker(ball).segment(0, [Box(0, x - 30, y - 30, 30, 60)], before_HW)[1]
    assert found_HW.any()
    assert silhouette_box(found_HW)[2] <= x + 1


places = st.tuples(st.integers(0, 899), st.integers(0, 599))


@settings(max_examples=5, deadline=None)
@given(st.lists(st.tuples(places, st.booleans()), min_size=1, max_size=4, unique_by=lambda c: c[0]))
def test_every_pixel_that_was_clicked_on_is_what_the_click_says(
    clicked: list[tuple[tuple[int, int], bool]],
) -> None:
    """Of two clicks that touch, the later one counts; these do not, or agree."""
    kept: dict[tuple[int, int], bool] = {}
    for (x, y), positive in clicked:
        if all(max(abs(x - a), abs(y - b)) > 2 for a, b in kept):
            kept[x, y] = positive
    frame_HWC = cv2.resize(draw_frame(0, RED), (900, 600))  # larger than it works at
    tracker = SimpleTracker(frame_HWC[None])
    prompts = [Click(0, x + 0.4, y + 0.6, positive) for (x, y), positive in kept.items()]
    silhouette_HW = tracker.segment(0, prompts, np.zeros((600, 900), np.uint8))[1]
    assert silhouette_HW.dtype == np.bool_
    assert {(x, y): bool(silhouette_HW[y, x]) for x, y in kept} == kept


def test_the_same_comes_out_twice(ball: np.ndarray) -> None:
    runs = []
    for _ in range(2):
        tracker = SimpleTracker(ball[:4])
        found = tracker.segment(0, [Click(0, *ball_centre(0))], nothing_on(ball))
        runs.append([one[1] for one in tracker.propagate(range(4), {0: found})])
    assert np.array_equal(*runs)


@pytest.mark.timeout(120)
def test_it_follows_the_dog(real_clips: Path) -> None:
    """From one box in the first frame, over 49 frames of a dog that turns and leaps."""
    info = probe(real_clips / "dog.mp4")
    size = auto_size(info.width, info.height, 16)
    assert size == (848, 480)
    placement = place((info.width, info.height), size, "crop")
    frames_THWC = np.stack([fit_image(frame, placement) for frame in read_frames(info, 0, 49)])
    tracker = SimpleTracker(frames_THWC)
    left, top, right, bottom = DOG[0]
    box = Box(0, left, top, right - left, bottom - top)
    anchors = {0: tracker.segment(0, [box], nothing_on(frames_THWC))}
    found = [silhouettes[1] for silhouettes in tracker.propagate(range(49), anchors)]
    overlaps = {
        frame: box_overlap(silhouette_box(found[frame]), label) if found[frame].any() else 0.0
        for frame, label in DOG.items()
    }
    print({frame: round(value, 2) for frame, value in overlaps.items()})
    assert np.mean(list(overlaps.values())) >= LEAST_OVERLAP
    assert np.mean([overlaps[frame] for frame in DOG if frame > 0]) >= LEAST_OVERLAP
