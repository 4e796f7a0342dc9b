"""Clicks and boxes: read, written, checked."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from maskora.errors import UserError
from maskora.masks.prompts import (
    MOST_OBJECTS,
    Box,
    Click,
    Painting,
    Prompt,
    check_inside,
    common_box,
    parse_box,
    parse_click,
    parse_paint,
)

# What %g writes without loss: six digits.
coordinates = st.integers(-99_999, 999_999).map(lambda n: n / 10)
sides = st.integers(1, 99_999).map(lambda n: n / 10)
frames = st.integers(0, 10_000)
numbers = st.integers(1, MOST_OBJECTS)


@given(st.builds(Click, frames, coordinates, coordinates, st.booleans(), numbers))
def test_a_click_is_read_as_it_is_written(click: Click) -> None:
    assert parse_click(str(click)) == click


@given(st.builds(Box, frames, coordinates, coordinates, sides, sides, numbers))
def test_a_box_is_read_as_it_is_written(box: Box) -> None:
    assert parse_box(str(box)) == box


def test_clicks_are_read() -> None:
    assert parse_click("12,640,360.5,+") == Click(12, 640, 360.5, positive=True, object_id=1)
    assert parse_click(" 0 , 1 , 2 , - , 254 ") == Click(0, 1, 2, positive=False, object_id=254)


def test_boxes_are_read() -> None:
    assert parse_box("3,10,20,30,40") == Box(3, 10, 20, 30, 40, object_id=1)
    assert parse_box("3,-1.5,20,30,40,7") == Box(3, -1.5, 20, 30, 40, object_id=7)
    assert common_box([Box(0, 10, 20, 30, 40), Box(0, 5, 30, 10, 60)]) == (5, 20, 40, 90)


def test_paintings_are_read() -> None:
    assert parse_paint("12,a folder/mask.png") == (12, "a folder/mask.png", 1)
    assert parse_paint(" 0 , one,two.png , 7") == (0, "one,two.png", 7)
    for text in ("", "3", "x,mask.png", "-1,mask.png", "0,mask.png,0", "0,mask.png,255", "0,",
                 "9" * 5000 + ",mask.png", "0,mask.png," + "9" * 5000):  # fmt: skip
        with pytest.raises(UserError):
            parse_paint(text)


@given(arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_a_painting_keeps_every_pixel(silhouette: np.ndarray) -> None:
    painting = Painting.of(3, silhouette, 2)
    np.testing.assert_array_equal(painting.silhouette_HW, silhouette)
    assert painting == Painting.of(3, silhouette, 2)


NO_CLICKS = [
    *("", "0", "0,1,2", "0,1,2,x", "0,1,2,+,2,3", "0,a,2,+", "0,nan,2,+", "0,1,inf,+"),
    *("-1,1,2,+", "1.5,1,2,+", "1e2,1,2,+", "²,1,2,+"),
    *("0,1,2,+,0", "0,1,2,+,255", "0,1,2,+,x", "0,1,2,+,", "0,1,2,+,-1", "0,1,2,+,1.0"),
]
NO_BOXES = [
    *("", "0,1,2,3", "0,1,2,3,4,5,6", "0,1,2,3,x", "0,1,2,nan,4"),
    *("0,1,2,0,4", "0,1,2,3,-4", "-1,1,2,3,4", "0.0,1,2,3,4"),
    *("0,1,2,3,4,0", "0,1,2,3,4,255", "0,1,2,3,4,x"),
]


@pytest.mark.parametrize(
    ("parse", "text"),
    [*((parse_click, text) for text in NO_CLICKS), *((parse_box, text) for text in NO_BOXES)],
)
def test_what_is_no_click_or_box_is_refused_by_name(
    parse: Callable[[str], Prompt], text: str
) -> None:
    with pytest.raises(UserError) as error:
        parse(text)
    assert repr(text) in str(error.value)


@pytest.mark.parametrize(
    "prompt",
    [
        *(Click(4, 0, 0), Click(0, 0, 0), Click(0, 99.5, 49.5)),
        *(Box(0, -10, -10, 11, 11), Box(0, 99, 49, 500, 500), Box(0, -10, -10, 500, 500)),
    ],
)
def test_what_touches_the_picture_is_inside(prompt: Click | Box) -> None:
    check_inside([prompt], frames=5, width=100, height=50)


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (Click(5, 0, 0), "frames 0 to 4"),
        (Box(9, 0, 0, 1, 1), "frames 0 to 4"),
        (Click(0, 100, 0), "100x50"),
        (Click(0, 0, 50), "100x50"),
        (Click(0, -0.5, 0), "100x50"),
        (Box(0, -11, 0, 10, 10), "100x50"),
        (Box(0, 0, -11, 10, 10), "100x50"),
        (Box(0, 0, 50, 10, 10), "100x50"),
    ],
)
def test_what_lies_outside_is_refused(prompt: Click | Box, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        check_inside([Click(0, 1, 1), prompt], frames=5, width=100, height=50)
    assert str(prompt) in str(error.value)
