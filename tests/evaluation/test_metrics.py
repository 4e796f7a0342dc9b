"""The measures: pixels as torchmetrics has them, motion, the edit's colours, the object."""

import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from maskora.evaluation.metrics import (
    Flow,
    centroid_error,
    change_kept,
    colours_kept,
    compare,
    crop_region,
    edit_colours,
    find_object,
    frame_warp_error,
    hit_rate,
    measure_flow,
    motion_sums,
    orientation_error,
    palette,
    psnr,
    warp_error,
)
from maskora.evaluation.verdict import COLOURS_GONE
from tests.evaluation.scenes import ORANGE, SCENE, draw_disc

EVERYWHERE = np.ones((48, 64), bool)


def pair(noise: float = 12.0) -> tuple[np.ndarray, np.ndarray]:
    """A smooth picture, and the same with noise."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[0:48, 0:64]
    smooth = np.stack([128 + 90 * np.sin(x / 5), 2.0 * x + y, 128 + 80 * np.cos(y / 7)], axis=-1)
    noisy = smooth + random.normal(0, noise, smooth.shape)
    return smooth.astype(np.uint8), np.clip(noisy, 0, 255).astype(np.uint8)


def tensor(picture_HWC: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture_HWC).permute(2, 0, 1)[None].double()


def their_ssim(one_HWC: np.ndarray, other_HWC: np.ndarray) -> float:
    """The mean over windows that lie wholly in the picture; torchmetrics' own reaches beyond."""
    _, everywhere = structural_similarity_index_measure(
        tensor(other_HWC), tensor(one_HWC), data_range=255.0, return_full_image=True
    )
    return float(everywhere[..., 5:-5, 5:-5].mean())


def window(rows: slice, columns: slice) -> np.ndarray:
    where = np.zeros((48, 64), bool)
    where[rows, columns] = True
    return where


@pytest.mark.parametrize(
    "region", [(slice(0, 48), slice(0, 64)), (slice(10, 30), slice(20, 50))], ids=["all", "part"]
)
@pytest.mark.parametrize("noise", [2.0, 12.0, 60.0])
def test_psnr_and_ssim_of_a_region_are_those_of_torchmetrics(
    noise: float, region: tuple[slice, slice]
) -> None:
    one, other = pair(noise=noise)
    theirs = peak_signal_noise_ratio(tensor(other[region]), tensor(one[region]), data_range=255.0)
    found = compare(one, other, window(*region))
    assert found is not None
    assert psnr(found.mse) == pytest.approx(float(theirs), abs=1e-3)
    assert found.ssim == pytest.approx(their_ssim(one[region], other[region]), abs=1e-4)


def test_extremes() -> None:
    one, _ = pair()
    found = compare(one, one.copy(), EVERYWHERE)
    assert found is not None
    assert (found.mse, found.l1, found.ssim) == (0.0, 0.0, 1.0)
    assert math.isinf(psnr(found.mse))
    found = compare(np.zeros_like(one), np.full_like(one, 255), EVERYWHERE)
    assert found is not None
    assert (found.l1, psnr(found.mse)) == (255.0, 0.0), "levels do not wrap around"
    assert compare(one, one, ~EVERYWHERE) is None


@settings(max_examples=25, deadline=None)
@given(
    left=st.integers(0, 40),
    top=st.integers(0, 30),
    width=st.integers(1, 24),
    seed=st.integers(0, 9),
)
def test_what_lies_beyond_the_mask_has_no_say(left: int, top: int, width: int, seed: int) -> None:
    one, other = pair()
    where = window(slice(top, top + 18), slice(left, left + width))
    changed = np.where(
        where[..., None], other, np.random.default_rng(seed).integers(0, 256, other.shape)
    ).astype(np.uint8)
    assert compare(one, changed, where) == compare(one, other, where)


def test_a_region_narrower_than_the_window_has_no_ssim() -> None:
    found = compare(*pair(), window(slice(0, 48), slice(20, 30)))
    assert found is not None
    assert found.ssim is None
    assert found.l1 > 0


WHERE = np.zeros((96, 128), bool)
WHERE[20:76, 30:98] = True


def texture(shift_x: int = 0, shift_y: int = 0) -> np.ndarray:
    """A window of a wide blurred noise, (96, 128, 3); the picture moves right and down."""
    noise = np.random.default_rng(0).normal(size=(160, 200, 3))
    picture = np.clip(128 + 300 * cv2.GaussianBlur(noise, (0, 0), 2.5), 0, 255).astype(np.uint8)
    return picture[30 - shift_y : 126 - shift_y, 30 - shift_x : 158 - shift_x].copy()


@pytest.mark.parametrize(("x", "y"), [(3, 0), (0, -2), (4, 3)])
def test_a_shift_is_found_and_leaves_no_warp_error(x: int, y: int) -> None:
    first, second = texture(), texture(x, y)
    flow = measure_flow(first, second)
    assert np.median(flow.forward_HW2[WHERE], axis=0) == pytest.approx([x, y], abs=0.1)
    assert flow.seen_HW[WHERE].mean() > 0.98
    assert warp_error(first, second, flow, WHERE) < 1.0
    assert np.abs(first.astype(int) - second)[WHERE].mean() > 8


def test_noise_that_is_new_in_each_frame_is_a_warp_error() -> None:
    random = np.random.default_rng(1)
    first, second = (
        np.clip(frame + random.normal(0, 30, frame.shape), 0, 255).astype(np.uint8)
        for frame in (texture(), texture(4, 3))
    )
    assert warp_error(first, second, measure_flow(first, second), WHERE) > 10


def test_the_warp_error_of_whole_frames_is_a_mean_square_of_colours_from_0_to_1() -> None:
    dark, brighter = (np.full((8, 10, 3), level, np.uint8) for level in (0, 51))
    right = np.zeros((8, 10), bool)
    right[:, 5:] = True
    half = np.where(right[..., None], brighter, dark)
    still = np.zeros((8, 10, 2), np.float32)
    assert frame_warp_error(dark, half, Flow(still, ~right)) == 0.0, "what is hidden has no say"
    assert frame_warp_error(dark, half, Flow(still, right)) == pytest.approx(0.2**2)
    assert frame_warp_error(dark, half, Flow(still, right | ~right)) == pytest.approx(0.2**2 / 2)
    to_the_left = still - np.array([5, 0], np.float32)
    assert frame_warp_error(dark, half, Flow(to_the_left, right)) == 0.0, "from where it moved to"
    assert frame_warp_error(dark, half, Flow(still, right & False)) is None


@given(
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), min_size=1, max_size=3),
)
def test_a_region_is_a_square_around_the_mask_where_there_is_room(
    shape: tuple[int, int], points: list[tuple[int, int]]
) -> None:
    where = np.zeros(shape, bool)
    for y, x in points:
        where[y % shape[0], x % shape[1]] = True
    numbers = np.arange(where.size).reshape(shape)
    region = crop_region(numbers, where)
    assert region is not None
    assert set(numbers[where]) <= set(region.flat)
    y, x = np.nonzero(where)
    side = max(np.ptp(y), np.ptp(x)) + 1
    assert region.shape == (min(side, shape[0]), min(side, shape[1]))


def test_a_region_lies_in_the_middle_and_an_empty_one_is_none() -> None:
    where = np.zeros((9, 9), bool)
    assert crop_region(where, where) is None
    where[4, 2:7] = True
    assert np.array_equal(np.nonzero(crop_region(where, where)), [[2] * 5, range(5)])


def test_pixels_that_leave_the_picture_or_are_hidden_are_not_seen() -> None:
    flow = measure_flow(texture(), texture(8, 0))
    assert flow.seen_HW[30:60, 30:90].mean() > 0.9
    assert not flow.seen_HW[:, -6:].any()
    second = texture()
    second[30:60, 50:80] = texture(-25, 7)[30:60, 50:80]
    seen = measure_flow(texture(), second).seen_HW
    assert seen[36:54, 56:74].mean() < 0.5
    assert seen[:, :40].mean() > 0.95


def test_motion_followed_and_not() -> None:
    still, moving = measure_flow(texture(), texture()), measure_flow(texture(), texture(3, 1))
    same, stiff = motion_sums(moving, moving, WHERE), motion_sums(still, moving, WHERE)
    assert same is not None
    assert same["motion_along"] == pytest.approx(same["motion_source"])
    assert same["motion_speed_sum"] == pytest.approx(same["motion_speed_source"])
    assert stiff is not None
    assert abs(stiff["motion_along"]) < 0.02 * stiff["motion_source"]
    assert stiff["motion_speed_sum"] < 0.02 * stiff["motion_speed_source"]
    assert motion_sums(moving, still, WHERE) is None, "there is nothing to follow"
    nowhere = np.zeros_like(WHERE)
    assert warp_error(texture(), texture(3, 1), moving, nowhere) is None
    assert motion_sums(moving, moving, nowhere) is None


def test_motion_the_other_way_counts_against() -> None:
    back, forth = measure_flow(texture(3, 0), texture()), measure_flow(texture(), texture(3, 0))
    found = motion_sums(back, forth, WHERE)
    assert found is not None
    assert found["motion_along"] == pytest.approx(-found["motion_source"], rel=0.05)
    assert found["motion_speed_sum"] == pytest.approx(found["motion_speed_source"], rel=0.05)


LAST = -1
FIRST = SCENE.truth[0], SCENE.source[0], SCENE.box[0]


def test_how_much_of_the_edit_is_kept() -> None:
    edit = edit_colours([FIRST])
    assert edit.telling
    assert colours_kept(*FIRST, edit) == 1.0
    assert change_kept(*FIRST, edit) == 1.0
    rest = SCENE.source[LAST], SCENE.box[LAST]
    assert colours_kept(SCENE.truth[LAST], *rest, edit) == pytest.approx(1.0, abs=0.1)
    assert change_kept(SCENE.truth[LAST], *rest, edit) == pytest.approx(1.0, abs=0.1)
    assert colours_kept(SCENE.source[LAST], *rest, edit) == pytest.approx(0.0, abs=0.05)
    assert change_kept(SCENE.source[LAST], *rest, edit) == 0.0
    # The object's absence differs from the source as well: there only the colours tell.
    assert colours_kept(SCENE.background[LAST], *rest, edit) == pytest.approx(0.0, abs=0.05)


def test_noise_has_not_most_of_the_edits_colours() -> None:
    """An edit of part of the mask, in many colours: what smoothing adds to them noise has, too."""
    source_HWC = np.full((64, 64, 3), (70, 110, 60), np.uint8)
    inside_HW = np.zeros((64, 64), bool)
    inside_HW[12:52, 12:52] = True
    edited_HWC = source_HWC.copy()
    edited_HWC[20:44, 20:44] = 60, 60, 160
    edited_HWC[20:44, 20:44, 0] = np.linspace(60, 200, 24)
    edit = edit_colours([(edited_HWC, source_HWC, inside_HW)])
    noise_HWC = np.random.default_rng(0).integers(0, 256, source_HWC.shape, dtype=np.uint8)
    kept = colours_kept(noise_HWC, source_HWC, inside_HW, edit)
    assert kept is not None
    assert kept < COLOURS_GONE
    assert colours_kept(edited_HWC, source_HWC, inside_HW, edit) == 1.0


def test_the_look_of_a_later_keyframe_is_the_edits_too() -> None:
    pink = np.where(SCENE.object[LAST][..., None], (240, 90, 180), SCENE.truth[LAST])
    given = pink.astype(np.uint8), SCENE.source[LAST], SCENE.box[LAST]
    alone, both = edit_colours([FIRST]), edit_colours([FIRST, given])
    before, after = colours_kept(*given, alone), colours_kept(*given, both)
    assert before is not None
    assert after is not None
    assert before < 0.2
    assert after > 0.8


def test_an_edit_of_the_shape_alone_cannot_be_told_by_its_colours() -> None:
    shifted = np.roll(SCENE.source[0], 4, axis=1)
    given = np.where(SCENE.box[0][..., None], shifted, SCENE.source[0])
    edit = edit_colours([(given, SCENE.source[0], SCENE.box[0])])
    assert not edit.telling
    assert colours_kept(given, SCENE.source[0], SCENE.box[0], edit) is None
    assert change_kept(given, SCENE.source[0], SCENE.box[0], edit) == 1.0


def test_a_colour_that_the_source_has_as_well_does_not_count() -> None:
    source = np.full((20, 20, 3), (100, 100, 100), np.uint8)
    source[:, 10:] = (40, 60, 200)
    edited = source.copy()
    edited[:10, :10] = (220, 50, 40)
    edited[:10, 10:] = (100, 100, 100)  # half of the edit is the source's grey
    inside = np.ones((20, 20), bool)
    edit = edit_colours([(edited, source, inside)])
    assert colours_kept(edited, source, inside, edit) == 1.0
    assert colours_kept(source, source, inside, edit) == 0.0


def test_no_edit_and_no_mask_have_no_numbers() -> None:
    source, nowhere = SCENE.source[0], np.zeros_like(SCENE.box[0])
    unedited = edit_colours([(source, source, SCENE.box[0])])
    assert colours_kept(source, source, SCENE.box[0], unedited) is None
    assert change_kept(source, source, SCENE.box[0], unedited) is None
    edit = edit_colours([FIRST])
    assert colours_kept(source, source, nowhere, edit) is None
    assert change_kept(source, source, nowhere, edit) is None


FRAME = 5


def found(picture: np.ndarray, frame: int = FRAME) -> np.ndarray:
    colours = palette(SCENE.truth[frame], SCENE.object[frame])
    rivals = [SCENE.source[frame], SCENE.background[frame]]
    return find_object(picture, colours, rivals, SCENE.box[frame])


def errors(picture: np.ndarray) -> tuple[float | None, float | None]:
    """Of place and of orientation."""
    truth = SCENE.truth[FRAME]
    here, there = found(picture), found(truth)
    return centroid_error(here, there), orientation_error(picture, here, truth, there)


def moved(x: float, y: float) -> np.ndarray:
    """The true frame with its object somewhere else."""
    return draw_disc(SCENE.background[FRAME], FRAME, ORANGE, shift=(x, y))


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


def test_the_truth_hits_always_and_without_an_error_and_its_rivals_never() -> None:
    for frame in range(len(SCENE.truth)):
        rivals = [SCENE.source[frame], SCENE.background[frame]]
        given = SCENE.truth[frame], rivals, SCENE.object[frame]
        assert hit_rate(SCENE.truth[frame], *given) == 1.0
        assert hit_rate(SCENE.source[frame], *given) == 0.0
        assert hit_rate(SCENE.background[frame], *given) == 0.0
        there = found(SCENE.truth[frame], frame)
        assert there.sum() > 0.9 * SCENE.object[frame].sum()
        assert centroid_error(there, there) == 0.0
        assert orientation_error(SCENE.truth[frame], there, SCENE.truth[frame], there) == 0.0


def test_pixels_that_look_like_a_rival_do_not_count() -> None:
    truth = np.full((4, 4, 3), 200, np.uint8)
    alike = np.full((4, 4, 3), 185, np.uint8)
    assert hit_rate(alike, truth, [alike], np.ones((4, 4), bool)) is None


@pytest.mark.parametrize(("x", "y"), [(3.0, 0.0), (0.0, -4.0), (-3.0, 4.0)])
def test_a_shift_is_measured(x: float, y: float) -> None:
    place, turn = errors(moved(x, y))
    assert place == pytest.approx(np.hypot(x, y), abs=0.5)
    assert turn == pytest.approx(0.0, abs=3.0)


@pytest.mark.parametrize("degrees", [10, 45, 60, 90, 135, 180, 300])
def test_a_turn_is_measured_also_under_blur_and_noise(degrees: int) -> None:
    turn = 0.25 + np.deg2rad(degrees) / FRAME
    picture = draw_disc(SCENE.background[FRAME], FRAME, ORANGE, turn)
    noise = np.random.default_rng(0).normal(0, 8, picture.shape)
    worn = np.clip(cv2.GaussianBlur(picture, (0, 0), 1.0) + noise, 0, 255).astype(np.uint8)
    for shown in (picture, worn):
        place, turned = errors(shown)
        assert place == pytest.approx(0.0, abs=0.5)
        assert turned == pytest.approx(min(degrees, 360 - degrees), abs=3.0)


def test_an_object_that_is_gone_has_no_place() -> None:
    assert errors(SCENE.background[FRAME]) == (None, None)
    assert errors(SCENE.source[FRAME]) == (None, None)


def drawing(degrees: float, half_length: int, half_width: int) -> tuple[np.ndarray, np.ndarray]:
    """A plain orange ellipse on black, and where it is."""
    picture = np.zeros((96, 96, 3), np.uint8)
    axes = (half_length, half_width)
    cv2.ellipse(picture, (48, 48), axes, degrees, 0, 360, (240, 150, 40), thickness=-1)
    return picture, picture.any(axis=-1)


@pytest.mark.parametrize(("degrees", "error"), [(200, 0.0), (80, 60.0)])
def test_a_half_turn_of_a_bar_is_no_error(degrees: float, error: float) -> None:
    (bar, there), (turned, here) = drawing(20, 30, 10), drawing(degrees, 30, 10)
    assert orientation_error(turned, here, bar, there) == pytest.approx(error, abs=3.0)


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
