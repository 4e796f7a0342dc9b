"""The published bases as configurations, and as modules on the meta device."""

from pathlib import Path

from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

from tests.models.counting import on_meta, write_configs

SHAPES = {
    "Wan2.1-I2V-14B": {"num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40},
    "Wan2.1-Fun-1.3B-InP": {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30},
    "Wan2.2-I2V-A14B": {"num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40},
}
NO_PICTURE = ("Wan2.2-I2V-A14B",)
TEXT = UMT5Config(vocab_size=256384, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64)
IMAGE = CLIPVisionConfig(
    hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=16,
    image_size=224, patch_size=14,
)  # fmt: skip


def transformer(name: str, layers: int | None = None) -> nn.Module:
    """A published transformer, perhaps of fewer layers."""
    shape, sees = SHAPES[name], name not in NO_PICTURE
    return on_meta(
        lambda: WanTransformer3DModel(
            in_channels=36, out_channels=16, text_dim=4096, image_dim=1280 if sees else None,
            added_kv_proj_dim=128 * shape["num_attention_heads"] if sees else None,
            **{**shape, "num_layers": layers or shape["num_layers"]},
        )
    )  # fmt: skip


def parts(name: str) -> dict[str, nn.Module]:
    """All parts of a published base."""
    shared = {
        "transformer": transformer(name),
        "text_encoder": on_meta(lambda: UMT5EncoderModel(TEXT)),
        "vae": on_meta(AutoencoderKLWan),
    }
    if name in NO_PICTURE:
        return shared
    return {**shared, "image_encoder": on_meta(lambda: CLIPVisionModel(IMAGE))}


def write_published(folder: Path, name: str) -> Path:
    """The configuration files of a published base, as its classes write them."""
    one_layer = dict(transformer(name, layers=1).config, num_layers=SHAPES[name]["num_layers"])
    other = {"transformer_2": one_layer} if name in NO_PICTURE else {"image_encoder": IMAGE}
    vae = dict(on_meta(AutoencoderKLWan).config)
    return write_configs(folder, transformer=one_layer, vae=vae, text_encoder=TEXT, **other)
