"""What Wan's publisher keeps in code, not in files: the schedule, and how pictures are prepared."""

import json
from pathlib import Path
from typing import Any

from maskora.errors import UserError
from maskora.files import cache_home, digest, write_bytes, write_text
from maskora.models.reading.encoders import TOKENIZER
from maskora.models.reading.files import read_small
from maskora.models.reading.part import StoredPart

# Wan2.1's is that for 480P; its publisher takes 5 for 720P, and for Wan2.2.
SHIFT, SHIFT_22 = 3.0, 5.0
PROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "do_resize": True,
    "size": {"shortest_edge": 224},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "do_convert_rgb": True,
}


def scheduler(shift: float) -> dict[str, Any]:
    """The configuration of Wan's scheduler."""
    return {
        "_class_name": "UniPCMultistepScheduler",
        "num_train_timesteps": 1000,
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": True,
        "flow_shift": shift,
    }


def image_processor() -> Path:
    """A folder with the settings by which CLIP's pictures are prepared, made if it is not there."""
    text = json.dumps(PROCESSOR, indent=2)
    folder = cache_home() / "processors" / digest(text)
    if not (folder / "preprocessor_config.json").is_file():
        write_text(folder / "preprocessor_config.json", text)
    return folder


def tokenizer(text_encoder: StoredPart) -> Path:
    """A folder with the tokenizer that the text encoder's file brings, made if it is not there.

    Raises:
        UserError: it brings none, or cannot be read.
    """
    stored = text_encoder.weights.stored.get(TOKENIZER)
    if stored is None:
        raise UserError(
            f"{text_encoder.where} brings no tokenizer ({TOKENIZER}): use ComfyUI's file of "
            f"UMT5-XXL, or name a folder that has one as [model] path"
        )
    content = read_small(stored, sum(stored.shape))
    folder = cache_home() / "tokenizers" / digest(content)
    if not (folder / "spiece.model").is_file():
        write_bytes(folder / "spiece.model", content)
    return folder
