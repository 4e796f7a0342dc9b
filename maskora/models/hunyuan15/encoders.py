"""HunyuanVideo-1.5's encoders: Qwen2.5-VL for words, ByT5 for quoted words, SigLIP."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from maskora.errors import UserError
from maskora.models.base import Context, EncodePrompts, PromptInput
from maskora.models.building import announce, read_folder
from maskora.models.checks import UNUSED_LAYERS, transformers_config
from maskora.models.encoders import (
    StreamedEncoder,
    TextModel,
    build_vision_tower,
    empty_model,
    longest_states,
    on_meta,
    padded,
    t5,
    unused_layers,
    vision_tower,
)
from maskora.models.files.model_files import ModelFiles

INSTRUCTION_TOKENS, TEXT_TOKENS, GLYPH_TOKENS = 108, 1000, 256
# What the language model reads before the prompt, as in training.
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
WORDS = "embed_tokens.weight"
# What files of SigLIP hold beside the patches' states.
IMAGE_EXTRAS = (r"head\..*", r"embeddings\.position_ids")


def build_text_encoder(source: ModelFiles, dtype: torch.dtype) -> StreamedEncoder:
    """Qwen2.5-VL's language model, without the layers that nobody looks at."""
    from transformers import Qwen2_5_VLTextConfig, Qwen2_5_VLTextModel

    config = transformers_config(Qwen2_5_VLTextConfig, source, "text_encoder")
    config.num_hidden_layers -= UNUSED_LAYERS
    module = on_meta(source, "text_encoder", lambda: Qwen2_5_VLTextModel(config))
    module.norm = nn.Identity()

    def longest(device: torch.device) -> Context:
        length = INSTRUCTION_TOKENS + TEXT_TOKENS
        states_LD = longest_states(module, length, dtype, device, use_cache=False)
        return unmasked("text", states_LD[INSTRUCTION_TOKENS:])

    return StreamedEncoder("text encoder", module, module.layers, dtype, longest, skip=(WORDS,))


def text_encoder(
    source: ModelFiles, dtype: torch.dtype, device: torch.device
) -> AbstractContextManager[EncodePrompts]:
    """Qwen2.5-VL's language model: prompts -> {"text": (1000, D), "text_mask": (1000,)} each.

    The text is zero, and the mask False, after the last token. The last two layers are not loaded:
    nobody uses their states.
    """
    from transformers import Qwen2Tokenizer

    announce("text encoder")
    folder = source.folder("tokenizer")
    tokenizer = read_folder(Qwen2Tokenizer, folder, padding_side="right")
    built = build_text_encoder(source, dtype)
    extras = (*unused_layers("", built.layers), r"norm\.weight")
    qwen = TextModel(built, source.weights("text_encoder"), device, extras)
    qwen.check(tokenizer, folder)

    def encode(prompts: Sequence[PromptInput]) -> list[Context]:
        tokens = chat_tokens(tokenizer, [item.prompt for item in prompts])
        ours = slice(INSTRUCTION_TOKENS, None)
        text_BLD = qwen.states(tokens, use_cache=False)[:, ours]
        pairs = zip(text_BLD, tokens.attention_mask[:, ours], strict=True)
        return [masked("text", text_LD, mask_L) for text_LD, mask_L in pairs]

    return qwen.loaded(encode)


def build_glyph_encoder(source: ModelFiles, dtype: torch.dtype) -> StreamedEncoder:
    """ByT5."""
    from transformers import T5EncoderModel

    module = empty_model(source, "text_encoder_2", T5EncoderModel)
    return t5("glyph encoder", module, dtype, GLYPH_TOKENS, partial(unmasked, "glyphs"))


def glyph_encoder(
    source: ModelFiles, dtype: torch.dtype, device: torch.device
) -> AbstractContextManager[EncodePrompts]:
    """ByT5: what a prompt has in quotes -> {"glyphs": (256, D), "glyphs_mask": (256,)}.

    The glyphs are zero, and the mask False, after the last token; everywhere without quotes.
    """
    from diffusers.pipelines.hunyuan_video1_5.pipeline_hunyuan_video1_5 import extract_glyph_texts
    from transformers import ByT5Tokenizer

    announce("glyph encoder")
    folder = source.folder("tokenizer_2")
    tokenizer = read_folder(ByT5Tokenizer, folder)
    built = build_glyph_encoder(source, dtype)
    width = built.module.config.d_model
    byt5 = TextModel(built, source.weights("text_encoder_2"), device)
    byt5.check(tokenizer, folder)

    def encode(prompts: Sequence[PromptInput]) -> Iterator[Context]:
        for quoted in (extract_glyph_texts(item.prompt) for item in prompts):
            if quoted is None:
                nothing = torch.zeros(GLYPH_TOKENS, width, dtype=dtype)
                yield masked("glyphs", nothing, torch.zeros(GLYPH_TOKENS))
                continue
            tokens = padded(tokenizer, quoted, GLYPH_TOKENS)
            yield masked("glyphs", byt5.states(tokens)[0], tokens.attention_mask[0])

    return byt5.loaded(encode)


def build_image_encoder(source: ModelFiles) -> StreamedEncoder:
    """SigLIP, without its head."""
    from transformers import SiglipVisionModel

    return build_vision_tower(source, SiglipVisionModel, last_states, vision_use_head=False)


def last_states(siglip: Any, pixels_BCHW: Tensor) -> Tensor:
    """The patches' last states (B, N, D)."""
    states_BND: Tensor = siglip(pixels_BCHW).last_hidden_state
    return states_BND


def image_encoder(
    source: ModelFiles, device: torch.device
) -> AbstractContextManager[EncodePrompts]:
    """SigLIP: a picture -> {"image": its patches' last states (N, D)}."""
    from transformers import SiglipImageProcessorPil

    announce("image encoder")
    processor = read_folder(SiglipImageProcessorPil, source.folder("feature_extractor"))
    built = build_image_encoder(source)
    return vision_tower(built, source, processor, device, last_states, IMAGE_EXTRAS, do_resize=True)


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


def masked(name: str, states_LD: Tensor, mask_L: Tensor) -> Context:
    """States, zero where they are padding, beside their mask."""
    padding = mask_L == 0
    return {name: states_LD.masked_fill(padding[:, None], 0), f"{name}_mask": ~padding}


def unmasked(name: str, states_LD: Tensor) -> Context:
    """States of which none is padding, beside their mask."""
    return {name: states_LD, f"{name}_mask": torch.ones(len(states_LD), dtype=torch.bool)}
