"""A SAM2 checkpoint in transformers' layout: the model, and how its pictures are prepared."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import Sam2VideoModel
from transformers.utils import logging as transformers_logging

from maskora.errors import UserError
from maskora.hub import refuse_quantised
from maskora.masks.trackers import KEY

# sam2 is the configuration for single pictures; it is good enough where the memory is there too.
MODEL_TYPES = ("sam2_video", "sam2")
RESAMPLING = {2: "bilinear", 3: "bicubic"}  # by PIL's numbers


@dataclass(frozen=True)
class Preparation:
    """How a frame becomes the model's input; what a checkpoint does not say is as SAM2's own.

    Attributes:
        size: the side of the model's square picture, in pixels; the frame's aspect is not kept.
        mean, std: per channel, of values that were multiplied by `rescale`.
        resample: "bilinear" or "bicubic".
    """

    size: int
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    rescale: float = 1 / 255
    resample: str = "bilinear"

    def frame(self, frame_HWC: np.ndarray) -> torch.Tensor:
        """pixels_CSS, float32, of a uint8 RGB frame: resized with antialias to 8 bits again, then
        rescaled and normalised.
        """
        frame_1CHW = torch.from_numpy(np.ascontiguousarray(frame_HWC)).permute(2, 0, 1)[None]
        resized_CSS = torch.nn.functional.interpolate(
            frame_1CHW.float(), (self.size, self.size), mode=self.resample, antialias=True
        )[0]
        eight_bit_CSS = resized_CSS.round().clamp(0, 255)
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (eight_bit_CSS * self.rescale - mean) / std

    def point(self, x: float, y: float, width: int, height: int) -> tuple[float, float]:
        """A point of a frame of this width and height, in pixels of the model's picture."""
        return x * (self.size / width), y * (self.size / height)

    def mask(self, silhouette_HW: np.ndarray) -> torch.Tensor:
        """mask_11SS, float32 zeros and ones."""
        mask_11HW = torch.from_numpy(silhouette_HW.astype(np.float32))[None, None]
        resized_11SS = torch.nn.functional.interpolate(
            mask_11HW, (self.size, self.size), mode="bilinear", antialias=True
        )
        return (resized_11SS >= 0.5).float()


def load(folder: Path) -> tuple[Any, Preparation]:
    """The Sam2VideoModel (float32, on the CPU, in eval mode) and its preparation.

    Raises:
        UserError: the folder holds no SAM2, not all of it, or something that cannot be read.
    """
    config = read_json(folder / "config.json")
    refuse_quantised(config, folder, KEY)
    model_type = config.get("model_type")
    if model_type not in MODEL_TYPES:
        raise UserError(
            f"{KEY}: {folder} holds a model of type {model_type!r}, not SAM2 for videos "
            f"(sam2_video). Name a checkpoint such as facebook/sam2.1-hiera-large."
        )
    if not any(folder.glob("*.safetensors")):
        raise UserError(
            f"{KEY}: {folder} holds no .safetensors file with SAM2's weights. Fetch the whole "
            f"checkpoint; an original .pt file is named itself, not its folder."
        )
    model = _load_weights(folder)
    preparation = read_preparation(folder)
    if preparation.size != model.config.image_size:
        raise UserError(
            f"{KEY}: {folder} prepares pictures of {preparation.size} pixels for a model of "
            f"{model.config.image_size}. Fetch the checkpoint again."
        )
    return model.eval(), preparation


def _load_weights(folder: Path) -> Any:
    transformers_logging.disable_progress_bar()  # it counts tensors
    try:
        model, found = Sam2VideoModel.from_pretrained(
            folder,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            dtype=torch.float32,
            attn_implementation="sdpa",  # a folder may ask for code from elsewhere
        )
    except (OSError, ValueError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(
            f"{KEY}: {folder} cannot be read as SAM2 ({reason}). Fetch the checkpoint again, or "
            f"name another one such as facebook/sam2.1-hiera-large."
        ) from None
    if missing := sorted(found["missing_keys"]):
        raise UserError(
            f"{KEY}: {folder} lacks {len(missing)} of SAM2's tensors for videos, {missing[0]} the "
            f"first. It may be SAM2 for single pictures, or cut short: name a whole checkpoint "
            f"such as facebook/sam2.1-hiera-large."
        )
    return model


def read_preparation(folder: Path) -> Preparation:
    """From the files that transformers writes, in the order in which it reads them.

    Raises:
        UserError: none is there, or one asks for what SAM2's processor does not do.
    """
    nested = folder / "processor_config.json"
    values = read_json(nested).get("video_processor") if nested.is_file() else None
    for name in ("video_preprocessor_config.json", "preprocessor_config.json"):
        if values is None and (folder / name).is_file():
            values = read_json(folder / name)
    if values is None:
        raise UserError(
            f"{KEY}: {folder} does not say how pictures are prepared: it has neither "
            f"processor_config.json nor video_preprocessor_config.json. Fetch them too."
        )
    size = values.get("size") or {"height": 1024, "width": 1024}
    resample = values.get("resample", 2)
    if size.get("height") is None or size["height"] != size.get("width"):
        raise UserError(f"{KEY}: {folder} asks for pictures of size {size}; SAM2's are square")
    if resample not in RESAMPLING:
        raise UserError(f"{KEY}: {folder} asks for resampling {resample!r}, not one of PIL's 2, 3")
    constants = {"mean": "image_mean", "std": "image_std", "rescale": "rescale_factor"}
    given = {name: values[key] for name, key in constants.items() if values.get(key) is not None}
    return Preparation(size["height"], resample=RESAMPLING[resample], **given)


def read_json(path: Path) -> dict[str, Any]:
    """Raises UserError where it is no readable JSON object."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{KEY}: {path} cannot be read ({error}). Name a folder in transformers' layout, as "
            f"fetched from facebook/sam2.1-hiera-large."
        ) from None
    if not isinstance(values, dict):
        raise UserError(f"{KEY}: {path} holds no JSON object. Fetch the checkpoint again.")
    return values
