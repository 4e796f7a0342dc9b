"""Wan2.1-Fun-InP: Wan2.1 image-to-video, trained by its publisher to fill masked video.

It shares Wan2.1's classes and packing. It differs in one case: where everything is masked, its
training showed no condition at all (zero latents, not the encoding of an empty picture). Its own
pipeline resizes the mask, so that cells at a border are half kept; here a cell is kept only where
every pixel is, as for every base. Masks that end on the latent grid, as boxes do, are the same.
"""

import torch
from torch import Tensor

from maskora.models.wan21 import Wan21


class WanFun(Wan21):
    """Wan2.1-Fun-1.3B-InP and its larger sibling."""

    family = "wan2.1-fun-inp"
    instead = "Wan2.1-Fun-1.3B-InP"

    def pack_condition(self, keep_THW: Tensor, latents_CTHW: Tensor) -> Tensor:
        known = bool((keep_THW > 0).any())
        return super().pack_condition(
            keep_THW, latents_CTHW if known else torch.zeros_like(latents_CTHW)
        )
