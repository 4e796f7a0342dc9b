"""The tracker without a model, pointed at as people do: drawn scenes, and a real clip."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskora.masks import Silhouette
from maskora.masks.prompts import Box, Click, Prompt
from maskora.masks.shapes import silhouette_box
from maskora.masks.trackers import simple
from maskora.masks.trackers.simple import BackdropModel, SimpleTracker, camera_path
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
PANNED, PAN = 16, 3  # frames, and pixels from one to the next
BALL = np.stack([draw_frame(number, RED) for number in range(FRAMES)])
NOTHING = np.zeros(BALL.shape[1:3], np.uint8)
X, Y = ball_centre(0)


def overlap(one_HW: np.ndarray, other_HW: np.ndarray) -> float:
    return float((one_HW & other_HW).sum() / (one_HW | other_HW).sum())


def box_overlap(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    width = max(0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return width * height / (sum(areas) - width * height)


@pytest.fixture(scope="module")
def ball() -> SimpleTracker:
    return SimpleTracker(BALL)


def follow(tracker: SimpleTracker, prompt: Prompt, before_HW: np.ndarray) -> Iterator[Silhouette]:
    """The prompt's object in each frame of the clip."""
    found = tracker.segment(0, [prompt], before_HW)
    path = range(len(tracker._frames_THWC))
    return (silhouettes[1] for silhouettes in tracker.propagate(path, {0: {1: found}}))


@pytest.mark.parametrize(
    "prompt",
    [Click(0, X, Y), Box(0, X - 30, Y - 30, 60, 60)],
    ids=["a click", "a loose box"],
)
def test_a_ball_is_found_and_followed_through_the_clip(ball: SimpleTracker, prompt: Prompt) -> None:
    found = list(follow(ball, prompt, NOTHING))
    assert len(found) == FRAMES
    assert min(overlap(one, draw_mask(at) > 0) for at, one in enumerate(found)) > 0.85


def test_a_ball_is_followed_backwards(ball: SimpleTracker) -> None:
    path = range(12, -1, -1)
    passes = ball.propagate(path, {12: {4: draw_mask(12) > 0}})
    overlaps = [overlap(got[4], draw_mask(at) > 0) for at, got in zip(path, passes, strict=True)]
    assert min(overlaps) > 0.85


def test_anchors_come_back_as_they_are_and_are_followed_from(ball: SimpleTracker) -> None:
    wrong_HW = np.zeros(NOTHING.shape, bool)
    wrong_HW[5:15, 290:310] = True
    anchors = {1: {1: wrong_HW}, 4: {1: draw_mask(4) > 0, 2: wrong_HW}}
    found = list(ball.propagate(range(7), anchors))
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


def test_an_empty_anchor_is_followed_by_nothing(ball: SimpleTracker) -> None:
    empty_HW = np.zeros(NOTHING.shape, bool)
    found = list(ball.propagate(range(3), {0: {1: empty_HW}}))
    assert [bool(silhouettes[1].any()) for silhouettes in found] == [False] * 3


def test_each_object_gets_its_own_and_leaves_the_others_alone(ball: SimpleTracker) -> None:
    before_HW = NOTHING.copy()
    before_HW[draw_mask(0) > 0] = 2
    clicks = Click(0, X, Y, object_id=2), Click(0, 200, 40, object_id=5)
    own_HW, other_HW = (ball.segment(0, [click], before_HW) for click in clicks)
    assert overlap(own_HW, draw_mask(0) > 0) > 0.85
    assert not (other_HW & (draw_mask(0) > 0)).any()


def test_a_negative_click_takes_away_what_is_there_already(ball: SimpleTracker) -> None:
    true_HW = draw_mask(0) > 0
    before_HW = true_HW.astype(np.uint8)
    before_HW[60:100, 70:110] = 1  # meadow, beside the ball
    prompts = [Click(0, 95, 75, positive=False), Click(0, X, Y)]
    found_HW = ball.segment(0, prompts, before_HW)
    assert overlap(before_HW > 0, true_HW) < 0.7
    assert overlap(found_HW, true_HW) > 0.85


@pytest.mark.parametrize("before_HW", [NOTHING, draw_mask(0)], ids=["anew", "already there"])
def test_a_box_is_where_the_object_ends(ball: SimpleTracker, before_HW: np.ndarray) -> None:
    box = Box(0, X - 30, Y - 30, 30, 60)  # the ball's left half
    left, top, right, bottom = silhouette_box(ball.segment(0, [box], before_HW))
    assert left >= X - 31
    assert top >= Y - 31
    assert right <= X + 1
    assert bottom <= Y + 31


def test_what_belongs_to_another_object_is_not_taken(ball: SimpleTracker) -> None:
    before_HW = NOTHING.copy()
    before_HW[:, : round(X)][draw_mask(0)[:, : round(X)] > 0] = 2  # the ball's left half
    found_HW = ball.segment(0, [Click(0, X + 12, Y)], before_HW)
    assert found_HW.any()
    assert not (found_HW & (before_HW == 2)).any()


places = st.tuples(st.integers(0, 299), st.integers(0, 199))


@pytest.fixture(scope="module")
def reduced() -> SimpleTracker:
    """Of a frame that is larger than the tracker works at."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simple, "LONG_SIDE", 283)
        return SimpleTracker(cv2.resize(BALL[0], (300, 200))[None])


@settings(max_examples=5, deadline=None)
@given(st.lists(st.tuples(places, st.booleans()), min_size=1, max_size=4, unique_by=lambda c: c[0]))
def test_every_pixel_that_was_clicked_on_is_what_the_click_says(
    reduced: SimpleTracker, clicked: list[tuple[tuple[int, int], bool]]
) -> None:
    """Of two clicks that touch, the later one counts; these do not, or agree."""
    kept: dict[tuple[int, int], bool] = {}
    for (x, y), positive in clicked:
        if all(max(abs(x - a), abs(y - b)) > 2 for a, b in kept):
            kept[x, y] = positive
    prompts = [Click(0, x + 0.4, y + 0.6, positive) for (x, y), positive in kept.items()]
    silhouette_HW = reduced.segment(0, prompts, np.zeros((200, 300), np.uint8))
    assert silhouette_HW.dtype == np.bool_
    assert {(x, y): bool(silhouette_HW[y, x]) for x, y in kept} == kept


def test_the_same_comes_out_twice() -> None:
    one, other = (list(follow(SimpleTracker(BALL[:4]), Click(0, X, Y), NOTHING)) for _ in range(2))
    assert np.array_equal(one, other)


def texture(seed: int, height: int, width: int, low: int, high: int) -> np.ndarray:
    rough_HWC = np.random.default_rng(seed).integers(low, high, (height // 12, width // 12, 3))
    rough_HWC = rough_HWC.astype(np.float32)
    return cv2.resize(rough_HWC, (width, height), interpolation=cv2.INTER_CUBIC)


def panned() -> tuple[np.ndarray, np.ndarray]:
    """A lorry of its surroundings' colours, followed by the camera; frames_THWC, truth_THW."""
    meadow_HWC, skin_HWC = texture(1, 240, 480, 60, 180), texture(2, 72, 96, 80, 200)
    shape_HW = np.zeros((72, 96), np.bool_)
    shape_HW[:48, 20:80] = shape_HW[24:60] = True
    frames_THWC = np.zeros((PANNED, 240, 400, 3), np.uint8)
    truth_THW = np.zeros((PANNED, 240, 400), np.bool_)
    for number in range(PANNED):
        picture_HWC = meadow_HWC[:, PAN * number : PAN * number + 400].copy()
        place_HW = slice(90, 162), slice(120 + number, 216 + number)
        picture_HWC[place_HW][shape_HW] = skin_HWC[shape_HW]
        frames_THWC[number] = np.clip(picture_HWC, 0, 255)
        truth_THW[number][place_HW] = shape_HW
    return frames_THWC, truth_THW


Lorry = tuple[SimpleTracker, np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def lorry() -> Lorry:
    """A tracker of the panned clip, its frames_THWC, and truth_THW."""
    frames_THWC, truth_THW = panned()
    return SimpleTracker(frames_THWC), frames_THWC, truth_THW


@pytest.mark.parametrize(
    "prompt",
    [Click(0, 168, 130), Box(0, 106, 80, 124, 80), Box(0, 130, 97, 76, 46)],
    ids=["a click", "a loose box", "a tight box"],
)
def test_what_moves_otherwise_than_the_camera_is_found_and_followed(
    lorry: Lorry, prompt: Prompt
) -> None:
    tracker, _, truth_THW = lorry
    found = follow(tracker, prompt, np.zeros((240, 400), np.uint8))
    overlaps = [overlap(*both) for both in zip(found, truth_THW, strict=True)]
    print(np.round(overlaps, 2))
    assert min(overlaps) > 0.7


def test_the_camera_is_told_from_what_moves_in_front_of_it(lorry: Lorry) -> None:
    _, frames_THWC, truth_THW = lorry
    greys = [cv2.cvtColor(frame_HWC, cv2.COLOR_RGB2GRAY) for frame_HWC in frames_THWC]
    last = camera_path(greys)[-1]
    assert np.allclose(last[:2, 2], [PAN * (PANNED - 1), 0], atol=0.5)
    assert np.allclose(last[:2, :2], np.eye(2), atol=0.01)
    permanence_HW = BackdropModel(frames_THWC).permanence(8)
    assert permanence_HW[truth_THW[8]].mean() < 0.4
    assert permanence_HW[~truth_THW.any(axis=0)].mean() > 0.9


def test_corrections_change_what_is_around_them_and_nothing_else(lorry: Lorry) -> None:
    tracker, _, truth_THW = lorry
    before_HW = truth_THW[8].astype(np.uint8)
    before_HW[90:162, 128:150] = 0  # the rear is missing
    for click in (Click(8, 139, 130), Click(8, 190, 130), Click(8, 176, 98, positive=False)):
        found_HW = tracker.segment(8, [click], before_HW)
        assert found_HW.sum() > 0.7 * before_HW.sum()
        near_HW = np.hypot(*(np.indices(found_HW.shape) - [[[click.y]], [[click.x]]])) < 60
        assert (found_HW == (before_HW > 0))[~near_HW].all()
    assert overlap(tracker.segment(8, [Click(8, 139, 130)], before_HW), truth_THW[8]) > 0.8


ELSEWHERE = slice(10, 40), slice(320, 360)  # nothing of the lorry


@pytest.fixture
def astray_HW() -> np.ndarray:
    """A silhouette far from the lorry in frame 0."""
    before_HW = np.zeros((240, 400), np.uint8)
    before_HW[ELSEWHERE] = 1
    return before_HW


def test_a_click_elsewhere_adds_and_takes_nothing_away(lorry: Lorry, astray_HW: np.ndarray) -> None:
    tracker, _, truth_THW = lorry
    found_HW = tracker.segment(0, [Click(0, 168, 130)], astray_HW)
    assert found_HW[ELSEWHERE].all()
    found_HW[ELSEWHERE] = False
    assert overlap(found_HW, truth_THW[0]) > 0.7


def test_a_further_part_stays_whole_when_another_click_is_near(
    lorry: Lorry, astray_HW: np.ndarray
) -> None:
    tracker, _, truth_THW = lorry
    found_HW = tracker.segment(0, [Click(0, 168, 130), Click(0, 340, 25)], astray_HW)
    assert found_HW[ELSEWHERE].all()
    assert overlap(found_HW[45:], truth_THW[0][45:]) > 0.7


def test_of_two_parts_the_refused_one_goes(lorry: Lorry, astray_HW: np.ndarray) -> None:
    """A tracker that has lost its way: the object is clicked, and what it was taken for refused."""
    tracker, _, truth_THW = lorry
    prompts = [Click(0, 168, 130), Click(0, 340, 25, positive=False)]
    found_HW = tracker.segment(0, prompts, astray_HW)
    assert not found_HW[ELSEWHERE].any()
    assert overlap(found_HW, truth_THW[0]) > 0.7


def test_a_box_elsewhere_starts_anew(lorry: Lorry, astray_HW: np.ndarray) -> None:
    tracker, _, truth_THW = lorry
    found_HW = tracker.segment(0, [Box(0, 106, 80, 124, 80)], astray_HW)
    assert not found_HW[ELSEWHERE].any()
    assert overlap(found_HW, truth_THW[0]) > 0.7


@pytest.mark.parametrize("corner", [(0, 0), (60, 80)], ids=["the picture's edge", "an outline"])
@pytest.mark.parametrize("is_known", [True, False], ids=["followed", "boxed"])
def test_a_refused_point_near_a_border_opens_it(corner: tuple[int, int], is_known: bool) -> None:
    """In a thing of one colour nothing tells the point from the rest: it takes the rim with it."""
    top, left = corner
    picture_HWC = np.full((1, 200, 300, 3), (60, 130, 70), np.uint8)
    picture_HWC[0, top : top + 100, left : left + 140] = (200, 60, 50)
    before_HW = np.zeros((200, 300), np.uint8)
    prompts: list[Prompt] = [Box(0, left, top, 140, 100)]
    if is_known:
        before_HW[top : top + 100, left : left + 140], prompts = 1, []
    tracker = SimpleTracker(picture_HWC)
    found_HW = tracker.segment(0, [*prompts, Click(0, left + 70, top + 8, False)], before_HW)
    assert not found_HW[top : top + 9, left + 70].any()
    assert found_HW[top + 30 : top + 90, left + 10 : left + 130].all()
    deep_HW = tracker.segment(0, [*prompts, Click(0, left + 70, top + 50, False)], before_HW)
    assert deep_HW[top + 10 : top + 35, left + 70].all(), "a hole in the middle stays a hole"


@pytest.fixture(scope="module")
def dog(real_clips: Path) -> SimpleTracker:
    """49 frames of a dog that turns and leaps."""
    info = probe(real_clips / "dog.mp4")
    size = auto_size(info.width, info.height, 16)
    assert size == (848, 480)
    placement = place((info.width, info.height), size, "crop")
    return SimpleTracker(
        np.stack([fit_image(frame, placement) for frame in read_frames(info, 0, 49)])
    )


# (share of the dog's box that is drawn, or one click; least mean overlap, fixed before measuring)
@pytest.mark.parametrize(
    ("sides", "least"),
    [
        pytest.param((0, 0, 1, 1), 0.6, id="its box", marks=pytest.mark.timeout(120)),
        pytest.param((0.1, 0.1, 0.9, 0.9), 0.45, id="tighter", marks=pytest.mark.slow),
        pytest.param((0.12, 0.05, 1.15, 1.1), 0.45, id="shifted", marks=pytest.mark.slow),
        pytest.param(None, 0.45, id="a click", marks=pytest.mark.slow),
    ],
)
def test_the_dog_is_followed_however_it_is_pointed_at(
    dog: SimpleTracker, sides: tuple[float, float, float, float] | None, least: float
) -> None:
    left, top, right, bottom = DOG[0]
    wide, high = right - left, bottom - top
    prompt: Prompt = Click(0, left + 0.5 * wide, top + 0.4 * high)
    if sides:
        x0, y0, x1, y1 = sides
        prompt = Box(0, left + x0 * wide, top + y0 * high, (x1 - x0) * wide, (y1 - y0) * high)
    found = list(follow(dog, prompt, np.zeros((480, 848), np.uint8)))
    overlaps = [
        box_overlap(silhouette_box(found[frame]), label) if found[frame].any() else 0.0
        for frame, label in DOG.items()
    ]
    print(np.round(overlaps, 2))
    assert np.mean(overlaps) >= least
    if sides == (0, 0, 1, 1):
        assert np.mean(overlaps[1:]) >= least
