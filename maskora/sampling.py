"""One denoising loop for every base: get noise, set the schedule, denoise, decode."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from maskora.errors import Fault
from maskora.latents import EncodedSample
from maskora.models import ModelInputs, Transformer, VideoModel


@dataclass(frozen=True)
class LatentLock:
    """Equation 3 of the paper: at every step the kept region is replaced by the noised source.

    Attributes:
        source_CTHW: normalised latents of the source clip.
        keep_THW: 1 = replaced, on the latent grid; latent frame 0 must be 0 (it holds the edit).
    """

    source_CTHW: Tensor
    keep_THW: Tensor

    def apply(self, latents: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """Blend (1, C, T', h, w) latents that stand at a noise level with the source at it."""
        source = self.source_CTHW.to(latents)[None]
        keep = self.keep_THW.to(latents)[None, None]
        noised = (1 - level) * source + level * noise
        return latents * (1 - keep) + noised * keep


def draw_noise(latent_shape: tuple[int, ...], seed: int) -> Tensor:
    """Starting noise of shape (1, *latent_shape), the same on every device."""
    return torch.randn((1, *latent_shape), generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def denoise(
    model: VideoModel,
    transformer: Transformer,
    sample: EncodedSample,
    negative_LD: Tensor,
    noise_BCTHW: Tensor,
    steps: int,
    guidance: float,
    shift: float | None,
    lock: LatentLock | None = None,
) -> Tensor:
    """Denoise one clip.

    Args:
        sample: the encoded inference sample.
        negative_LD: text embeddings that guidance steers away from.
        noise_BCTHW: starting noise, batch of one.
        guidance: 1 turns guidance off; otherwise both branches run as a batch of two.
        shift: of the schedule; None keeps the base's own.
        lock: blend the background at every step.

    Returns:
        normalised latents of shape (C, T', h, w).
    """
    scheduler = model.scheduler(shift)
    scheduler.set_timesteps(steps, device=model.device)
    guided = guidance > 1
    inputs = _inputs(sample, negative_LD if guided else None, model.device)
    noise = noise_BCTHW.to(model.device)
    latents = noise
    for index, timestep in enumerate(tqdm(scheduler.timesteps, desc="denoise", unit="step")):
        doubled = latents.expand(2 if guided else 1, *latents.shape[1:])
        answer = model.predict(transformer, doubled, timestep.expand(len(doubled)), inputs)
        if guided:
            wanted, unwanted = answer.chunk(2)
            answer = unwanted + guidance * (wanted - unwanted)
        latents = scheduler.step(answer, timestep, latents, return_dict=False)[0]
        if lock is not None:
            latents = lock.apply(latents, noise, next_level(scheduler, index))
    if not latents.isfinite().all():
        raise Fault(
            "the generated latents are not finite; a lower inference.guidance, or model.dtype = "
            "bfloat16 or float32, may help"
        )
    return latents[0].cpu()


def next_level(scheduler: Any, index: int) -> Tensor:
    """The noise level that the latents stand at after step `index`."""
    return scheduler.sigmas[index + 1]


def _inputs(sample: EncodedSample, negative_LD: Tensor | None, device: torch.device) -> ModelInputs:
    """The wanted branch, and beside it the unwanted one, which differs in its text alone."""
    single = sample.inputs(device)
    if negative_LD is None:
        return single
    assert single.image_BND is not None
    return ModelInputs(
        condition_BCTHW=torch.cat([single.condition_BCTHW] * 2),
        text_BLD=torch.cat([single.text_BLD, negative_LD[None].to(device)]),
        image_BND=torch.cat([single.image_BND] * 2),
    )
