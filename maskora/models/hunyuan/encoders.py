"""HunyuanVideo-I2V's encoders: LLaVA for prompt and picture, CLIP for the prompt, the video VAE.

Each is loaded on entry and released on exit. The layers of the first two pass through the streaming
engine, straight from where they lie; of LLaVA's word embeddings (1 GB at 16 bits) only the prompts'
own rows are read.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video_image2video import (
    DEFAULT_PROMPT_TEMPLATE as TEMPLATE,
)
from torch import Tensor, nn

from maskora.errors import UserError
from maskora.models.base import Context, Cue, EncodeCues, StreamedEncoder, Vae
from maskora.models.building import (
    Renamed,
    announce,
    as_bytes,
    build,
    check_words,
    read_folder,
    released,
    without_prefix,
)
from maskora.models.checks import UNUSED_LAYERS, transformers_config
from maskora.models.files.source import Source
from maskora.models.hunyuan.common import ScaledVae
from maskora.streaming.blocks import precise
from maskora.streaming.placement import Placement
from maskora.streaming.sources import Reader
from maskora.streaming.supply import supply

PROMPT_START: int = TEMPLATE["crop_start"]
PICTURE_START: int = TEMPLATE["image_emb_start"]
PICTURE_TOKENS: int = TEMPLATE["image_emb_len"]
TOKENS = PROMPT_START + 256  # with the template; longer prompts are cut
INTERLEAVE = 2
END_HEADER, HEADERS = "<|end_header_id|>", 3
ENDING = 4  # tokens between the prompt and the answer, which are cut out


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


POOLED_TOKENS = 77
LAST_TOKEN = 2  # what CLIP's older files call the token that ends a prompt, whichever it is
# Every layer, one prompt after the other.
STREAMED = Placement(blocks_to_swap=1_000, weights="mapped", split_batch=True)
WORD_EMBEDDINGS = "language_model.embed_tokens.weight"
# What files hold beside the parts that compute something here.
LLAVA_EXTRAS = (
    r"(language_model\.)?lm_head\.weight", r"language_model\.norm\.weight",
    r".*\.position_ids", r".*\.inv_freq",
)  # fmt: skip
CLIP_EXTRAS = (r".*\.position_ids", r"text_projection\.weight")


def build_text_encoder(source: Source, dtype: torch.dtype) -> StreamedEncoder:
    """LLaVA without weights, and without what comes after the layers that are looked at."""
    from transformers import LlavaConfig, LlavaModel

    config = transformers_config(LlavaConfig, source, "text_encoder")
    config.text_config.num_hidden_layers -= UNUSED_LAYERS
    with init_empty_weights():
        llava = LlavaModel(config)
        llava.language_model.norm = nn.Identity()
    llava.requires_grad_(False).eval()

    def longest(device: torch.device) -> Context:
        side, width = config.vision_config.image_size, config.text_config.hidden_size
        pixels = torch.empty(1, 3, side, side, dtype=dtype, device=device)
        (picture_ND,) = llava.get_image_features(pixels).pooler_output
        words_BLD = torch.empty(1, TOKENS, width, dtype=dtype, device=device)
        together_BLD = insert_picture(words_BLD, picture_ND[None])
        attended_BL = torch.ones(together_BLD.shape[:2], dtype=torch.bool, device=device)
        states_BLD = _states(llava, together_BLD, attended_BL)
        kept = PICTURE_TOKENS // INTERLEAVE + TOKENS - PROMPT_START - ENDING
        return {"text": states_BLD[0, :kept], "text_mask": torch.ones(kept, dtype=torch.int64)}

    layers = [*llava.vision_tower.encoder.layers, *llava.language_model.layers]
    skip = (WORD_EMBEDDINGS,)
    return StreamedEncoder("text encoder", llava, layers, precise(dtype), longest, skip)


def _states(llava: Any, together_BLD: Tensor, attended_BL: Tensor) -> Tensor:
    """What the language model makes of embedded words and pictures."""
    states: Tensor = llava.language_model(
        inputs_embeds=together_BLD,
        attention_mask=attended_BL,
        position_ids=positions(attended_BL),
        use_cache=False,
    ).last_hidden_state
    return states


@contextmanager
def text_encoder(source: Source, dtype: torch.dtype, device: torch.device) -> Iterator[EncodeCues]:
    """LLaVA: cues -> {"text": (L, D), "text_mask": (L,)} each, the picture's tokens first.

    Each layer of the language model is loaded once for all cues, and computes them one after the
    other, so that what comes out for a cue does not depend on its company.
    """
    from transformers import CLIPImageProcessorPil, PreTrainedTokenizerFast

    announce("text encoder")
    # tokenizer.json as it is: a LlamaTokenizer would split words as Llama 2 does.
    tokenizer = read_folder(
        PreTrainedTokenizerFast, source.folder("tokenizer"), padding_side="right"
    )
    processor = read_folder(CLIPImageProcessorPil, source.folder("image_processor"))
    built, weights = build_text_encoder(source, dtype), _llava_weights(source)
    llava = built.module
    shape = (llava.config.text_config.vocab_size, llava.config.text_config.hidden_size)
    check_words(weights, WORD_EMBEDDINGS, shape, len(tokenizer), source.folder("tokenizer"))
    unused = len(llava.language_model.layers)
    extras = [rf"language_model\.layers\.{unused + i}\..*" for i in range(UNUSED_LAYERS)]
    supplied = supply(
        llava, built.layers, weights, built.precision, STREAMED, device,
        skip=built.skip, ignore=(*LLAVA_EXTRAS, *extras),
    )  # fmt: skip

    def picture(cue: Cue) -> Tensor:
        pixels = processor(as_bytes(cue.picture_CHW).numpy(), return_tensors="pt").pixel_values
        (tokens_ND,) = llava.get_image_features(pixels.to(device, dtype)).pooler_output
        return tokens_ND

    @torch.no_grad()
    def encode(cues: Sequence[Cue]) -> list[Context]:
        ids_BL, mask_BL = _tokens(tokenizer, cues, llava.config.image_token_index, source)
        pictures_BND = torch.stack([picture(cue) for cue in cues])
        words = weights.read_rows(WORD_EMBEDDINGS, ids_BL.view(-1).tolist(), dtype)
        words_BLD = words.view(*ids_BL.shape, -1).to(device)
        is_word_BL = ids_BL != llava.config.pad_token_id
        attended_BL = insert_picture(is_word_BL, is_word_BL.new_ones(pictures_BND.shape[:2])).to(
            device
        )
        states_BLD = _states(llava, insert_picture(words_BLD, pictures_BND), attended_BL)
        end_header = tokenizer.convert_tokens_to_ids(END_HEADER)
        cut = map(cut_prompt, states_BLD.cpu(), ids_BL == end_header, mask_BL)
        return [{"text": text_LD, "text_mask": mask_L} for text_LD, mask_L in cut]

    with closing(supplied):
        yield encode


def _llava_weights(source: Source) -> Reader:
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
    tokenizer: Any, cues: Sequence[Cue], picture_token: int, source: Source
) -> tuple[Tensor, Tensor]:
    """Token numbers and mask, both (B, L), the picture as one token. Raises UserError."""
    tokens = tokenizer(
        [in_template(cue.prompt) for cue in cues],
        padding="max_length",
        max_length=TOKENS,
        truncation=True,
        return_tensors="pt",
    )
    if (tokens.input_ids[:, PICTURE_START] != picture_token).any():
        raise UserError(
            f"{source.folder('tokenizer')} does not split HunyuanVideo's template as its own "
            f"tokenizer does: token {PICTURE_START} is not the picture's"
        )
    return tokens.input_ids, tokens.attention_mask


def build_pooled_encoder(source: Source, dtype: torch.dtype) -> StreamedEncoder:
    """CLIP's side of words without weights."""
    from transformers import CLIPTextConfig, CLIPTextModel

    with init_empty_weights():
        encoder = CLIPTextModel(transformers_config(CLIPTextConfig, source, "text_encoder_2"))
    encoder.requires_grad_(False).eval()

    def longest(device: torch.device) -> Context:
        tokens = torch.ones(1, POOLED_TOKENS, dtype=torch.int64, device=device)
        return {"pooled": encoder(tokens).pooler_output[0]}

    return StreamedEncoder(
        "second text encoder", encoder, encoder.encoder.layers, precise(dtype), longest
    )


@contextmanager
def pooled_encoder(
    source: Source, dtype: torch.dtype, device: torch.device
) -> Iterator[EncodeCues]:
    """CLIP: prompts -> {"pooled": (D,)} each, the state of the token that ends the prompt."""
    from transformers import CLIPTokenizer

    announce("second text encoder")
    tokenizer = read_folder(CLIPTokenizer, source.folder("tokenizer_2"))
    built = build_pooled_encoder(source, dtype)
    encoder = built.module
    if encoder.config.eos_token_id not in (LAST_TOKEN, tokenizer.eos_token_id):
        raise UserError(
            f"{source.described('text_encoder_2')}: eos_token_id is {encoder.config.eos_token_id}, "
            f"and the tokenizer ends a prompt with {tokenizer.eos_token_id}: they do not belong "
            f"together"
        )
    weights = without_prefix(source.weights("text_encoder_2"), "text_model.")
    supplied = supply(
        encoder, built.layers, weights, built.precision, STREAMED, device, ignore=CLIP_EXTRAS
    )

    @torch.no_grad()
    def encode(cues: Sequence[Cue]) -> list[Context]:
        tokens = tokenizer(
            [cue.prompt for cue in cues],
            padding="max_length",
            max_length=POOLED_TOKENS,
            truncation=True,
            return_tensors="pt",
        )
        pooled_BD = encoder(tokens.input_ids.to(device)).pooler_output
        return [{"pooled": pooled_D} for pooled_D in pooled_BD.cpu()]

    with closing(supplied):
        yield encode


@contextmanager
def autoencoder(source: Source, tile: int | None, device: torch.device) -> Iterator[Vae]:
    """The VAE, whole or in square tiles of `tile` pixels that overlap by a quarter."""
    from diffusers import AutoencoderKLHunyuanVideo

    announce("VAE")
    config = source.config("vae")
    vae = build(lambda: AutoencoderKLHunyuanVideo.from_config(config), source.weights("vae"))
    if tile is not None:
        stride = tile * 3 // 4
        vae.enable_tiling(
            tile_sample_min_height=tile,
            tile_sample_min_width=tile,
            tile_sample_stride_height=stride,
            tile_sample_stride_width=stride,
        )
    with released(vae):
        yield ScaledVae(vae.to(device).eval())
