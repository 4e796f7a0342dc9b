"""Long clips in segments: which frames, at what times, and how two segments meet."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from maskora.method.segments import (
    DRIFT,
    Segment,
    blended,
    corrected,
    drift,
    independent_runs,
    noise_seed,
    plan_segments,
)
from maskora.sampling import draw_noise

SIZES = st.integers(2, 12).flatmap(
    lambda half: st.tuples(st.just(4 * half + 1), st.integers(1, half - 1).map(lambda n: 4 * n))
)
CLIPS = st.integers(1, 200).flatmap(
    lambda frames: st.tuples(
        st.just(frames), *[st.sets(st.integers(0, frames - 1), max_size=5)] * 2
    )
)


@given(CLIPS, SIZES, st.booleans())
def test_every_frame_comes_out_and_each_segment_begins_in_the_one_before(
    clip: tuple[int, set[int], set[int]], sizes: tuple[int, int], anchored: bool
) -> None:
    (frames, edited, cuts), (segment, overlap) = clip, sizes
    cuts -= {0}
    found = plan_segments(
        frames, edited | {0}, cuts, segment=segment, overlap=overlap, anchored=anchored
    )
    assert found[0] == Segment(0, found[0].stop)
    assert found[-1].stop == frames
    for before, after in pairwise(found):
        if after.kept:
            assert after.start + after.kept == before.stop, "what is kept is there"
            assert after.kept == overlap + (not anchored)
        else:
            assert before.start < after.start <= before.stop
        assert before.stop < after.stop
    for one in found:
        assert 1 <= one.shown <= segment
        assert one.shown % 4 == one.given % 4 == 1
        assert one.given <= one.shown
        assert not any(one.start < cut < one.stop for cut in cuts)
        assert one.opens == (not one.kept and one.anchor is None)
        if one.opens:
            assert one.start in edited | {0}
        if one.anchor is not None:
            assert one.anchor == max(frame for frame in edited | {0} if frame <= one.start)
            assert one.anchor < one.start or one.kept


@given(CLIPS, SIZES, st.booleans())
def test_what_one_run_of_segments_is_shown_no_other_has_made(
    clip: tuple[int, set[int], set[int]], sizes: tuple[int, int], anchored: bool
) -> None:
    (frames, edited, cuts), (segment, overlap) = clip, sizes
    found = plan_segments(
        frames, edited | {0}, cuts - {0}, segment=segment, overlap=overlap, anchored=anchored
    )
    runs = independent_runs(found, overlap)
    assert [number for run in runs for number in run] == [*range(1, len(found) + 1)]
    run_of = {number: place for place, run in enumerate(runs) for number in run}
    made: list[set[int]] = []  # by which runs, of each frame
    for number, one in enumerate(found, 1):
        shown = set[int]().union(*made[one.start : one.begins])
        assert shown <= {run_of[number]}
        before = made[one.begins :]
        blend = [older | {run_of[number]} for older in before[:overlap]]
        rest = one.stop - one.begins - len(blend)
        made[one.begins :] = [*blend, *({run_of[number]} for _ in range(rest))]


def test_a_run_of_segments_begins_at_a_shot_and_at_an_edited_frame() -> None:
    assert independent_runs(planned(130, {0}, set()), 8) == [range(1, 5)]
    assert independent_runs(planned(130, {0, 30}, {80}), 8) == [
        range(1, 2),
        range(2, 4),
        range(4, 6),
    ]
    tight = [Segment(0, 13), Segment(8, 17), Segment(12, 21, 5)]
    assert independent_runs(tight, 4) == [range(1, 2), range(2, 4)]
    assert independent_runs(tight, 8) == [range(1, 4)], "frame 12 is of the first two"


def planned(frames: int, edited: set[int], cuts: set[int], anchored: bool = True) -> list[Segment]:
    return plan_segments(frames, edited, cuts, segment=49, overlap=8, anchored=anchored)


def test_a_short_clip_is_one_segment_whatever_is_edited_in_it() -> None:
    assert planned(49, {0, 24, 48}, set()) == [Segment(0, 49)]


def test_a_long_clip_goes_on_with_its_anchor() -> None:
    assert planned(130, {0}, set()) == [
        Segment(0, 49), Segment(41, 89, 8, 0), Segment(81, 129, 8, 0), Segment(121, 130, 8, 0),
    ]  # fmt: skip


def test_without_an_anchor_the_frames_before_are_all_it_is_shown() -> None:
    assert planned(97, {0}, set(), anchored=False) == [
        Segment(0, 49), Segment(40, 89, 9), Segment(80, 97, 9),
    ]  # fmt: skip


def test_an_edited_frame_in_the_second_half_opens_the_next_segment() -> None:
    assert planned(90, {0, 10, 30, 45}, set()) == [
        Segment(0, 49), Segment(30, 79), Segment(71, 90, 8, 45),
    ]  # fmt: skip


def test_a_shot_begins_at_its_own_edited_frame_or_with_the_anchor_alone() -> None:
    assert planned(90, {0, 40}, {40, 80}) == [
        Segment(0, 40), Segment(40, 80), Segment(80, 90, 0, 40),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("segment", "longest", "times"),
    [
        (Segment(0, 49), 81, None),
        (Segment(40, 89, 9), 81, None),
        (Segment(41, 53, 8, 0), 81, (0, 11, 12, 13)),
        (Segment(41, 53, 8, 40), 81, None),  # one after another
        (Segment(42, 54, 8, 40), 81, None),
        (Segment(45, 57, 8, 40), 81, (0, 2, 3, 4)),
        (Segment(401, 413, 8, 0), 81, (0, 18, 19, 20)),  # no further than was learned
        (Segment(401, 413, 8, 0), 9, None),
    ],
)
def test_an_anchor_stands_at_its_own_time(
    segment: Segment, longest: int, times: tuple[int, ...] | None
) -> None:
    assert segment.times(longest) == times


def test_every_segment_has_noise_of_its_own_and_the_first_the_clips() -> None:
    assert noise_seed(7, 0) == 7
    seeds = [noise_seed(seed, segment) for seed in (0, 7) for segment in range(50)]
    assert len(set(seeds)) == len(seeds)
    assert max(seeds) < 2**32
    first, second = (draw_noise((2, 3), noise_seed(7, segment)) for segment in (0, 1))
    assert not torch.equal(first, second)


def test_what_two_segments_have_made_is_blended_by_weight() -> None:
    before, after = (np.full((3, 2, 2, 3), level, np.uint8) for level in (100, 200))
    found = blended(before, after, np.array([0.25, 0.5, 1.0]))
    assert [int(frame[0, 0, 0]) for frame in found] == [125, 150, 200]


def test_a_drift_is_told_from_outside_and_taken_back_up_to_a_bound() -> None:
    rng = np.random.default_rng(0)
    source = rng.integers(60, 180, (4, 8, 8, 3), dtype=np.uint8)
    outside = np.ones((4, 8, 8), bool)
    outside[:, 2:6, 2:6] = False
    shifted = (source + np.array([3, 0, 20])).astype(np.uint8)
    shifted[~outside] = 7
    found = drift(shifted, source, outside)
    assert found is not None
    assert found == pytest.approx([3, 0, 20])
    mended = corrected(shifted, found)
    assert (mended[outside] == source[outside] + np.array([0, 0, 20 - DRIFT])).all()


def test_where_hardly_anything_lies_outside_nothing_is_told() -> None:
    clip = np.zeros((2, 8, 8, 3), np.uint8)
    outside = np.zeros((2, 8, 8), bool)
    outside[:, 0, 0] = True
    assert drift(clip, clip, outside) is None
