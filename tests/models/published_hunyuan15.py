"""The published HunyuanVideo-1.5 I2V as configurations, and as modules on the meta device."""

from pathlib import Path

from diffusers import AutoencoderKLHunyuanVideo15, HunyuanVideo15Transformer3DModel
from torch import nn
from transformers import (
    Qwen2_5_VLTextConfig,
    Qwen2_5_VLTextModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    T5Config,
    T5EncoderModel,
)

from tests.models.counting import on_meta, write_configs

TEXT = Qwen2_5_VLTextConfig(
    vocab_size=152064, hidden_size=3584, intermediate_size=18944, num_hidden_layers=28,
    num_attention_heads=28, num_key_value_heads=4,
    rope_parameters={"rope_type": "default", "mrope_section": [16, 24, 24]},
)  # fmt: skip
GLYPHS = T5Config(
    vocab_size=1510, d_model=1472, d_ff=3584, num_layers=12, num_heads=6,
    feed_forward_proj="gated-gelu",
)  # fmt: skip
IMAGE = SiglipVisionConfig(
    hidden_size=1152, intermediate_size=4304, num_hidden_layers=27, num_attention_heads=16,
    image_size=384, patch_size=14,
)  # fmt: skip


def transformer(layers: int = 54) -> nn.Module:
    """The published transformer, perhaps of fewer blocks."""
    return on_meta(lambda: HunyuanVideo15Transformer3DModel(num_layers=layers))


def parts() -> dict[str, nn.Module]:
    """All parts."""
    return {
        "transformer": transformer(),
        "text_encoder": on_meta(lambda: Qwen2_5_VLTextModel(TEXT)),
        "text_encoder_2": on_meta(lambda: T5EncoderModel(GLYPHS)),
        "image_encoder": on_meta(lambda: SiglipVisionModel(IMAGE)),
        "vae": on_meta(AutoencoderKLHunyuanVideo15),
    }


def write_published(folder: Path, **changes: int) -> Path:
    """The configuration files, as the classes write them, but for changes to the transformer's."""
    config = {**transformer(1).config, "num_layers": 54, **changes}
    vae = dict(on_meta(AutoencoderKLHunyuanVideo15).config)
    return write_configs(
        folder, transformer=config, vae=vae, text_encoder=TEXT, text_encoder_2=GLYPHS,
        image_encoder=IMAGE,
    )  # fmt: skip
