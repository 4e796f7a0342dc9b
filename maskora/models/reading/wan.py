"""Wan's transformer as its publisher and ComfyUI keep it."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from maskora.models.reading.layout import Layout
from maskora.models.reading.translation import Translation
from maskora.models.wan_names import WAN

HEAD = 128  # the width of an attention head, in all that is published
INSTEAD = "use Wan2.1-I2V-14B, Wan2.1-Fun-InP or Wan2.2-I2V-A14B"
OTHERS = {
    r"vace_(blocks|patch_embedding)\..*": "a VACE model",
    r"(face_adapter|motion_encoder|pose_patch_embedding)\..*": "Wan-Animate",
    r"control_adapter\..*": "a camera-control model",
    r"ref_conv\..*": "a Fun-Control model",
    r"(casual_audio_encoder|audio_injector|audio_proj)\..*": "a speech-to-video model",
    r"img_emb\.emb_pos": "a first-and-last-frame model",
}
IMAGE = "condition_embedder.image_embedder.norm1.weight"


def transformer(given: Mapping[str, Any]) -> Layout:
    """The layout of a transformer, beside which its publisher's config.json may lie (`given`)."""
    return Layout(
        marks=(r"blocks\.\d+\.self_attn\.q\.weight",),
        names=WAN,
        config=partial(_config, given),
        told=_told,
        instead=INSTEAD,
        others=OTHERS,
        other=_other,
    )


def _config(given: Mapping[str, Any], found: Translation) -> dict[str, Any]:
    """The configuration of `WanTransformer3DModel`; shapes do not tell heads and epsilon."""
    width = found.length("patch_embedding.weight", 0)
    patch = [found.length("patch_embedding.weight", axis) for axis in (2, 3, 4)]
    heads = given.get("num_heads", width // HEAD)
    return {
        "num_attention_heads": heads,
        "attention_head_dim": width // heads if heads else width,
        "patch_size": patch,
        "in_channels": found.length("patch_embedding.weight", 1),
        "out_channels": found.length("proj_out.weight", 0) // (patch[0] * patch[1] * patch[2]),
        "num_layers": found.count("blocks."),
        "ffn_dim": found.length("blocks.0.ffn.net.0.proj.weight", 0),
        "freq_dim": found.length("condition_embedder.time_embedder.linear_1.weight", 1),
        "text_dim": found.length("condition_embedder.text_embedder.linear_1.weight", 1),
        "image_dim": found.length(IMAGE, 0) if found.has("condition_embedder.image_") else None,
        "added_kv_proj_dim": width if found.has("blocks.0.attn2.add_k_proj.") else None,
        "eps": given.get("eps", 1e-6),
    }


def _other(config: dict[str, Any]) -> str | None:
    inputs, outputs = config["in_channels"], config["out_channels"]
    if inputs == 2 * outputs + 4:
        return None
    if inputs == outputs:
        return "Wan2.2-TI2V-5B" if inputs == 48 else "a text-to-video model"
    return f"a model of {inputs} input channels (Fun-Control has 48 or 52)"


def _told(config: dict[str, Any]) -> str:
    width = config["num_attention_heads"] * config["attention_head_dim"]
    pictures = "" if config["image_dim"] else ", no image tokens"
    return (
        f"{config['num_layers']} blocks x {width}, {config['in_channels']} input channels{pictures}"
    )
