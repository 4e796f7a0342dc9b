"""CLIP, through transformers' own classes: pictures and words -> features of length one.

No code that lies in a model's folder is run, and only safetensors are read.
"""

import gc
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.special import softmax

from maskora import devices
from maskora.errors import UserError
from maskora.hub import locate, refuse_quantised, without_code
from maskora.hub.small_models import check_whole, load_part, read_settings
from maskora.progress import announce

log = logging.getLogger("maskora")
FILES = ["*.json", "*.txt", "model*.safetensors"]
KINDS = ("clip", "clip_vision_model")
ADVICE = "use openai/clip-vit-large-patch14, from the hub or as a local folder"
PROMPTS = ("Good photo.", "Bad photo.")  # CLIP-IQA's (Wang et al. 2023)
SCALE = 100.0  # of cosines: what CLIP's own temperature ended at in training

PictureEncoder = Callable[[Sequence[np.ndarray]], np.ndarray]
"""(H, W, 3) uint8 RGB pictures -> their features (N, D) float32, each of length one."""


@dataclass(frozen=True)
class Rater:
    """A CLIP that rates pictures without a reference, as CLIP-IQA does.

    Attributes:
        encode: the picture side of a CLIP.
        prompts_2D: features of the good and of the bad prompt, by the same CLIP.
    """

    encode: PictureEncoder
    prompts_2D: np.ndarray


def quality_of(features_ND: np.ndarray, prompts_2D: np.ndarray) -> np.ndarray:
    """The quality of pictures as good rather than bad photos, (N,) in 0 to 1, by unit features."""
    return np.asarray(softmax(SCALE * features_ND @ prompts_2D.T, axis=-1)[:, 0])


def find_clip(path: str, key: str) -> Path:
    """The folder of a CLIP, from the hub where it is not here; its configuration is checked first.

    Args:
        path: a hub id or a local folder.
        key: what named it; it stands before every complaint.

    Raises:
        UserError: it cannot be had, is no CLIP, or needs other people's code.
    """
    _check(locate(path, Path.cwd(), ["config.json"], key=key), key)
    return locate(path, Path.cwd(), FILES, key=key)


@contextmanager
def open_pictures(folder: Path, key: str) -> Iterator[PictureEncoder]:
    """The picture side of a CLIP, loaded on entry and released on exit.

    Pictures are prepared as the folder says; as published: the shorter side scaled to the model's
    size, the middle cut out.

    Raises:
        UserError: the folder lacks a part.
    """
    import torch
    from transformers import CLIPImageProcessorPil, CLIPVisionModelWithProjection

    announce(f"loading CLIP from {folder}")
    # The PIL processor on every machine, so that numbers do not depend on what is installed.
    processor = load_part(CLIPImageProcessorPil.from_pretrained, folder, key, ADVICE)

    def encode(pictures: Sequence[np.ndarray]) -> np.ndarray:
        images = [Image.fromarray(picture) for picture in pictures]
        pixels = processor(images=images, return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            return _unit(model(pixel_values=pixels.to(model.device)).image_embeds)

    with _loaded(CLIPVisionModelWithProjection, "vision_config", folder, key) as model:
        empty = Image.new("RGB", (64, 64))
        height, width = processor(images=[empty], return_tensors="pt")["pixel_values"].shape[-2:]
        if (height, width) != (model.config.image_size,) * 2:
            raise _unfit("image processor", folder, key)
        yield encode


def reads_words(folder: Path, key: str) -> bool:
    """True for a whole CLIP, False for the picture side alone. Raises UserError."""
    return bool(read_settings(folder / "config.json", key, ADVICE).get("model_type") == KINDS[0])


def encode_texts(folder: Path, key: str, texts: Sequence[str]) -> np.ndarray:
    """Features of texts (N, D), each of length one; the model is released at once.

    What is too long for the model is cut off at the end, and a note says so.

    Raises:
        UserError: the folder holds no CLIP with a text side.
    """
    import torch
    from transformers import CLIPTextModelWithProjection, CLIPTokenizer

    tokenizer = load_part(CLIPTokenizer.from_pretrained, folder, key, ADVICE)
    with (
        _loaded(CLIPTextModelWithProjection, "text_config", folder, key) as model,
        torch.inference_mode(),
    ):
        # transformers makes up a tokenizer where the folder has none.
        if len(tokenizer) != model.config.vocab_size:
            raise _unfit("tokenizer", folder, key)
        longest = model.config.max_position_embeddings
        for text in texts:
            if len(tokenizer(text)["input_ids"]) > longest:
                log.warning(
                    "note: %s: %s reads %d tokens of a text, and not the end of: %s",
                    key, folder, longest, text,
                )  # fmt: skip
        tokens = tokenizer(
            list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt"
        )
        return _unit(model(**tokens.to(model.device)).text_embeds)


@contextmanager
def _loaded(kind: Any, side: str, folder: Path, key: str) -> Iterator[Any]:
    """One side of a CLIP in float32, on the GPU where there is one; gone on exit."""
    import torch
    import transformers.utils.logging

    transformers.utils.logging.disable_progress_bar()  # they count tensors
    settings = read_settings(folder / "config.json", key, ADVICE)
    config = kind.config_class.from_dict(without_code(settings.get(side, settings)))
    model, loading = load_part(
        lambda where: kind.from_pretrained(
            where, config=config, dtype=torch.float32, use_safetensors=True,
            output_loading_info=True, attn_implementation="sdpa",
        ),
        folder, key, ADVICE,
    )  # fmt: skip
    check_whole(loading, "CLIP", folder, key, ADVICE)
    try:
        yield model.to(devices.for_small_models()).eval()
    finally:
        model.to("meta")  # frees it, whoever still refers to it
        gc.collect()
        torch.cuda.empty_cache()


def _unfit(part: str, folder: Path, key: str) -> UserError:
    return UserError(f"{key}: {folder}: its {part} does not fit its weights: {ADVICE}")


def _check(folder: Path, key: str) -> None:
    """Raises UserError unless config.json is that of a CLIP which transformers knows itself."""
    settings = read_settings(folder / "config.json", key, ADVICE)
    kind = settings.get("model_type")
    if kind not in KINDS:
        raise UserError(f"{key}: {folder} holds no CLIP (but {kind or 'nothing'}): {ADVICE}")
    refuse_quantised(settings, folder, key)
    if "auto_map" in settings:
        raise UserError(
            f"{key}: {folder} comes with code of its own, which maskora does not run: {ADVICE}"
        )


def _unit(features: Any) -> np.ndarray:
    """Features (N, D) as float32 arrays of length one."""
    array = features.float().cpu().numpy()
    return np.asarray(array / np.linalg.norm(array, axis=-1, keepdims=True))
