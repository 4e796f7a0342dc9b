"""What of the source is carried over, as functions of tensors and pictures."""

import numpy as np
import pytest
import torch

from maskora.method.transfer import carried, first_step, matched, perturbed


@pytest.mark.parametrize(
    ("start_level", "step"), [(1.0, 0), (0.99, 1), (0.8, 1), (0.5, 2), (0.1, 3)]
)
def test_a_schedule_is_entered_at_a_level_or_below(start_level: float, step: int) -> None:
    assert first_step([1.0, 0.8, 0.5, 0.2, 0.0], start_level) == step


def test_answers_that_differ_little_become_the_sources() -> None:
    """By half the difference of the answers at length one: 0 alike, 1 opposed."""
    source = torch.tensor([[[1.0, 0.0]] * 4])
    edited = torch.tensor([[[2.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [1.0, 0.1]]])
    result = matched(source, edited, threshold=0.35)
    assert torch.allclose(result[0, 0], source[0, 0]), "alike: the source's, length and all"
    assert torch.equal(result[0, 1], edited[0, 1])
    assert torch.equal(result[0, 2], edited[0, 2]), "0.71 is above the threshold"
    assert 0 < result[0, 3, 1] < 0.01


def test_noise_is_added_where_a_picture_is_smooth() -> None:
    video = torch.zeros(3, 2, 16, 16)
    video[:, :, :, 8:] = torch.randn(2, 16, 8, generator=torch.Generator().manual_seed(0))
    result = perturbed(video, 0.005, seed=1)
    assert torch.equal(result[..., 9:], video[..., 9:])
    added = result[..., :7] - video[..., :7]
    assert 0.008 < added.std() < 0.012, "0.005 of the range of colours, which is 2"
    assert torch.equal(perturbed(video, 0.0, seed=1), video)


def test_a_picture_is_carried_as_the_clip_moves() -> None:
    rng = np.random.default_rng(0)
    field = np.kron(rng.integers(0, 256, (24, 30, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    frames = np.stack([field[10:74, 20 - 3 * n : 84 - 3 * n] for n in range(5)])
    edit = frames[0].copy()
    edit[20:40, 20:40] = 255 - edit[20:40, 20:40]
    truth = frames[4].copy()
    truth[20:40, 32:52] = 255 - truth[20:40, 32:52]
    result = carried(edit, frames)
    assert np.array_equal(result[0], edit)
    inside = np.s_[22:38, 34:50]
    wrong = np.abs(result[4][inside].astype(int) - truth[inside]).mean()
    assert wrong < 0.2 * np.abs(frames[4][inside].astype(int) - truth[inside]).mean()
