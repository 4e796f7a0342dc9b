"""Steps on a frame: confined to the region, undone exactly, each doing what it is called."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from maskora.errors import UserError
from maskora.retouch import (
    AnyStep,
    Erase,
    Frame,
    Lay,
    Paint,
    PlacePicture,
    Recolour,
    Step,
    Swap,
    erase,
    hex_colour,
    lay,
    placed,
    recolour,
    retouched,
    rgb,
    stroke,
    swap,
)

HEIGHT, WIDTH = 40, 56
NAME = "0" * 20
RANDOM = np.random.default_rng(0)
SOURCE = RANDOM.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
STICKER = RANDOM.integers(0, 256, (9, 13, 4), dtype=np.uint8)
OTHER = RANDOM.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def frame(base: np.ndarray = SOURCE, picture: np.ndarray = STICKER) -> Frame:
    region = np.zeros((HEIGHT, WIDTH), bool)
    region[8:32, 10:46] = True
    inside = np.zeros((HEIGHT, WIDTH), bool)
    inside[14:26, 18:36] = True
    return Frame(SOURCE, base, inside, region, lambda name: picture)


numbers = st.floats(-100, 100)
points = st.lists(st.tuples(st.floats(-20, 80), st.floats(-20, 80)), min_size=1, max_size=4)
steps = st.one_of(
    st.builds(Recolour, hue=numbers, saturation=numbers, brightness=numbers),
    st.builds(Swap, source=st.just("#805040"), target=st.just("#20c0ff")),
    st.builds(
        Paint, colour=st.sampled_from([None, "#ff0000"]), radius=st.floats(0.5, 30),
        points=points.map(tuple), opacity=st.floats(0, 1),
    ),
    st.builds(
        PlacePicture, picture=st.just(NAME), x=numbers, y=numbers, width=st.floats(1, 200),
        angle=numbers, blend=st.sampled_from(["normal", "multiply", "screen"]),
    ),
    st.builds(Erase, radius=st.floats(0.5, 9), points=points.map(tuple)),
)  # fmt: skip


@given(done=st.lists(steps, max_size=4), feather=st.floats(0, 12))
@settings(max_examples=40, deadline=None)
def test_outside_the_region_nothing_changes_and_it_is_the_same_again(
    done: list[AnyStep], feather: float
) -> None:
    where = frame()
    picture = retouched(where, done, feather)
    assert np.array_equal(picture[~where.region_HW], SOURCE[~where.region_HW])
    assert np.array_equal(picture, retouched(where, done, feather))
    stored = TypeAdapter(tuple[AnyStep, ...])
    again = stored.validate_json(stored.dump_json(tuple(done)))
    assert np.array_equal(picture, retouched(where, again, feather))


def test_an_edit_that_was_there_stays_where_no_step_is() -> None:
    base = OTHER.copy()
    picture = retouched(frame(base), [Paint(colour="#ff0000", radius=2, points=((30, 20),))], 3)
    changed = (picture != base).any(axis=-1)
    assert changed.any()
    assert not changed[stroke(((30, 20),), 2, base.shape) == 0].any()


def test_recolouring_turns_the_hue_and_comes_back() -> None:
    red = np.zeros((2, 2, 3), np.uint8)
    red[:] = (200, 40, 40)
    assert recolour(red, 120, 0, 0)[0, 0].tolist() == [40, 200, 40]
    assert np.array_equal(recolour(red, 360, 0, 0), red)
    assert recolour(red, 0, -1, 0)[0, 0].tolist() == [200, 200, 200]
    assert recolour(red, 0, 0, -0.5)[0, 0].tolist() == [100, 20, 20]


@given(source=st.tuples(*[st.integers(0, 255)] * 3), target=st.tuples(*[st.integers(0, 255)] * 3))
@settings(max_examples=60, deadline=None)
def test_a_picked_colour_becomes_the_other(
    source: tuple[int, ...], target: tuple[int, ...]
) -> None:
    image = np.array([[source]], np.uint8)
    assert np.abs(swap(image, source, target, 20)[0, 0].astype(int) - target).max() <= 1


def test_far_colours_stay_and_shades_move_along() -> None:
    image = np.array([[[200, 40, 40], [190, 38, 38], [40, 40, 200]]], np.uint8)
    moved = swap(image, (200, 40, 40), (40, 160, 60), 20).astype(int)
    assert moved[0, 2].tolist() == [40, 40, 200]
    assert moved[0, 1, 1] > moved[0, 1, 0]
    assert moved[0, 1].sum() < moved[0, 0].sum()


def test_a_stroke_is_as_wide_as_its_brush() -> None:
    weight = stroke(((10, 10), (30, 10)), 3, (HEIGHT, WIDTH))
    assert weight[10, 10:31].min() == 1
    assert weight[:, 20].sum() == 6
    assert weight[7, 20] == weight[13, 20] == 0.5
    assert weight[10, 34] == weight[10, 6] == 0
    assert np.array_equal(weight, stroke(((30, 10), (10, 10)), 3, (HEIGHT, WIDTH)))


def test_the_eraser_brings_the_source_back() -> None:
    whole = ((28.0, 20.0),)
    done = [Paint(colour="#00ff00", radius=60, points=whole), Paint(radius=60, points=whole)]
    assert np.array_equal(retouched(frame(), done, 4), SOURCE)
    assert not np.array_equal(retouched(frame(), done[:1], 4), SOURCE)


def test_a_picture_lies_where_it_is_put() -> None:
    sticker = np.full((10, 20, 3), 200, np.uint8)
    colours, weight = placed(sticker, (WIDTH, HEIGHT), 27.5, 19.5, 20, 0)
    assert weight.sum() == pytest.approx(200, rel=1e-3)
    assert np.argwhere(weight > 0.5).min(axis=0).tolist() == [15, 18]
    assert np.allclose(colours[weight > 0.5], 200)
    _, turned = placed(sticker, (WIDTH, HEIGHT), 27.5, 19.5, 20, 90)
    assert np.argwhere(turned > 0.5).min(axis=0).tolist() == [10, 23]
    _, large = placed(sticker, (WIDTH, HEIGHT), 27.5, 19.5, 40, 0)
    assert large.sum() == pytest.approx(800, rel=0.1)
    _, small = placed(sticker, (WIDTH, HEIGHT), 27.5, 19.5, 10, 0)
    assert small.sum() == pytest.approx(50, rel=0.1)


def test_a_picture_turns_clockwise() -> None:
    sticker = np.zeros((21, 21, 4), np.uint8)
    sticker[:6, 8:13] = 255  # a hand that points up
    _, weight = placed(sticker, (WIDTH, HEIGHT), 28, 20, 21, 90)
    assert weight[:, 29:].sum() > 9 * weight[:, :28].sum()


def test_what_is_transparent_lets_the_frame_through() -> None:
    sticker = np.zeros((10, 10, 4), np.uint8)
    sticker[:, :5] = (255, 0, 0, 255)
    sticker[:, 5:] = (0, 255, 0, 0)
    step = PlacePicture(picture=NAME, x=27.5, y=19.5, width=10)
    picture = retouched(frame(picture=sticker), [step], 0)
    assert picture[20, 24].tolist() == [255, 0, 0]
    assert np.array_equal(picture[15:25, 29:33], SOURCE[15:25, 29:33])


@pytest.mark.parametrize(("blend", "levels"), [("multiply", 255), ("screen", 0)])
def test_white_multiplied_and_black_screened_change_nothing(blend: str, levels: int) -> None:
    sticker = np.full((30, 30, 3), levels, np.uint8)
    step = PlacePicture.model_validate(
        {"picture": NAME, "x": 28, "y": 20, "width": 30, "blend": blend}
    )
    picture = retouched(frame(picture=sticker), [step], 0)
    assert np.abs(picture.astype(int) - SOURCE).max() <= 1


def test_erasing_takes_the_object_out_of_a_smooth_picture() -> None:
    smooth = np.broadcast_to(np.linspace(60, 160, WIDTH)[None, :, None], SOURCE.shape)
    plain = smooth.astype(np.uint8)
    marked = plain.copy()
    cv2.circle(marked, (28, 20), 5, (255, 0, 0), -1)
    filled = erase(marked, np.hypot(*np.mgrid[-20:20, -28:28]) < 8)
    assert np.abs(filled.astype(int) - plain).max() < 12
    with pytest.raises(UserError, match="all of the picture"):
        erase(marked, np.ones((HEIGHT, WIDTH), bool))


def test_the_whole_silhouette_is_erased() -> None:
    where = frame()
    source = np.full_like(SOURCE, 90)
    source[where.object_HW] = 250
    moved = Frame(source, source, where.object_HW, where.region_HW, where.picture)
    picture = retouched(moved, [Erase()], 2)
    assert picture.max() <= 92


def test_erasing_fills_from_what_is_seen() -> None:
    beyond = Paint(colour="#00ff00", radius=90, points=((28.0, 20.0),))
    over = Paint(colour="#ff0000", radius=30, points=((28.0, 20.0),))  # all of the region
    everything = Erase(radius=90, points=((28.0, 20.0),))
    filled = retouched(frame(), [everything], 0)
    assert np.array_equal(retouched(frame(), [beyond, everything], 0), filled)
    assert np.array_equal(retouched(frame(), [over, everything], 0), filled)


def test_a_laid_picture_is_moved_by_whole_pixels() -> None:
    moved = lay(SOURCE, OTHER, 5, -3)
    assert np.array_equal(moved[: HEIGHT - 3, 5:], OTHER[3:, : WIDTH - 5])
    assert np.array_equal(moved[HEIGHT - 3 :], SOURCE[HEIGHT - 3 :])
    assert np.array_equal(lay(SOURCE, OTHER, 0, HEIGHT), SOURCE)
    with pytest.raises(UserError, match="another size"):
        lay(SOURCE, OTHER[1:], 0, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"tool": "paint", "radius": 3, "points": []},
        {"tool": "paint", "radius": float("inf"), "points": [[1, 1]]},
        {"tool": "paint", "radius": 3, "points": [[float("nan"), 1]]},
        {"tool": "paint", "radius": 3, "points": [[1, 1]], "colour": "red"},
        {"tool": "erase", "radius": 3},
        {"tool": "place", "picture": "../../secret", "x": 1, "y": 1, "width": 5},
        {"tool": "run", "command": "rm"},
    ],
)
def test_steps_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(AnyStep).validate_python(wrong)


def test_colours_are_written_as_they_are_read() -> None:
    assert hex_colour(rgb("#0a64ff")) == "#0a64ff"
    assert isinstance(Lay(picture=NAME, label="x"), Step)
