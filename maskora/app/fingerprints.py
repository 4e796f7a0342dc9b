"""Fingerprints: everything that a trained LoRA depends on, by name and content.

A stage is done where its run's fingerprint is the one of what is there now, never because a file
exists.
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskora.app.captions import source_caption
from maskora.app.edits import Clip, Edit
from maskora.app.remembered import known_sha256
from maskora.app.workspace import Workspace
from maskora.config import Config
from maskora.config.tables import Stage, Table
from maskora.errors import UserError
from maskora.files import digest
from maskora.frames import digest_frames, digest_inside
from maskora.models.registry import Expert, VideoModel
from maskora.training.loop import StageRun
from maskora.training.run_folder import RunFolder

log = logging.getLogger("maskora")
STORAGE = "model.transformer_dtype"
TILING = "vae_tiling"  # in the metadata of a LoRA's file
Fingerprint = dict[str, str]  # name -> digest of its content


@dataclass(frozen=True)
class LoraChoice:
    """A LoRA file that takes part in a run.

    Attributes:
        expert: the name of the transformer that it is for; empty: all of them.
        sha256: of the file when it was chosen; empty where it is not yet.
    """

    path: Path
    strength: float = 1.0
    expert: str = ""
    sha256: str = ""


def motion_fingerprint(clip: Clip, caption: str, config: Config, model: VideoModel) -> Fingerprint:
    """Everything that the motion LoRA depends on but its length."""
    storage, borders = config.model.storage, [f"{e.lowest} {e.highest}" for e in model.experts]
    motion, window = config.motion, config.motion.window_length(clip.source.frames)
    plain = [] if motion.augment == "colour" else ["augment"]
    plain += [] if motion.gridded else ["masking", "grid_share"]
    plain += ["task"] if motion.trained_task == "change" else []
    plain += [] if motion.trained_shapes else ["mask_shapes"]
    return {
        **({} if storage == "same" else {STORAGE: storage}),
        **({"noise levels of the experts": digest(*borders)} if len(borders) > 1 else {}),
        "base": base_digest(config.model.dtype, model),
        "[adapter]": _table(config.adapter),
        "[optimizer]": _table(config.optimizer),
        "[training]": _table(config.training, "checkpoint_every", "preview_every"),
        "source frames": digest_frames(clip.frames_THWC),
        "masks": digest_inside(clip.labels_THW),
        "caption": digest(config.prompt.with_token(caption)),
        **({"shots": digest(str(starts))} if (starts := clip.source.shot_starts) else {}),
        "[motion]": digest(_table(motion, "steps", "window", *plain), str(window)),
    }


def appearance_fingerprint(
    clip: Clip, edit: Edit, config: Config, motion: Fingerprint, motion_lora: str
) -> Fingerprint:
    """Everything that the appearance LoRA depends on but its length.

    Args:
        motion: the motion stage's fingerprint.
        motion_lora: content name of the motion LoRA that it starts from.
    """
    table, anchored = config.appearance, config.appearance.conditioning == "anchored"
    keyframes = [
        f"{frame} {digest(edited.image_HWC.tobytes())}" for frame, edited in edit.keyframes.items()
    ]
    captions = [config.prompt.with_token(edited.caption) for edited in edit.keyframes.values()]
    fingerprint = {
        **motion,
        "motion LoRA": motion_lora,
        "keyframes": digest(*keyframes),
        "keyframe captions": digest(*captions),
        "[appearance]": digest(_table(table, "steps"), *(["at its own time"] * anchored)),
    }
    if table.reference == "edited-first-frame" or anchored:
        fingerprint["edited first frame"] = digest(edit.first.image_HWC.tobytes())
    return fingerprint


def changed_inputs(old: Fingerprint, new: Fingerprint) -> list[str]:
    """The names whose content differs."""
    return sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))


def base_digest(dtype: str, model: VideoModel) -> str:
    """Content name of a base as it computes in a precision."""
    return digest(model.family, dtype, *map(model.identity, model.parts))


def adapter_digest(folder: RunFolder) -> str:
    """Content name of a run's newest LoRA; empty where there is none."""
    adapter = folder.newest_adapter()
    return known_sha256(adapter)[:20] if adapter else ""


def stage_run(config: Config, stage: Stage, expert: Expert) -> StageRun:
    """A stage's training of one transformer, as configured."""
    steps = config.motion.steps if stage == "motion" else config.appearance.steps
    return StageRun(stage, steps, config.training, config.optimizer, expert)


def run_folder(workspace: Workspace, run: StageRun, edit: str | None) -> RunFolder:
    """The folder of a stage's run."""
    return RunFolder(workspace.run_dir(run.stage, edit, run.expert.name))


def trained_lora(
    workspace: Workspace,
    config: Config,
    clip: Clip,
    edited: Edit | None,
    edit: str | None,
    model: VideoModel,
    run: StageRun,
) -> LoraChoice:
    """The LoRA that was trained for this edit; warns where it is behind what is there now.

    Args:
        edited: the edit of an appearance run.

    Raises:
        UserError: it has not been trained.
    """
    folder = run_folder(workspace, run, edit)
    record, adapter = folder.read(), folder.newest_adapter()
    if record is None or adapter is None:
        name = f" --edit {edit}" if edit else ""
        levels = f" for {run.expert.name} noise" if run.expert.name else ""
        raise UserError(
            f"the {run.stage} stage has not been trained{levels}: python train.py --config "
            f"{workspace.config}{name} (or try the bare base with --lora none)"
        )
    fingerprint = motion_fingerprint(clip, source_caption(workspace, config), config, model)
    if run.stage == "appearance":
        assert edited is not None
        motion = run_folder(workspace, stage_run(config, "motion", run.expert), None)
        fingerprint = appearance_fingerprint(
            clip, edited, config, fingerprint, adapter_digest(motion)
        )
    changed = changed_inputs(record.depends_on, fingerprint)
    if changed := [name for name in changed if name != STORAGE]:  # has a note of its own
        what = ", ".join(changed)
        log.warning("note: the LoRA was trained before %s changed; train again to use that", what)
    warn_unfinished(run, record.step)
    return LoraChoice(adapter, expert=run.expert.name)


def tiling_note(path: Path, metadata: dict[str, Any], model: VideoModel) -> str | None:
    """A note where a LoRA has learned from latents of other VAE tiles than are made here.

    Which tiles fit is decided by the memory that is free, so nothing is trained again for them.

    Args:
        metadata: of the LoRA's file; empty for files of other programs.
    """
    then, now = metadata.get(TILING), model.placement.vae_tiling
    if then in (None, now):
        return None
    return (
        f"{path} was trained on latents that the VAE made of {then}, and here, as the memory "
        f"allows, it takes {now}: its latents differ a little"
    )


def all_tilings(earlier: dict[str, Any], model: VideoModel) -> str:
    """How the VAE took the pictures that a LoRA has learned from, one way after the other.

    Args:
        earlier: the metadata of the LoRA that its training goes on from, if any.
    """
    before, now = earlier.get(TILING), model.placement.vae_tiling
    if before is None or str(before).endswith(now):
        return str(before or now)
    return f"{before}, then {now}"


def warn_unfinished(run: StageRun, step: int) -> None:
    """Log that a run has not come to its last step, if so."""
    if step < run.steps:
        log.warning("note: the stage (%s) stands at step %d of %d", run.title, step, run.steps)


def _table(table: Table, *without: str) -> str:
    values: dict[str, Any] = table.model_dump(exclude=set(without))
    return digest(json.dumps(values, sort_keys=True))
