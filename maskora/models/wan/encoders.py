"""Wan2.1's encoders: UMT5 for words, CLIP for the reference picture, the video autoencoder."""

import html
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import ftfy
import torch
from torch import Tensor

from maskora.errors import UserError
from maskora.files import read_small
from maskora.models.base import Context, EncodePrompts, PromptInput
from maskora.models.building import announce, read_folder
from maskora.models.encoders import (
    NormalisedVae,
    StreamedEncoder,
    TextModel,
    build_vision_tower,
    empty_model,
    padded,
    t5,
    vision_tower,
)
from maskora.models.files.model_files import ModelFiles

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
JSON, SENTENCEPIECE = "tokenizer.json", "spiece.model"
TEXT_TOKENS = 512
# What files of CLIP hold beside the picture's side of it.
IMAGE_EXTRAS = (r"visual_projection\.weight", r"embeddings\.position_ids")


def build_text_encoder(source: ModelFiles, dtype: torch.dtype) -> StreamedEncoder:
    """UMT5."""
    from transformers import UMT5EncoderModel

    module = empty_model(source, "text_encoder", UMT5EncoderModel)
    return t5("text encoder", module, dtype, TEXT_TOKENS, lambda text_LD: {"text": text_LD})


def text_encoder(
    source: ModelFiles, dtype: torch.dtype, device: torch.device
) -> AbstractContextManager[EncodePrompts]:
    """UMT5: prompts -> {"text": embeddings (512, D)} each, zero after the last token."""
    announce("text encoder")
    folder = source.folder("tokenizer")
    tokenizer = open_tokenizer(folder)
    built = build_text_encoder(source, dtype)
    umt5 = TextModel(built, source.weights("text_encoder"), device)
    umt5.check(tokenizer, folder)

    def encode(prompts: Sequence[PromptInput]) -> list[Context]:
        tokens = padded(tokenizer, [clean(item.prompt) for item in prompts], TEXT_TOKENS)
        text_BLD = umt5.states(tokens).masked_fill(tokens.attention_mask[..., None] == 0, 0)
        return [{"text": text_LD} for text_LD in text_BLD]

    return umt5.loaded(encode)


def build_image_encoder(source: ModelFiles) -> StreamedEncoder:
    """CLIP's vision tower."""
    from transformers import CLIPVisionModel

    return build_vision_tower(source, CLIPVisionModel, last_but_one)


def last_but_one(clip: Any, pixels_BCHW: Tensor) -> Tensor:
    """The tokens (B, N, D) of a vision tower's second-to-last layer."""
    states: tuple[Tensor, ...] = clip(pixels_BCHW, output_hidden_states=True).hidden_states
    return states[-2]


def image_encoder(
    source: ModelFiles, device: torch.device
) -> AbstractContextManager[EncodePrompts]:
    """CLIP: a picture -> {"image": its second-to-last layer's tokens (N, D)}."""
    from transformers import CLIPImageProcessorPil

    announce("image encoder")
    processor = read_folder(CLIPImageProcessorPil, source.folder("image_processor"))
    built = build_image_encoder(source)
    return vision_tower(built, source, processor, device, last_but_one, IMAGE_EXTRAS)


def normalised(vae: Any) -> NormalisedVae:
    """`AutoencoderKLWan`, its latents normalised by the mean and deviation in its configuration."""
    mean, std = (
        torch.tensor(values, device=vae.device).view(-1, 1, 1, 1)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    return NormalisedVae(vae, lambda z: (z - mean) / std, lambda z: z * std + mean)


def clean(prompt: str) -> str:
    """Repair broken Unicode, undo HTML escapes and collapse white space, as in Wan's training."""
    text = html.unescape(html.unescape(ftfy.fix_text(prompt)))
    return re.sub(r"\s+", " ", text.strip()).strip()


def open_tokenizer(folder: Path) -> Any:
    """A tokenizer of transformers, from a folder that has tokenizer.json or spiece.model."""
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
        model.ParseFromString(read_small(path))
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
