"""Rectified flow, checked against its definition."""

import math

import pytest
import torch

from maskora.method.objective import draw_noise_level, flow_loss, mix, region_weights, velocity


def levels(method: str, shift: float, count: int = 4000) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.cat([draw_noise_level(method, shift, generator) for _ in range(count)])


def test_the_velocity_leads_from_data_to_noise() -> None:
    data, noise = torch.randn(2, 3), torch.randn(2, 3)
    assert torch.allclose(mix(data, noise, torch.tensor(0.0)), data)
    assert torch.allclose(mix(data, noise, torch.tensor(1.0)), noise)
    step = mix(data, noise, torch.tensor(0.7)) - mix(data, noise, torch.tensor(0.2))
    assert torch.allclose(step, 0.5 * velocity(data, noise), atol=1e-6)


def test_uniform_levels_are_uniform() -> None:
    drawn = levels("uniform", 1.0)
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.02)
    assert drawn.std().item() == pytest.approx(math.sqrt(1 / 12), abs=0.01)


def test_logit_normal_levels_have_a_normal_logit() -> None:
    logits = torch.logit(levels("logit_normal", 1.0))
    assert logits.mean().item() == pytest.approx(0, abs=0.06)
    assert logits.std().item() == pytest.approx(1, abs=0.05)


def test_the_shift_is_the_published_one() -> None:
    plain, shifted = levels("uniform", 1.0, 50), levels("uniform", 3.0, 50)
    assert torch.allclose(shifted, 3 * plain / (1 + 2 * plain))


def ks_distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference of two samples' empirical cumulative distributions."""
    places = torch.cat([one, other])
    shares = [
        torch.searchsorted(sample.sort().values, places, right=True) / len(sample)
        for sample in (one, other)
    ]
    return (shares[0] - shares[1]).abs().max().item()


@pytest.mark.parametrize(
    ("lowest", "highest", "shift"),
    [(0.9, 1.0, 3.0), (0.0, 0.9, 3.0), (0.3, 0.6, 0.5), (0.875, 1.0, 5.0)],
)
@pytest.mark.parametrize("method", ["uniform", "logit_normal"])
def test_levels_of_a_range_are_those_of_all_levels_that_lie_in_it(
    method: str, lowest: float, highest: float, shift: float
) -> None:
    generator = torch.Generator().manual_seed(1)
    drawn = torch.cat(
        [draw_noise_level(method, shift, generator, lowest, highest) for _ in range(4000)]
    )
    assert drawn.min() >= lowest
    assert drawn.max() < highest
    everything = levels(method, shift, 20_000)
    within = everything[(everything >= lowest) & (everything < highest)]
    assert len(within) > 2000
    # Two samples of one distribution differ by more than this once in 1000 times.
    bound = 1.95 * math.sqrt(1 / len(drawn) + 1 / len(within))
    assert ks_distance(drawn, within) < bound


def test_the_loss_is_the_mean_squared_error_of_the_velocity() -> None:
    answer, data, noise = (torch.randn(1, 4, 2, 3, 3) for _ in range(3))
    loss = flow_loss(answer, data, noise, torch.ones(1, 2, 3, 3))
    assert torch.allclose(loss, torch.nn.functional.mse_loss(answer, noise - data))


def test_region_weights_raise_the_inside_and_keep_the_mean() -> None:
    keep = torch.ones(9, 16, 16)
    keep[1:, 0:8, 0:8] = 0
    weights = region_weights(keep, torch.Size((16, 3, 2, 2)), inside=4.0)
    assert weights.shape == (1, 3, 2, 2)
    assert weights.mean().item() == pytest.approx(1)
    assert weights[0, 1, 0, 0] / weights[0, 1, 1, 1] == pytest.approx(4)
    assert torch.equal(weights[0, 0], weights[0, 0, :1, :1].expand(2, 2))


def test_region_weights_of_one_are_all_one() -> None:
    keep = (torch.rand(5, 8, 8) > 0.5).float()
    assert torch.allclose(region_weights(keep, torch.Size((16, 2, 1, 1)), 1.0), torch.ones(()))


def test_a_single_frame_has_weights_too() -> None:
    keep = torch.ones(1, 16, 16)
    keep[:, :8] = 0
    weights = region_weights(keep, torch.Size((16, 1, 2, 2)), inside=3.0)
    assert weights.shape == (1, 1, 2, 2)
    assert weights[0, 0, 0, 0] / weights[0, 0, 1, 0] == pytest.approx(3)
