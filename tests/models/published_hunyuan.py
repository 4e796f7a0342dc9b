"""The published HunyuanVideo-I2V-33ch as configurations, and as modules on the meta device."""

from pathlib import Path

from diffusers import AutoencoderKLHunyuanVideo, HunyuanVideoTransformer3DModel
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from tests.models.counting import on_meta, write_configs

# As the published file tells them: what it leaves out are the classes' own defaults.
LLAMA = {"vocab_size": 128320, "intermediate_size": 14336, "num_key_value_heads": 8}
VISION = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
    "num_attention_heads": 16, "image_size": 336, "patch_size": 14,
}  # fmt: skip
POOLED = CLIPTextConfig(
    hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
)


def transformer(double: int = 20, single: int = 40) -> nn.Module:
    """The published transformer, perhaps of fewer blocks."""
    return on_meta(
        lambda: HunyuanVideoTransformer3DModel(
            in_channels=33, num_layers=double, num_single_layers=single, guidance_embeds=False,
            image_condition_type="latent_concat",
        )
    )  # fmt: skip


def parts() -> dict[str, nn.Module]:
    """All parts."""
    llava = LlavaConfig(
        text_config=LlamaConfig(**LLAMA, num_hidden_layers=32),
        vision_config=CLIPVisionConfig(**VISION), image_token_index=128257, pad_token_id=128258,
    )  # fmt: skip
    return {
        "transformer": transformer(),
        "text_encoder": on_meta(lambda: LlavaForConditionalGeneration(llava)),
        "text_encoder_2": on_meta(lambda: CLIPTextModel(POOLED)),
        "vae": on_meta(AutoencoderKLHunyuanVideo),
    }


def write_published(folder: Path) -> Path:
    """The configuration files, as the classes write them; LLaVA's as it was published."""
    small = dict(transformer(1, 1).config, num_layers=20, num_single_layers=40)
    llava = {
        "model_type": "llava",
        "image_token_index": 128257,
        "pad_token_id": 128258,
        "text_config": {**LLAMA, "model_type": "llama"},
        "vision_config": {**VISION, "model_type": "clip_vision_model"},
    }
    vae = dict(on_meta(AutoencoderKLHunyuanVideo).config)
    return write_configs(
        folder, transformer=small, vae=vae, text_encoder=llava, text_encoder_2=POOLED
    )
