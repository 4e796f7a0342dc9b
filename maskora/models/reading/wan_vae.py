"""Wan2.1's video autoencoder as its publisher and ComfyUI keep it.

The publisher counts all blocks of the encoder, and of the decoder, through; diffusers does so in
the encoder, and groups the decoder's by level. So the table depends on how many blocks a level has.
"""

import re
from collections.abc import Collection, Iterator
from typing import Any

from maskora.models.names import Names
from maskora.models.reading.layout import Layout
from maskora.models.reading.translation import Translation

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


def names_of(stored: Collection[str]) -> Names:
    """The table for a file's tensors."""
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


def _config(found: Translation) -> dict[str, Any]:
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


def _other(config: dict[str, Any]) -> str | None:
    return None if config["z_dim"] == 16 else f"a VAE of {config['z_dim']} latent channels"


def _told(config: dict[str, Any]) -> str:
    return f"VAE of {config['z_dim']} latent channels"


VAES = (
    Layout(
        marks=(r"encoder\.downsamples\.\d+\..*", r"decoder\.upsamples\.\d+\..*"),
        names=names_of,
        config=_config,
        told=_told,
        instead="use the VAE of Wan2.1, which the image-to-video models of Wan2.2 have too",
        others={r"encoder\.downsamples\.\d+\.downsamples\..*": "the VAE of Wan2.2-TI2V-5B"},
        other=_other,
    ),
)
