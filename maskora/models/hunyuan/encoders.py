"""HunyuanVideo-I2V's encoders: LLaVA for prompt and picture, CLIP for the prompt."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video_image2video import (
    DEFAULT_PROMPT_TEMPLATE as TEMPLATE,
)
from torch import Tensor, nn

from maskora.errors import UserError
from maskora.models.base import Context, EncodePrompts, PromptInput
from maskora.models.building import Renamed, announce, read_folder, without_prefix
from maskora.models.checks import UNUSED_LAYERS, transformers_config
from maskora.models.encoders import (
    StreamedEncoder,
    TextModel,
    empty_model,
    empty_pixels,
    on_meta,
    padded,
    prepared,
    streamed,
    unused_layers,
)
from maskora.models.files.model_files import ModelFiles
from maskora.streaming.tensor_files import Reader

PROMPT_START: int = TEMPLATE["crop_start"]
PICTURE_START: int = TEMPLATE["image_emb_start"]
PICTURE_TOKENS: int = TEMPLATE["image_emb_len"]
TOKENS = PROMPT_START + 256  # with the template; longer prompts are cut
INTERLEAVE = 2
END_HEADER, HEADERS = "<|end_header_id|>", 3
ENDING = 4  # tokens between the prompt and the answer, which are cut out
POOLED_TOKENS = 77
LAST_TOKEN = 2  # what CLIP's older files call the token that ends a prompt, whichever it is
WORD_EMBEDDINGS = "language_model.embed_tokens.weight"
# What files hold beside the parts that compute something here.
LLAVA_EXTRAS = (
    r"(language_model\.)?lm_head\.weight", r"language_model\.norm\.weight",
    r".*\.position_ids", r".*\.inv_freq",
)  # fmt: skip
CLIP_EXTRAS = (r".*\.position_ids", r"text_projection\.weight")


def build_text_encoder(source: ModelFiles, dtype: torch.dtype) -> StreamedEncoder:
    """LLaVA, without what comes after the layers that are looked at."""
    from transformers import LlavaConfig, LlavaModel

    config = transformers_config(LlavaConfig, source, "text_encoder")
    config.text_config.num_hidden_layers -= UNUSED_LAYERS
    llava = on_meta(source, "text_encoder", lambda: LlavaModel(config))
    llava.language_model.norm = nn.Identity()

    def longest(device: torch.device) -> Context:
        pixels_BCHW = empty_pixels(config.vision_config, dtype, device)
        pictures_BND = torch.stack(list(llava.get_image_features(pixels_BCHW).pooler_output))
        width = config.text_config.hidden_size
        words_BLD = torch.empty(1, TOKENS, width, dtype=dtype, device=device)
        states_BLD = states(llava, words_BLD, pictures_BND, torch.ones(1, TOKENS).bool())
        kept = PICTURE_TOKENS // INTERLEAVE + TOKENS - PROMPT_START - ENDING
        return {"text": states_BLD[0, :kept], "text_mask": torch.ones(kept, dtype=torch.int64)}

    layers = [*llava.vision_tower.encoder.layers, *llava.language_model.layers]
    return StreamedEncoder("text encoder", llava, layers, dtype, longest, skip=(WORD_EMBEDDINGS,))


def states(llava: Any, words_BLD: Tensor, pictures_BND: Tensor, is_word_BL: Tensor) -> Tensor:
    """The language model's states of words with pictures put in, (B, N + L - 1, D)."""
    is_picture_BN = is_word_BL.new_ones(pictures_BND.shape[:2])
    attended_BL = insert_picture(is_word_BL, is_picture_BN).to(words_BLD.device)
    states_BLD: Tensor = llava.language_model(
        inputs_embeds=insert_picture(words_BLD, pictures_BND),
        attention_mask=attended_BL,
        position_ids=positions(attended_BL),
        use_cache=False,
    ).last_hidden_state
    return states_BLD


def text_encoder(
    source: ModelFiles, dtype: torch.dtype, device: torch.device
) -> AbstractContextManager[EncodePrompts]:
    """LLaVA: prompts -> {"text": (L, D), "text_mask": (L,)} each, the picture's tokens first."""
    from transformers import CLIPImageProcessorPil, PreTrainedTokenizerFast

    announce("text encoder")
    folder = source.folder("tokenizer")
    # tokenizer.json as it is: a LlamaTokenizer would split words as Llama 2 does.
    tokenizer = read_folder(PreTrainedTokenizerFast, folder, padding_side="right")
    processor = read_folder(CLIPImageProcessorPil, source.folder("image_processor"))
    built = build_text_encoder(source, dtype)
    llava = built.module
    extras = (*LLAVA_EXTRAS, *unused_layers(r"language_model\.", llava.language_model.layers))
    model = TextModel(built, _llava_weights(source), device, extras)
    model.check(tokenizer, folder)

    def picture(item: PromptInput) -> Tensor:
        pixels_BCHW = prepared(processor, item.picture_CHW).to(device, dtype)
        (tokens_ND,) = llava.get_image_features(pixels_BCHW).pooler_output
        return tokens_ND

    def encode(prompts: Sequence[PromptInput]) -> list[Context]:
        ids_BL, mask_BL = _tokens(tokenizer, prompts, llava.config.image_token_index, source)
        pictures_BND = torch.stack([picture(item) for item in prompts])
        is_word_BL = ids_BL != llava.config.pad_token_id
        states_BLD = states(llava, model.embed(ids_BL), pictures_BND, is_word_BL)
        end_header = tokenizer.convert_tokens_to_ids(END_HEADER)
        cut = map(cut_prompt, states_BLD.cpu(), ids_BL == end_header, mask_BL)
        return [{"text": text_LD, "text_mask": mask_L} for text_LD, mask_L in cut]

    return model.loaded(encode)


def build_pooled_encoder(source: ModelFiles, dtype: torch.dtype) -> StreamedEncoder:
    """CLIP's side of words."""
    from transformers import CLIPTextModel

    clip = empty_model(source, "text_encoder_2", CLIPTextModel)

    def longest(device: torch.device) -> Context:
        tokens_BL = torch.ones(1, POOLED_TOKENS, dtype=torch.int64, device=device)
        return {"pooled": clip(tokens_BL).pooler_output[0]}

    return StreamedEncoder("second text encoder", clip, clip.encoder.layers, dtype, longest)


def pooled_encoder(
    source: ModelFiles, dtype: torch.dtype, device: torch.device
) -> AbstractContextManager[EncodePrompts]:
    """CLIP: prompts -> {"pooled": (D,)} each, the state of the token that ends the prompt."""
    from transformers import CLIPTokenizer

    announce("second text encoder")
    tokenizer = read_folder(CLIPTokenizer, source.folder("tokenizer_2"))
    built = build_pooled_encoder(source, dtype)
    clip, config = built.module, built.module.config
    if config.eos_token_id not in (LAST_TOKEN, tokenizer.eos_token_id):
        raise UserError(
            f"{source.described('text_encoder_2')}: eos_token_id is {config.eos_token_id}, and the "
            f"tokenizer ends a prompt with {tokenizer.eos_token_id}: they do not belong together"
        )
    weights = without_prefix(source.weights("text_encoder_2"), "text_model.")

    def encode(prompts: Sequence[PromptInput]) -> list[Context]:
        tokens = padded(tokenizer, [item.prompt for item in prompts], POOLED_TOKENS)
        pooled_BD = clip(tokens.input_ids.to(device)).pooler_output
        return [{"pooled": pooled_D} for pooled_D in pooled_BD.cpu()]

    return streamed(encode, built, weights, device, CLIP_EXTRAS)


def in_template(prompt: str) -> str:
    """The text that is tokenised."""
    return str(TEMPLATE["template"]).format(prompt)


def insert_picture(words_BLx: Tensor, picture_BNx: Tensor) -> Tensor:
    """Put a picture's tokens (their embeddings, or masks) in the place of the <image> token."""
    before, after = words_BLx[:, :PICTURE_START], words_BLx[:, PICTURE_START + 1 :]
    return torch.cat([before, picture_BNx, after], dim=1)


def positions(attended_BL: Tensor) -> Tensor:
    """Rotary positions: attended tokens are counted, the others have 1."""
    return (attended_BL.cumsum(-1) - 1).masked_fill(~attended_BL, 1)


def cut_prompt(states_LD: Tensor, is_end_header_L: Tensor, mask_L: Tensor) -> tuple[Tensor, Tensor]:
    """The picture's and the prompt's states, and the mask of both.

    Args:
        states_LD: of all tokens, the picture's N inserted.
        is_end_header_L: which tokens end a header of the template, without the picture.
        mask_L: which tokens are no padding, without the picture.

    Returns:
        states (N / 2 + L', D) and their mask of zeros and ones.
    """
    picture_ND = states_LD[PICTURE_START : PICTURE_START + PICTURE_TOKENS][::INTERLEAVE]
    words_LD = states_LD[PICTURE_TOKENS - 1 :]  # counted as without the picture
    headers = is_end_header_L.nonzero().flatten()
    # A long prompt cuts the template's last header off.
    answer = int(headers[-1]) + 1 if len(headers) >= HEADERS else len(mask_L)
    kept = [slice(PROMPT_START, answer - ENDING), slice(answer, None)]
    return (
        torch.cat([picture_ND, *(words_LD[part] for part in kept)]),
        torch.cat([mask_L.new_ones(len(picture_ND)), *(mask_L[part] for part in kept)]),
    )


def _llava_weights(source: ModelFiles) -> Reader:
    """By the names of `LlavaModel`, whichever version of transformers has written the file."""
    weights = source.weights("text_encoder")

    def named(own: str) -> str:
        name = own.removeprefix("model.")
        for part, inner in (("language_model.", "model."), ("vision_tower.", "vision_model.")):
            if name.startswith(part):
                name = part + name.removeprefix(part).removeprefix(inner)
        return name

    return Renamed(weights, {named(own): own for own in weights.names()})


def _tokens(
    tokenizer: Any, prompts: Sequence[PromptInput], picture_token: int, source: ModelFiles
) -> tuple[Tensor, Tensor]:
    """Token numbers and mask, both (B, L), the picture as one token. Raises UserError."""
    tokens = padded(tokenizer, [in_template(item.prompt) for item in prompts], TOKENS)
    if (tokens.input_ids[:, PICTURE_START] != picture_token).any():
        raise UserError(
            f"{source.folder('tokenizer')} does not split HunyuanVideo's template as its own "
            f"tokenizer does: token {PICTURE_START} is not the picture's"
        )
    return tokens.input_ids, tokens.attention_mask
