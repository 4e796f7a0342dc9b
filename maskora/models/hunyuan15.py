"""HunyuanVideo-1.5 image-to-video through diffusers' own classes.

The tensors follow diffusers' `HunyuanVideo15ImageToVideoPipeline`: 32 noisy channels, 32 condition
channels and 1 mask channel; the prompt through Qwen2.5-VL, what it has in quotes through ByT5, the
picture through SigLIP, for both guidance branches.
"""

from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from diffusers import HunyuanVideo15Transformer3DModel
from torch import Tensor

from maskora.errors import UserError
from maskora.models import hunyuan15_encoders as encoders
from maskora.models.base import ContextEncoder, Expert, ModelInputs, Transformer, Vae
from maskora.models.hunyuan15_attention import UnpaddedAttention
from maskora.models.hunyuan15_names import HUNYUAN15
from maskora.models.hunyuan15_sizes import read_grid
from maskora.models.hunyuan15_vae import autoencoder
from maskora.models.hunyuan_common import HunyuanBase
from maskora.models.settings import hunyuan15 as settings
from maskora.models.settings.checking import check_settings
from maskora.models.settings.shared import T5Encoder
from maskora.models.source import Source
from maskora.streaming.plan import RESIDENT, Placement
from maskora.streaming.upload import upload_to

WEIGHTS = ("transformer", "vae", "text_encoder", "text_encoder_2", "image_encoder")
FILES = {
    "tokenizer": ("tokenizer.json", "vocab.json"),
    "tokenizer_2": ("tokenizer_config.json",),
    "feature_extractor": ("preprocessor_config.json", "processor_config.json"),
    "scheduler": ("scheduler_config.json",),
}
INSTEAD = "use HunyuanVideo-1.5-Diffusers-480p_i2v or HunyuanVideo-1.5-Diffusers-720p_i2v"
ATTENTION = r"transformer_blocks\.\d+\.attn\.(to_q|to_k|to_v|to_out\.0)"
FEED_FORWARD = r"transformer_blocks\.\d+\.ff\.net\.(0\.proj|2)"


class Hunyuan15(HunyuanBase):
    """HunyuanVideo-1.5 I2V. See `maskora.models.base.VideoModel` for what each method promises."""

    family = "hunyuan-video-1.5-i2v"
    transformer_class = HunyuanVideo15Transformer3DModel
    block_lists = ("transformer_blocks",)
    names = HUNYUAN15
    parts = (
        "transformer", "vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2",
        "image_encoder", "feature_extractor",
    )  # fmt: skip

    def __init__(
        self, source: Source, dtype: str, device: str, placement: Placement = RESIDENT
    ) -> None:
        super().__init__(source, dtype, device, placement)
        if "transformer" in source.parts():  # another kind of base lacks other parts, too
            self._check_kind(settings.Hunyuan15Transformer.of(source, "transformer"))
        source.check(WEIGHTS, FILES)
        check_settings(source, settings.HUNYUAN15)
        self.grid = read_grid(source)
        transformer = settings.Hunyuan15Transformer.of(source, "transformer")
        self.latent_channels = transformer.out_channels
        self._check_widths(transformer)

    def _check_kind(self, transformer: settings.Hunyuan15Transformer) -> None:
        """The transformer is the plain image-to-video one. Raises UserError."""
        where = self.source.where
        if transformer.task_type != "i2v":
            raise UserError(f"{where} is a text-to-video HunyuanVideo-1.5: {INSTEAD}")
        if transformer.use_meanflow:
            raise UserError(
                f"{where} is a step-distilled or super-resolution HunyuanVideo-1.5 (use_meanflow "
                f"is set), which is told two noise levels: {INSTEAD}"
            )
        channels, expected = transformer.in_channels, 2 * transformer.out_channels + 1
        if channels != expected:
            raise UserError(
                f"{where}: its transformer takes {channels} input channels, {self.family} takes "
                f"{expected}: {INSTEAD}"
            )

    def _check_widths(self, transformer: settings.Hunyuan15Transformer) -> None:
        """All parts give what the transformer takes. Raises UserError."""
        source = self.source
        latents = settings.Hunyuan15Vae.of(source, "vae").latent_channels
        text = settings.Qwen.of(source, "text_encoder").hidden_size
        glyphs = T5Encoder.of(source, "text_encoder_2").d_model
        image = settings.SiglipVision.of(source, "image_encoder").hidden_size
        self._check_width("vae", latents, transformer.out_channels)
        self._check_width("text_encoder", text, transformer.text_embed_dim)
        self._check_width("text_encoder_2", glyphs, transformer.text_embed_2_dim)
        self._check_width("image_encoder", image, transformer.image_embed_dim)

    def encoders(self) -> tuple[ContextEncoder, ...]:
        source, dtype, device = self.source, self.dtype, self.device
        return (
            ContextEncoder(
                name="text",
                parts=("text_encoder", "tokenizer"),
                precision=str(dtype),
                load=partial(encoders.text_encoder, source, dtype, device),
                reads_prompt=True,
            ),
            ContextEncoder(
                name="glyphs",
                parts=("text_encoder_2", "tokenizer_2"),
                precision=str(dtype),
                load=partial(encoders.glyph_encoder, source, dtype, device),
                reads_prompt=True,
            ),
            ContextEncoder(
                name="image",
                parts=("image_encoder", "feature_extractor"),
                precision="float32",
                load=partial(encoders.image_encoder, source, device),
                reads_picture=True,
            ),
        )

    def vae(self) -> AbstractContextManager[Vae]:
        return autoencoder(self.source, self.placement.vae_tile, self.device)

    def load_transformer(self, expert: Expert | None = None) -> Transformer:
        transformer = super().load_transformer(expert)
        for block in transformer.transformer_blocks:
            block.attn.set_processor(UnpaddedAttention())
        transformer.context_embedder.register_forward_pre_hook(mask_on_device)
        return transformer

    def predict(
        self, transformer: Transformer, noisy_BCTHW: Tensor, timestep_B: Tensor, inputs: ModelInputs
    ) -> Tensor:
        packed = torch.cat([noisy_BCTHW, inputs.condition_BCTHW], dim=1)
        text, text_mask = trimmed(inputs.context["text"], inputs.context["text_mask"])
        glyphs, glyphs_mask = trimmed(inputs.context["glyphs"], inputs.context["glyphs_mask"])
        velocity: Tensor = transformer(
            hidden_states=packed.to(self.dtype),
            timestep=timestep_B.to(self.dtype),  # its embedding computes in this precision
            encoder_hidden_states=text.to(self.dtype),
            encoder_attention_mask=text_mask,
            encoder_hidden_states_2=glyphs.to(self.dtype),
            encoder_attention_mask_2=glyphs_mask,
            image_embeds=inputs.context["image"].to(self.dtype),
            return_dict=False,
        )[0]
        return velocity.float()

    def lora_targets(self, kind: str) -> str:
        return ATTENTION if kind == "attention" else f"({ATTENTION}|{FEED_FORWARD})"


def mask_on_device(module: torch.nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    """The text's embedder computes with its mask; everything else wants it in host memory."""
    tokens_BLD, timestep_B, mask_BL = given
    return tokens_BLD, timestep_B, upload_to(tokens_BLD.device)(mask_BL)


def trimmed(tokens_BLD: Tensor, mask_BL: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens and their mask without the padding at the end that all samples have.

    The mask lies in host memory, so that the device is not asked.
    """
    longest = int(mask_BL.sum(dim=1).max())
    return tokens_BLD[:, :longest], mask_BL[:, :longest]
