"""Passes of a tracker, put together: directions, nearest anchors, what is in front."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskora.masks import Labels, Silhouette
from maskora.masks.prompts import Prompt
from maskora.masks.tracking import Anchors, ObjectTracker, Silhouettes, combine, follow, split

FRAMES, HEIGHT, WIDTH = 9, 4, 20


@dataclass
class Stepper:
    """A tracker for tests: each object's pixels move one to the right along any path.

    So a silhouette tells which anchor it was carried from and how far.
    """

    label: str = "stepper"
    paths: list[list[int]] = field(default_factory=list)

    def segment(self, frame: int, prompts: Sequence[Prompt], before_HW: Labels) -> Silhouettes:
        return {prompt.object_id: dot(int(prompt.x)) for prompt in prompts}

    def propagate(self, path: Sequence[int], anchors: Anchors) -> Iterator[Silhouettes]:
        self.paths.append(list(path))
        known: dict[int, Silhouette] = {}
        for frame in path:
            known = {number: np.roll(known[number], 1, axis=1) for number in known}
            known |= anchors.get(frame, {})
            yield dict(known)

    def close(self) -> None:
        pass


def dot(x: int) -> Silhouette:
    silhouette_HW = np.zeros((HEIGHT, WIDTH), bool)
    silhouette_HW[1, x] = True
    return silhouette_HW


def place(silhouette_HW: Silhouette) -> int:
    return int(np.flatnonzero(silhouette_HW.any(axis=0))[0])


def followed(anchors: Anchors, **settings: object) -> dict[int, dict[int, int]]:
    """Frame -> object -> where it is, after all passes; nothing may come twice."""
    tracker: ObjectTracker = Stepper()
    found: dict[int, dict[int, int]] = {}
    for frame, silhouettes in follow(tracker, anchors, FRAMES, **settings):  # type: ignore[arg-type]
        for number, silhouette_HW in silhouettes.items():
            here = found.setdefault(frame, {})
            assert number not in here, "each object comes once, from one anchor"
            here[number] = place(silhouette_HW)
    return found


def test_both_directions_cover_the_clip_from_one_anchor() -> None:
    found = followed({3: {1: dot(0)}})
    assert found == {frame: {1: abs(frame - 3)} for frame in range(FRAMES)}


def test_each_frame_follows_from_its_nearest_anchor_and_ties_from_the_earlier() -> None:
    found = followed({1: {1: dot(0)}, 7: {1: dot(10)}})
    assert [found[frame][1] for frame in range(FRAMES)] == [1, 0, 1, 2, 3, 12, 11, 10, 11]


def test_the_nearest_anchor_is_the_objects_own() -> None:
    found = followed({0: {1: dot(0)}, 6: {2: dot(10)}})
    assert [found[frame][1] for frame in range(FRAMES)] == list(range(FRAMES))
    assert [found[frame][2] for frame in range(FRAMES)] == [16, 15, 14, 13, 12, 11, 10, 11, 12]


@given(
    st.dictionaries(
        st.integers(0, FRAMES - 1),
        st.dictionaries(st.integers(1, 3), st.integers(0, 9), min_size=1),
        min_size=1,
    )
)
def test_every_object_is_in_every_frame_as_far_as_its_nearest_anchor(
    drawn: dict[int, dict[int, int]],
) -> None:
    anchors = {at: {n: dot(x) for n, x in objects.items()} for at, objects in drawn.items()}
    found = followed(anchors)
    for number in {number for objects in drawn.values() for number in objects}:
        own = {at: objects[number] for at, objects in drawn.items() if number in objects}
        for frame in range(FRAMES):
            nearest = min(own, key=lambda at: (abs(at - frame), at))
            assert found[frame][number] == own[nearest] + abs(nearest - frame)


@pytest.mark.parametrize(
    ("direction", "frames"), [("forward", range(4, FRAMES)), ("backward", range(4, -1, -1))]
)
def test_one_direction_goes_from_the_start_frame(direction: str, frames: range) -> None:
    anchors = {4: {1: dot(0)}}
    found = followed(anchors, start=4, direction=direction)
    assert found == {frame: {1: abs(frame - 4)} for frame in frames}


def test_one_direction_takes_the_anchors_on_its_way_only() -> None:
    anchors = {2: {1: dot(0)}, 5: {1: dot(10)}, 7: {2: dot(3)}}
    found = followed(anchors, start=5, direction="forward")
    assert found == {5: {1: 10}, 6: {1: 11}, 7: {1: 12, 2: 3}, 8: {1: 13, 2: 4}}


def test_without_a_start_the_outermost_anchors_are_used() -> None:
    tracker = Stepper()
    anchors = {2: {1: dot(0)}, 5: {1: dot(10)}}
    list(follow(tracker, anchors, FRAMES))
    assert tracker.paths == [[2, 3, 4, 5, 6, 7, 8], [5, 4, 3, 2, 1, 0]]


def test_the_smaller_object_is_in_front() -> None:
    small_HW, large_HW = np.zeros((4, 6), bool), np.zeros((4, 6), bool)
    large_HW[:, :4] = True
    small_HW[1:3, 3:5] = True
    expected = [[2, 2, 2, 2, 0, 0], [2, 2, 2, 1, 1, 0], [2, 2, 2, 1, 1, 0], [2, 2, 2, 2, 0, 0]]
    for silhouettes in ({1: small_HW, 2: large_HW}, {2: large_HW, 1: small_HW}):
        labels_HW = combine(silhouettes, 4, 6)
        assert labels_HW.dtype == np.uint8
        assert labels_HW.tolist() == expected


@given(st.lists(st.integers(0, 3), min_size=12, max_size=12))
def test_what_is_split_is_combined_to_the_same(values: list[int]) -> None:
    labels_HW = np.array(values, np.uint8).reshape(3, 4)
    parts = split(labels_HW)
    assert set(parts) == set(values) - {0}
    assert (combine(parts, 3, 4) == labels_HW).all()
    assert split(np.zeros((2, 3), np.uint8)) == {}
    assert not combine({}, 2, 3).any()
