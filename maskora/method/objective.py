"""Rectified flow, as pure functions of tensors.

A noise level s in (0, 1) mixes data x and noise n into x_s = (1 - s) x + s n; the model answers
the velocity n - x at timestep 1000 s (Liu et al. 2022, "Flow straight and fast"; Wan's convention).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

TIMESTEPS = 1000.0


def draw_noise_level(
    method: str, shift: float, generator: torch.Generator, lowest: float = 0.0, highest: float = 1.0
) -> Tensor:
    """A noise level, shape (1,): uniform, or the sigmoid of a normal; then shifted.

    The shift s -> a s / (1 + (a - 1) s) moves levels up for a > 1 (Esser et al. 2024, eq. 23).
    Of that distribution only the part in [lowest, highest) is drawn from: one uniform number goes
    through the inverse of its cumulative distribution.
    """
    if (lowest, highest) == (0.0, 1.0):
        whole = (
            torch.rand(1, generator=generator)
            if method == "uniform"
            else torch.sigmoid(torch.randn(1, generator=generator))
        )
        return shift * whole / (1 + (shift - 1) * whole)
    bounds = torch.tensor([lowest, highest], dtype=torch.float64)
    bounds = bounds / (shift - (shift - 1) * bounds)
    if method == "logit_normal":
        bounds = torch.special.ndtr(torch.logit(bounds))
    share = torch.rand(1, generator=generator, dtype=torch.float64)
    level = bounds[0] + (bounds[1] - bounds[0]) * share
    if method == "logit_normal":
        level = torch.sigmoid(torch.special.ndtri(level))
    return (shift * level / (1 + (shift - 1) * level)).float()


def mix(data: Tensor, noise: Tensor, level: Tensor) -> Tensor:
    """x_s of data and noise at one level."""
    return (1 - level) * data + level * noise


def velocity(data: Tensor, noise: Tensor) -> Tensor:
    """What the model must answer."""
    return noise - data


def region_weights(
    keep_THW: Tensor,
    latent_shape: torch.Size,
    inside: float,
    ignored_THW: Tensor | None = None,
) -> Tensor:
    """Loss weights on the latent grid: `inside` where the model generates, 1 elsewhere; mean 1.

    Args:
        keep_THW: the pixel keep mask, T = 4k+1.
        latent_shape: (C, T', h, w) of the latents.
        inside: the weight of a generated cell relative to a kept one.
        ignored_THW: bool, where nothing is judged: a cell that covers such a pixel has weight 0;
            not everywhere. None: nowhere.

    Returns:
        weights of shape (1, T', h, w).
    """
    generated = 1 - _on_cells(keep_THW, latent_shape)
    weights = 1 + (inside - 1) * generated
    if ignored_THW is not None:
        weights = weights * (_on_cells(ignored_THW.float(), latent_shape) == 0)
    return (weights / weights.mean())[None]


def _on_cells(values_THW: Tensor, latent_shape: torch.Size) -> Tensor:
    """The mean of values over the pixels and frames of each latent cell, (T', h, w)."""
    frames, height, width = latent_shape[1:]
    group = (values_THW.shape[0] - 1) // max(frames - 1, 1)
    pooled = F.adaptive_avg_pool2d(values_THW[:, None], (height, width))[:, 0]
    later = pooled[1:].reshape(frames - 1, max(group, 1), height, width).mean(dim=1)
    return torch.cat([pooled[:1], later])


def flow_loss(answer: Tensor, data: Tensor, noise: Tensor, weights: Tensor) -> Tensor:
    """Mean squared error of the velocity over the whole latent, weighted; a scalar."""
    return (weights * (answer.float() - velocity(data, noise).float()) ** 2).mean()
