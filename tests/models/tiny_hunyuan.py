"""A complete HunyuanVideo-I2V folder of the real classes, with random weights."""

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoImageToVideoPipeline,
    HunyuanVideoTransformer3DModel,
)
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPImageProcessorPil,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from maskora.models.building import without_bars
from maskora.models.hunyuan.encoders import TEMPLATE

TEXT_DIM, POOLED_DIM = 32, 16
BEGIN, PAD, PICTURE = "<|begin_of_text|>", "<pad>", "<image>"
# Words, numbers, punctuation, and line ends that stay together.
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
MARKS = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]


def write(
    folder: Path, seed: int = 0, double: int = 2, single: int = 2, guidance_embeds: bool = False
) -> Path:
    """Write the folder; `double` and `single` are how many blocks of each kind there are."""
    without_bars()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = _tokenizer()
        HunyuanVideoImageToVideoPipeline(
            text_encoder=_llava(tokenizer),
            tokenizer=tokenizer,
            transformer=_transformer(double, single, guidance_embeds),
            vae=AutoencoderKLHunyuanVideo(
                block_out_channels=(4, 4, 8, 8), layers_per_block=1, norm_num_groups=2
            ),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
            text_encoder_2=_clip(),
            tokenizer_2=_clip_tokenizer(),
            image_processor=CLIPImageProcessorPil(
                size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}
            ),
        ).save_pretrained(folder)
    return folder


def _transformer(double: int, single: int, guidance_embeds: bool) -> HunyuanVideoTransformer3DModel:
    return HunyuanVideoTransformer3DModel(
        in_channels=33, out_channels=16, num_attention_heads=2, attention_head_dim=16,
        num_layers=double, num_single_layers=single, num_refiner_layers=1, text_embed_dim=TEXT_DIM,
        pooled_projection_dim=POOLED_DIM, rope_axes_dim=(4, 6, 6), guidance_embeds=guidance_embeds,
        image_condition_type="latent_concat",
    )  # fmt: skip


def _llava(tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    # 336 pixels in patches of 14 give the 576 tokens of the real model.
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2,
        image_size=336, patch_size=14,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=TEXT_DIM, intermediate_size=64, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    picture = tokenizer.convert_tokens_to_ids(PICTURE)
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=picture,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlavaForConditionalGeneration(config)


def _tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, merged to the words of the template, as in Llama 3."""
    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(WORDS), "isolated")
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, letters])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        special_tokens=[BEGIN, PAD, PICTURE, *MARKS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEMPLATE["template"]], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, tokenizer.token_to_id(BEGIN))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BEGIN, pad_token=PAD, padding_side="right"
    )


def _clip() -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(_clip_tokenizer()), hidden_size=POOLED_DIM, intermediate_size=32,
        num_hidden_layers=2, num_attention_heads=2, eos_token_id=2,
    )  # fmt: skip
    return CLIPTextModel(config)


def _clip_tokenizer() -> CLIPTokenizer:
    """The real class, spelling letter by letter."""
    letters = pre_tokenizers.ByteLevel.alphabet()
    pieces = [*sorted(letters), *(f"{letter}</w>" for letter in sorted(letters))]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[])
