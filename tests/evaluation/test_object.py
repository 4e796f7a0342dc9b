"""The edited object against the truth: by hand, and on drawings whose place and turn are known."""

import cv2
import numpy as np
import pytest

from maskora.evaluation.metrics import (
    centroid_error,
    find_object,
    hit_rate,
    orientation_error,
    palette,
)
from tests.evaluation.scenes import ORANGE, Scene, draw_disc, draw_scene

FRAME = 5


@pytest.fixture(scope="module")
def scene() -> Scene:
    return draw_scene()


def found(scene: Scene, picture: np.ndarray, frame: int = FRAME) -> np.ndarray:
    colours = palette(scene.truth[frame], scene.object[frame])
    rivals = [scene.source[frame], scene.background[frame]]
    return find_object(picture, colours, rivals, scene.box[frame])


def errors(scene: Scene, picture: np.ndarray) -> tuple[float | None, float | None]:
    """Of place and of orientation."""
    truth = scene.truth[FRAME]
    here, there = found(scene, picture), found(scene, truth)
    return centroid_error(here, there), orientation_error(picture, here, truth, there)


def moved(scene: Scene, x: float, y: float) -> np.ndarray:
    """The true frame with its object somewhere else."""
    return draw_disc(scene.background[FRAME], FRAME, ORANGE, shift=(x, y))


def test_hit_rate_by_hand() -> None:
    truth = np.full((1, 5, 3), 200, np.uint8)
    source, background = np.zeros_like(truth), np.full_like(truth, 100)
    result = np.array([200, 160, 140, 40, 200], np.uint8)[None, :, None].repeat(3, axis=2)
    objects = np.array([[True, True, True, True, False]])
    # 200 and 160 are nearer to 200; 140 is nearer to the background's 100, 40 to the source's 0.
    assert hit_rate(result, truth, [source, background], objects) == 0.5
    assert hit_rate(result, truth, [source], objects) == 0.75
    # As far from one as from the other is no hit.
    assert hit_rate(np.full_like(truth, 150), truth, [background], objects) == 0.0


def test_the_truth_hits_always_and_its_rivals_never(scene: Scene) -> None:
    for frame in range(len(scene.truth)):
        rivals = [scene.source[frame], scene.background[frame]]
        given = scene.truth[frame], rivals, scene.object[frame]
        assert hit_rate(scene.truth[frame], *given) == 1.0
        assert hit_rate(scene.source[frame], *given) == 0.0
        assert hit_rate(scene.background[frame], *given) == 0.0


def test_pixels_that_look_like_a_rival_do_not_count() -> None:
    truth = np.full((4, 4, 3), 200, np.uint8)
    alike = np.full((4, 4, 3), 185, np.uint8)
    assert hit_rate(alike, truth, [alike], np.ones((4, 4), bool)) is None


def test_the_truth_against_itself_has_no_error(scene: Scene) -> None:
    for frame in range(len(scene.truth)):
        truth = scene.truth[frame]
        there = found(scene, truth, frame)
        assert there.sum() > 0.9 * scene.object[frame].sum()
        assert centroid_error(there, there) == 0.0
        assert orientation_error(truth, there, truth, there) == 0.0


@pytest.mark.parametrize(("x", "y"), [(3.0, 0.0), (0.0, -4.0), (-3.0, 4.0)])
def test_a_shift_is_measured(scene: Scene, x: float, y: float) -> None:
    place, turn = errors(scene, moved(scene, x, y))
    assert place == pytest.approx(np.hypot(x, y), abs=0.5)
    assert turn == pytest.approx(0.0, abs=3.0)


@pytest.mark.parametrize("degrees", [10, 45, 90, 135, 180, 300])
def test_a_turn_is_measured(scene: Scene, degrees: int) -> None:
    turn = 0.25 + np.deg2rad(degrees) / FRAME
    picture = draw_disc(scene.background[FRAME], FRAME, ORANGE, turn)
    place, turned = errors(scene, picture)
    assert place == pytest.approx(0.0, abs=0.5)
    assert turned == pytest.approx(min(degrees, 360 - degrees), abs=3.0)


def test_a_turn_is_measured_under_blur_and_noise(scene: Scene) -> None:
    turn = 0.25 + np.deg2rad(60) / FRAME
    picture = draw_disc(scene.background[FRAME], FRAME, ORANGE, turn)
    noise = np.random.default_rng(0).normal(0, 8, picture.shape)
    worn = np.clip(cv2.GaussianBlur(picture, (0, 0), 1.0) + noise, 0, 255).astype(np.uint8)
    assert errors(scene, worn)[1] == pytest.approx(60, abs=3.0)


def test_an_object_that_is_gone_has_no_place(scene: Scene) -> None:
    assert errors(scene, scene.background[FRAME]) == (None, None)
    assert errors(scene, scene.source[FRAME]) == (None, None)


def drawing(degrees: float, half_length: int, half_width: int) -> tuple[np.ndarray, np.ndarray]:
    """A plain orange ellipse on black, and where it is."""
    picture = np.zeros((96, 96, 3), np.uint8)
    axes = (half_length, half_width)
    cv2.ellipse(picture, (48, 48), axes, degrees, 0, 360, (240, 150, 40), thickness=-1)
    return picture, picture.any(axis=-1)


def test_a_half_turn_of_a_bar_is_no_error() -> None:
    (bar, there), (turned, here) = drawing(20, 30, 10), drawing(200, 30, 10)
    assert orientation_error(turned, here, bar, there) == pytest.approx(0.0, abs=3.0)
    (turned, here) = drawing(80, 30, 10)
    assert orientation_error(turned, here, bar, there) == pytest.approx(60.0, abs=3.0)


def test_a_half_turn_of_a_bar_whose_ends_differ_is_an_error() -> None:
    bar, there = drawing(20, 30, 10)
    bar[:, 70:][there[:, 70:]] = (60, 90, 220)  # the tip alone
    turned, here = bar[::-1, ::-1].copy(), there[::-1, ::-1].copy()
    assert orientation_error(turned, here, bar, there) == pytest.approx(180.0, abs=3.0)


def test_a_plain_disc_has_no_orientation() -> None:
    disc, there = drawing(0, 25, 25)
    assert orientation_error(disc, there, disc, there) is None


def test_a_soft_edge_is_no_colour_of_the_object() -> None:
    ground = np.full((64, 64, 3), (105, 120, 100), np.uint8)
    disc = np.zeros((64, 64, 3), np.uint8)
    cv2.circle(disc, (30, 34), 14, (240, 150, 40), thickness=-1)
    cover = cv2.GaussianBlur((disc.any(axis=-1)).astype(np.float32), (3, 3), 0)[..., None]
    picture = (ground + cover * (np.array((240, 150, 40)) - ground)).astype(np.uint8)
    there = cover[..., 0] > 0  # as a mask that was made smaller: wherever it is seen at all
    colours = palette(picture, there)
    seen = find_object(picture, colours, [ground], np.ones((64, 64), bool))
    assert not (seen & ~there).any()
    assert seen.sum() > 0.8 * there.sum()


def test_an_object_of_edge_pixels_alone_has_their_colours() -> None:
    picture = np.full((8, 8, 3), 90, np.uint8)
    line = np.zeros((8, 8), bool)
    line[3] = True
    assert len(palette(picture, line)) == 1


def test_what_lies_beyond_the_picture_has_no_say_in_orientation() -> None:
    picture, there = drawing(30, 12, 5)
    picture, there = picture[40:, :52].copy(), there[40:, :52].copy()
    for rings in range(8, 16):  # memory that is used again for what is unrolled
        used = [np.full((360, rings, 4), np.nan, np.float32) for _ in range(20)]
        del used
        assert orientation_error(picture, there, picture, there) == 0.0
