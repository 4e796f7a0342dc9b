"""Wan's parts as Wan-AI and ComfyUI keep them: transformers, VAE, UMT5-XXL, CLIP ViT-H.

Shapes determine the sizes. What they do not determine is the same in all that is published, and so
are the scheduler's and the image processor's settings, which these layouts do not have.
"""

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

from maskora.errors import UserError
from maskora.files import cache_home, digest, write_bytes, write_text
from maskora.models.files.tensors import CheckpointLayout, Translation, Weights, read_small
from maskora.models.names import Names
from maskora.models.wan.names import WAN

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


def transformer(given: Mapping[str, Any]) -> CheckpointLayout:
    """The layout of a transformer, beside which its publisher's config.json may lie (`given`)."""
    return CheckpointLayout(
        marks=(r"blocks\.\d+\.self_attn\.q\.weight",),
        names=WAN,
        config=partial(_config, given),
        describe=_describe,
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
            f"{found.description}: {heads!r} heads do not go into blocks of width {width}; the "
            f"heads of Wan's models have {HEAD} each"
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


def _describe(config: dict[str, Any]) -> str:
    width = config["num_attention_heads"] * config["attention_head_dim"]
    pictures = "" if config["image_dim"] else ", no image tokens"
    return (
        f"{config['num_layers']} blocks x {width}, {config['in_channels']} input channels{pictures}"
    )


_RESIDUAL = {
    "residual.0": "norm1",
    "residual.2": "conv1",
    "residual.3": "norm2",
    "residual.6": "conv2",
    "shortcut": "conv_shortcut",
}
_RESAMPLE = {"resample.1": "resample.1", "time_conv": "time_conv"}
_ATTENTION = {"norm": "norm", "to_qkv": "to_qkv", "proj": "proj"}
_ENDS = {"conv1": "conv_in", "head.0": "norm_out", "head.2": "conv_out"}


def vae_names(stored: Collection[str]) -> Names:
    """The table of the VAE's names, whose numbers depend on how many levels and blocks it has."""
    numbered = {name.split(".")[2] for name in stored if name.startswith("encoder.downsamples.")}
    halvings = {
        name.split(".")[2]
        for name in stored
        if re.match(r"encoder\.downsamples\.\d+\.resample", name)
    }
    residuals = (len(numbered) - len(halvings)) // (len(halvings) + 1)
    pairs = {"conv1": "quant_conv", "conv2": "post_quant_conv"}
    for side in ("encoder", "decoder"):
        pairs |= {f"{side}.{theirs}": f"{side}.{ours}" for theirs, ours in _ENDS.items()}
        pairs |= dict(_block(f"{side}.middle.0", f"{side}.mid_block.resnets.0", _RESIDUAL))
        pairs |= dict(_block(f"{side}.middle.1", f"{side}.mid_block.attentions.0", _ATTENTION))
        pairs |= dict(_block(f"{side}.middle.2", f"{side}.mid_block.resnets.1", _RESIDUAL))
    either = _RESIDUAL | _RESAMPLE
    pairs |= dict(_block("encoder.downsamples.{}", "encoder.down_blocks.{}", either))
    for level in range(len(halvings) + 1):
        first, block = level * (residuals + 2), f"decoder.up_blocks.{level}"
        for index in range(residuals + 1):
            theirs, ours = f"decoder.upsamples.{first + index}", f"{block}.resnets.{index}"
            pairs |= dict(_block(theirs, ours, _RESIDUAL))
        theirs = f"decoder.upsamples.{first + residuals + 1}"
        pairs |= dict(_block(theirs, f"{block}.upsamplers.0", _RESAMPLE))
    return Names({theirs: (ours,) for theirs, ours in pairs.items()})


def _block(theirs: str, ours: str, inside: dict[str, str]) -> Iterator[tuple[str, str]]:
    for one, other in inside.items():
        yield f"{theirs}.{one}", f"{ours}.{other}"


def _vae_config(found: Translation) -> dict[str, Any]:
    """The configuration of `AutoencoderKLWan`; mean and deviation of the latents are its own."""
    blocks = range(found.count("encoder.down_blocks."))
    halvings = [i for i in blocks if found.has(f"encoder.down_blocks.{i}.resample.")]
    residuals = (len(blocks) - len(halvings)) // (len(halvings) + 1)
    firsts = [level * (residuals + 1) for level in range(len(halvings) + 1)]
    first = ("encoder.conv_in.bias", "encoder.conv_in.weight", "encoder.down_blocks.0.norm1.gamma")
    base = found.length(*((name, 0) for name in first))
    last = ("post_quant_conv.bias", "post_quant_conv.weight")
    return {
        "base_dim": base,
        "z_dim": found.length(*((name, 0) for name in last), ("decoder.conv_in.weight", 1)),
        "dim_mult": [_width(found, f"encoder.down_blocks.{i}") // base for i in firsts],
        "num_res_blocks": residuals,
        "temperal_downsample": [found.has(f"encoder.down_blocks.{i}.time_conv.") for i in halvings],
    }


def _width(found: Translation, block: str) -> int:
    leaves = ("conv1.bias", "conv2.bias", "norm2.gamma")
    return found.length(*((f"{block}.{leaf}", 0) for leaf in leaves))


def _other_vae(config: dict[str, Any]) -> str | None:
    return None if config["z_dim"] == 16 else f"a VAE of {config['z_dim']} latent channels"


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
        raise UserError(
            f"{found.description}: its width of {width} is not CLIP ViT-H's: {CLIP_INSTEAD}"
        )
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


def _layers(kind: str, count: str, width: str) -> Callable[[dict[str, Any]], str]:
    return lambda config: f"{kind} of {config[count]} layers x {config[width]}"


_describe_umt5 = _layers("UMT5", "num_layers", "d_model")
_describe_clip = _layers("CLIP", "num_hidden_layers", "hidden_size")


# How a part is laid out, whose layout nothing beside it decides.
LAYOUTS: dict[str, tuple[CheckpointLayout, ...]] = {
    "vae": (
        CheckpointLayout(
            marks=(r"encoder\.downsamples\.\d+\..*", r"decoder\.upsamples\.\d+\..*"),
            names=vae_names,
            config=_vae_config,
            describe=lambda config: f"VAE of {config['z_dim']} latent channels",
            instead="use the VAE of Wan2.1, which the image-to-video models of Wan2.2 have too",
            others={r"encoder\.downsamples\.\d+\.downsamples\..*": "the VAE of Wan2.2-TI2V-5B"},
            other=_other_vae,
        ),
    ),
    "text_encoder": (
        CheckpointLayout(
            (r"blocks\.\d+\.pos_embedding\..*",), UMT5, _umt5, _describe_umt5, UMT5_INSTEAD
        ),
        CheckpointLayout(
            (r"encoder\.block\.[1-9]\d*\.layer\.0\.SelfAttention\.relative_attention_bias\..*",),
            None, _umt5, _describe_umt5, UMT5_INSTEAD,
            ignore=(TOKENIZER,),
            others={r"decoder\..*": "a whole UMT5, with its decoder"},
        ),
    ),
    "image_encoder": (
        CheckpointLayout(
            (r"visual\.transformer\.\d+\.attn\.to_qkv\..*",),
            CLIP, _clip, _describe_clip, CLIP_INSTEAD,
            ignore=(r"textual\..*", r"log_scale", r"visual\.head"),
        ),
        CheckpointLayout(
            (r"encoder\.layers\.\d+\.self_attn\..*", r"pre_layrnorm\..*"),
            None, _clip, _describe_clip, CLIP_INSTEAD,
            ignore=(r"embeddings\.position_ids", r"visual_projection\.weight"),
        ),
    ),
}  # fmt: skip

# Wan2.1's is that for 480P; its publisher takes 5 for 720P, and for Wan2.2.
SHIFT, SHIFT_22 = 3.0, 5.0
PROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "do_resize": True,
    "size": {"shortest_edge": 224},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "do_convert_rgb": True,
}


def scheduler(parts: Collection[str]) -> dict[str, Any]:
    """The configuration of the scheduler of a base that has these parts."""
    return {
        "_class_name": "UniPCMultistepScheduler",
        "num_train_timesteps": 1000,
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": True,
        "flow_shift": SHIFT_22 if "transformer_2" in parts else SHIFT,
    }


def image_processor() -> Path:
    """A folder with the settings of CLIP's image processor, made if it is not there."""
    text = json.dumps(PROCESSOR, indent=2)
    folder = cache_home() / "processors" / digest(text)
    if not (folder / "preprocessor_config.json").is_file():
        write_text(folder / "preprocessor_config.json", text)
    return folder


def tokenizer(text_encoder: Weights) -> Path:
    """A folder with the tokenizer that the text encoder's file brings, made if it is not there.

    Raises:
        UserError: it brings none, or cannot be read.
    """
    stored = text_encoder.stored.get(TOKENIZER)
    if stored is None:
        raise UserError(
            f"{text_encoder.description} brings no tokenizer ({TOKENIZER}): use ComfyUI's file of "
            f"UMT5-XXL, or name a folder that has one as [model] path"
        )
    content = read_small(stored, sum(stored.shape))
    folder = cache_home() / "tokenizers" / digest(content)
    if not (folder / "spiece.model").is_file():
        write_bytes(folder / "spiece.model", content)
    return folder
