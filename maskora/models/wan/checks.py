"""The checks of Wan's configurations. No torch."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from maskora.models.checks import (
    PROCESSOR,
    SCHEDULER,
    TOKENIZER,
    Activation,
    Count,
    Files,
    Number,
    Scheduler,
    Settings,
    T5Encoder,
    VisionTower,
    Whole,
)

PUBLISHED_LATENTS = 16  # channels whose mean and deviation are defaults of the class


class WanTransformer(Settings):
    """`WanTransformer3DModel`, and classes that are built alike."""

    class_name: str = Field("WanTransformer3DModel", alias="_class_name")
    num_layers: Whole
    num_attention_heads: Whole
    attention_head_dim: Annotated[int, Field(ge=6, multiple_of=2, le=10_000)]
    in_channels: Whole
    out_channels: Whole = 16
    patch_size: list[Whole] = Field([1, 2, 2], min_length=3, max_length=3)
    ffn_dim: Whole = 13824
    freq_dim: Whole = 256
    text_dim: Whole = 4096
    image_dim: Whole | None = None
    added_kv_proj_dim: Whole | None = None
    pos_embed_seq_len: Count | None = None
    rope_max_seq_len: Whole = 1024
    cross_attn_norm: bool = True
    eps: Number = 1e-6

    @model_validator(mode="after")
    def _takes_square_patches_of_one_frame(self) -> Self:
        frames, height, width = self.patch_size
        if frames != 1 or height != width:
            raise ValueError(f"patch_size is {self.patch_size}, and should be square, of one frame")
        return self


class UMT5Encoder(T5Encoder):
    """`UMT5EncoderModel`."""

    feed_forward_proj: Literal["relu", "gelu", "gated-gelu", "gated-silu"] = "gated-gelu"
    dense_act_fn: Activation = "gelu_new"


class WanVae(Settings):
    """`AutoencoderKLWan`. An empty mean or deviation stands for the class's own."""

    class_name: Literal["AutoencoderKLWan"] = Field("AutoencoderKLWan", alias="_class_name")
    base_dim: Whole
    decoder_base_dim: Whole | None = None
    z_dim: Whole
    dim_mult: list[Whole] = Field(min_length=1)
    num_res_blocks: Whole
    temperal_downsample: list[bool]
    attn_scales: list[float] = Field([])
    is_residual: bool = False
    in_channels: Whole = 3
    out_channels: Whole = 3
    patch_size: Whole | None = None
    scale_factor_spatial: Whole = 8
    scale_factor_temporal: Whole = 4
    latents_mean: list[float] = Field([])
    latents_std: list[Number] = Field([])

    @property
    def spatial_compression_ratio(self) -> int:
        """Pixels per latent cell."""
        return 2 ** len(self.temperal_downsample) * (self.patch_size or 1)

    @property
    def temporal_compression_ratio(self) -> int:
        """Frames per latent frame after the first."""
        return 2 ** sum(self.temperal_downsample)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for key in ("latents_mean", "latents_std"):
            is_set = key in self.model_fields_set
            values = len(getattr(self, key)) if is_set else PUBLISHED_LATENTS
            if values != self.z_dim:
                raise ValueError(f"{key} has {values} values, and should have {self.z_dim} (z_dim)")
        scales = {
            "scale_factor_spatial": self.spatial_compression_ratio,
            "scale_factor_temporal": self.temporal_compression_ratio,
        }
        for key, expected in scales.items():
            if getattr(self, key) != expected:
                raise ValueError(
                    f"{key} is {getattr(self, key)}, and should be {expected} for this "
                    f"temperal_downsample and patch_size"
                )
        return self


MINIATURE: dict[str, type[Settings]] = {
    "transformer": WanTransformer,
    "vae": WanVae,
    "scheduler": Scheduler,
}
WAN22: dict[str, type[Settings]] = {
    **MINIATURE,
    "transformer_2": WanTransformer,
    "text_encoder": UMT5Encoder,
}
WAN21: dict[str, type[Settings]] = {
    **MINIATURE,
    "text_encoder": UMT5Encoder,
    "image_encoder": VisionTower,
}
MINIATURE_FILES: Files = {"scheduler": SCHEDULER}
WAN22_FILES: Files = {"tokenizer": (*TOKENIZER, "spiece.model"), **MINIATURE_FILES}
WAN21_FILES: Files = {"image_processor": PROCESSOR, **WAN22_FILES}
