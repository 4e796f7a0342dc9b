"""The checks of HunyuanVideo-1.5's configurations. No torch."""

from typing import Literal

from pydantic import Field

from maskora.models.checks import (
    PROCESSOR,
    SCHEDULER,
    TOKENIZER,
    Activation,
    Files,
    LanguageModel,
    Number,
    Settings,
    T5Encoder,
    VisionTower,
    Whole,
)
from maskora.models.hunyuan.checks import HunyuanCommon, HunyuanScheduler


class Hunyuan15Transformer(HunyuanCommon):
    """`HunyuanVideo15Transformer3DModel`."""

    class_name: str = Field("HunyuanVideo15Transformer3DModel", alias="_class_name")
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
    block_out_channels: list[Whole] = Field(min_length=5)
    latent_channels: Whole
    layers_per_block: Whole
    scaling_factor: Number
    in_channels: Literal[3] = 3
    out_channels: Literal[3] = 3
    spatial_compression_ratio: Literal[16] = 16
    temporal_compression_ratio: Literal[4] = 4
    downsample_match_channel: bool = True
    upsample_match_channel: bool = True


class Qwen(LanguageModel):
    """`Qwen2_5_VLTextModel`."""

    num_key_value_heads: Whole | None = 8
    use_sliding_window: Literal[False] = False


class SiglipVision(VisionTower):
    """`SiglipVisionModel`."""

    layer_norm_eps: Number = 1e-6
    hidden_act: Activation = "gelu_pytorch_tanh"
    vision_use_head: bool = True


HUNYUAN15: dict[str, type[Settings]] = {
    "transformer": Hunyuan15Transformer,
    "vae": Hunyuan15Vae,
    "text_encoder": Qwen,
    "text_encoder_2": T5Encoder,
    "image_encoder": SiglipVision,
    "scheduler": HunyuanScheduler,
}
HUNYUAN15_FILES: Files = {
    "tokenizer": (*TOKENIZER, "vocab.json and tokenizer_config.json"),
    "tokenizer_2": ("tokenizer_config.json",),
    "feature_extractor": PROCESSOR,
    "scheduler": SCHEDULER,
}
