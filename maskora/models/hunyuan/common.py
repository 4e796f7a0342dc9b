"""What both HunyuanVideo bases share: one mask channel, even timesteps, a scaled VAE."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from maskora.models.diffusers_base import DiffusersBase


class HunyuanBase(DiffusersBase):
    """The common half of HunyuanVideo and HunyuanVideo-1.5.

    The released recipe shows the first frame, encoded alone, and zeros after it. A longer condition
    is encoded up to the last frame of which anything is kept; zeros follow it, so that plain
    image-to-video is what the base was trained on.
    """

    def shown(self, condition_CTHW: Tensor, keep_THW: Tensor) -> Tensor:
        kept = keep_THW.flatten(1).any(dim=1).nonzero()
        last = int(kept[-1]) if len(kept) else 0
        later = -(-last // self.grid.temporal)  # latent frames after the first
        return condition_CTHW[:, : 1 + later * self.grid.temporal]

    def pack_condition(self, keep_THW: Tensor, latents_CTHW: Tensor) -> Tensor:
        """The shown frames' latents, zeros after them, then one mask channel.

        A latent cell is kept only where every pixel of every frame that it covers is kept.
        """
        mask_Thw = self.latent_keep(keep_THW)
        beyond = len(mask_Thw) - latents_CTHW.shape[1]
        latents_CTHW = F.pad(latents_CTHW, (0, 0, 0, 0, 0, beyond))
        return torch.cat([latents_CTHW, mask_Thw[None].to(latents_CTHW)])

    def set_timesteps(self, scheduler: Any, steps: int) -> None:
        sigmas = np.linspace(1.0, 0.0, steps + 1)[:-1]
        scheduler.set_timesteps(sigmas=sigmas, device=self.device)


class ScaledVae:
    """A video VAE of diffusers whose latents are normalised by the one number in its config."""

    def __init__(self, vae: Any) -> None:
        self.module = vae
        self._scale: float = vae.config.scaling_factor

    @torch.no_grad()
    def encode(self, video_CTHW: Tensor) -> Tensor:
        video = video_CTHW[None].to(self.module.device, torch.float32)
        return self.module.encode(video).latent_dist.mode()[0] * self._scale

    @torch.no_grad()
    def decode(self, latents_CTHW: Tensor) -> Tensor:
        latents = latents_CTHW.to(self.module.device, torch.float32) / self._scale
        return self.module.decode(latents[None], return_dict=False)[0][0]
