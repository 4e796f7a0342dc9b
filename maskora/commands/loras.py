"""Which LoRAs a clip is generated with, and what to say where they do not belong to it."""

import logging
from pathlib import Path
from typing import Any

from maskora import lora
from maskora.commands import stages
from maskora.commands.captions import source_caption
from maskora.commands.inputs import Clip, Edit
from maskora.config import Config
from maskora.errors import UserError
from maskora.models import VideoModel
from maskora.workspace import Stage, Workspace

log = logging.getLogger("maskora")


def choose_loras(
    workspace: Workspace,
    config: Config,
    clip: Clip,
    edited: Edit,
    edit: str | None,
    model: VideoModel,
    choice: str | None,
) -> list[tuple[Path, float]]:
    """The clip's own LoRA (or `--lora`), then those of inference.loras.

    Raises:
        UserError: the clip has no LoRA yet.
    """
    extra = [
        (workspace.root / Path(item.path).expanduser(), item.strength)
        for item in config.inference.loras
    ]
    if choice is None:
        loras = [(own_lora(workspace, config, clip, edited, edit, model), 1.0), *extra]
    else:
        loras = extra if choice == "none" else [(Path(choice), 1.0), *extra]
    for path, _ in loras:  # a wrong file is known before anything is loaded
        if warning := storage_warning(path, lora.read(path).metadata, config):
            log.warning("note: %s", warning)
    return loras


def storage_warning(path: Path, metadata: dict[str, Any], config: Config) -> str | None:
    """What to say of a LoRA whose base was stored otherwise than now: it has learned its rounding.

    Args:
        metadata: what maskora wrote into the file; nothing is said of files without it.
    """
    trained, now = metadata.get("storage", "same"), config.model.storage
    if not metadata or trained == now:
        return None
    words = {"same": f"uncompressed ({metadata.get('dtype')})"}
    return (
        f"{path} was trained against {words.get(trained, trained)} weights, and this run uses "
        f'{words.get(now, now)} ones: model.transformer_dtype = "{trained}" would match'
    )


def own_lora(
    workspace: Workspace,
    config: Config,
    clip: Clip,
    edited: Edit,
    edit: str | None,
    model: VideoModel,
) -> Path:
    """The LoRA that was trained for this edit; says where it is behind what is there now.

    Raises:
        UserError: it has not been trained.
    """
    stage: Stage = "appearance" if edited.keyframes else "motion"
    run = stages.run_folder(workspace, stage, edit)
    record, adapter = run.read(), run.newest_adapter()
    if record is None or adapter is None:
        name = f" --edit {edit}" if edit else ""
        raise UserError(
            f"the {stage} stage has not been trained: python train.py --config "
            f"{workspace.config}{name} (or try the bare base with --lora none)"
        )
    depends = stages.motion_depends(clip, source_caption(workspace, config), config, model)
    if stage == "appearance":
        motion = stages.adapter_digest(stages.run_folder(workspace, "motion", None))
        depends = stages.appearance_depends(clip, edited, config, model, depends, motion)
    changed = stages.changes(record.depends_on, depends)
    if changed := [name for name in changed if name != stages.STORAGE]:  # has a note of its own
        what = ", ".join(changed)
        log.warning("note: the LoRA was trained before %s changed; train again to use that", what)
    steps = stages.steps(config, stage)
    if record.step < steps:
        log.warning("note: the %s stage stands at step %d of %d", stage, record.step, steps)
    return adapter
