"""SAM2 by transformers, from a checkpoint in its layout. Needs no torchvision.

Transformers' own processor needs torchvision, so its documented steps are done by `Preparation`.
Each object has its own session of `Sam2VideoModel`: objects do not influence each other in SAM2,
and in a shared session a frame in which only some are anchored would also track the others there.
The features of a frame, which are by far the most work, are shared by all sessions.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import Sam2VideoModel
from transformers.models.sam2_video.modeling_sam2_video import (
    Sam2VideoInferenceCache,
    Sam2VideoInferenceSession,
)
from transformers.utils import logging as transformers_logging

from maskora import devices
from maskora.errors import UserError
from maskora.frames import Frames
from maskora.hub import refuse_quantised
from maskora.hub.small_models import read_settings
from maskora.masks import Labels, Silhouette
from maskora.masks.prompts import Box, Click, Prompt, common_box
from maskora.masks.trackers import KEY
from maskora.masks.tracking import Anchors, Silhouettes

# sam2 is the configuration for single pictures; it is good enough where the memory is there too.
MODEL_TYPES = ("sam2_video", "sam2")
RESAMPLING = {2: "bilinear", 3: "bicubic"}  # by PIL's numbers
ADVICE = "name a whole checkpoint in transformers' layout, such as facebook/sam2.1-hiera-large"
KEPT_FRAMES = 8  # whose features are kept; about 0.1 GB each at 1024 pixels
BOX_CORNERS = (2, 3)  # SAM2's labels of a box's two corners, given as points


@dataclass(frozen=True)
class Preparation:
    """Turns a frame into the model's input. The defaults are those of SAM2 itself.

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
        """pixels_CSS, float32: resized with antialias to 8 bits again, rescaled, normalised."""
        frame_1CHW = torch.from_numpy(np.array(frame_HWC)).permute(2, 0, 1)[None]
        resized_CSS = torch.nn.functional.interpolate(
            frame_1CHW.float(), (self.size, self.size), mode=self.resample, antialias=True
        )[0]
        eight_bit_CSS = resized_CSS.round().clamp(0, 255)
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (eight_bit_CSS * self.rescale - mean) / std

    def mask(self, silhouette_HW: np.ndarray) -> torch.Tensor:
        """mask_11SS, float32 zeros and ones."""
        mask_11HW = torch.from_numpy(silhouette_HW.astype(np.float32))[None, None]
        resized_11SS = torch.nn.functional.interpolate(
            mask_11HW, (self.size, self.size), mode="bilinear", antialias=True
        )
        return (resized_11SS >= 0.5).float()


class Sam2Tracker:
    """A `ObjectTracker` by `Sam2VideoModel`, on the GPU if there is one."""

    def __init__(self, folder: Path, name: str, frames_THWC: Frames) -> None:
        """Open a checkpoint.

        Args:
            folder: in transformers' layout.
            name: what the person calls the checkpoint.
            frames_THWC: uint8 RGB.

        Raises:
            UserError: the folder holds no SAM2.
        """
        self.label = f"SAM2 ({name})"
        self._device = torch.device(devices.for_small_models())
        self._model, self._preparation = load(folder)
        self._model.to(self._device)
        self._height, self._width = frames_THWC.shape[1:3]
        self._frames = _Frames(frames_THWC, self._preparation)
        self._features = Sam2VideoInferenceCache(self._device, self._device, KEPT_FRAMES)

    def segment(self, frame: int, prompts: Sequence[Prompt], before_HW: Labels) -> Silhouette:
        """As `ObjectTracker.segment`. Of several boxes, their common box is used.

        An object that is there already is refined as in SAM2's own predictor: its mask goes into
        the prompt encoder as the logits predicted before. `Sam2VideoModel.forward` has no way to
        give them (clicks on a frame replace the mask given there), hence the inner method, with
        everything else as `forward` gives it.
        """
        coords, labels = self._points(prompts)
        was_HW = before_HW == prompts[0].object_id
        with self._inference():
            result = self._model._run_single_frame_inference(
                inference_session=self._new_session(),
                frame_idx=frame,
                obj_idx=0,
                batch_size=1,
                is_init_cond_frame=True,
                point_inputs={"point_coords": coords, "point_labels": labels},
                mask_inputs=None,
                reverse=False,
                prev_sam_mask_logits=self._logits(was_HW) if was_HW.any() else None,
            )
        return self._silhouette(result["pred_masks"])

    def propagate(self, path: Sequence[int], anchors: Anchors) -> Iterator[Silhouettes]:
        """All anchors of an object, those off the path too, are memory."""
        sessions: dict[int, Any] = {}
        reverse = path[-1] < path[0]
        for frame in path:
            found = dict(anchors.get(frame, {}))
            for number in found:
                if number not in sessions:
                    sessions[number] = self._anchored(number, anchors)
            for number, session in sessions.items():
                if number not in found:
                    with self._inference():
                        result = self._model(session, frame_idx=frame, reverse=reverse)
                    found[number] = self._silhouette(result.pred_masks)
            yield found

    def close(self) -> None:
        """Free the model and the features; the tracker cannot be used any more."""
        self._features.clear_all()
        self._model = None
        torch.cuda.empty_cache()

    def _new_session(self) -> Any:
        session = Sam2VideoInferenceSession(
            video_height=self._height,
            video_width=self._width,
            inference_device=self._device,
            inference_state_device=self._device,
            dtype=torch.float32,
        )
        session.processed_frames, session.cache = self._frames, self._features
        return session

    def _anchored(self, number: int, anchors: Anchors) -> Any:
        """A session of one object, to which each of its anchors was given as a mask."""
        session = self._new_session()
        index = session.obj_id_to_idx(number)
        for frame in sorted(anchors):
            if number in anchors[frame]:
                mask_11SS = self._preparation.mask(anchors[frame][number])
                session.add_mask_inputs(index, frame, mask_11SS)
                session.obj_with_new_inputs = [number]
                with self._inference():
                    self._model(session, frame_idx=frame)
        return session

    def _points(self, prompts: Sequence[Prompt]) -> tuple[torch.Tensor, torch.Tensor]:
        """coords_11N2 in the model's pixels, labels_11N: the box's corners, then the clicks."""
        boxes = [prompt for prompt in prompts if isinstance(prompt, Box)]
        clicks = [prompt for prompt in prompts if isinstance(prompt, Click)]
        points = [(click.x, click.y) for click in clicks]
        labels = [int(click.positive) for click in clicks]
        if boxes:
            left, top, right, bottom = common_box(boxes)
            points = [(left, top), (right, bottom), *points]
            labels = [*BOX_CORNERS, *labels]
        across, down = (self._preparation.size / side for side in (self._width, self._height))
        scaled = [(x * across, y * down) for x, y in points]
        return (
            torch.tensor(scaled, dtype=torch.float32, device=self._device)[None, None],
            torch.tensor(labels, dtype=torch.int64, device=self._device)[None, None],
        )

    def _logits(self, silhouette_HW: Silhouette) -> torch.Tensor:
        """logits_11ss of a silhouette, as the model itself makes them of a mask: -10 and 10."""
        logits_11SS = 20 * self._preparation.mask(silhouette_HW) - 10
        size = self._model.prompt_encoder.mask_input_size
        return torch.nn.functional.interpolate(
            logits_11SS, size, mode="bilinear", antialias=True
        ).to(self._device)

    def _silhouette(self, logits_11ss: torch.Tensor) -> Silhouette:
        logits_11HW = torch.nn.functional.interpolate(
            logits_11ss.float(), (self._height, self._width), mode="bilinear", align_corners=False
        )
        return np.asarray((logits_11HW[0, 0] > 0).cpu().numpy())

    @contextmanager
    def _inference(self) -> Iterator[None]:
        bfloat16 = devices.computes_bfloat16(str(self._device))
        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16, enabled=bfloat16):
            yield


class _Frames:
    """The frames as the model's input, prepared when asked for."""

    def __init__(self, frames_THWC: Frames, preparation: Preparation) -> None:
        self._frames_THWC, self._preparation = frames_THWC, preparation

    def __len__(self) -> int:
        return len(self._frames_THWC)

    def __getitem__(self, frame: int) -> torch.Tensor:
        return self._preparation.frame(self._frames_THWC[frame])


def load(folder: Path) -> tuple[Any, Preparation]:
    """The Sam2VideoModel (float32, on the CPU, in eval mode) and its preparation.

    Raises:
        UserError: the folder holds no SAM2, not all of it, or something that cannot be read.
    """
    config = read_settings(folder / "config.json", KEY, ADVICE)
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
    values = None
    if nested.is_file():
        values = read_settings(nested, KEY, ADVICE).get("video_processor")
    for name in ("video_preprocessor_config.json", "preprocessor_config.json"):
        if values is None and (folder / name).is_file():
            values = read_settings(folder / name, KEY, ADVICE)
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
