"""Wan2.1's encoders: UMT5 for words, CLIP for the reference picture, the video autoencoder.

Each is loaded on entry and released on exit. The layers of the first two pass through the streaming
engine, straight from where they lie; of the word embeddings (2 GB at 16 bits) only the prompt's own
rows are read.
"""

import gc
import html
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import ftfy
import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from maskora.models.base import Vae
from maskora.models.folder import without_bars
from maskora.streaming.blocks import precise
from maskora.streaming.checkpoint import Checkpoint
from maskora.streaming.plan import Placement
from maskora.streaming.sources import ModuleReader
from maskora.streaming.supply import supply

TEXT_TOKENS = 512
# Every layer, one prompt after the other.
STREAMED = Placement(blocks_to_swap=1_000, weights="mapped", split_batch=True)
WORD_EMBEDDINGS = ("shared.weight", "encoder.embed_tokens.weight")
log = logging.getLogger("maskora")


@contextmanager
def text_encoder(
    model: Path, dtype: torch.dtype, device: torch.device
) -> Iterator[Callable[[Sequence[str]], list[Tensor]]]:
    """UMT5: prompts -> embeddings (512, D) each, zero after the last token.

    Each layer is loaded once for all prompts, and computes them one after the other, so that what
    comes out for a prompt does not depend on its company.
    """
    from transformers import AutoTokenizer, UMT5Config, UMT5EncoderModel

    announce("text encoder")
    folder = model / "text_encoder"
    tokenizer = AutoTokenizer.from_pretrained(model / "tokenizer")
    with init_empty_weights():
        encoder = UMT5EncoderModel(UMT5Config.from_pretrained(folder))
    encoder.requires_grad_(False).to(dtype).eval()
    weights = Checkpoint(folder)
    embeddings = next(name for name in WORD_EMBEDDINGS if name in weights)
    # transformers computes this layer in float32 where the rest is float16.
    wide = ("wo",) if dtype == torch.float16 else ()
    supplied = supply(
        encoder, encoder.encoder.block, weights, precise(dtype, wide),
        STREAMED, device, skip=WORD_EMBEDDINGS,
    )  # fmt: skip

    @torch.no_grad()
    def encode(prompts: Sequence[str]) -> list[Tensor]:
        tokens = tokenizer(
            [clean(prompt) for prompt in prompts],
            padding="max_length",
            max_length=TEXT_TOKENS,
            truncation=True,
            return_tensors="pt",
        )
        words = weights.read_rows(embeddings, tokens.input_ids.view(-1).tolist(), dtype)
        text_BLD = encoder(
            inputs_embeds=words.view(*tokens.input_ids.shape, -1).to(device),
            attention_mask=tokens.attention_mask.to(device),
        ).last_hidden_state
        text_BLD = text_BLD.cpu().masked_fill(tokens.attention_mask[..., None] == 0, 0)
        return list(text_BLD)

    with closing(supplied):
        yield encode


@contextmanager
def image_encoder(model: Path, device: torch.device) -> Iterator[Callable[[Tensor], Tensor]]:
    """CLIP: a picture (3, H, W) in [-1, 1] -> its second-to-last layer's tokens (N, D)."""
    from transformers import CLIPImageProcessorPil, CLIPVisionModel

    announce("image encoder")
    # The PIL processor on every machine, so that pictures do not depend on what is installed.
    processor = CLIPImageProcessorPil.from_pretrained(model / "image_processor")
    encoder = CLIPVisionModel.from_pretrained(model / "image_encoder", dtype=torch.float32)
    encoder.requires_grad_(False).eval()
    precision = precise(torch.float32)
    supplied = supply(
        encoder, encoder.encoder.layers, ModuleReader(encoder), precision, STREAMED, device
    )

    @torch.no_grad()
    def encode(picture_CHW: Tensor) -> Tensor:
        picture = ((picture_CHW / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
        pixels = processor(picture.cpu().numpy(), return_tensors="pt").pixel_values
        states = encoder(pixels.to(device), output_hidden_states=True).hidden_states
        return states[-2][0].cpu()

    with closing(supplied):
        yield encode


@contextmanager
def autoencoder(model: Path, tile: int | None, device: torch.device) -> Iterator[Vae]:
    """The VAE, whole or in square tiles of `tile` pixels that overlap by a quarter."""
    from diffusers import AutoencoderKLWan

    announce("VAE")
    vae = AutoencoderKLWan.from_pretrained(model / "vae", torch_dtype=torch.float32)
    if tile is not None:
        vae.enable_tiling(tile, tile, tile * 3 // 4, tile * 3 // 4)
    with _released(vae):
        yield WanVae(vae.to(device).eval())


class WanVae:
    """`AutoencoderKLWan` with latents normalised by the mean and deviation in its config."""

    def __init__(self, vae: Any) -> None:
        self._vae = vae
        per_channel = (-1, 1, 1, 1)
        device = vae.device
        self._mean = torch.tensor(vae.config.latents_mean, device=device).view(per_channel)
        self._std = torch.tensor(vae.config.latents_std, device=device).view(per_channel)

    @torch.no_grad()
    def encode(self, video_CTHW: Tensor) -> Tensor:
        video = video_CTHW[None].to(self._vae.device, torch.float32)
        return (self._vae.encode(video).latent_dist.mode()[0] - self._mean) / self._std

    @torch.no_grad()
    def decode(self, latents_CTHW: Tensor) -> Tensor:
        latents = latents_CTHW.to(self._vae.device, torch.float32) * self._std + self._mean
        return self._vae.decode(latents[None], return_dict=False)[0][0]


def clean(prompt: str) -> str:
    """Repair broken Unicode, undo HTML escapes and collapse white space, as in Wan's training."""
    text = html.unescape(html.unescape(ftfy.fix_text(prompt)))
    return re.sub(r"\s+", " ", text.strip()).strip()


def announce(part: str) -> None:
    """Say what is being loaded."""
    without_bars()
    log.info("loading the %s", part)


@contextmanager
def _released(part: nn.Module) -> Iterator[None]:
    """Free a part's memory on exit, whoever still refers to it."""
    try:
        yield
    finally:
        part.to("meta")
        gc.collect()
        torch.cuda.empty_cache()
