"""HunyuanVideo-1.5's encoders: Qwen2.5-VL for words, ByT5 for quoted words, SigLIP.

Each is loaded on entry and released on exit. Their layers pass through the streaming engine,
straight from where they lie; of the word embeddings (1 GB at 16 bits) only the prompt's own rows
are read.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from maskora.errors import UserError
from maskora.models.base import Context, Cue, EncodeCues, StreamedEncoder
from maskora.models.building import (
    announce,
    as_bytes,
    check_words,
    read_folder,
    without_prefix,
)
from maskora.models.checks import UNUSED_LAYERS, transformers_config
from maskora.models.files.source import Source
from maskora.streaming.blocks import precise
from maskora.streaming.placement import Placement
from maskora.streaming.sources import Reader
from maskora.streaming.supply import supply

INSTRUCTION_TOKENS, TEXT_TOKENS, GLYPH_TOKENS = 108, 1000, 256
# What the language model is told before the prompt, as it was in training.
INSTRUCTION = (9 * " ").join(
    (
        "You are a helpful assistant. Describe the video by detailing the following aspects:",
        "1. The main content and theme of the video.",
        "2. The color, shape, size, texture, quantity, text, and spatial relationships of the "
        "objects.",
        "3. Actions, events, behaviors temporal relationships, physical movement changes of the "
        "objects.",
        "4. background environment, light, style and atmosphere.",
        "5. camera angles, movements, and transitions used in the video.",
    )
)
# Every layer, one sample after the other.
STREAMED = Placement(blocks_to_swap=1_000, weights="mapped", split_batch=True)
WORDS = "embed_tokens.weight"
LETTERS = ("shared.weight", "encoder.embed_tokens.weight")
# What files of SigLIP hold beside the patches' states.
IMAGE_EXTRAS = (r"head\..*", r"embeddings\.position_ids")


def build_text_encoder(source: Source, dtype: torch.dtype) -> StreamedEncoder:
    """Qwen2.5-VL's language model without weights, and without the layers that nobody looks at."""
    from transformers import Qwen2_5_VLTextConfig, Qwen2_5_VLTextModel

    config = transformers_config(Qwen2_5_VLTextConfig, source, "text_encoder")
    config.num_hidden_layers -= UNUSED_LAYERS
    with init_empty_weights():
        encoder = Qwen2_5_VLTextModel(config)
    encoder.norm = nn.Identity()
    encoder.requires_grad_(False).eval()  # its rotary frequencies stay float32

    def longest(device: torch.device) -> Context:
        length = INSTRUCTION_TOKENS + TEXT_TOKENS
        words = torch.empty(1, length, config.hidden_size, dtype=dtype, device=device)
        mask = torch.ones(1, length, dtype=torch.int64, device=device)
        states = encoder(inputs_embeds=words, attention_mask=mask, use_cache=False)
        return masked("text", states.last_hidden_state[0, INSTRUCTION_TOKENS:])

    return StreamedEncoder(
        "text encoder", encoder, encoder.layers, precise(dtype), longest, skip=(WORDS,)
    )


@contextmanager
def text_encoder(source: Source, dtype: torch.dtype, device: torch.device) -> Iterator[EncodeCues]:
    """Qwen2.5-VL's language model: prompts -> {"text": (1000, D), "text_mask": (1000,)} each.

    The text is zero, and the mask False, after the last token. Each layer is loaded once for all
    prompts, and computes them one after the other, so that what comes out for a prompt does not
    depend on its company. The last two layers are not loaded: nobody uses their states.
    """
    from transformers import Qwen2Tokenizer

    announce("text encoder")
    tokenizer = read_folder(Qwen2Tokenizer, source.folder("tokenizer"), padding_side="right")
    built = build_text_encoder(source, dtype)
    encoder, layers = built.module, len(built.layers)
    weights = source.weights("text_encoder")
    shape = (encoder.config.vocab_size, encoder.config.hidden_size)
    check_words(weights, WORDS, shape, len(tokenizer), source.folder("tokenizer"))
    unused = [rf"layers\.{layers + index}\..*" for index in range(UNUSED_LAYERS)]
    supplied = supply(
        encoder, built.layers, weights, built.precision, STREAMED, device,
        skip=built.skip, ignore=(*unused, r"norm\.weight"),
    )  # fmt: skip

    @torch.no_grad()
    def encode(cues: Sequence[Cue]) -> list[Context]:
        tokens = chat_tokens(tokenizer, [cue.prompt for cue in cues])
        text_BLD = encoder(
            inputs_embeds=embedded(weights, WORDS, tokens.input_ids, dtype).to(device),
            attention_mask=tokens.attention_mask.to(device),
            use_cache=False,
        ).last_hidden_state
        ours = slice(INSTRUCTION_TOKENS, None)
        pairs = zip(text_BLD[:, ours].cpu(), tokens.attention_mask[:, ours], strict=True)
        return [masked("text", text_LD, mask_L) for text_LD, mask_L in pairs]

    with closing(supplied):
        yield encode


def chat_tokens(tokenizer: Any, prompts: list[str]) -> Any:
    """The instruction, then a prompt, in the form of a chat, padded to a fixed length.

    Raises UserError where the tokenizer does not know the form.
    """
    from diffusers.pipelines.hunyuan_video1_5.pipeline_hunyuan_video1_5 import format_text_input

    if tokenizer.chat_template is None:
        raise UserError(
            f"{tokenizer.name_or_path} has no chat template, neither as chat_template.jinja nor in "
            f"tokenizer_config.json: add the published tokenizer's file"
        )
    return tokenizer.apply_chat_template(
        format_text_input(prompts, INSTRUCTION),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        padding="max_length",
        max_length=INSTRUCTION_TOKENS + TEXT_TOKENS,
        truncation=True,
        return_tensors="pt",
    )


def build_glyph_encoder(source: Source, dtype: torch.dtype) -> StreamedEncoder:
    """ByT5 without weights."""
    from transformers import T5Config, T5EncoderModel

    config = transformers_config(T5Config, source, "text_encoder_2")
    with init_empty_weights():
        encoder = T5EncoderModel(config)
    encoder.requires_grad_(False).to(dtype).eval()

    def longest(device: torch.device) -> Context:
        letters = torch.empty(1, GLYPH_TOKENS, config.d_model, dtype=dtype, device=device)
        mask = torch.ones(1, GLYPH_TOKENS, dtype=torch.int64, device=device)
        states = encoder(inputs_embeds=letters, attention_mask=mask)
        return masked("glyphs", states.last_hidden_state[0])

    # transformers computes this layer in float32 where the rest is float16.
    wide = ("wo",) if dtype == torch.float16 else ()
    return StreamedEncoder(
        "glyph encoder", encoder, encoder.encoder.block, precise(dtype, wide), longest,
        skip=LETTERS,
    )  # fmt: skip


@contextmanager
def glyph_encoder(source: Source, dtype: torch.dtype, device: torch.device) -> Iterator[EncodeCues]:
    """ByT5: what a prompt has in quotes -> {"glyphs": (256, D), "glyphs_mask": (256,)}.

    The glyphs are zero, and the mask False, after the last token; everywhere without quotes.
    """
    from diffusers.pipelines.hunyuan_video1_5.pipeline_hunyuan_video1_5 import extract_glyph_texts
    from transformers import ByT5Tokenizer

    announce("glyph encoder")
    tokenizer = read_folder(ByT5Tokenizer, source.folder("tokenizer_2"))
    built = build_glyph_encoder(source, dtype)
    encoder, config = built.module, built.module.config
    weights = source.weights("text_encoder_2")
    letters = next((name for name in LETTERS if name in weights.names()), LETTERS[0])
    shape = (config.vocab_size, config.d_model)
    check_words(weights, letters, shape, len(tokenizer), source.folder("tokenizer_2"))
    supplied = supply(
        encoder, built.layers, weights, built.precision, STREAMED, device, skip=built.skip
    )

    @torch.no_grad()
    def encode(cues: Sequence[Cue]) -> Iterator[Context]:
        for quoted in (extract_glyph_texts(cue.prompt) for cue in cues):
            if quoted is None:
                nothing = torch.zeros(GLYPH_TOKENS, config.d_model, dtype=dtype)
                yield masked("glyphs", nothing, torch.zeros(GLYPH_TOKENS))
                continue
            tokens = letter_tokens(tokenizer, quoted)
            states = encoder(
                inputs_embeds=embedded(weights, letters, tokens.input_ids, dtype).to(device),
                attention_mask=tokens.attention_mask.to(device),
            ).last_hidden_state
            yield masked("glyphs", states[0].cpu(), tokens.attention_mask[0])

    with closing(supplied):
        yield encode


def letter_tokens(tokenizer: Any, quoted: str) -> Any:
    """Quoted words, padded to a fixed length."""
    return tokenizer(
        quoted, padding="max_length", max_length=GLYPH_TOKENS, truncation=True, return_tensors="pt"
    )


def embedded(weights: Reader, name: str, tokens_BL: Tensor, dtype: torch.dtype) -> Tensor:
    """The rows of an embedding that some tokens stand for, (B, L, D)."""
    rows = weights.read_rows(name, tokens_BL.flatten().tolist(), dtype)
    return rows.view(*tokens_BL.shape, -1)


def masked(name: str, states_LD: Tensor, mask_L: Tensor | None = None) -> Context:
    """States, zero where they are padding, beside their mask; without one, none is padding."""
    if mask_L is None:
        return {name: states_LD, f"{name}_mask": torch.ones(len(states_LD), dtype=torch.bool)}
    padding = mask_L == 0
    return {name: states_LD.masked_fill(padding[:, None], 0), f"{name}_mask": ~padding}


def build_image_encoder(source: Source) -> StreamedEncoder:
    """SigLIP without weights, and without the head."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    config = transformers_config(SiglipVisionConfig, source, "image_encoder", vision_use_head=False)
    with init_empty_weights():
        encoder = SiglipVisionModel(config).requires_grad_(False).eval()

    def longest(device: torch.device) -> Context:
        pixels = torch.empty(1, 3, config.image_size, config.image_size, device=device)
        return {"image": encoder(pixels).last_hidden_state[0]}

    return StreamedEncoder(
        "image encoder", encoder, encoder.encoder.layers, precise(torch.float32), longest
    )


@contextmanager
def image_encoder(source: Source, device: torch.device) -> Iterator[EncodeCues]:
    """SigLIP: a picture -> {"image": its patches' last states (N, D)}."""
    from transformers import SiglipImageProcessorPil

    announce("image encoder")
    # The PIL processor on every machine, so that pictures do not depend on what is installed.
    processor = read_folder(SiglipImageProcessorPil, source.folder("feature_extractor"))
    built = build_image_encoder(source)
    encoder = built.module
    weights = without_prefix(source.weights("image_encoder"), "vision_model.")
    supplied = supply(
        encoder, built.layers, weights, built.precision, STREAMED, device, ignore=IMAGE_EXTRAS
    )

    @torch.no_grad()
    def encode(cues: Sequence[Cue]) -> Iterator[Context]:
        for cue in cues:
            picture = as_bytes(cue.picture_CHW).numpy()
            pixels = processor(picture, do_resize=True, return_tensors="pt").pixel_values
            yield {"image": encoder(pixels.to(device)).last_hidden_state[0].cpu()}

    with closing(supplied):
        yield encode
