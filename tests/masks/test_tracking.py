"""Passes of a tracker, put together: directions, nearest anchors, what is in front."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskora.masks.tracking import Anchors, ObjectTracker, combine, follow, split
from tests.masks.discs import DiscTracker

FRAMES, HEIGHT, WIDTH = 9, 4, 40
TRACKER: ObjectTracker = DiscTracker(HEIGHT, WIDTH)
Lanes = dict[int, dict[int, int]]  # frame -> object -> where it is, less the frame


def anchored(lanes: Lanes) -> Anchors:
    """A column of pixels for each object: the tracker carries it along its lane."""
    return {
        frame: {number: np.eye(1, WIDTH, lane + frame, bool).repeat(HEIGHT, 0) for number, lane in
                objects.items()}
        for frame, objects in lanes.items()
    }  # fmt: skip


def followed(lanes: Lanes, **settings: object) -> Lanes:
    """The lane of each object in each frame, after all passes; nothing may come twice."""
    found: Lanes = {}
    anchors = anchored(lanes)
    for frame, silhouettes in follow(TRACKER, anchors, FRAMES, **settings):  # type: ignore[arg-type]
        for number, silhouette_HW in silhouettes.items():
            here = found.setdefault(frame, {})
            assert number not in here, "each object comes once, from one anchor"
            here[number] = int(np.flatnonzero(silhouette_HW[0])[0]) - frame
    return found


def test_both_directions_cover_the_clip_from_one_anchor() -> None:
    assert followed({3: {1: 12}}) == {frame: {1: 12} for frame in range(FRAMES)}


def test_each_frame_follows_from_its_nearest_anchor_and_ties_from_the_earlier() -> None:
    found = followed({1: {1: 10}, 7: {1: 20}})
    assert [found[frame][1] for frame in range(FRAMES)] == [10] * 5 + [20] * 4


def test_the_nearest_anchor_is_the_objects_own() -> None:
    found = followed({0: {1: 10}, 6: {2: 20}})
    assert found == {frame: {1: 10, 2: 20} for frame in range(FRAMES)}


@given(
    st.dictionaries(
        st.integers(0, FRAMES - 1),
        st.dictionaries(st.integers(1, 3), st.integers(0, 30), min_size=1),
        min_size=1,
    )
)
def test_every_object_is_in_every_frame_on_the_lane_of_its_nearest_anchor(lanes: Lanes) -> None:
    found = followed(lanes)
    for number in {number for objects in lanes.values() for number in objects}:
        own = {at: objects[number] for at, objects in lanes.items() if number in objects}
        for frame in range(FRAMES):
            assert found[frame][number] == own[min(own, key=lambda at: (abs(at - frame), at))]


@pytest.mark.parametrize(
    ("direction", "frames"), [("forward", range(4, FRAMES)), ("backward", range(4, -1, -1))]
)
def test_one_direction_goes_from_the_start_frame(direction: str, frames: range) -> None:
    found = followed({4: {1: 12}}, start=4, direction=direction)
    assert found == {frame: {1: 12} for frame in frames}


def test_one_direction_takes_the_anchors_on_its_way_only() -> None:
    found = followed({2: {1: 10}, 5: {1: 20}, 7: {2: 30}}, start=5, direction="forward")
    assert found == {5: {1: 20}, 6: {1: 20}, 7: {1: 20, 2: 30}, 8: {1: 20, 2: 30}}


def test_without_a_start_the_outermost_anchors_are_used() -> None:
    steps = follow(TRACKER, anchored({2: {1: 10}, 5: {1: 20}}), FRAMES)
    assert [frame for frame, _ in steps] == [2, 3, 4, 5, 6, 7, 8, 5, 4, 3, 2, 1, 0]


def test_the_smaller_object_is_in_front() -> None:
    small_HW, large_HW = np.zeros((4, 6), bool), np.zeros((4, 6), bool)
    large_HW[:, :4] = True
    small_HW[1:3, 3:5] = True
    expected = [[2, 2, 2, 2, 0, 0], [2, 2, 2, 1, 1, 0], [2, 2, 2, 1, 1, 0], [2, 2, 2, 2, 0, 0]]
    for silhouettes in ({1: small_HW, 2: large_HW}, {2: large_HW, 1: small_HW}):
        labels_HW = combine(silhouettes, (4, 6))
        assert labels_HW.dtype == np.uint8
        assert labels_HW.tolist() == expected


@given(st.lists(st.integers(0, 3), min_size=12, max_size=12))
def test_what_is_split_is_combined_to_the_same(values: list[int]) -> None:
    labels_HW = np.array(values, np.uint8).reshape(3, 4)
    parts = split(labels_HW)
    assert set(parts) == set(values) - {0}
    assert (combine(parts, (3, 4)) == labels_HW).all()
    assert split(np.zeros((2, 3), np.uint8)) == {}
    assert not combine({}, (2, 3)).any()
