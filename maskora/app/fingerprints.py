"""The two stages as samples and as things that other things depend on."""

import json
import logging
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskora.app.edits import Clip, Edit
from maskora.app.workspace import Stage, Workspace
from maskora.config import Config
from maskora.config.tables import Table
from maskora.files import digest, digest_file
from maskora.method.conditioning import (
    COLOUR_ORDERS,
    Sample,
    anchored,
    appearance_sample,
    emptied,
    motion_sample,
    recoloured,
    to_unit,
    window_starts,
)
from maskora.models.registry import Expert, VideoModel
from maskora.training.checkpoint import RunFolder
from maskora.training.loop import TrainingPlan
from maskora.training.optimizer import available

log = logging.getLogger("maskora")
STORAGE = "model.transformer_dtype"
# In float16 gradients of a mean over a whole latent are too small to be held without it.
LOSS_SCALE = 2.0**14


def prompt(config: Config, caption: str) -> str:
    """The special token and a caption."""
    return f"{config.prompt.token} {caption}".strip()


def motion_samples(clip: Clip, caption: str, config: Config) -> list[Sample]:
    """Stage 1: sliding windows over the source, or the whole of it."""
    video, keep = clip.video(), clip.keep()
    window, motion = window_length(config, clip.source.frames), config.motion
    samples = [
        motion_sample(video, keep, start, window, motion.conditioning, prompt(config, caption))
        for start in window_starts(clip.source.frames, window, motion.stride)
    ]
    if motion.augment == "none":
        return samples
    return [recoloured(sample, order) for sample in samples for order in COLOUR_ORDERS]


def window_length(config: Config, frames: int) -> int:
    """Frames per window: as set, or the whole clip where that is shorter or asked for."""
    window = config.motion.window
    return frames if window == "full" else min(window, frames)


def appearance_samples(clip: Clip, edit: Edit, config: Config, held: int) -> list[Sample]:
    """Stage 2: every edited keyframe after the first as a sample of its own.

    Args:
        held: frames per latent frame of the base.
    """
    keep, how = clip.keep(), config.appearance.conditioning
    first_CHW, samples = _unit(edit.first.image_HWC), []
    for frame, edited in edit.keyframes.items():
        edited_CHW, source_CHW = _unit(edited.image_HWC), _unit(clip.frames_THWC[frame])
        reference = _reference(config.appearance.reference, first_CHW, source_CHW, keep[frame])
        words = prompt(config, edited.caption)
        sample = appearance_sample(
            frame, edited_CHW, source_CHW, keep[frame], reference, how, words
        )
        samples.append(anchored(sample, first_CHW, frame, held) if how == "anchored" else sample)
    for (one, sample), (other, following) in pairwise(zip(edit.keyframes, samples, strict=True)):
        if sample.times is not None and sample.times == following.times:
            log.warning(
                "edited frames %d and %d are in one latent frame of this base, and contradict each "
                "other as anchored keyframes: keep one of them", one, other,
            )  # fmt: skip
    return samples


def _reference(kind: str, first_CHW: Tensor, source_CHW: Tensor, keep_HW: Tensor) -> Tensor:
    """What the image encoder sees: never the keyframe itself, which would leak the answer."""
    if kind == "edited-first-frame":
        return first_CHW
    if kind == "masked":
        return emptied(source_CHW[:, None], keep_HW[None])[:, 0]
    return source_CHW


def _unit(image_HWC: np.ndarray) -> Tensor:
    return to_unit(torch.from_numpy(image_HWC)[None])[:, 0]


def motion_depends(clip: Clip, caption: str, config: Config, model: VideoModel) -> dict[str, str]:
    """Everything that the motion LoRA depends on but its length: name -> content."""
    return {
        **_shared(config, model),
        "source frames": digest(np.ascontiguousarray(clip.frames_THWC).tobytes()),
        "masks": digest(np.packbits(clip.labels_THW > 0).tobytes()),
        "caption": digest(prompt(config, caption)),
        "[motion]": digest(_motion_table(config), str(window_length(config, clip.source.frames))),
    }


def _motion_table(config: Config) -> str:
    plain = ("augment",) if config.motion.augment == "none" else ()
    return _table(config.motion, "steps", "window", *plain)


def appearance_depends(
    clip: Clip, edit: Edit, config: Config, model: VideoModel, motion: dict[str, str], lora: str
) -> dict[str, str]:
    """Everything that the appearance LoRA depends on but its length.

    Args:
        motion: what the motion stage depends on.
        lora: content name of the motion LoRA that it starts from.
    """
    keyframes = [
        f"{frame} {digest(edited.image_HWC.tobytes())}" for frame, edited in edit.keyframes.items()
    ]
    captions = [prompt(config, edited.caption) for edited in edit.keyframes.values()]
    depends = {
        **motion,
        "motion LoRA": lora,
        "keyframes": digest(*keyframes),
        "keyframe captions": digest(*captions),
        "[appearance]": _appearance_table(config),
    }
    appearance = config.appearance
    if appearance.reference == "edited-first-frame" or appearance.conditioning == "anchored":
        depends["edited first frame"] = digest(edit.first.image_HWC.tobytes())
    return depends


def _appearance_table(config: Config) -> str:
    meaning = ["at its own time"] if config.appearance.conditioning == "anchored" else []
    return digest(_table(config.appearance, "steps"), *meaning)


def changes(old: dict[str, str], new: dict[str, str]) -> list[str]:
    """The names whose content differs."""
    return sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))


@dataclass(frozen=True)
class Turn:
    """One stage's training of one of the base's transformers."""

    stage: Stage
    expert: Expert

    @property
    def title(self) -> str:
        """What people call it."""
        return f"{self.stage} ({self.expert.name} noise)" if self.expert.name else self.stage


def plan(config: Config, turn: Turn, model: VideoModel) -> TrainingPlan:
    """A turn's numbers, unpacked."""
    training = config.training
    return TrainingPlan(
        title=turn.title,
        steps=steps(config, turn.stage),
        seed=training.seed + (0 if turn.stage == "motion" else 1),
        optimizer=available(config.optimizer.type, model.device),
        lr=config.optimizer.lr,
        weight_decay=config.optimizer.weight_decay,
        method=training.timestep_sample_method,
        shift=training.shift,
        inside_weight=training.inside_weight,
        clipping=training.gradient_clipping,
        accumulation=training.gradient_accumulation_steps,
        checkpoint_every=training.checkpoint_every,
        lowest=turn.expert.lowest,
        highest=turn.expert.highest,
        loss_scale=LOSS_SCALE if model.dtype == torch.float16 else 1.0,
    )


def steps(config: Config, stage: Stage) -> int:
    """How many optimizer steps a stage takes."""
    return config.motion.steps if stage == "motion" else config.appearance.steps


def run_folder(workspace: Workspace, turn: Turn, edit: str | None) -> RunFolder:
    """Where a turn's run lies."""
    return RunFolder(workspace.run_dir(turn.stage, edit, turn.expert.name))


def adapter_digest(run: RunFolder) -> str:
    """Content name of a run's newest LoRA; empty where there is none."""
    adapter = run.newest_adapter()
    return digest_file(adapter) if adapter else ""


def base_digest(dtype: str, model: VideoModel) -> str:
    """Content name of a base as it computes in a precision."""
    return digest(model.family, dtype, *map(model.identity, model.parts))


def _shared(config: Config, model: VideoModel) -> dict[str, str]:
    storage, borders = config.model.storage, [f"{e.lowest} {e.highest}" for e in model.experts]
    return {
        **({} if storage == "same" else {STORAGE: storage}),
        **({"noise levels of the experts": digest(*borders)} if len(borders) > 1 else {}),
        "base": base_digest(config.model.dtype, model),
        "[adapter]": _table(config.adapter),
        "[optimizer]": _table(config.optimizer),
        "[training]": _table(config.training, "checkpoint_every"),
    }


def _table(table: Table, *without: str) -> str:
    values: dict[str, Any] = table.model_dump(exclude=set(without))
    return digest(json.dumps(values, sort_keys=True))
