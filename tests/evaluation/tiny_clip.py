"""A CLIP folder of the real classes, well under a megabyte, with random weights."""

from pathlib import Path

import torch
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

SIDE, WIDTH = 32, 16


def write_tiny_clip(folder: Path) -> None:
    """Write a whole CLIP, words and pictures, as published folders are laid out."""
    tokenizer = _tokenizer()
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    text = CLIPTextConfig(
        **size, num_attention_heads=2, vocab_size=len(tokenizer), projection_dim=WIDTH,
        max_position_embeddings=24, bos_token_id=0, eos_token_id=1, initializer_factor=3.0,
    )  # fmt: skip
    config = CLIPConfig(
        text_config=text.to_dict(), vision_config=_vision().to_dict(), projection_dim=WIDTH
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _processor().save_pretrained(folder)


def write_tiny_clip_vision(folder: Path) -> None:
    """Write the picture side alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        CLIPVisionModelWithProjection(_vision()).save_pretrained(folder)
    _processor().save_pretrained(folder)


def _vision() -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        image_size=SIDE, patch_size=8, projection_dim=WIDTH, initializer_factor=3.0,
    )  # fmt: skip


def _processor() -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    )


def _tokenizer() -> CLIPTokenizer:
    """The real tokenizer class, spelling ASCII letter by letter."""
    letters = [*map(chr, range(33, 127))]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    return CLIPTokenizer(vocab={word: number for number, word in enumerate(words)}, merges=[])
