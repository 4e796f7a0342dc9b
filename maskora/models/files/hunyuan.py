"""The transformers of HunyuanVideo and HunyuanVideo-1.5 as Tencent and ComfyUI keep them."""

import re
from collections.abc import Callable
from typing import Any

from maskora.errors import UserError
from maskora.models.files.tensors import CheckpointLayout, Translation
from maskora.models.hunyuan.names import HUNYUAN, renamed
from maskora.models.hunyuan15.names import HUNYUAN15
from maskora.models.names import Names

HEAD = 128  # the width of an attention head, in all that is published
NORMS = {"_attn_q_norm": "_attn.norm.query_norm", "_attn_k_norm": "_attn.norm.key_norm",
         ".q_norm": ".norm.query_norm", ".k_norm": ".norm.key_norm"}  # fmt: skip
INSTEAD = "use the latent-concat HunyuanVideo-I2V (33 channels) or HunyuanVideo-1.5-I2V"
OTHERS = {r"clean_x_embedder\..*": "FramePack", r"time_r_in\..*": "a step-distilled model"}


def as_comfyui(names: Names) -> Names:
    """A table with the names that ComfyUI saves; its norms call their weight `scale`."""
    modules: dict[str, tuple[str, ...]] = {}
    swapped, shares = set(), {}
    for published, members in names.modules.items():
        own = renamed(published)
        if (norm := renamed(own, NORMS)) != own:
            own, members = f"{norm}.scale", tuple(f"{member}.weight" for member in members)
        modules.setdefault(own, members)
        if published in names.swapped:
            swapped.add(own)
        if published in names.shares:
            shares[own] = names.shares[published]
    return Names(modules, frozenset(swapped), shares)


def fused(names: Names) -> Names:
    """A table with q, k and v of both streams in one matrix each."""
    modules: dict[str, tuple[str, ...]] = {}
    for published, members in names.modules.items():
        whole = re.sub(r"_attn_[qkv]$", "_attn_qkv", published)
        modules[whole] = modules.get(whole, ()) + members if whole != published else members
    return Names(modules, names.swapped, names.shares)


def _common(found: Translation, patch: int) -> dict[str, Any]:
    """`patch`: the edge of a token, in latent cells; all are of one latent frame."""
    blocks = "transformer_blocks.{}."
    width = found.length(*((f"{blocks}attn.to_{x}.bias", 0) for x in "qkv"))
    inner = found.length(
        (f"{blocks}ff.net.0.proj.weight", 0),
        (f"{blocks}ff.net.0.proj.bias", 0),
        (f"{blocks}ff_context.net.0.proj.bias", 0),
    )
    if width % HEAD:
        raise UserError(f"{found.description}: blocks of width {width} are not HunyuanVideo's")
    return {
        "in_channels": found.length(("x_embedder.proj.weight", 1)),
        "out_channels": found.length(("proj_out.weight", 0), ("proj_out.bias", 0)) // patch**2,
        "num_attention_heads": width // HEAD,
        "attention_head_dim": HEAD,
        "num_layers": found.count("transformer_blocks."),
        "num_refiner_layers": found.count("context_embedder.token_refiner.refiner_blocks."),
        "mlp_ratio": inner / width,
        "patch_size": patch,
        "patch_size_t": 1,
        "text_embed_dim": found.length(
            ("context_embedder.proj_in.weight", 1),
            ("context_embedder.time_text_embed.text_embedder.linear_1.weight", 1),
        ),
    }


def _config(found: Translation) -> dict[str, Any]:
    common = _common(found, patch=2)
    concatenates = common["in_channels"] == 2 * common["out_channels"] + 1
    return {
        "_class_name": "HunyuanVideoTransformer3DModel",
        **common,
        "num_single_layers": found.count("single_transformer_blocks."),
        "guidance_embeds": found.has("time_text_embed.guidance_embedder."),
        "pooled_projection_dim": found.length(("time_text_embed.text_embedder.linear_1.weight", 1)),
        "image_condition_type": "latent_concat" if concatenates else None,
    }


def _config15(found: Translation) -> dict[str, Any]:
    return {
        "_class_name": "HunyuanVideo15Transformer3DModel",
        **_common(found, patch=1),
        "text_embed_2_dim": found.length(
            ("context_embedder_2.norm.weight", 0),
            ("context_embedder_2.norm.bias", 0),
            ("context_embedder_2.linear_1.weight", 1),
        ),
        "image_embed_dim": found.length(
            ("image_embedder.norm_in.weight", 0),
            ("image_embedder.norm_in.bias", 0),
            ("image_embedder.linear_1.weight", 1),
        ),
    }


def _other(config: dict[str, Any]) -> str | None:
    inputs, outputs = config["in_channels"], config["out_channels"]
    if inputs == 2 * outputs + 1:
        return None
    if inputs == outputs:
        return "a text-to-video or token-replace model, which has no mask channel"
    return f"a model of {inputs} input channels"


def _describe(config: dict[str, Any]) -> str:
    width = config["num_attention_heads"] * config["attention_head_dim"]
    single = f" and {config['num_single_layers']}" if "num_single_layers" in config else ""
    return (
        f"{config['num_layers']}{single} blocks x {width}, {config['in_channels']} input channels"
    )


def _layout(
    names: Names, *marks: str, config: Callable[[Translation], dict[str, Any]]
) -> CheckpointLayout:
    return CheckpointLayout(marks, names, config, _describe, INSTEAD, others=OTHERS, other=_other)


REFINER, SINGLE = r"txt_in\.individual_token_refiner\..*", r"single_blocks\.\d+\.linear1\..*"
DOUBLE, BYT5 = r"double_blocks\.\d+\.img_attn", r"byt5_in\..*"
TRANSFORMERS = (
    _layout(HUNYUAN, SINGLE, REFINER, DOUBLE + r"_qkv\..*", config=_config),
    _layout(as_comfyui(HUNYUAN), SINGLE, REFINER, DOUBLE + r"\.qkv\..*", config=_config),
    _layout(HUNYUAN15, BYT5, DOUBLE + r"_q\..*", config=_config15),
    _layout(fused(HUNYUAN15), BYT5, DOUBLE + r"_qkv\..*", config=_config15),
    _layout(as_comfyui(fused(HUNYUAN15)), BYT5, DOUBLE + r"\.qkv\..*", config=_config15),
)
