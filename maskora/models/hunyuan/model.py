"""HunyuanVideo-I2V with 33 channels (latent-concat) through diffusers' own classes.

The tensors follow diffusers' `HunyuanVideoImageToVideoPipeline`: 16 noisy channels, 16 condition
channels and 1 mask channel; prompt and picture through LLaVA, the prompt through CLIP as well.

That pipeline cuts the first four decoded frames off. Nothing is cut here: training windows and
clips count every frame from the given one on, so a clip keeps its length, and what the finished
frame 0 shows inside the mask is the edited frame itself.
"""

from contextlib import AbstractContextManager
from typing import Any

import torch
from diffusers import AutoencoderKLHunyuanVideo, HunyuanVideoTransformer3DModel
from torch import Tensor

from maskora.errors import UserError
from maskora.models.base import ContextEncoder, ModelInputs, PromptInput, Vae
from maskora.models.encoders import autoencoder, scaled
from maskora.models.hunyuan import checks
from maskora.models.hunyuan.checks import HunyuanTransformer
from maskora.models.hunyuan.common import HunyuanBase
from maskora.models.hunyuan.encoders import (
    build_pooled_encoder,
    build_text_encoder,
    pooled_encoder,
    text_encoder,
)
from maskora.models.hunyuan.names import HUNYUAN
from maskora.streaming.transfer import upload

DOUBLE, SINGLE = r"transformer_blocks\.\d+", r"single_transformer_blocks\.\d+"
ATTENTION = rf"{DOUBLE}\.attn\.(to_q|to_k|to_v|to_out\.0)|{SINGLE}\.attn\.(to_q|to_k|to_v)"
FEED_FORWARD = rf"{DOUBLE}\.ff\.net\.(0\.proj|2)|{SINGLE}\.(proj_mlp|proj_out)"
BLACK = -1.0
NOISE_AT_START = 0.999


class Hunyuan(HunyuanBase):
    """HunyuanVideo-I2V."""

    family = "hunyuan-video-i2v"
    longest = 129
    transformer_class = HunyuanVideoTransformer3DModel
    block_lists = ("transformer_blocks", "single_transformer_blocks")
    names = HUNYUAN
    masks_attention = True
    parts = (
        "transformer", "vae", "text_encoder", "tokenizer", "image_processor", "text_encoder_2",
        "tokenizer_2",
    )  # fmt: skip
    files = checks.HUNYUAN_FILES
    settings = checks.HUNYUAN
    widths = {  # noqa: RUF012 - never changed
        "vae": ("latent_channels", "out_channels"),
        "text_encoder": ("text_config.hidden_size", "text_embed_dim"),
        "text_encoder_2": ("hidden_size", "pooled_projection_dim"),
    }
    attention, feed_forward = ATTENTION, FEED_FORWARD
    instead = "HunyuanVideo-I2V-33ch (latent-concat)"

    def complete(self, transformer: HunyuanTransformer) -> None:
        self.embeds_guidance = transformer.guidance_embeds

    def check_kind(self, transformer: HunyuanTransformer) -> None:
        where, kind = self.source.where, transformer.image_condition_type
        if kind is None:
            raise UserError(f"{where} is a text-to-video HunyuanVideo: use {self.instead}")
        if kind != "latent_concat":
            raise UserError(
                f"{where} is the HunyuanVideo-I2V of 16 channels ({kind}), which has no mask "
                f"channel: use {self.instead}"
            )
        super().check_kind(transformer)

    def encoders(self) -> tuple[ContextEncoder, ...]:
        read = ("text_encoder", "tokenizer", "image_processor")
        pooled = ("text_encoder_2", "tokenizer_2")
        return (
            self._text("text", text_encoder, build_text_encoder, *read, reads_picture=True),
            self._text("pooled", pooled_encoder, build_pooled_encoder, *pooled),
        )

    def negative(self, wanted: PromptInput, prompt: str) -> PromptInput:
        """The negative prompt with a black picture."""
        return PromptInput(prompt, torch.full_like(wanted.picture_CHW, BLACK))

    def vae(self) -> AbstractContextManager[Vae]:
        tile = self.placement.vae_tile
        return autoencoder(AutoencoderKLHunyuanVideo, scaled, self.source, tile, self.device)

    def initial_latents(self, noise_BCTHW: Tensor, condition_BCTHW: Tensor) -> Tensor:
        """Noise with a trace of the first frame in every latent frame."""
        first_BC1HW = condition_BCTHW[:, : self.latent_channels, :1]
        return NOISE_AT_START * noise_BCTHW + (1 - NOISE_AT_START) * first_BC1HW

    def arguments(self, timestep_B: Tensor, inputs: ModelInputs) -> dict[str, Any]:
        mask_BL = inputs.context["text_mask"]  # in host memory
        condition = inputs.condition_BCTHW
        guidance_B = condition.new_full((len(condition),), inputs.guidance, dtype=self.dtype) * 1000
        return {
            "timestep": timestep_B,
            "encoder_hidden_states": inputs.context["text"].to(self.dtype),
            "encoder_attention_mask": upload(mask_BL.to(self.dtype), self.device),
            "pooled_projections": inputs.context["pooled"].to(self.dtype),
            "guidance": guidance_B if self.embeds_guidance else None,
        }
