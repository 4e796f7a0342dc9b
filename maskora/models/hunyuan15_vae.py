"""HunyuanVideo-1.5's video autoencoder, of which only the half in use is loaded."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from maskora.models.base import Vae
from maskora.models.building import Renamed, announce, build, released
from maskora.models.hunyuan_common import ScaledVae
from maskora.models.source import Source
from maskora.streaming.sources import Reader, check_all

TILE_OVERLAP = 0.25


@contextmanager
def autoencoder(source: Source, tile: int | None, device: torch.device) -> Iterator[Vae]:
    """The VAE, whole or in square tiles of `tile` pixels that overlap by a quarter."""
    from diffusers import AutoencoderKLHunyuanVideo15

    announce("VAE")
    config, weights = source.config("vae"), source.weights("vae")
    with init_empty_weights():
        vae = AutoencoderKLHunyuanVideo15.from_config(config).eval()
    check_all(weights, vae)  # what is missing is known before anything is loaded
    if tile is not None:
        cells = tile // vae.spatial_compression_ratio
        vae.enable_tiling(tile, tile, cells, cells, TILE_OVERLAP)
    with released(vae):
        yield HalvedVae(vae, weights, device)


class HalvedVae:
    """Encoder and decoder take the place of each other: in float32 they have 1.5 and 3.2 GB."""

    def __init__(self, vae: Any, weights: Reader, device: torch.device) -> None:
        """`vae` is on the meta device."""
        self._vae, self._weights, self._device = vae, weights, device
        self._loaded = ""

    def encode(self, video_CTHW: Tensor) -> Tensor:
        """See `Vae`."""
        return ScaledVae(self._with("encoder")).encode(video_CTHW)

    def decode(self, latents_CTHW: Tensor) -> Tensor:
        """See `Vae`."""
        return ScaledVae(self._with("decoder")).decode(latents_CTHW)

    def _with(self, half: str) -> Any:
        """The VAE with one half, and nothing in the other's place."""
        if self._loaded != half:
            self._vae.encoder, self._vae.decoder = nn.Identity(), nn.Identity()
            setattr(self._vae, half, self._build(half).to(self._device))
            self._loaded = half
        return self._vae

    def _build(self, half: str) -> Any:
        prefix, names = f"{half}.", self._weights.names()
        own = {name.removeprefix(prefix): name for name in names if name.startswith(prefix)}
        whole = type(self._vae)
        return build(
            lambda: getattr(whole.from_config(self._vae.config), half), Renamed(self._weights, own)
        )
