"""The checks of HunyuanVideo's configurations. No torch."""

from typing import Annotated, Literal

from pydantic import Field

from maskora.models.checks import (
    PROCESSOR,
    SCHEDULER,
    TOKENIZER,
    UNUSED_LAYERS,
    Activation,
    Count,
    Files,
    LanguageModel,
    Number,
    Scheduler,
    Settings,
    TransformersSettings,
    VisionTower,
    Whole,
)


class HunyuanCommon(Settings):
    """The keys that the transformers of HunyuanVideo and HunyuanVideo-1.5 share."""

    num_layers: Whole
    num_attention_heads: Whole
    attention_head_dim: Whole
    in_channels: Whole
    num_refiner_layers: Whole = 2
    mlp_ratio: Number = 4.0
    patch_size_t: Annotated[int, Field(ge=1, le=1)] = 1
    qk_norm: Literal["rms_norm"] = "rms_norm"
    rope_axes_dim: list[Annotated[int, Field(ge=2, multiple_of=2)]] = Field(
        [16, 56, 56], min_length=3, max_length=3
    )


class HunyuanTransformer(HunyuanCommon):
    """`HunyuanVideoTransformer3DModel`."""

    class_name: str = Field("HunyuanVideoTransformer3DModel", alias="_class_name")
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
    block_out_channels: list[Whole] = Field(min_length=3)
    latent_channels: Whole
    layers_per_block: Whole
    scaling_factor: Number
    down_block_types: list[Literal["HunyuanVideoDownBlock3D"]]
    up_block_types: list[Literal["HunyuanVideoUpBlock3D"]]
    norm_num_groups: Whole = 32
    in_channels: Literal[3] = 3
    out_channels: Literal[3] = 3
    act_fn: Activation = "silu"
    spatial_compression_ratio: Literal[8] = 8
    temporal_compression_ratio: Literal[4] = 4
    mid_block_add_attention: bool = True


class Llama(LanguageModel):
    """LLaVA's language model. Published files leave out what is Llama's own default."""

    model_type: Literal["llama"] = "llama"
    vocab_size: Whole = 32000
    hidden_size: Whole = 4096
    intermediate_size: Whole = 11008
    num_hidden_layers: Annotated[int, Field(gt=UNUSED_LAYERS, le=1_000)] = 32
    num_attention_heads: Whole = 32
    num_key_value_heads: Whole | None = None
    head_dim: Whole | None = None
    rms_norm_eps: Number = 1e-6
    attention_bias: Literal[False] = False
    mlp_bias: Literal[False] = False
    tie_word_embeddings: bool = False


class LlavaVision(VisionTower):
    """LLaVA's vision tower; what the file leaves out has LLaVA's own default."""

    model_type: Literal["clip_vision_model"] = "clip_vision_model"
    hidden_size: Whole = 1024
    intermediate_size: Whole = 4096
    num_hidden_layers: Whole = 24
    num_attention_heads: Whole = 16
    image_size: Whole = 336
    patch_size: Whole = 14


class Llava(TransformersSettings):
    """`LlavaForConditionalGeneration` of Llama and CLIP."""

    text_config: Llama = Llama()
    vision_config: LlavaVision = LlavaVision()
    pad_token_id: Count
    image_token_index: Count = 32000
    projector_hidden_act: Activation = "gelu"
    vision_feature_layer: Annotated[int, Field(lt=0)] = -2
    vision_feature_select_strategy: Literal["default", "full"] = "default"
    multimodal_projector_bias: Literal[True] = True
    tie_word_embeddings: bool = False


class ClipText(TransformersSettings):
    """`CLIPTextModel`."""

    vocab_size: Whole
    hidden_size: Whole
    intermediate_size: Whole
    num_hidden_layers: Whole
    num_attention_heads: Whole
    max_position_embeddings: Annotated[int, Field(ge=77, le=1_000_000)] = 77
    hidden_act: Activation = "quick_gelu"


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
HUNYUAN_FILES: Files = {
    "tokenizer": TOKENIZER,
    "tokenizer_2": (*TOKENIZER, "vocab.json"),
    "image_processor": PROCESSOR,
    "scheduler": SCHEDULER,
}
