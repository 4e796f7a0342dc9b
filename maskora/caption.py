"""A picture's caption by Florence-2, through transformers' own classes.

No code that lies in a model's folder is run, and only safetensors are read.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maskora import devices
from maskora.errors import UserError
from maskora.hub import locate, refuse_quantised
from maskora.hub.small_models import check_whole, load_part, read_settings
from maskora.progress import announce

KEY = "[caption] model"
FILES = ["*.json", "*.safetensors", "*.txt"]
TASK = "<DETAILED_CAPTION>"
BEAMS, LONGEST = 3, 256
ADVICE = "use florence-community/Florence-2-large (or -base), from the hub or as a local folder"
# Of a picture (H, W, 3) uint8 RGB: a caption of one line; empty where it has none.
Captioner = Callable[[np.ndarray], str]


@contextmanager
def open_captioner(model: str, relative_to: Path) -> Iterator[Captioner]:
    """Florence-2, loaded on entry and released on exit. The same picture has the same caption.

    Args:
        model: a hub id or a local folder.
        relative_to: where a relative folder counts from.

    Raises:
        UserError: it cannot be had, is no Florence-2, or is one in the old layout.
    """
    # The configuration first: a model that cannot be used is not downloaded.
    check_folder(locate(model, relative_to, ["config.json"], key=KEY))
    folder = locate(model, relative_to, FILES, key=KEY)
    import torch

    announce("loading the captioner")
    device = torch.device(devices.for_small_models())
    dtype = torch.bfloat16 if devices.computes_bfloat16(str(device)) else torch.float32
    florence, processor = _load(folder, dtype)

    def caption(picture_HWC: np.ndarray) -> str:
        picture = Image.fromarray(picture_HWC)
        inputs = processor(text=TASK, images=picture, return_tensors="pt").to(device)
        tokens = florence.generate(
            **inputs, num_beams=BEAMS, do_sample=False, max_new_tokens=LONGEST
        )
        (text,) = processor.batch_decode(tokens, skip_special_tokens=True)
        return " ".join(text.split())

    try:
        florence.to(device).eval()
        yield caption
    finally:
        florence.to("meta")  # frees it, whoever still refers to it
        gc.collect()
        torch.cuda.empty_cache()


def check_folder(folder: Path) -> None:
    """A folder's config.json is that of a Florence-2 which transformers knows itself.

    Raises:
        UserError: it is another model, or Florence-2 as Microsoft published it.
    """
    config = read_settings(folder / "config.json", KEY, ADVICE)
    kind = config.get("model_type")
    if kind != "florence2":
        raise UserError(f"{KEY}: {folder} holds no Florence-2 (but {kind or 'nothing'}): {ADVICE}")
    refuse_quantised(config, folder, KEY)
    # There the code comes with the weights, which have other names.
    text = config.get("text_config")
    old_words = isinstance(text, dict) and text.get("model_type") == "florence2_language"
    if "auto_map" in config or old_words:
        raise UserError(
            f"{KEY}: {folder} has the old layout of microsoft/Florence-2, which needs the code in "
            f"its folder; maskora runs no code from there: {ADVICE}"
        )


def _load(folder: Path, dtype: Any) -> tuple[Any, Any]:
    """The model, on the CPU, and its processor. Raises UserError where the folder lacks a part."""
    import transformers.utils.logging
    from transformers import (
        BartTokenizerFast,
        CLIPImageProcessorPil,
        Florence2ForConditionalGeneration,
        Florence2Processor,
    )

    transformers.utils.logging.disable_progress_bar()  # they count tensors

    def load(where: Path) -> tuple[Any, Any, dict[str, Any]]:
        # The PIL processor on every machine, so that captions do not depend on what is installed.
        processor = Florence2Processor(
            CLIPImageProcessorPil.from_pretrained(where), BartTokenizerFast.from_pretrained(where)
        )
        florence, loaded = Florence2ForConditionalGeneration.from_pretrained(
            where, dtype=dtype, use_safetensors=True, output_loading_info=True,
            attn_implementation="sdpa",  # a folder may ask for code from elsewhere
        )  # fmt: skip
        return florence, processor, loaded

    florence, processor, loaded = load_part(load, folder, KEY, ADVICE)
    check_whole(loaded, "Florence-2", folder, KEY, ADVICE)
    _check_fit(folder, florence, processor)
    return florence, processor


def _check_fit(folder: Path, florence: Any, processor: Any) -> None:
    """transformers makes up what a folder leaves out; a captioner of that would talk nonsense."""
    parts = {
        "tokenizer": processor.image_token_id == florence.config.image_token_id,
        "image processor": isinstance(processor.num_image_tokens, int),
        "generation_config.json": florence.generation_config.decoder_start_token_id is not None,
    }
    if wrong := [part for part, fits in parts.items() if not fits]:
        raise UserError(f"{KEY}: {folder}: its {wrong[0]} does not fit its weights: {ADVICE}")
