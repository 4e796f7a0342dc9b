"""A complete HunyuanVideo-1.5 I2V folder of the real classes, with random weights."""

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo15,
    ClassifierFreeGuidance,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideo15ImageToVideoPipeline,
    HunyuanVideo15Transformer3DModel,
)
from tokenizers import pre_tokenizers
from transformers import (
    ByT5Tokenizer,
    Qwen2_5_VLTextConfig,
    Qwen2_5_VLTextModel,
    Qwen2Tokenizer,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
    SiglipVisionModel,
    T5Config,
    T5EncoderModel,
)

from maskora.models.building import without_bars

TEXT_DIM, GLYPH_DIM, IMAGE_DIM = 32, 24, 16
MARKS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write(folder: Path, seed: int = 0, layers: int = 2, target_size: int = 62) -> Path:
    """Write the folder.

    Args:
        layers: of the transformer.
        target_size: the pipeline's pictures have about the area of a square of this edge.
    """
    without_bars()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer, letters = _tokenizer(), ByT5Tokenizer()
        HunyuanVideo15ImageToVideoPipeline(
            text_encoder=_qwen(len(tokenizer)),
            tokenizer=tokenizer,
            transformer=transformer(layers, target_size),
            vae=AutoencoderKLHunyuanVideo15(
                block_out_channels=(8, 16, 32, 64, 64), layers_per_block=1
            ),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
            text_encoder_2=_byt5(len(letters)),
            tokenizer_2=letters,
            guider=ClassifierFreeGuidance(guidance_scale=6.0),
            image_encoder=_siglip(),
            feature_extractor=SiglipImageProcessorPil(size={"height": 378, "width": 378}),
        ).save_pretrained(folder)
    return folder


def transformer(layers: int, target_size: int = 62) -> HunyuanVideo15Transformer3DModel:
    """A tiny transformer."""
    return HunyuanVideo15Transformer3DModel(
        in_channels=65, out_channels=32, num_attention_heads=2, attention_head_dim=16,
        num_layers=layers, num_refiner_layers=1, text_embed_dim=TEXT_DIM,
        text_embed_2_dim=GLYPH_DIM, image_embed_dim=IMAGE_DIM, rope_axes_dim=(4, 6, 6),
        target_size=target_size,
    )  # fmt: skip


def _qwen(vocabulary: int) -> Qwen2_5_VLTextModel:
    return Qwen2_5_VLTextModel(
        Qwen2_5_VLTextConfig(
            vocab_size=vocabulary, hidden_size=TEXT_DIM, intermediate_size=48, num_hidden_layers=4,
            num_attention_heads=2, num_key_value_heads=1,
            rope_parameters={"rope_type": "default", "mrope_section": [2, 3, 3]}, bos_token_id=0,
            eos_token_id=0,
        )
    )  # fmt: skip


def _tokenizer() -> Qwen2Tokenizer:
    """The real class, spelling text byte by byte."""
    pieces = [*MARKS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Qwen2Tokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": MARKS[1:]})
    tokenizer.chat_template = CHAT
    tokenizer.padding_side = "right"
    return tokenizer


def _byt5(vocabulary: int) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=vocabulary, d_model=GLYPH_DIM, d_kv=8, d_ff=48, num_layers=2, num_heads=2,
            feed_forward_proj="gated-gelu",
        )
    )  # fmt: skip


def _siglip() -> SiglipVisionModel:
    # 378 pixels in patches of 14 give the 729 image tokens of the real model.
    return SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=IMAGE_DIM, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            image_size=378, patch_size=14,
        )
    )  # fmt: skip
