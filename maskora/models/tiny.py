"""A complete Wan image-to-video folder of the real classes, a few megabytes, with random weights.

It exercises every step that the 14B model takes (same tensors, same files, same code) without a
download. Its pictures are noise: it shows that the machine runs, not what the method can do.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLWan,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanTransformer3DModel,
)
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    T5TokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
)

from maskora.errors import UserError
from maskora.files import scratch_folder
from maskora.models.building import without_bars

TEXT_DIM, IMAGE_DIM, LATENT_CHANNELS, MASK_CHANNELS = 32, 32, 16, 4
HEADS, HEAD_DIM = 2, 24


def write_tiny_model(
    folder: Path, seed: int = 0, layers: int = 2, family: str = "wan2.1-i2v"
) -> None:
    """Write a diffusers-layout Wan folder: every part of the real one, at a tiny size.

    Args:
        folder: the folder to create; it must not exist, or be empty.
        seed: of the random weights.
        layers: of the transformer.
        family: one of `FAMILIES`.

    Raises:
        UserError: the folder already holds something, or there is no tiny model of the family.
    """
    if family not in FAMILIES:
        raise UserError(f"there is no tiny model of {family!r}; there are {', '.join(FAMILIES)}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} already holds something; name an empty or a new folder")
    without_bars()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(folder.parent, "tiny-model") as scratch:
        built = scratch / "model"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            FAMILIES[family](layers).save_pretrained(built, safe_serialization=True)
        if folder.exists():
            folder.rmdir()
        shutil.move(built, folder)


def _wan21(layers: int) -> WanImageToVideoPipeline:
    # 224 pixels in patches of 14 give the 257 image tokens of the real model.
    image = CLIPVisionConfig(
        hidden_size=IMAGE_DIM, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2,
        image_size=224, patch_size=14,
    )  # fmt: skip
    return WanImageToVideoPipeline(
        **_shared(),
        image_processor=CLIPImageProcessorPil(),
        image_encoder=CLIPVisionModel(image),
        transformer=_transformer(layers),
    )


def _wan22(layers: int) -> WanImageToVideoPipeline:
    return WanImageToVideoPipeline(
        **_shared(),
        transformer=_transformer(layers, sees_picture=False),
        transformer_2=_transformer(layers, sees_picture=False),
        boundary_ratio=0.9,
    )


FAMILIES: dict[str, Callable[[int], WanImageToVideoPipeline]] = {
    "wan2.1-i2v": _wan21,
    "wan2.1-fun-inp": _wan21,
    "wan2.2-i2v": _wan22,
}


def _shared() -> dict[str, Any]:
    tokenizer = _tokenizer()
    text = UMT5Config(
        vocab_size=len(tokenizer), d_model=TEXT_DIM, d_kv=16, d_ff=64, num_layers=2, num_heads=2
    )
    return {
        "tokenizer": tokenizer,
        "text_encoder": UMT5EncoderModel(text),
        "vae": _vae(),
        "scheduler": UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    }


def _transformer(layers: int, sees_picture: bool = True) -> WanTransformer3DModel:
    return WanTransformer3DModel(
        num_attention_heads=HEADS, attention_head_dim=HEAD_DIM,
        in_channels=LATENT_CHANNELS * 2 + MASK_CHANNELS, out_channels=LATENT_CHANNELS,
        text_dim=TEXT_DIM, freq_dim=32, ffn_dim=96, num_layers=layers,
        image_dim=IMAGE_DIM if sees_picture else None,
        added_kv_proj_dim=HEADS * HEAD_DIM if sees_picture else None,
    )  # fmt: skip


def _vae() -> AutoencoderKLWan:
    return AutoencoderKLWan(
        base_dim=4, z_dim=LATENT_CHANNELS, dim_mult=[1, 1, 2, 2], num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.02 * channel for channel in range(LATENT_CHANNELS)],
        latents_std=[0.5 + 0.1 * channel for channel in range(LATENT_CHANNELS)],
    )  # fmt: skip


def _tokenizer() -> T5TokenizerFast:
    """The real tokenizer class, spelling text letter by letter (Latin-1; the rest is <unk>)."""
    letters = [chr(code) for code in range(33, 256) if chr(code).isprintable()]
    pieces = ["<pad>", "</s>", "<unk>", "\N{LOWER ONE EIGHTH BLOCK}", *letters]
    return T5TokenizerFast(vocab=[(piece, 0.0) for piece in pieces], extra_ids=0)
