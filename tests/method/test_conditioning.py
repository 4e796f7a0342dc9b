"""What the model is shown, pixel by pixel."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from maskora.method import conditioning
from maskora.method.conditioning import appearance_sample, grid_keep, motion_sample
from maskora.models.base import Grid
from maskora.models.diffusers_base import grouped_cells

T, H, W = 13, 6, 8


def clip() -> torch.Tensor:
    return torch.rand(3, T, H, W, generator=torch.Generator().manual_seed(1)) * 2 - 1


def moving_keep() -> torch.Tensor:
    keep = torch.ones(T, H, W)
    for t in range(T):
        keep[t, 2:5, t % 5 : t % 5 + 3] = 0
    return keep


@given(
    st.integers(1, 60).flatmap(
        lambda t: st.tuples(st.just(t), st.integers(1, t), st.integers(1, 20))
    )
)
def test_windows_begin_at_the_start_and_end_on_the_last_frame(case: tuple[int, int, int]) -> None:
    frames, window, stride = case
    starts = conditioning.window_starts(frames, window, stride)
    assert starts[0] == 0
    assert starts[-1] + window == frames
    gaps = [b - a for a, b in pairwise(starts)]
    assert all(0 < gap <= stride for gap in gaps)


def test_no_window_crosses_a_cut() -> None:
    found = conditioning.windows(40, [11, 14, 20], window=9, stride=4)
    assert [(one.start, one.stop) for one in found] == [
        (0, 9), (2, 11), (14, 19), (15, 20), (20, 29), (24, 33), (28, 37), (31, 40),
    ]  # fmt: skip
    assert conditioning.windows(3, [], window=9, stride=4) == [range(1), range(2, 3)]


def test_a_motion_window_shows_its_first_frame_whole_and_hides_the_box_later() -> None:
    video, keep = clip(), moving_keep()
    sample = motion_sample(video, keep, 4, 9, "masked", "p")
    assert torch.equal(sample.target_CTHW, video[:, 4:13])
    assert torch.equal(sample.reference_CHW, video[:, 4])
    assert torch.equal(sample.condition_CTHW[:, 0], video[:, 4])
    assert torch.equal(sample.keep_THW[0], torch.ones(H, W))
    assert torch.equal(sample.keep_THW[1:], keep[5:13])
    hidden = keep[5:13] == 0
    assert (sample.condition_CTHW[:, 1:][:, hidden] == 0).all()
    shown = ~hidden
    assert torch.equal(sample.condition_CTHW[:, 1:][:, shown], video[:, 5:13][:, shown])


def test_the_naive_baseline_sees_nothing_but_the_first_frame() -> None:
    sample = motion_sample(clip(), moving_keep(), 0, T, "first-frame", "p")
    assert sample.keep_THW[0].all()
    assert not sample.keep_THW[1:].any()
    assert not sample.condition_CTHW[:, 1:].any()


def test_a_keyframe_hides_its_box_alone_and_behind_a_whole_first_frame() -> None:
    video, keep = clip(), moving_keep()
    edited, first, reference = (torch.rand(3, H, W) for _ in range(3))
    alone = appearance_sample(7, edited, video[:, 7], keep[7], reference, "masked", "p")
    after = conditioning.anchored(alone, first, 7, 4)
    assert alone.target_CTHW.shape == (3, 1, H, W)
    assert after.target_CTHW.shape == (3, 5, H, W)
    assert after.times == (0, 2), "frames 5 to 8 are the second latent frame after the first"
    assert torch.equal(after.target_CTHW[:, 0], first)
    assert torch.equal(after.condition_CTHW[:, 0], first)
    assert after.keep_THW[0].all()
    inside = keep[7] == 0
    for sample, frame in ((alone, 0), *((after, later) for later in range(1, 5))):
        assert torch.equal(sample.reference_CHW, reference)
        assert torch.equal(sample.target_CTHW[:, frame], edited)
        assert torch.equal(sample.keep_THW[frame], keep[7])
        shown = sample.condition_CTHW[:, frame]
        assert (shown[:, inside] == 0).all()
        assert torch.equal(shown[:, ~inside], video[:, 7][:, ~inside])


def test_without_its_mask_a_keyframe_shows_the_answer() -> None:
    edited = torch.rand(3, H, W)
    source, keep = clip()[:, 7], moving_keep()[7]
    sample = appearance_sample(7, edited, source, keep, edited, "first-frame", "p")
    assert torch.equal(sample.condition_CTHW, sample.target_CTHW)
    assert sample.keep_THW.all()


def test_inference_shows_the_edited_first_frame_and_then_what_training_showed() -> None:
    video, keep, first = clip(), moving_keep(), torch.rand(3, H, W)
    sample = conditioning.inference_sample(video, keep, first[:, None], "masked", "p")
    trained = motion_sample(video, keep, 0, T, "masked", "p")
    assert sample.target_CTHW is None
    assert torch.equal(sample.condition_CTHW[:, 0], first)
    assert torch.equal(sample.reference_CHW, first)
    assert torch.equal(sample.condition_CTHW[:, 1:], trained.condition_CTHW[:, 1:])
    assert torch.equal(sample.keep_THW, trained.keep_THW)


def test_building_a_sample_changes_neither_clip_nor_mask() -> None:
    video, keep = clip(), moving_keep()
    motion_sample(video, keep, 0, 9, "masked", "p")
    assert torch.equal(video, clip())
    assert torch.equal(keep, moving_keep())


@pytest.mark.parametrize("level", [0, 1, 127, 128, 254, 255])
def test_bytes_survive_the_round_trip(level: int) -> None:
    frames = torch.full((2, 4, 4, 3), level, dtype=torch.uint8)
    assert torch.equal(conditioning.to_bytes(conditioning.to_unit(frames)), frames)


def test_a_recoloured_window_moves_alike_in_other_colours() -> None:
    video = torch.rand(3, 5, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    keep = torch.ones(5, 8, 8)
    keep[:, 2:6, 2:6] = 0
    sample = motion_sample(video, keep, 0, 5, "masked", "a ball")
    other = conditioning.recoloured(sample, (2, 0, 1))
    assert torch.equal(other.target_CTHW, video[[2, 0, 1]])
    again = motion_sample(video[[2, 0, 1]], keep, 0, 5, "masked", "a ball")
    assert torch.equal(other.condition_CTHW, again.condition_CTHW), "empty stays empty"
    assert torch.equal(other.reference_CHW, again.reference_CHW)
    assert torch.equal(other.keep_THW, sample.keep_THW)
    assert (other.name, other.prompt) == ("motion 0-4 brg", "a ball")
    assert len({*conditioning.COLOUR_ORDERS}) == 6


def test_a_grid_masks_its_share_of_the_fields_anew_in_every_latent_frame() -> None:
    keep = grid_keep((9, 128, 192), 8, 0.25, torch.Generator().manual_seed(0))
    assert keep.shape == (9, 128, 192)
    cells = keep[:, ::16, ::24]
    assert torch.equal(cells.repeat_interleave(16, dim=1).repeat_interleave(24, dim=2), keep)
    assert (cells == 0).sum(dim=(1, 2)).tolist() == [16] * 9
    assert torch.equal(cells[[1, 5]].repeat_interleave(4, dim=0), cells[1:])
    assert len({tuple(frame.flatten().tolist()) for frame in cells}) == 3


def test_a_grid_of_a_published_size_masks_its_share_of_the_latent_cells() -> None:
    keep = grid_keep((9, 480, 832), 8, 0.5, torch.Generator().manual_seed(0))
    cells = grouped_cells(keep, Grid(cell=8, patch=2, temporal=4))
    assert float(cells[1:].mean()) == pytest.approx(float(keep[1:].mean()), abs=1e-6)
    assert float(keep.mean()) == pytest.approx(0.5, abs=0.02)
