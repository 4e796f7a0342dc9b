"""SAM2 by transformers, from a checkpoint in its layout. Needs no torchvision.

Transformers' own processor needs torchvision, so its documented steps are done in `sam2_files`.
Each object has its own session of `Sam2VideoModel`: objects do not influence each other in SAM2,
and in a shared session a frame in which only some are anchored would also track the others there.
The features of a frame, which are by far the most work, are shared by all sessions.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

from maskora import devices
from maskora.masks import Labels
from maskora.masks.prompts import Box, Click, Prompt
from maskora.masks.silhouettes import Silhouette
from maskora.masks.trackers.sam2_files import Preparation, load
from maskora.masks.tracking import Anchors, Silhouettes

KEPT_FRAMES = 8  # whose features are kept; about 0.1 GB each at 1024 pixels
BOX_CORNERS = (2, 3)  # SAM2's labels of a box's two corners, given as points


class _Frames:
    """The frames as the model's input, prepared when asked for."""

    def __init__(self, frames_THWC: np.ndarray, preparation: Preparation) -> None:
        self._frames_THWC, self._preparation = frames_THWC, preparation

    def __len__(self) -> int:
        return len(self._frames_THWC)

    def __getitem__(self, frame: int) -> torch.Tensor:
        return self._preparation.frame(self._frames_THWC[frame])


class Sam2Tracker:
    """`Sam2VideoModel` on the frames of one clip, on the GPU if there is one.

    Attributes:
        label: what it is called towards the person.
    """

    def __init__(self, folder: Path, name: str, frames_THWC: np.ndarray) -> None:
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
        self._features = self._new_session(None).cache

    def segment(self, frame: int, prompts: Sequence[Prompt], before_HW: Labels) -> Silhouettes:
        """As `Tracker.segment`. Of several boxes of an object, their common box is used.

        An object that is there already is refined as in SAM2's own predictor: its mask goes into
        the prompt encoder as the logits predicted before. `Sam2VideoModel.forward` has no way to
        give them (clicks on a frame replace the mask given there), hence the inner method, with
        everything else as `forward` gives it.
        """
        found: dict[int, Silhouette] = {}
        for number in sorted({prompt.object_id for prompt in prompts}):
            coords, labels = self._points([p for p in prompts if p.object_id == number])
            was_HW = before_HW == number
            with self._inference():
                result = self._model._run_single_frame_inference(
                    inference_session=self._new_session(self._features),
                    frame_idx=frame,
                    obj_idx=0,
                    batch_size=1,
                    is_init_cond_frame=True,
                    point_inputs={"point_coords": coords, "point_labels": labels},
                    mask_inputs=None,
                    reverse=False,
                    prev_sam_mask_logits=self._logits(was_HW) if was_HW.any() else None,
                )
            found[number] = self._silhouette(result["pred_masks"])
        return found

    def propagate(self, path: Sequence[int], anchors: Anchors) -> Iterator[Silhouettes]:
        """As `Tracker.propagate`; all anchors of an object, those off the path too, are memory."""
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
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _new_session(self, features: Any) -> Any:
        session = Sam2VideoInferenceSession(
            video_height=self._height,
            video_width=self._width,
            inference_device=self._device,
            inference_state_device=self._device,
            dtype=torch.float32,
            max_vision_features_cache_size=KEPT_FRAMES,
        )
        session.processed_frames = self._frames
        session.cache = session.cache if features is None else features
        return session

    def _anchored(self, number: int, anchors: Anchors) -> Any:
        """A session of one object, to which each of its anchors was given as a mask."""
        session = self._new_session(self._features)
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
        points: list[tuple[float, float]] = []
        labels: list[int] = []
        if boxes:
            left, top = min(box.x for box in boxes), min(box.y for box in boxes)
            right = max(box.x + box.width for box in boxes)
            bottom = max(box.y + box.height for box in boxes)
            points += [(left, top), (right, bottom)]
            labels += BOX_CORNERS
        clicks = [prompt for prompt in prompts if isinstance(prompt, Click)]
        points += [(click.x, click.y) for click in clicks]
        labels += [int(click.positive) for click in clicks]
        scaled = [self._preparation.point(x, y, self._width, self._height) for x, y in points]
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
        with (
            torch.inference_mode(),
            torch.autocast(
                "cuda", torch.bfloat16, enabled=devices.computes_bfloat16(str(self._device))
            ),
        ):
            yield
