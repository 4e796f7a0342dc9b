"""Pixel measures: the same numbers as another implementation; a mask means what it says."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from maskora.evaluation.metrics import compare, ssim

EVERYWHERE = np.ones((48, 64), bool)


def pair(seed: int = 0, noise: float = 12.0) -> tuple[np.ndarray, np.ndarray]:
    """A smooth picture, and the same with noise."""
    random = np.random.default_rng(seed)
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


@pytest.mark.parametrize("noise", [2.0, 12.0, 60.0])
def test_psnr_is_that_of_torchmetrics(noise: float) -> None:
    one, other = pair(noise=noise)
    theirs = peak_signal_noise_ratio(tensor(other), tensor(one), data_range=255.0)
    found = compare(one, other, EVERYWHERE)
    assert found is not None
    assert found.psnr == pytest.approx(float(theirs), abs=1e-3)


@pytest.mark.parametrize("noise", [2.0, 12.0, 60.0])
def test_ssim_is_that_of_torchmetrics(noise: float) -> None:
    one, other = pair(noise=noise)
    assert ssim(one, other, EVERYWHERE) == pytest.approx(their_ssim(one, other), abs=1e-4)


def test_a_regions_numbers_are_those_of_the_region_alone() -> None:
    one, other = pair()
    where = np.zeros((48, 64), bool)
    where[10:30, 20:50] = True
    one_cut, other_cut = one[10:30, 20:50], other[10:30, 20:50]
    theirs = peak_signal_noise_ratio(tensor(other_cut), tensor(one_cut), data_range=255.0)
    found = compare(one, other, where)
    assert found is not None
    assert found.psnr == pytest.approx(float(theirs), abs=1e-3)
    assert found.ssim == pytest.approx(their_ssim(one_cut, other_cut), abs=1e-4)


def test_identical_pictures() -> None:
    one, _ = pair()
    found = compare(one, one.copy(), EVERYWHERE)
    assert found is not None
    assert (found.mse, found.l1, found.ssim) == (0.0, 0.0, 1.0)
    assert math.isinf(found.psnr)


def test_levels_do_not_wrap_around() -> None:
    black, white = np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 3), 255, np.uint8)
    found = compare(black, white, np.ones((16, 16), bool))
    assert found is not None
    assert (found.l1, found.psnr) == (255.0, 0.0)


@settings(max_examples=25, deadline=None)
@given(
    left=st.integers(0, 40),
    top=st.integers(0, 30),
    width=st.integers(1, 24),
    seed=st.integers(0, 9),
)
def test_what_lies_beyond_the_mask_has_no_say(left: int, top: int, width: int, seed: int) -> None:
    one, other = pair()
    where = np.zeros((48, 64), bool)
    where[top : top + 18, left : left + width] = True
    changed = np.where(
        where[..., None], other, np.random.default_rng(seed).integers(0, 256, other.shape)
    ).astype(np.uint8)
    assert compare(one, changed, where) == compare(one, other, where)


def test_no_region_has_no_numbers() -> None:
    one, other = pair()
    assert compare(one, other, ~EVERYWHERE) is None


def test_a_region_narrower_than_the_window_has_no_ssim() -> None:
    one, other = pair()
    where = np.zeros((48, 64), bool)
    where[:, 20:30] = True
    found = compare(one, other, where)
    assert found is not None
    assert found.ssim is None
    assert found.l1 > 0
