"""The LoRAs that a workspace has trained for an edit, chosen as infer chooses them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from maskora import lora
from maskora.commands import stages
from maskora.commands.captions import source_caption
from maskora.commands.finding import find_base
from maskora.commands.inputs import load_clip, load_edit
from maskora.commands.loras import own_lora
from maskora.commands.stages import Turn
from maskora.config import Config, load_config
from maskora.errors import UserError
from maskora.hub import find_local, is_hub_id, locate_cached
from maskora.models import Expert, VideoModel, open_model
from maskora.training.checkpoint import RunFolder
from maskora.workspace import Stage, Workspace

log = logging.getLogger("maskora")


@dataclass(frozen=True)
class Given:
    """A LoRA that is to be exported.

    Attributes:
        expert: which of the base's transformers it is for; empty where the base has one.
    """

    path: Path
    expert: str = ""


def trained_loras(workspace: Workspace, edit: str | None) -> list[Given]:
    """One LoRA per transformer of the configured base; says where one is behind what is there now.

    Raises:
        UserError: the workspace or the edit is not complete, or a transformer has no LoRA yet.
    """
    config = load_config(workspace.config, [])
    files = workspace.find_edits(edit, workspace.read_source().frames)
    stage: Stage = "appearance" if files.keyframes else "motion"
    try:
        model = _configured_base(config, workspace)
    except UserError as reason:
        _tell_uncompared(reason)
        experts = _recorded_experts(workspace, config, stage, edit)
        return _recorded(workspace, config, [Turn(stage, Expert(one)) for one in experts], edit)
    turns = [Turn(stage, expert) for expert in model.experts]
    _check_trained(workspace, turns, edit)
    try:
        clip = load_clip(workspace, config)
        edited = load_edit(workspace, config, clip, edit) if files.keyframes else None
        source_caption(workspace, config)
    except UserError as reason:
        _tell_uncompared(reason)
        return _recorded(workspace, config, turns, edit)
    return [
        Given(own_lora(workspace, config, clip, edited, edit, model, one), one.name)
        for one in model.experts
    ]


def _configured_base(config: Config, workspace: Workspace) -> VideoModel:
    """The base, if it is on this machine: for a LoRA's sake nothing is fetched."""
    table = config.model
    if is_hub_id(table.path) and find_local(table.path, workspace.root) is None:
        table = table.model_copy(update={"path": str(locate_cached(table.path))})
    return open_model(table.family, find_base(table, workspace.root), table.dtype, "cpu")


def _recorded_experts(
    workspace: Workspace, config: Config, stage: Stage, edit: str | None
) -> list[str]:
    """The transformers of the configured kind of base for which a run's own LoRA says it is."""
    found = []
    for title, metrics in workspace.metrics(stage, edit).items():
        if adapter := RunFolder(metrics.parent).newest_adapter():
            metadata, expert = lora.read_metadata(adapter), title.removeprefix(stage)[1:]
            if metadata.get("family") == config.model.family and metadata.get("expert") == expert:
                found.append(expert)
    return found or [""]


def _recorded(
    workspace: Workspace, config: Config, turns: Sequence[Turn], edit: str | None
) -> list[Given]:
    """The runs' newest LoRAs as they are; says where a run has not come to its end."""
    _check_trained(workspace, turns, edit)
    given = []
    for turn in turns:
        run, steps = stages.run_folder(workspace, turn, edit), stages.steps(config, turn.stage)
        record = run.read()
        assert record is not None
        if record.step < steps:
            told = (turn.title, record.step, steps)
            log.warning("note: the stage (%s) stands at step %d of %d", *told)
        given.append(Given(run.adapter(record.step), turn.expert.name))
    return given


def _check_trained(workspace: Workspace, turns: Sequence[Turn], edit: str | None) -> None:
    """Every turn has left a LoRA. Raises UserError with all that have not."""
    missing = [
        turn.title for turn in turns if stages.run_folder(workspace, turn, edit).read() is None
    ]
    if missing:
        name = f" --edit {edit}" if edit else ""
        raise UserError(
            f"{workspace.root} holds no trained LoRA of {' and '.join(missing)}: "
            f"python train.py --config {workspace.config}{name}"
        )


def _tell_uncompared(reason: UserError) -> None:
    log.warning(
        "note: whether the LoRA belongs to what is there now was not looked at, because %s", reason
    )
