"""The checks of HunyuanVideo-1.5's configurations, and the grid of latents. No torch."""

from typing import Literal

from pydantic import Field

from maskora.models.base import Grid
from maskora.models.checks import (
    LanguageModel,
    Number,
    Settings,
    T5Encoder,
    VisionTower,
    Whole,
)
from maskora.models.files.source import Source
from maskora.models.hunyuan.checks import HunyuanCommon, HunyuanScheduler


class Hunyuan15Transformer(HunyuanCommon):
    """`HunyuanVideo15Transformer3DModel`."""

    out_channels: Whole = 32
    patch_size: Whole = 1
    text_embed_dim: Whole = 3584
    text_embed_2_dim: Whole = 1472
    image_embed_dim: Whole = 1152
    task_type: str = "i2v"
    use_meanflow: bool = False


class Hunyuan15Vae(Settings):
    """`AutoencoderKLHunyuanVideo15`."""

    class_name: Literal["AutoencoderKLHunyuanVideo15"] = Field(
        "AutoencoderKLHunyuanVideo15", alias="_class_name"
    )
    latent_channels: Whole
    scaling_factor: Number
    spatial_compression_ratio: Literal[16] = 16
    temporal_compression_ratio: Literal[4] = 4


class Qwen(LanguageModel):
    """`Qwen2_5_VLTextModel`."""


class SiglipVision(VisionTower):
    """`SiglipVisionModel`."""


HUNYUAN15: dict[str, type[Settings]] = {
    "transformer": Hunyuan15Transformer,
    "vae": Hunyuan15Vae,
    "text_encoder": Qwen,
    "text_encoder_2": T5Encoder,
    "image_encoder": SiglipVision,
    "scheduler": HunyuanScheduler,
}


def read_grid(source: Source) -> Grid:
    """The grid, from the configurations of the VAE and the transformer. Raises UserError."""
    vae = Hunyuan15Vae.of(source, "vae")
    patch = Hunyuan15Transformer.of(source, "transformer").patch_size
    return Grid(vae.spatial_compression_ratio, patch, vae.temporal_compression_ratio)
