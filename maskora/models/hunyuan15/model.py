"""HunyuanVideo-1.5 image-to-video through diffusers' own classes.

The tensors follow diffusers' `HunyuanVideo15ImageToVideoPipeline`: 32 noisy channels, 32 condition
channels and 1 mask channel; the prompt through Qwen2.5-VL, what it has in quotes through ByT5, the
picture through SigLIP, for both guidance branches.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import init_empty_weights
from diffusers import AutoencoderKLHunyuanVideo15, HunyuanVideo15Transformer3DModel
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor, nn

from maskora.errors import UserError
from maskora.models.base import ContextEncoder, ModelInputs, Transformer, Vae
from maskora.models.building import Renamed, announce, fill, released
from maskora.models.encoders import on_meta, scaled
from maskora.models.files.model_files import ModelFiles
from maskora.models.hunyuan.common import HunyuanBase
from maskora.models.hunyuan15 import checks
from maskora.models.hunyuan15.checks import Hunyuan15Transformer
from maskora.models.hunyuan15.encoders import (
    build_glyph_encoder,
    build_image_encoder,
    build_text_encoder,
    glyph_encoder,
    image_encoder,
    text_encoder,
)
from maskora.models.hunyuan15.names import HUNYUAN15
from maskora.streaming.tensor_files import Reader, check_all
from maskora.streaming.transfer import upload

ATTENTION = r"transformer_blocks\.\d+\.attn\.(to_q|to_k|to_v|to_out\.0)"
FEED_FORWARD = r"transformer_blocks\.\d+\.ff\.net\.(0\.proj|2)"
TILE_OVERLAP = 0.25


class Hunyuan15(HunyuanBase):
    """HunyuanVideo-1.5 I2V."""

    family = "hunyuan-video-1.5-i2v"
    longest = 121
    transformer_class = HunyuanVideo15Transformer3DModel
    block_lists = ("transformer_blocks",)
    names = HUNYUAN15
    parts = (
        "transformer", "vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2",
        "image_encoder", "feature_extractor",
    )  # fmt: skip
    files = checks.HUNYUAN15_FILES
    settings = checks.HUNYUAN15
    widths = {  # noqa: RUF012 - never changed
        "vae": ("latent_channels", "out_channels"),
        "text_encoder": ("hidden_size", "text_embed_dim"),
        "text_encoder_2": ("d_model", "text_embed_2_dim"),
        "image_encoder": ("hidden_size", "image_embed_dim"),
    }
    attention, feed_forward = ATTENTION, FEED_FORWARD
    instead = "HunyuanVideo-1.5-Diffusers-480p_i2v or HunyuanVideo-1.5-Diffusers-720p_i2v"

    def check_kind(self, transformer: Hunyuan15Transformer) -> None:
        where = self.source.where
        if transformer.task_type != "i2v":
            raise UserError(f"{where} is a text-to-video HunyuanVideo-1.5: use {self.instead}")
        if transformer.use_meanflow:
            raise UserError(
                f"{where} is a step-distilled or super-resolution HunyuanVideo-1.5 (use_meanflow "
                f"is set), which takes two noise levels: use {self.instead}"
            )
        super().check_kind(transformer)

    def encoders(self) -> tuple[ContextEncoder, ...]:
        return (
            self._text("text", text_encoder, build_text_encoder, "text_encoder", "tokenizer"),
            self._text(
                "glyphs", glyph_encoder, build_glyph_encoder, "text_encoder_2", "tokenizer_2"
            ),
            self._image(image_encoder, build_image_encoder, "image_encoder", "feature_extractor"),
        )

    def vae(self) -> AbstractContextManager[Vae]:
        return autoencoder(self.source, self.placement.vae_tile, self.device)

    def build_transformer(self, part: str = "transformer") -> Transformer:
        transformer = super().build_transformer(part)
        for block in transformer.transformer_blocks:
            block.attn.set_processor(UnpaddedAttention())
        transformer.context_embedder.register_forward_pre_hook(mask_on_device)
        return transformer

    def arguments(self, timestep_B: Tensor, inputs: ModelInputs) -> dict[str, Any]:
        text, text_mask = trimmed(inputs.context["text"], inputs.context["text_mask"])
        glyphs, glyphs_mask = trimmed(inputs.context["glyphs"], inputs.context["glyphs_mask"])
        return {
            "timestep": timestep_B.to(self.dtype),  # its embedding computes in this precision
            "encoder_hidden_states": text.to(self.dtype),
            "encoder_attention_mask": text_mask,
            "encoder_hidden_states_2": glyphs.to(self.dtype),
            "encoder_attention_mask_2": glyphs_mask,
            "image_embeds": inputs.context["image"].to(self.dtype),
        }


def mask_on_device(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    """The text's embedder computes with its mask; everything else wants it in host memory."""
    tokens_BLD, timestep_B, mask_BL = given
    return tokens_BLD, timestep_B, upload(mask_BL, tokens_BLD.device)


def trimmed(tokens_BLD: Tensor, mask_BL: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens and their mask without the padding at the end that all samples have.

    The mask lies in host memory, so that the device is not asked.
    """
    longest = int(mask_BL.sum(dim=1).max())
    return tokens_BLD[:, :longest], mask_BL[:, :longest]


class UnpaddedAttention:
    """A processor for these blocks, with diffusers' answer for every token that anyone sees.

    diffusers' own keeps padded context tokens and hides them by a boolean mask of tokens x tokens,
    made twice in every block: (20280 + 1985)^2 bytes each for 49 frames of 832x480, and attention
    with a mask misses the fastest kernels. Here each sample's padding, which comes after its own
    context, is left out, so no mask is needed. Padded tokens get zeros; no token looks at them.
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """What diffusers gives its own: the names of the arguments are its.

        Args:
            hidden_states: video tokens (B, N, D).
            encoder_hidden_states: context tokens (B, L, D).
            attention_mask: (B, L) in host memory, False for padding; None where nothing is padded.
            image_rotary_emb: cosines and sines of the video tokens' positions.

        Returns:
            the attention's answer for the video and for the context, of their shapes.
        """
        length = encoder_hidden_states.shape[1]
        if attention_mask is None:
            lengths = [length] * len(hidden_states)
        else:
            lengths = attention_mask.sum(dim=1).tolist()
        answers = [
            joint_attention(
                attn,
                hidden_states[index : index + 1],
                encoder_hidden_states[index : index + 1, :own],
                image_rotary_emb,
            )
            for index, own in enumerate(lengths)
        ]
        video_BND = torch.cat([video for video, _ in answers])
        context = [F.pad(one, (0, 0, 0, length - one.shape[1])) for _, one in answers]
        return video_BND, torch.cat(context)


def joint_attention(
    attn: Any, video_BND: Tensor, context_BLD: Tensor, rotary: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor]:
    """Video and context tokens attend to all of both; each stream has its own projections."""

    def joined(video: Any, norm: Any, context: Any, context_norm: Any) -> Tensor:
        video_BNHD = norm(video(video_BND).unflatten(2, (attn.heads, -1)))
        context_BLHD = context_norm(context(context_BLD).unflatten(2, (attn.heads, -1)))
        rotated = apply_rotary_emb(video_BNHD, rotary, sequence_dim=1)
        return torch.cat([rotated, context_BLHD], dim=1)

    value = torch.cat([attn.to_v(video_BND), attn.add_v_proj(context_BLD)], dim=1)
    answer_BMD = dispatch_attention_fn(
        joined(attn.to_q, attn.norm_q, attn.add_q_proj, attn.norm_added_q),
        joined(attn.to_k, attn.norm_k, attn.add_k_proj, attn.norm_added_k),
        value.unflatten(2, (attn.heads, -1)),
    ).flatten(2)
    video_BND, context_BLD = answer_BMD.tensor_split([video_BND.shape[1]], dim=1)
    return attn.to_out[0](video_BND), attn.to_add_out(context_BLD)


@contextmanager
def autoencoder(source: ModelFiles, tile: int | None, device: torch.device) -> Iterator[Vae]:
    """The VAE, whole or in square tiles of `tile` pixels that overlap by a quarter."""
    announce("VAE")
    config, weights = source.config("vae"), source.weights("vae")
    vae = on_meta(source, "vae", lambda: AutoencoderKLHunyuanVideo15.from_config(config))
    check_all(weights, vae)  # what is missing is known before anything is loaded
    if tile is not None:
        cells = tile // vae.spatial_compression_ratio
        vae.enable_tiling(tile, tile, cells, cells, TILE_OVERLAP)
    with released(vae):
        yield HalvedVae(vae, weights, device)


class HalvedVae:
    """Encoder and decoder take the place of each other: in float32 they have 1.5 and 3.2 GB."""

    def __init__(self, vae: Any, weights: Reader, device: torch.device) -> None:
        """`vae` is on the meta device."""
        self.module, self._weights, self._device = vae, weights, device
        self._names = [name for name, _ in vae.named_parameters()]
        self._loaded = ""

    def encode(self, video_CTHW: Tensor) -> Tensor:
        return scaled(self._with("encoder")).encode(video_CTHW)

    def decode(self, latents_CTHW: Tensor) -> Tensor:
        return scaled(self._with("decoder")).decode(latents_CTHW)

    def _with(self, half: str) -> Any:
        """The VAE with one half, and nothing in the other's place."""
        if self._loaded != half:
            self.module.encoder, self.module.decoder = nn.Identity(), nn.Identity()
            setattr(self.module, half, self._build(half).to(self._device))
            self._loaded = half
        return self.module

    def _build(self, half: str) -> Any:
        prefix = f"{half}."
        own = {n.removeprefix(prefix): n for n in self._names if n.startswith(prefix)}
        with init_empty_weights():
            whole = type(self.module).from_config(self.module.config)
        return fill(getattr(whole, half), Renamed(self._weights, own))
