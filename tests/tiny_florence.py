"""A Florence-2 folder of the real classes, well under a megabyte, with random weights.

It takes the same steps as the published ones (the same files, the same prompt, the same code). What
it writes are random letters: it shows that the machine runs, not what a captioner can say.
"""

from pathlib import Path

import torch
from transformers import (
    BartConfig,
    BartTokenizerFast,
    CLIPImageProcessorPil,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2VisionConfig,
    GenerationConfig,
)

SIDE, STRIDE, WIDTH = 64, 32, 16
# Of the published folders: ImageNet's mean and deviation, not CLIP's own.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# One token per cell of the picture, and one for their mean.
IMAGE_TOKENS = (SIDE // STRIDE) ** 2 + 1
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]


def write_tiny_florence(folder: Path, seed: int = 1) -> None:
    """Write the folder, as transformers' own conversion of Florence-2 lays one out.

    Args:
        folder: is created.
        seed: of the random weights; those of 1 come to an end soon, most others talk on and on.
    """
    tokenizer = _tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Florence2ForConditionalGeneration(_config(tokenizer))
    # As published, and two rules more, without which random weights may say nothing at all: eight
    # letters before the end, and no special token but the end among them.
    model.generation_config = GenerationConfig(
        bos_token_id=0, pad_token_id=1, eos_token_id=2, decoder_start_token_id=2,
        forced_bos_token_id=0, forced_eos_token_id=2, no_repeat_ngram_size=3,
        min_new_tokens=9,
        suppress_tokens=[1, 3, tokenizer.mask_token_id, tokenizer.image_token_id],
    )  # fmt: skip
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, do_center_crop=False, image_mean=MEAN,
        image_std=DEVIATION, image_seq_length=IMAGE_TOKENS,
    ).save_pretrained(folder)  # fmt: skip


def _config(tokenizer: BartTokenizerFast) -> Florence2Config:
    vision = Florence2VisionConfig(
        depths=(1, 1, 1, 1),
        embed_dim=(8, 8, 16, 16),
        num_heads=(1, 1, 2, 2),
        num_groups=(1, 1, 2, 2),
        window_size=2,
        projection_dim=WIDTH,
        initializer_range=0.5,
    )
    # Wide random weights, so that what is said depends on the picture.
    text = BartConfig(
        vocab_size=len(tokenizer), d_model=WIDTH, max_position_embeddings=512, init_std=1.0,
        encoder_layers=1, decoder_layers=1, encoder_ffn_dim=32, decoder_ffn_dim=32,
        encoder_attention_heads=2, decoder_attention_heads=2,
        bos_token_id=0, pad_token_id=1, eos_token_id=2, decoder_start_token_id=2,
    )  # fmt: skip
    return Florence2Config(
        text_config=text, vision_config=vision, image_token_id=tokenizer.image_token_id
    )


def _tokenizer() -> BartTokenizerFast:
    """The real tokenizer class, spelling ASCII letter by letter (Ġ and Ċ: space and line end)."""
    letters = ["Ġ", "Ċ", *map(chr, range(33, 127))]
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *letters, "<mask>"])}
    return BartTokenizerFast(
        vocab=vocabulary, merges=[], extra_special_tokens={"image_token": "<image>"}
    )
