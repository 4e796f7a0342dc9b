"""Wan2.1, Wan2.1-Fun, Wan2.2 and the miniature, image-to-video, through diffusers' own classes.

The tensors follow diffusers' `WanImageToVideoPipeline`: 16 noisy channels, 4 mask channels and 16
condition channels; the prompt through UMT5, the picture through CLIP (not in Wan2.2).
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import Tensor

from maskora.errors import UserError
from maskora.models.base import (
    Context,
    ContextEncoder,
    Expert,
    ModelInputs,
    PromptInput,
    Vae,
)
from maskora.models.diffusers_base import DiffusersBase, grouped_cells
from maskora.models.encoders import autoencoder
from maskora.models.wan import checks
from maskora.models.wan.checks import WanTransformer
from maskora.models.wan.encoders import (
    build_image_encoder,
    build_text_encoder,
    image_encoder,
    normalised,
    text_encoder,
)
from maskora.models.wan.names import WAN

MASK_CHANNELS = 4
ATTENTION = r"blocks\.\d+\.attn[12]\.(to_q|to_k|to_v|to_out\.0)"
SELF_ATTENTION = r"blocks\.\d+\.attn1\.(to_q|to_k|to_v|to_out\.0)"
FEED_FORWARD = r"blocks\.\d+\.ffn\.net\.(0\.proj|2)"
BOUNDARY = 0.9


class Wan21(DiffusersBase):
    """Wan2.1-I2V."""

    family = "wan2.1-i2v"
    longest = 81
    transformer_class = WanTransformer3DModel
    names = WAN
    parts: tuple[str, ...] = (
        "transformer", "vae", "text_encoder", "tokenizer", "image_encoder", "image_processor",
    )  # fmt: skip
    files = checks.WAN21_FILES
    settings = checks.WAN21
    widths = {  # noqa: RUF012 - never changed
        "vae": ("z_dim", "out_channels"),
        "text_encoder": ("d_model", "text_dim"),
        "image_encoder": ("hidden_size", "image_dim"),
    }
    attention, feed_forward = ATTENTION, FEED_FORWARD
    sees_picture = True
    instead = "Wan2.1-I2V-14B-480P"

    def check_kind(self, transformer: WanTransformer) -> None:
        expected = 2 * transformer.out_channels + MASK_CHANNELS
        sees_picture = transformer.image_dim is not None
        if transformer.in_channels != expected or sees_picture != self.sees_picture:
            raise UserError(
                f"{self.source.where}: its transformer takes {transformer.in_channels} input "
                f"channels and {'' if sees_picture else 'no '}image tokens; {self.family} takes "
                f"{expected} and {'' if self.sees_picture else 'no '}image tokens. This looks like "
                f"a text-to-video or another Wan checkpoint: use {self.instead}"
            )
        if transformer.pos_embed_seq_len is not None:
            raise UserError(
                f"{self.source.where} is a first-and-last-frame checkpoint (pos_embed_seq_len is "
                f"set), which takes two pictures: use {self.instead}"
            )

    def encoders(self) -> tuple[ContextEncoder, ...]:
        words = self._text("text", text_encoder, build_text_encoder, "text_encoder", "tokenizer")
        seen = ("image_encoder", "image_processor")
        pictures = self._image(image_encoder, build_image_encoder, *seen)
        return (words, pictures) if self.sees_picture else (words,)

    def vae(self) -> AbstractContextManager[Vae]:
        tile = self.placement.vae_tile
        return autoencoder(AutoencoderKLWan, normalised, self.source, tile, self.device)

    def pack_condition(self, keep_THW: Tensor, latents_CTHW: Tensor) -> Tensor:
        """Four mask channels per latent frame (the first frame four times), then the latents.

        A latent cell is kept only where every pixel that it covers is kept.
        """
        mask_CThw = grouped_cells(keep_THW, self.grid).transpose(0, 1)
        return torch.cat([mask_CThw.to(latents_CTHW), latents_CTHW])

    def arguments(self, timestep_B: Tensor, inputs: ModelInputs) -> dict[str, Any]:
        image = inputs.context.get("image")
        return {
            "timestep": timestep_B,
            "encoder_hidden_states": inputs.context["text"].to(self.dtype),
            "encoder_hidden_states_image": None if image is None else image.to(self.dtype),
        }


class WanFun(Wan21):
    """Wan2.1-Fun-1.3B-InP and its larger sibling."""

    family = "wan2.1-fun-inp"
    instead = "Wan2.1-Fun-1.3B-InP"

    def pack_condition(self, keep_THW: Tensor, latents_CTHW: Tensor) -> Tensor:
        known = bool((keep_THW > 0).any())
        return super().pack_condition(
            keep_THW, latents_CTHW if known else torch.zeros_like(latents_CTHW)
        )


class Wan22(Wan21):
    """Wan2.2-I2V-A14B. Each expert has a LoRA of its own."""

    family = "wan2.2-i2v"
    parts = ("transformer", "transformer_2", "vae", "text_encoder", "tokenizer")
    files = checks.WAN22_FILES
    settings = checks.WAN22
    sees_picture = False
    instead = "Wan2.2-I2V-A14B"

    def complete(self, transformer: WanTransformer) -> None:
        self._check_transformer("transformer_2")
        boundary = self.source.index().get("boundary_ratio", BOUNDARY)
        if not (isinstance(boundary, int | float) and 0 < boundary < 1):
            raise UserError(
                f"{self.source.where / 'model_index.json'}: boundary_ratio is {boundary!r}; it "
                f"divides the noise levels between the two transformers, so it lies between 0 and 1"
            )
        self.experts = (
            Expert("high", "transformer", lowest=boundary, highest=1.0),
            Expert("low", "transformer_2", lowest=0.0, highest=boundary),
        )


class Miniature(Wan21):
    """A Wan of a few million weights that ships with maskora, for its rendered world alone.

    Same classes, same packing, no picture and no words: its text is constantly zero, so a prompt
    has no effect, and neither has guidance; LoRA leaves the attention to words alone.
    """

    family = "miniature"
    longest = 49
    parts = ("transformer", "vae")
    files = checks.MINIATURE_FILES
    settings = checks.MINIATURE
    attention = SELF_ATTENTION
    sees_picture = False
    instead = "miniature"

    def encoders(self) -> tuple[ContextEncoder, ...]:
        width = WanTransformer.of(self.source, "transformer").text_dim

        def no_words(prompts: Sequence[PromptInput]) -> list[Context]:
            """Any prompt -> {"text": one word of zeros, (1, width)}."""
            return [{"text": torch.zeros(1, width)} for _ in prompts]

        return (
            ContextEncoder(
                "text", parts=(), precision=f"zero {width}", load=lambda: nullcontext(no_words)
            ),
        )
