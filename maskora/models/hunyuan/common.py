"""What both HunyuanVideo bases share: one mask channel, and even timesteps."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from maskora.errors import UserError
from maskora.models.diffusers_base import DiffusersBase


class HunyuanBase(DiffusersBase):
    """The common half of HunyuanVideo and HunyuanVideo-1.5.

    The released recipe shows the first frame, encoded alone, and zeros after it. A longer condition
    is encoded up to the last frame of which anything is kept; zeros follow it, so that plain
    image-to-video is what the base was trained on.
    """

    def check_kind(self, transformer: Any) -> None:
        channels, expected = transformer.in_channels, 2 * transformer.out_channels + 1
        if channels != expected:
            raise UserError(
                f"{self.source.where}: its transformer takes {channels} input channels, "
                f"{self.family} takes {expected}: use {self.instead}"
            )

    def condition_frames(self, condition_CTHW: Tensor, keep_THW: Tensor) -> Tensor:
        kept = keep_THW.flatten(1).any(dim=1).nonzero()
        last = int(kept[-1]) if len(kept) else 0
        later = -(-last // self.grid.temporal)  # latent frames after the first
        return condition_CTHW[:, : 1 + later * self.grid.temporal]

    def pack_condition(self, keep_THW: Tensor, latents_CTHW: Tensor) -> Tensor:
        """The condition frames' latents, zeros after them, then one mask channel.

        A latent cell is kept only where every pixel of every frame that it covers is kept.
        """
        mask_Thw = self.latent_keep(keep_THW)
        beyond = len(mask_Thw) - latents_CTHW.shape[1]
        latents_CTHW = F.pad(latents_CTHW, (0, 0, 0, 0, 0, beyond))
        return torch.cat([latents_CTHW, mask_Thw[None].to(latents_CTHW)])

    def set_timesteps(self, scheduler: Any, steps: int) -> None:
        sigmas = np.linspace(1.0, 0.0, steps + 1)[:-1]
        scheduler.set_timesteps(sigmas=sigmas, device=self.device)
