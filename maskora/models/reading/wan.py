"""Wan's transformer as its publisher and ComfyUI keep it."""

from collections.abc import Mapping
from functools import partial
from math import prod
from typing import Any

from maskora.errors import UserError
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
PATCH = [1, 2, 2]
EMBEDDER = "condition_embedder."
IMAGE = f"{EMBEDDER}image_embedder."


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
    width = found.length(*((f"blocks.{{}}.attn1.to_{x}.bias", 0) for x in "qkv"))
    heads = given.get("num_heads", width // HEAD)
    if not (type(heads) is int and heads > 0 and width % heads == 0):
        raise UserError(
            f"{found.told}: {heads!r} heads do not go into blocks of width {width}; the heads of "
            f"Wan's models have {HEAD} each"
        )
    return {
        "_class_name": "WanTransformer3DModel",
        "num_attention_heads": heads,
        "attention_head_dim": width // heads,
        "patch_size": PATCH,
        "in_channels": found.length(("patch_embedding.weight", 1)),
        "out_channels": found.length(("proj_out.weight", 0), ("proj_out.bias", 0)) // prod(PATCH),
        "num_layers": found.count("blocks."),
        "ffn_dim": found.length(
            ("blocks.{}.ffn.net.0.proj.weight", 0),
            ("blocks.{}.ffn.net.0.proj.bias", 0),
            ("blocks.{}.ffn.net.2.weight", 1),
        ),
        "freq_dim": found.length((f"{EMBEDDER}time_embedder.linear_1.weight", 1)),
        "text_dim": found.length((f"{EMBEDDER}text_embedder.linear_1.weight", 1)),
        "image_dim": found.length(
            (f"{IMAGE}norm1.weight", 0),
            (f"{IMAGE}norm1.bias", 0),
            (f"{IMAGE}ff.net.0.proj.bias", 0),
        )
        if found.has(IMAGE)
        else None,
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
