"""HunyuanVideo-I2V with 33 channels (latent-concat) through diffusers' own classes.

The tensors follow diffusers' `HunyuanVideoImageToVideoPipeline`: 16 noisy channels, 16 condition
channels and 1 mask channel; prompt and picture through LLaVA, the prompt through CLIP as well.

That pipeline cuts the first four decoded frames off. Nothing is cut here: training windows and
clips count every frame from the given one on, so a clip keeps its length, and what the finished
frame 0 shows inside the mask is the edited frame itself.
"""

from contextlib import AbstractContextManager
from functools import partial

import torch
from diffusers import HunyuanVideoTransformer3DModel
from torch import Tensor

from maskora.errors import UserError
from maskora.models.base import ContextEncoder, Cue, ModelInputs, Transformer, Vae
from maskora.models.checks import check_settings
from maskora.models.files.source import Source
from maskora.models.hunyuan import checks as settings
from maskora.models.hunyuan.common import HunyuanBase
from maskora.models.hunyuan.encoders import (
    autoencoder,
    build_pooled_encoder,
    build_text_encoder,
    pooled_encoder,
    text_encoder,
)
from maskora.models.hunyuan.names import HUNYUAN
from maskora.streaming.placement import RESIDENT, Placement
from maskora.streaming.transfer import upload_to

WEIGHTS = ("transformer", "vae", "text_encoder", "text_encoder_2")
FILES = {
    "tokenizer": ("tokenizer.json",),
    "tokenizer_2": ("tokenizer.json", "vocab.json"),
    "image_processor": ("preprocessor_config.json", "processor_config.json"),
    "scheduler": ("scheduler_config.json",),
}
INSTEAD = "use HunyuanVideo-I2V-33ch (latent-concat)"
DOUBLE, SINGLE = r"transformer_blocks\.\d+", r"single_transformer_blocks\.\d+"
ATTENTION = rf"{DOUBLE}\.attn\.(to_q|to_k|to_v|to_out\.0)|{SINGLE}\.attn\.(to_q|to_k|to_v)"
FEED_FORWARD = rf"{DOUBLE}\.ff\.net\.(0\.proj|2)|{SINGLE}\.(proj_mlp|proj_out)"
BLACK = -1.0
NOISE_AT_START = 0.999


class Hunyuan(HunyuanBase):
    """HunyuanVideo-I2V. See `maskora.models.base.VideoModel` for what each method promises."""

    family = "hunyuan-video-i2v"
    transformer_class = HunyuanVideoTransformer3DModel
    block_lists = ("transformer_blocks", "single_transformer_blocks")
    names = HUNYUAN
    masks_attention = True
    parts = (
        "transformer", "vae", "text_encoder", "tokenizer", "image_processor", "text_encoder_2",
        "tokenizer_2",
    )  # fmt: skip

    def __init__(
        self, source: Source, dtype: str, device: str, placement: Placement = RESIDENT
    ) -> None:
        super().__init__(source, dtype, device, placement)
        if "transformer" in source.parts():  # another kind of base lacks other parts, too
            self._check_kind(settings.HunyuanTransformer.of(source, "transformer"))
        source.check(WEIGHTS, FILES)
        check_settings(source, settings.HUNYUAN)
        transformer = settings.HunyuanTransformer.of(source, "transformer")
        self.grid = settings.read_grid(source)
        self.latent_channels = transformer.out_channels
        self.embeds_guidance = transformer.guidance_embeds
        text = settings.Llava.of(source, "text_encoder").text_config.hidden_size
        pooled = settings.ClipText.of(source, "text_encoder_2").hidden_size
        latents = settings.HunyuanVae.of(source, "vae").latent_channels
        self._check_width("vae", latents, transformer.out_channels)
        self._check_width("text_encoder", text, transformer.text_embed_dim)
        self._check_width("text_encoder_2", pooled, transformer.pooled_projection_dim)

    def _check_kind(self, transformer: settings.HunyuanTransformer) -> None:
        """The transformer is the latent-concat one. Raises UserError."""
        where, kind = self.source.where, transformer.image_condition_type
        if kind is None:
            raise UserError(f"{where} is a text-to-video HunyuanVideo: {INSTEAD}")
        if kind != "latent_concat":
            raise UserError(
                f"{where} is the HunyuanVideo-I2V of 16 channels ({kind}), which has no mask "
                f"channel: {INSTEAD}"
            )
        channels, expected = transformer.in_channels, 2 * transformer.out_channels + 1
        if channels != expected:
            raise UserError(
                f"{where}: its transformer takes {channels} input channels, {self.family} takes "
                f"{expected}: {INSTEAD}"
            )

    def encoders(self) -> tuple[ContextEncoder, ...]:
        return (
            ContextEncoder(
                name="text",
                parts=("text_encoder", "tokenizer", "image_processor"),
                precision=str(self.dtype),
                load=partial(text_encoder, self.source, self.dtype, self.device),
                build=partial(build_text_encoder, self.source, self.dtype),
                reads_prompt=True,
                reads_picture=True,
            ),
            ContextEncoder(
                name="pooled",
                parts=("text_encoder_2", "tokenizer_2"),
                precision=str(self.dtype),
                load=partial(pooled_encoder, self.source, self.dtype, self.device),
                build=partial(build_pooled_encoder, self.source, self.dtype),
                reads_prompt=True,
            ),
        )

    def unwanted(self, cue: Cue, negative: str) -> Cue:
        """The negative prompt with a black picture."""
        return Cue(negative, torch.full_like(cue.picture_CHW, BLACK))

    def vae(self) -> AbstractContextManager[Vae]:
        return autoencoder(self.source, self.placement.vae_tile, self.device)

    def start(self, noise_BCTHW: Tensor, condition_BCTHW: Tensor) -> Tensor:
        """Noise with a trace of the first frame in every latent frame."""
        first_BC1HW = condition_BCTHW[:, : self.latent_channels, :1]
        return NOISE_AT_START * noise_BCTHW + (1 - NOISE_AT_START) * first_BC1HW

    def predict(
        self, transformer: Transformer, noisy_BCTHW: Tensor, timestep_B: Tensor, inputs: ModelInputs
    ) -> Tensor:
        packed = torch.cat([noisy_BCTHW, inputs.condition_BCTHW], dim=1)
        mask_BL = inputs.context["text_mask"]  # in host memory
        guidance_B = packed.new_full((len(packed),), inputs.guidance, dtype=self.dtype) * 1000
        velocity: Tensor = transformer(
            hidden_states=packed.to(self.dtype),
            timestep=timestep_B,
            encoder_hidden_states=inputs.context["text"].to(self.dtype),
            encoder_attention_mask=upload_to(self.device)(mask_BL.to(self.dtype)),
            pooled_projections=inputs.context["pooled"].to(self.dtype),
            guidance=guidance_B if self.embeds_guidance else None,
            return_dict=False,
        )[0]
        return velocity.float()

    def lora_targets(self, kind: str) -> str:
        return ATTENTION if kind == "attention" else f"({ATTENTION}|{FEED_FORWARD})"
