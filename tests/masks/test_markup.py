"""Clicks, undo, following: what is shown is what was pointed at, and all can be taken back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskora.errors import UserError
from maskora.masks.markup import Markup
from maskora.masks.prompts import Box, Click, Mark, Prompt
from tests.masks.discs import DiscTracker, shifted

FRAMES, HEIGHT, WIDTH = 9, 24, 40


@pytest.fixture
def tracker() -> DiscTracker:
    return DiscTracker(HEIGHT, WIDTH)


def pointed(tracker: DiscTracker, *prompts: Prompt, follow: bool = False) -> Markup:
    """A clip in which there was nothing, after these prompts, and followed from them."""
    labels = np.zeros((FRAMES, HEIGHT, WIDTH), np.uint8)
    markup = Markup(labels, labels.copy())
    if prompts:
        markup.point(tracker, prompts)
    if follow:
        list(markup.follow(tracker))
    return markup


def state(markup: Markup) -> tuple[tuple[Mark, ...], bytes, bytes]:
    return markup.prompts, markup.before_THW.tobytes(), markup.shown_THW.tobytes()


def test_a_click_marks_its_frame_alone(tracker: DiscTracker) -> None:
    markup = pointed(tracker, Click(2, 10, 12))
    assert markup.shown_THW[2, 12, 10] == 1
    assert not markup.shown_THW[[0, 1, 3]].any()
    assert markup.changed == {2}


def test_following_fills_the_clip_both_ways(tracker: DiscTracker) -> None:
    markup = pointed(tracker, Click(4, 20, 12), follow=True)
    for frame in range(FRAMES):
        expected = markup.shown_THW[4] == 1
        for _ in range(abs(frame - 4)):
            expected = shifted(expected, 1 if frame > 4 else -1)
        np.testing.assert_array_equal(markup.shown_THW[frame] == 1, expected)


def test_following_goes_one_way_from_a_frame(tracker: DiscTracker) -> None:
    markup = pointed(tracker, Click(4, 20, 12))
    assert list(markup.follow(tracker, start=4, direction="forward")) == [4, 5, 6, 7, 8]
    assert markup.shown_THW.any(axis=(1, 2)).tolist() == [False] * 4 + [True] * 5


@pytest.mark.parametrize(
    ("start", "direction"), [(None, "both"), (3, "forward"), (3, "backward"), (3, "both")]
)
def test_steps_foretells_how_many_frames_come(
    tracker: DiscTracker, start: int | None, direction: str
) -> None:
    markup = pointed(tracker, Click(3, 20, 12), Click(6, 20, 12))
    assert markup.steps(start, direction) == len(list(markup.follow(tracker, start, direction)))


def test_a_correction_holds_near_itself(tracker: DiscTracker) -> None:
    """Frames nearer to the corrected one follow it, in both directions; the others stay."""
    markup = pointed(tracker, Click(0, 8, 6), follow=True)
    markup.point(tracker, [Click(8, 30, 18), Click(8, 16, 6, positive=False)])
    list(markup.follow(tracker))
    assert markup.shown_THW[2, 6, 10] == 1
    assert markup.shown_THW[7, 18, 29] == 1
    assert markup.shown_THW[6, 18, 28] == 1
    assert not markup.shown_THW[7, 6, 15]


def test_a_correction_of_one_object_leaves_the_other(tracker: DiscTracker) -> None:
    markup = pointed(tracker, Click(0, 8, 6), Click(0, 8, 18, object_id=2), follow=True)
    second = markup.shown_THW == 2
    markup.point(tracker, [Click(4, 24, 6)])
    list(markup.follow(tracker))
    np.testing.assert_array_equal(markup.shown_THW == 2, second)


def test_clearing_a_frame_brings_back_what_was_tracked(tracker: DiscTracker) -> None:
    markup = pointed(tracker, Click(0, 8, 6), follow=True)
    tracked = markup.shown_THW[5].copy()
    markup.point(tracker, [Click(5, 30, 18)])
    assert (markup.shown_THW[5] != tracked).any()
    markup.clear_frame(5)
    np.testing.assert_array_equal(markup.shown_THW[5], tracked)
    assert [prompt.frame for prompt in markup.prompts] == [0]


def square(left: int, top: int, size: int = 6) -> np.ndarray:
    brush_HW = np.zeros((HEIGHT, WIDTH), np.bool_)
    brush_HW[top : top + size, left : left + size] = True
    return brush_HW


def test_what_is_painted_is_followed_as_it_is(tracker: DiscTracker) -> None:
    markup = pointed(tracker)
    markup.paint(4, 1, square(10, 8), positive=True)
    markup.paint(4, 1, square(10, 8, 3), positive=False)
    painted = square(10, 8) & ~square(10, 8, 3)
    list(markup.follow(tracker))
    np.testing.assert_array_equal(markup.shown_THW[4] == 1, painted)
    np.testing.assert_array_equal(markup.shown_THW[7] == 1, np.roll(painted, 3, axis=1))


def test_paint_stands_on_what_is_shown_and_before_other_objects(tracker: DiscTracker) -> None:
    markup = pointed(tracker, Click(0, 8, 6), Click(0, 16, 6, object_id=2), follow=True)
    first, second = (markup.shown_THW[3] == n for n in (1, 2))
    brush = square(10, 3, 8)
    assert (brush & second).any()
    markup.paint(3, 1, brush, positive=True)
    np.testing.assert_array_equal(markup.shown_THW[3] == 1, first | brush)
    np.testing.assert_array_equal(markup.shown_THW[3] == 2, second & ~brush)
    markup.point(tracker, [Click(3, 30, 18, object_id=2)])
    np.testing.assert_array_equal(markup.shown_THW[3] == 1, first | brush)
    markup.clear_frame(3)
    np.testing.assert_array_equal(markup.shown_THW[3] == 2, second)


def test_a_click_refines_what_was_painted(tracker: DiscTracker) -> None:
    markup = pointed(tracker)
    markup.paint(2, 1, square(10, 8), positive=True)
    markup.point(tracker, [Click(2, 10, 8, positive=False)])
    assert not markup.shown_THW[2, 8, 10]
    assert markup.shown_THW[2, 13, 15] == 1


def test_the_eraser_says_where_there_is_nothing(tracker: DiscTracker) -> None:
    markup = pointed(tracker, Click(0, 8, 6))
    before = state(markup)
    with pytest.raises(UserError, match="object 1 is not where the eraser went in frame 0"):
        markup.paint(0, 1, square(30, 15), positive=False)
    with pytest.raises(UserError, match="numbered 1 to 254"):
        markup.paint(0, 255, square(30, 15), positive=True)
    assert state(markup) == before


def test_a_removed_object_is_nowhere(tracker: DiscTracker) -> None:
    markup = pointed(tracker, Click(0, 8, 6), Box(0, 20, 12, 6, 6, object_id=2), follow=True)
    markup.clear_object(2)
    assert markup.objects == [1]
    assert markup.shown_THW.max() == 1


def test_what_cannot_be_changes_nothing(tracker: DiscTracker) -> None:
    markup = pointed(tracker, Click(0, 8, 6))
    before = state(markup)
    with pytest.raises(UserError, match="object 2 is not in frame 0 yet"):
        markup.point(tracker, [Click(0, 9, 6, positive=False, object_id=2)])
    with pytest.raises(UserError, match="outside the picture"):
        markup.point(tracker, [Click(0, WIDTH, 6)])
    with pytest.raises(UserError, match="frames 0 to 8"):
        markup.point(tracker, [Click(FRAMES, 1, 1)])
    assert state(markup) == before


def test_following_needs_something_to_follow(tracker: DiscTracker) -> None:
    with pytest.raises(UserError, match="nothing is clicked yet"):
        next(pointed(tracker).follow(tracker))
    markup = pointed(tracker, Click(0, 8, 6))
    with pytest.raises(UserError, match="nothing is marked in frame 3"):
        next(markup.follow(tracker, start=3, direction="forward"))


def test_stopping_early_keeps_what_is_done(tracker: DiscTracker) -> None:
    markup = pointed(tracker, Click(0, 8, 6))
    steps = markup.follow(tracker)
    assert [next(steps) for _ in range(4)] == [0, 1, 2, 3]
    steps.close()
    assert markup.shown_THW[3].any()
    assert not markup.shown_THW[4].any()
    markup.undo()
    assert not markup.shown_THW[1:].any()
    assert markup.shown_THW[0].any()


def test_an_object_that_leaves_is_absent(tracker: DiscTracker) -> None:
    markup = pointed(tracker, Click(0, WIDTH - 1, 12), follow=True)
    assert markup.absences() == {1: [5, 6, 7, 8]}


PROMPTS = st.one_of(
    st.builds(
        Click, st.integers(0, FRAMES - 1), st.integers(0, WIDTH - 1), st.integers(0, HEIGHT - 1),
        st.booleans(), st.integers(1, 3),
    ),
    st.builds(
        Box, st.integers(0, FRAMES - 1), st.integers(0, 30), st.integers(0, 15),
        st.integers(1, 9), st.integers(1, 9), st.integers(1, 3),
    ),
)  # fmt: skip
ACTIONS = st.lists(
    st.one_of(
        PROMPTS,
        st.tuples(st.just("frame"), st.integers(0, FRAMES - 1)),
        st.tuples(st.just("object"), st.integers(1, 3)),
        st.tuples(st.just("follow"), st.integers(0, FRAMES - 1)),
        st.tuples(st.just("paint"), st.integers(0, FRAMES - 1)),
        st.tuples(st.just("erase"), st.integers(0, FRAMES - 1)),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(ACTIONS)
def test_undo_takes_everything_back_in_turn(actions: list[object]) -> None:
    tracker = DiscTracker(HEIGHT, WIDTH)
    markup = pointed(tracker)
    states = [state(markup)]
    for action in actions:
        try:
            if isinstance(action, Click | Box):
                markup.point(tracker, [action])
            else:
                kind, number = action  # type: ignore[misc]
                if kind == "frame":
                    markup.clear_frame(number)
                elif kind == "object":
                    markup.clear_object(number)
                elif kind == "follow":
                    list(markup.follow(tracker))
                else:
                    brush = square(4 * number, number)
                    markup.paint(number, 1 + number % 2, brush, positive=kind == "paint")
        except UserError:
            assert state(markup) == states[-1]
            continue
        states.append(state(markup))
    for expected in reversed(states[:-1]):
        markup.undo()
        assert state(markup) == expected
    assert markup.undo() is None
    for expected in states[1:]:
        markup.redo()
        assert state(markup) == expected
    assert markup.redo() is None
