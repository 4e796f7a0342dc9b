"""What every base offers: the one Protocol that training and sampling know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from maskora.streaming.plan import Placement

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# A diffusers transformer: an nn.Module with `add_adapter`, `set_adapters` and gradient
# checkpointing. mypy does not read diffusers, so it has no better name here.
Transformer: TypeAlias = Any


@dataclass(frozen=True)
class Grid:
    """How pixels become latent cells, read from the model's own configuration.

    Attributes:
        cell: pixels per latent cell, in both directions.
        patch: latent cells per token, in both directions.
        temporal: frames per latent frame after the first.
    """

    cell: int
    patch: int
    temporal: int

    @property
    def multiple(self) -> int:
        """Width and height must be multiples of this."""
        return self.cell * self.patch

    def latent_frames(self, frames: int) -> int:
        """T' of T frames."""
        assert frames % self.temporal == 1 % self.temporal
        return (frames - 1) // self.temporal + 1


@dataclass(frozen=True)
class ModelInputs:
    """Everything but the noisy latents: what a sample tells the transformer.

    Attributes:
        condition_BCTHW: mask and condition latents as this base packs them.
        text_BLD: text embeddings.
        image_BND: tokens of the reference picture, for bases that take them.
    """

    condition_BCTHW: Tensor
    text_BLD: Tensor
    image_BND: Tensor | None


class Vae(Protocol):
    """Pixels to normalised latents and back; both in float32."""

    def encode(self, video_CTHW: Tensor) -> Tensor:
        """Pixels in [-1, 1] -> latents of shape (z, T', h, w), normalised per channel."""
        ...

    def decode(self, latents_CTHW: Tensor) -> Tensor:
        """Normalised latents -> pixels in [-1, 1], shape (3, T, H, W)."""
        ...


class VideoModel(Protocol):
    """A base. Its encoders are context managers: loaded on entry, released on exit."""

    family: str
    folder: Path
    dtype: torch.dtype
    device: torch.device
    grid: Grid
    latent_channels: int
    placement: Placement

    def identity(self, part: str) -> str:
        """A name of a part's weights that changes when they do."""
        ...

    def text_encoder(self) -> AbstractContextManager[Callable[[Sequence[str]], list[Tensor]]]:
        """Prompts -> embeddings of shape (L, D) each."""
        ...

    def image_encoder(self) -> AbstractContextManager[Callable[[Tensor], Tensor]]:
        """Picture of shape (3, H, W) in [-1, 1] -> tokens of shape (N, D)."""
        ...

    def vae(self) -> AbstractContextManager[Vae]:
        """The video autoencoder."""
        ...

    def latent_keep(self, keep_THW: Tensor) -> Tensor:
        """The keep mask on the latent grid, (T', h, w): 1 where all that a cell covers is kept.

        Latent frame 0 holds the first frame alone.
        """
        ...

    def pack_condition(self, keep_THW: Tensor, latents_CTHW: Tensor) -> Tensor:
        """Pixel keep mask and condition latents -> the condition channels (C, T', h, w)."""
        ...

    def load_transformer(self) -> Transformer:
        """The frozen transformer, supplied with weights as `placement` says.

        It trains through `transformer.supply.checkpoint`; `transformer.supply.close()` frees it.
        """
        ...

    def predict(
        self, transformer: Transformer, noisy_BCTHW: Tensor, timestep_B: Tensor, inputs: ModelInputs
    ) -> Tensor:
        """The transformer's velocity (noise minus data), in float32, shape of the latents."""
        ...

    def scheduler(self, shift: float | None) -> Any:
        """A fresh diffusers scheduler; `shift` None keeps the base's own."""
        ...

    def lora_targets(self, kind: str) -> str:
        """A regular expression of the module names that carry LoRA."""
        ...
