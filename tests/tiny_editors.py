"""Folders of diffusers' image editors in a tiny size, with random weights."""

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxFillPipeline,
    FluxKontextPipeline,
    FluxTransformer2DModel,
    StableDiffusionXLInpaintPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

WIDTH = 32  # of the text encoders
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def write_sdxl(folder: Path) -> None:
    """A StableDiffusionXLInpaintPipeline, whose UNet is given the region."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(8, 16), layers_per_block=1, sample_size=8, in_channels=9,
        out_channels=4, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=(2, 4),
        use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=8, transformer_layers_per_block=(1, 1),
        projection_class_embeddings_input_dim=6 * 8 + WIDTH, cross_attention_dim=2 * WIDTH,
        norm_num_groups=1,
    )  # fmt: skip
    StableDiffusionXLInpaintPipeline(
        vae=_vae(4), text_encoder=CLIPTextModel(_clip()), tokenizer=_tokenizer(),
        text_encoder_2=CLIPTextModelWithProjection(_clip()), tokenizer_2=_tokenizer(),
        unet=unet, scheduler=EulerDiscreteScheduler(),
    ).save_pretrained(folder)  # fmt: skip


def write_flux_fill(folder: Path) -> None:
    """A FluxFillPipeline: latents, the picture's latents, and the mask."""
    _write_flux(folder, FluxFillPipeline, in_channels=2 * 4 * 4 + 4 * 64, out_channels=16)


def write_kontext(folder: Path) -> None:
    """A FluxKontextPipeline, which is given the picture alone."""
    _write_flux(folder, FluxKontextPipeline, in_channels=16, out_channels=16)


def _write_flux(folder: Path, kind: type, in_channels: int, out_channels: int) -> None:
    torch.manual_seed(0)
    text = CLIPTextModel(_clip())
    letters = [chr(code) for code in range(33, 127)]
    pieces = ["<pad>", "</s>", "<unk>", "\N{LOWER ONE EIGHTH BLOCK}", *letters]
    tokenizer_2 = T5TokenizerFast(vocab=[(piece, 0.0) for piece in pieces], extra_ids=0)
    t5 = T5Config(
        vocab_size=len(tokenizer_2), d_model=WIDTH, d_kv=8, d_ff=32, num_layers=1, num_heads=2
    )
    transformer = FluxTransformer2DModel(
        in_channels=in_channels, out_channels=out_channels, num_layers=1, num_single_layers=1,
        attention_head_dim=16, num_attention_heads=2, joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH, axes_dims_rope=[4, 4, 8], guidance_embeds=True,
    )  # fmt: skip
    kind(
        scheduler=FlowMatchEulerDiscreteScheduler(), vae=_vae(4, blocks=4), text_encoder=text,
        tokenizer=_tokenizer(), text_encoder_2=T5EncoderModel(t5),
        tokenizer_2=tokenizer_2, transformer=transformer,
    ).save_pretrained(folder)  # fmt: skip


def _vae(channels: int, blocks: int = 2) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8,) * blocks, in_channels=3, out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks, latent_channels=channels,
        norm_num_groups=2, shift_factor=0.0, scaling_factor=1.0, sample_size=32,
        use_quant_conv=False, use_post_quant_conv=False,
    )  # fmt: skip


def _clip() -> CLIPTextConfig:
    return CLIPTextConfig(
        bos_token_id=0, eos_token_id=1, hidden_size=WIDTH, intermediate_size=37,
        num_attention_heads=4, num_hidden_layers=2, pad_token_id=1, projection_dim=WIDTH,
        vocab_size=2 + 2 * len(LETTERS), max_position_embeddings=77, hidden_act="gelu",
    )  # fmt: skip


def _tokenizer() -> CLIPTokenizer:
    words = ["<|startoftext|>", "<|endoftext|>", *LETTERS, *(f"{one}</w>" for one in LETTERS)]
    vocab = {word: number for number, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77)
