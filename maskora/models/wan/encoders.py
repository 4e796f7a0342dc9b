"""Wan2.1's encoders: UMT5 for words, CLIP for the reference picture, the video autoencoder.

Each is loaded on entry and released on exit. The layers of the first two pass through the streaming
engine, straight from where they lie; of the word embeddings (2 GB at 16 bits) only the prompt's own
rows are read.
"""

import html
import re
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import ftfy
import torch
from accelerate import init_empty_weights
from torch import Tensor

from maskora.errors import UserError
from maskora.models.base import Context, Cue, EncodeCues, StreamedEncoder, Vae
from maskora.models.building import (
    announce,
    as_bytes,
    build,
    check_words,
    read_folder,
    released,
    without_prefix,
)
from maskora.models.checks import transformers_config
from maskora.models.files.source import Source
from maskora.streaming.blocks import precise
from maskora.streaming.placement import Placement
from maskora.streaming.sources import ModuleReader
from maskora.streaming.supply import supply

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
JSON, SENTENCEPIECE = "tokenizer.json", "spiece.model"


def open_tokenizer(folder: Path) -> Any:
    """A tokenizer of transformers from a folder that has one of the two files."""
    from transformers import PreTrainedTokenizerFast

    if (folder / JSON).is_file():
        return read_folder(PreTrainedTokenizerFast, folder)
    return _from_sentencepiece(folder / SENTENCEPIECE)


def _from_sentencepiece(path: Path) -> Any:
    """Pieces, their scores and how text is normalised come from the model."""
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2
    from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, processors
    from tokenizers.models import Unigram
    from transformers import PreTrainedTokenizerFast

    model = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise UserError(f"{path} is no SentencePiece model ({error})") from None
    spec, pieces = model.trainer_spec, [(piece.piece, piece.score) for piece in model.pieces]
    known = {name: getattr(spec, f"{name}_id") for name in ("pad", "eos", "unk")}
    if not all(0 <= number < len(pieces) for number in known.values()):
        raise UserError(f"{path} lacks one of the tokens pad, eos and unk: it is not UMT5's")
    pad, end, unknown = (pieces[number][0] for number in known.values())
    tokenizer = Tokenizer(Unigram(pieces, spec.unk_id, spec.byte_fallback))
    charsmap = model.normalizer_spec.precompiled_charsmap
    tokenizer.normalizer = normalizers.Sequence(
        [
            *([normalizers.Precompiled(charsmap)] if charsmap else []),
            normalizers.Strip(),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, spec.eos_id)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, eos_token=end, unk_token=unknown
    )


TEXT_TOKENS = 512
PADDED = {"padding": "max_length", "max_length": TEXT_TOKENS, "truncation": True}
# Every layer, one prompt after the other.
STREAMED = Placement(blocks_to_swap=1_000, weights="mapped", split_batch=True)
WORD_EMBEDDINGS = ("shared.weight", "encoder.embed_tokens.weight")
# What files of CLIP hold beside the picture's side of it.
IMAGE_EXTRAS = (r"visual_projection\.weight", r"embeddings\.position_ids")


def build_text_encoder(source: Source, dtype: torch.dtype) -> StreamedEncoder:
    """UMT5 without weights."""
    from transformers import UMT5Config, UMT5EncoderModel

    config = transformers_config(UMT5Config, source, "text_encoder")
    with init_empty_weights():
        encoder = UMT5EncoderModel(config)
    encoder.requires_grad_(False).to(dtype).eval()

    def longest(device: torch.device) -> Context:
        words = torch.empty(1, TEXT_TOKENS, config.d_model, dtype=dtype, device=device)
        mask = torch.ones(1, TEXT_TOKENS, dtype=torch.int64, device=device)
        return {"text": encoder(inputs_embeds=words, attention_mask=mask).last_hidden_state[0]}

    # transformers computes this layer in float32 where the rest is float16.
    wide = ("wo",) if dtype == torch.float16 else ()
    return StreamedEncoder(
        "text encoder", encoder, encoder.encoder.block, precise(dtype, wide), longest,
        skip=WORD_EMBEDDINGS,
    )  # fmt: skip


@contextmanager
def text_encoder(source: Source, dtype: torch.dtype, device: torch.device) -> Iterator[EncodeCues]:
    """UMT5: prompts -> {"text": embeddings (512, D)} each, zero after the last token.

    Each layer is loaded once for all prompts, and computes them one after the other, so that what
    comes out for a prompt does not depend on its company.
    """
    announce("text encoder")
    tokenizer = open_tokenizer(source.folder("tokenizer"))
    built = build_text_encoder(source, dtype)
    encoder = built.module
    weights = source.weights("text_encoder")
    embeddings = next((n for n in WORD_EMBEDDINGS if n in weights.names()), WORD_EMBEDDINGS[0])
    shape = (encoder.config.vocab_size, encoder.config.d_model)
    check_words(weights, embeddings, shape, len(tokenizer), source.folder("tokenizer"))
    supplied = supply(
        encoder, built.layers, weights, built.precision, STREAMED, device, skip=built.skip
    )

    @torch.no_grad()
    def encode(cues: Sequence[Cue]) -> list[Context]:
        prompts = [clean(cue.prompt) for cue in cues]
        tokens = tokenizer(prompts, return_tensors="pt", **PADDED)
        words = weights.read_rows(embeddings, tokens.input_ids.view(-1).tolist(), dtype)
        text_BLD = encoder(
            inputs_embeds=words.view(*tokens.input_ids.shape, -1).to(device),
            attention_mask=tokens.attention_mask.to(device),
        ).last_hidden_state
        text_BLD = text_BLD.cpu().masked_fill(tokens.attention_mask[..., None] == 0, 0)
        return [{"text": text_LD} for text_LD in text_BLD]

    with closing(supplied):
        yield encode


def build_image_encoder(source: Source) -> StreamedEncoder:
    """CLIP's vision tower without weights."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = transformers_config(CLIPVisionConfig, source, "image_encoder")
    with init_empty_weights():
        encoder = CLIPVisionModel(config).requires_grad_(False).eval()

    def longest(device: torch.device) -> Context:
        pixels = torch.empty(1, 3, config.image_size, config.image_size, device=device)
        return {"image": encoder(pixels, output_hidden_states=True).hidden_states[-2][0]}

    return StreamedEncoder(
        "image encoder", encoder, encoder.encoder.layers, precise(torch.float32), longest,
        in_ram=True,
    )  # fmt: skip


@contextmanager
def image_encoder(source: Source, device: torch.device) -> Iterator[EncodeCues]:
    """CLIP: a picture -> {"image": its second-to-last layer's tokens (N, D)}."""
    from transformers import CLIPImageProcessorPil

    announce("image encoder")
    # The PIL processor on every machine, so that pictures do not depend on what is installed.
    processor = read_folder(CLIPImageProcessorPil, source.folder("image_processor"))
    built = build_image_encoder(source)
    weights = without_prefix(source.weights("image_encoder"), "vision_model.")
    encoder = build(lambda: built.module, weights, IMAGE_EXTRAS)
    supplied = supply(
        encoder, built.layers, ModuleReader(encoder), built.precision, STREAMED, device
    )

    @torch.no_grad()
    def encode(cues: Sequence[Cue]) -> Iterator[Context]:
        for cue in cues:
            pixels = processor(as_bytes(cue.picture_CHW).numpy(), return_tensors="pt").pixel_values
            states = encoder(pixels.to(device), output_hidden_states=True).hidden_states
            yield {"image": states[-2][0].cpu()}

    with closing(supplied):
        yield encode


@contextmanager
def autoencoder(source: Source, tile: int | None, device: torch.device) -> Iterator[Vae]:
    """The VAE, whole or in square tiles of `tile` pixels that overlap by a quarter."""
    from diffusers import AutoencoderKLWan

    announce("VAE")
    config = source.config("vae")
    vae = build(lambda: AutoencoderKLWan.from_config(config), source.weights("vae"))
    if tile is not None:
        vae.enable_tiling(tile, tile, tile * 3 // 4, tile * 3 // 4)
    with released(vae):
        yield WanVae(vae.to(device).eval())


class WanVae:
    """`AutoencoderKLWan` with latents normalised by the mean and deviation in its config."""

    def __init__(self, vae: Any) -> None:
        self.module = vae
        per_channel = (-1, 1, 1, 1)
        device = vae.device
        self._mean = torch.tensor(vae.config.latents_mean, device=device).view(per_channel)
        self._std = torch.tensor(vae.config.latents_std, device=device).view(per_channel)

    @torch.no_grad()
    def encode(self, video_CTHW: Tensor) -> Tensor:
        video = video_CTHW[None].to(self.module.device, torch.float32)
        return (self.module.encode(video).latent_dist.mode()[0] - self._mean) / self._std

    @torch.no_grad()
    def decode(self, latents_CTHW: Tensor) -> Tensor:
        latents = latents_CTHW.to(self.module.device, torch.float32) * self._std + self._mean
        return self.module.decode(latents[None], return_dict=False)[0][0]


def clean(prompt: str) -> str:
    """Repair broken Unicode, undo HTML escapes and collapse white space, as in Wan's training."""
    text = html.unescape(html.unescape(ftfy.fix_text(prompt)))
    return re.sub(r"\s+", " ", text.strip()).strip()
