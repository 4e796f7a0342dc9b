"""SAM2 by Meta's own package `sam2`, for its original .pt checkpoints.

The package is no requirement of maskora: it demands torchvision, and a person who has such a
checkpoint usually has the package too. Everybody else uses `sam2`, which needs neither.

`init_state` takes a folder of JPEGs or an mp4. It gets a folder whose files are named so and are
PNGs: the package opens them with Pillow, which goes by content, so that the model sees the
workspace's frames and not a lossy copy of them.
"""

import pickle
import re
import struct
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from maskora import devices
from maskora.errors import UserError
from maskora.frames import Frames
from maskora.masks import Labels, Silhouette
from maskora.masks.prompts import Box, Click, Prompt, common_box
from maskora.masks.trackers import KEY
from maskora.masks.tracking import Anchors, Silhouettes

INSTALL = "git clone https://github.com/facebookresearch/sam2.git; there: pip install -e ."
# (width of the first block, number of blocks) of SAM2's image encoder -> the letter in its name
SIZES = {(96, 12): "t", (96, 16): "s", (112, 24): "b+", (144, 48): "l"}
PATCHES = "image_encoder.trunk.patch_embed.proj.weight"
BLOCK = re.compile(r"image_encoder\.trunk\.blocks\.(\d+)\.")
SINCE_2_1 = "no_obj_embed_spatial"  # a tensor that 2.0 does not have

# What torch.load and zipfile raise on damaged files, beside pickle's own error.
UNREADABLE = (
    OSError, RuntimeError, ValueError, EOFError, LookupError, TypeError, AttributeError,
    struct.error, zipfile.BadZipFile,
)  # fmt: skip


class Sam2PackageTracker:
    """A `ObjectTracker` by the package's `SAM2VideoPredictor`, on the GPU if there is one."""

    def __init__(self, path: Path, frames_THWC: Frames) -> None:
        """frames_THWC: uint8 RGB. Raises UserError: no SAM2, or the package is not installed."""
        weights, config = read_checkpoint(path)
        self.label = f"SAM2 ({path.stem})"
        self._device = torch.device(devices.for_small_models())
        self._predictor = build(config, weights, self._device, path)
        with tempfile.TemporaryDirectory(prefix="maskora-") as folder, self._inference():
            _write_frames(frames_THWC, Path(folder))
            self._state = self._predictor.init_state(folder, offload_video_to_cpu=True)

    def segment(self, frame: int, prompts: Sequence[Prompt], before_HW: Labels) -> Silhouette:
        """As `ObjectTracker.segment`. Of several boxes, their common box is used.

        An object that is there already is given as a mask first: the predictor then feeds the
        prompts together with that mask's logits.
        """
        number = prompts[0].object_id
        was_HW = before_HW == number
        self._predictor.reset_state(self._state)
        with self._inference():
            if was_HW.any():
                self._predictor.add_new_mask(self._state, frame, number, was_HW)
            _, _, logits_11HW = self._predictor.add_new_points_or_box(
                self._state, frame, number, **_as_arguments(prompts)
            )
        return _inside(logits_11HW[0, 0])

    def propagate(self, path: Sequence[int], anchors: Anchors) -> Iterator[Silhouettes]:
        """All anchors of an object, those off the path too, are memory."""
        self._predictor.reset_state(self._state)
        with self._inference():
            for frame in sorted(anchors):
                for number, silhouette_HW in anchors[frame].items():
                    self._predictor.add_new_mask(self._state, frame, number, silhouette_HW)
        steps = self._predictor.propagate_in_video(
            self._state,
            start_frame_idx=path[0],
            max_frame_num_to_track=len(path) - 1,
            reverse=path[-1] < path[0],
        )
        known: set[int] = set()
        for frame in path:
            with self._inference():
                tracked, numbers, logits_N1HW = next(steps)
            assert tracked == frame, "it goes along the path"
            anchored = anchors.get(frame, {})
            known |= set(anchored)
            carried = {n: logits_N1HW[at, 0] for at, n in enumerate(numbers) if n in known}
            yield {n: _inside(logits_HW) for n, logits_HW in carried.items()} | dict(anchored)

    def close(self) -> None:
        """Free the model and the frames; the tracker cannot be used any more."""
        self._predictor, self._state = None, None
        torch.cuda.empty_cache()

    @contextmanager
    def _inference(self) -> Iterator[None]:
        """In bfloat16, on the CPU too: the package stores its memories so, and mixes them in."""
        with torch.inference_mode(), torch.autocast(self._device.type, torch.bfloat16):
            yield


def read_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], str]:
    """The tensors of a checkpoint and the name of their configuration.

    Only tensors are read: a file that asks for anything else to be done is refused.

    Raises:
        UserError: it cannot be read like that, or is no SAM2.
    """
    what = "Name an original SAM2 checkpoint such as sam2.1_hiera_large.pt."
    try:
        is_archive = zipfile.is_zipfile(path)
        content = torch.load(path, map_location="cpu", weights_only=True) if is_archive else None
    except pickle.UnpicklingError:
        raise UserError(
            f"{KEY}: {path} was refused: it is damaged, or holds more than tensors, and reading "
            f"that could run a program. {what}"
        ) from None
    except UNREADABLE as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"{KEY}: {path} cannot be read ({reason}). {what}") from None
    if not is_archive:
        raise UserError(f"{KEY}: {path} is no checkpoint of PyTorch, or a part of one. {what}")
    weights = content.get("model") if isinstance(content, dict) else None
    if not isinstance(weights, dict):
        raise UserError(f"{KEY}: {path} has no 'model' in it, as SAM2's have. {what}")
    tensors = {name: value for name, value in weights.items() if isinstance(value, torch.Tensor)}
    name = config_name({name: tuple(value.shape) for name, value in tensors.items()})
    if name is None:
        raise UserError(f"{KEY}: {path} holds tensors of another model than SAM2. {what}")
    return tensors, name


def config_name(shapes: Mapping[str, Sequence[int]]) -> str | None:
    """Which of the sam2 package's configurations a checkpoint is of; None if of none.

    Args:
        shapes: of its tensors, by name.
    """
    blocks = {int(found[1]) for name in shapes if (found := BLOCK.match(name))}
    width = next(iter(shapes.get(PATCHES, ())), 0)
    size = SIZES.get((width, len(blocks)))
    if size is None:
        return None
    version = "sam2.1" if SINCE_2_1 in shapes else "sam2"
    return f"configs/{version}/{version}_hiera_{size}.yaml"


def build(config: str, weights: dict[str, torch.Tensor], device: torch.device, path: Path) -> Any:
    """The package's SAM2VideoPredictor with these weights.

    Raises:
        UserError: the package is not installed or does not start, or the weights do not fit.
    """
    try:
        from sam2.build_sam import build_sam2_video_predictor
    except (ImportError, RuntimeError) as error:
        raise UserError(
            f"{KEY}: {path} is an original SAM2 checkpoint, for which Meta's package sam2 is "
            f"needed ({error}). Install it ({INSTALL}), or do without it: name a checkpoint for "
            f"transformers, such as facebook/sam2.1-hiera-large."
        ) from None
    predictor = build_sam2_video_predictor(config, ckpt_path=None, device=device)
    try:
        predictor.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{KEY}: {path} does not fit SAM2's {config} ({reason}). Fetch it again, or bring the "
            f"package sam2 up to date."
        ) from None
    return predictor


def _write_frames(frames_THWC: Frames, folder: Path) -> None:
    for number, frame_HWC in enumerate(frames_THWC):
        Image.fromarray(frame_HWC).save(folder / f"{number:05}.jpg", "PNG", compress_level=1)


def _as_arguments(prompts: Sequence[Prompt]) -> dict[str, np.ndarray]:
    """Points, labels and box as `add_new_points_or_box` wants them, in the frame's pixels."""
    given: dict[str, np.ndarray] = {}
    if boxes := [prompt for prompt in prompts if isinstance(prompt, Box)]:
        given["box"] = np.array(common_box(boxes), np.float32)
    if clicks := [prompt for prompt in prompts if isinstance(prompt, Click)]:
        given["points"] = np.array([(click.x, click.y) for click in clicks], np.float32)
        given["labels"] = np.array([click.positive for click in clicks], np.int32)
    return given


def _inside(logits_HW: torch.Tensor) -> Silhouette:
    return np.asarray((logits_HW > 0).cpu().numpy())
