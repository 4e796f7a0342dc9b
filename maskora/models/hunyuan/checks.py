"""The checks of HunyuanVideo's configurations, and the grid of latents. No torch."""

from typing import Annotated, Literal

from pydantic import Field

from maskora.models.base import Grid
from maskora.models.checks import (
    UNUSED_LAYERS,
    Count,
    LanguageModel,
    Number,
    Scheduler,
    Settings,
    Whole,
)
from maskora.models.files.source import Source


class HunyuanCommon(Settings):
    """What the transformers of HunyuanVideo and HunyuanVideo-1.5 have in common."""

    num_layers: Whole
    in_channels: Whole
    patch_size_t: Annotated[int, Field(ge=1, le=1)] = 1


class HunyuanTransformer(HunyuanCommon):
    """`HunyuanVideoTransformer3DModel`."""

    num_single_layers: Whole
    out_channels: Whole = 16
    patch_size: Whole = 2
    guidance_embeds: bool = True
    text_embed_dim: Whole = 4096
    pooled_projection_dim: Whole = 768
    image_condition_type: Literal["latent_concat", "token_replace"] | None = None


class HunyuanVae(Settings):
    """`AutoencoderKLHunyuanVideo`."""

    class_name: Literal["AutoencoderKLHunyuanVideo"] = Field(
        "AutoencoderKLHunyuanVideo", alias="_class_name"
    )
    latent_channels: Whole
    scaling_factor: Number
    spatial_compression_ratio: Literal[8] = 8
    temporal_compression_ratio: Literal[4] = 4


class Llama(LanguageModel):
    """LLaVA's language model. Published files leave out what is Llama's own default."""

    model_type: Literal["llama"] = "llama"
    hidden_size: Whole = 4096
    num_hidden_layers: Annotated[int, Field(gt=UNUSED_LAYERS, le=1_000)] = 32


class LlavaVision(Settings):
    """LLaVA's vision tower."""

    model_type: Literal["clip_vision_model"] = "clip_vision_model"


class Llava(Settings):
    """`LlavaForConditionalGeneration` of Llama and CLIP."""

    text_config: Llama = Llama()
    vision_config: LlavaVision = LlavaVision()
    pad_token_id: Count
    image_token_index: Count = 32000


class ClipText(Settings):
    """`CLIPTextModel`."""

    hidden_size: Whole
    max_position_embeddings: Annotated[int, Field(ge=77, le=1_000_000)] = 77


class HunyuanScheduler(Scheduler):
    """One that takes its noise levels from outside."""

    class_name: Literal["FlowMatchEulerDiscreteScheduler", "UniPCMultistepScheduler"] = Field(
        alias="_class_name"
    )


HUNYUAN: dict[str, type[Settings]] = {
    "transformer": HunyuanTransformer,
    "vae": HunyuanVae,
    "text_encoder": Llava,
    "text_encoder_2": ClipText,
    "scheduler": HunyuanScheduler,
}


def read_grid(source: Source) -> Grid:
    """The grid, from the configurations of the VAE and the transformer. Raises UserError."""
    vae = HunyuanVae.of(source, "vae")
    patch = HunyuanTransformer.of(source, "transformer").patch_size
    return Grid(vae.spatial_compression_ratio, patch, vae.temporal_compression_ratio)
