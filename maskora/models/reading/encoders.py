"""Wan's encoders of words and pictures: UMT5-XXL and CLIP ViT-H, as they are kept.

Shapes tell the sizes. What they do not tell is the same in all that is published.
"""

from typing import Any

from maskora.errors import UserError
from maskora.models.names import Names
from maskora.models.reading.layout import Layout
from maskora.models.reading.translation import Translation

_LAYER = "encoder.block.{}.layer"
# Wan-AI's names.
UMT5 = Names(
    {
        "token_embedding": ("shared",),
        "norm": ("encoder.final_layer_norm",),
        "blocks.{}.norm1": (f"{_LAYER}.0.layer_norm",),
        **{f"blocks.{{}}.attn.{x}": (f"{_LAYER}.0.SelfAttention.{x}",) for x in "qkvo"},
        "blocks.{}.pos_embedding.embedding": (f"{_LAYER}.0.SelfAttention.relative_attention_bias",),
        "blocks.{}.norm2": (f"{_LAYER}.1.layer_norm",),
        "blocks.{}.ffn.gate.0": (f"{_LAYER}.1.DenseReluDense.wi_0",),
        "blocks.{}.ffn.fc1": (f"{_LAYER}.1.DenseReluDense.wi_1",),
        "blocks.{}.ffn.fc2": (f"{_LAYER}.1.DenseReluDense.wo",),
    }
)
CLIP = Names(
    {
        "visual.cls_embedding": ("embeddings.class_embedding",),
        "visual.pos_embedding": ("embeddings.position_embedding.weight",),
        "visual.patch_embedding": ("embeddings.patch_embedding",),
        "visual.pre_norm": ("pre_layrnorm",),
        "visual.post_norm": ("post_layernorm",),
        **{
            f"visual.transformer.{{}}.{theirs}": tuple(f"encoder.layers.{{}}.{one}" for one in ours)
            for theirs, ours in {
                "norm1": ("layer_norm1",),
                "attn.to_qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
                "attn.proj": ("self_attn.out_proj",),
                "norm2": ("layer_norm2",),
                "mlp.0": ("mlp.fc1",),
                "mlp.2": ("mlp.fc2",),
            }.items()
        },
    }
)
UMT5_INSTEAD = "use the encoder of UMT5-XXL alone"
CLIP_INSTEAD = "use CLIP ViT-H, as Wan2.1 brings it"
HEADS = 16  # of CLIP ViT-H
TOKENIZER = "spiece_model"
EMBEDDINGS = ("shared.weight", "encoder.embed_tokens.weight")


def _umt5(found: Translation) -> dict[str, Any]:
    """The configuration of `UMT5EncoderModel`."""
    attention, feed_forward = f"{_LAYER}.0.SelfAttention", f"{_LAYER}.1.DenseReluDense"
    embeddings = next((name for name in EMBEDDINGS if found.has(name)), EMBEDDINGS[0])
    heads = found.length((f"{attention}.relative_attention_bias.weight", 1))
    return {
        "vocab_size": found.length((embeddings, 0)),
        "d_model": found.length(*((f"{_LAYER}.{n}.layer_norm.weight", 0) for n in (0, 1))),
        "d_kv": found.length(*((f"{attention}.{x}.weight", 0) for x in "qkv")) // heads,
        "d_ff": found.length(*((f"{feed_forward}.wi_{n}.weight", 0) for n in (0, 1))),
        "num_layers": found.count("encoder.block."),
        "num_heads": heads,
        "relative_attention_num_buckets": found.length(
            (f"{attention}.relative_attention_bias.weight", 0)
        ),
    }


def _clip(found: Translation) -> dict[str, Any]:
    """The configuration of `CLIPVisionModel`."""
    layer, embeddings = "encoder.layers.{}", "embeddings."
    patch = found.length((f"{embeddings}patch_embedding.weight", -1))
    tokens = found.length((f"{embeddings}position_embedding.weight", -2))
    width = found.length(*((f"{layer}.layer_norm{n}.weight", 0) for n in (1, 2)))
    if width % HEADS:
        raise UserError(f"{found.told}: its width of {width} is not CLIP ViT-H's: {CLIP_INSTEAD}")
    return {
        "hidden_size": width,
        "intermediate_size": found.length(
            (f"{layer}.mlp.fc1.weight", 0), (f"{layer}.mlp.fc1.bias", 0)
        ),
        "num_hidden_layers": found.count("encoder.layers."),
        "num_attention_heads": HEADS,
        "image_size": round((tokens - 1) ** 0.5) * patch,
        "patch_size": patch,
        "hidden_act": "gelu",
    }


def _told_umt5(config: dict[str, Any]) -> str:
    return f"UMT5 of {config['num_layers']} layers x {config['d_model']}"


def _told_clip(config: dict[str, Any]) -> str:
    return f"CLIP of {config['num_hidden_layers']} layers x {config['hidden_size']}"


TEXT_ENCODERS = (
    Layout((r"blocks\.\d+\.pos_embedding\..*",), UMT5, _umt5, _told_umt5, UMT5_INSTEAD),
    Layout(
        (r"encoder\.block\.[1-9]\d*\.layer\.0\.SelfAttention\.relative_attention_bias\..*",),
        None, _umt5, _told_umt5, UMT5_INSTEAD,
        ignore=(TOKENIZER,),
        others={r"decoder\..*": "a whole UMT5, with its decoder"},
    ),
)  # fmt: skip
IMAGE_ENCODERS = (
    Layout(
        (r"visual\.transformer\.\d+\.attn\.to_qkv\..*",), CLIP, _clip, _told_clip, CLIP_INSTEAD,
        ignore=(r"textual\..*", r"log_scale", r"visual\.head"),
    ),
    Layout(
        (r"encoder\.layers\.\d+\.self_attn\..*", r"pre_layrnorm\..*"),
        None, _clip, _told_clip, CLIP_INSTEAD,
        ignore=(r"embeddings\.position_ids", r"visual_projection\.weight"),
    ),
)  # fmt: skip
