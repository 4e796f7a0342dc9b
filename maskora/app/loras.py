"""The LoRAs that a workspace has trained for an edit, chosen as infer chooses them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskora import lora
from maskora.app import fingerprints as stages
from maskora.app.base import find_base
from maskora.app.captions import source_caption
from maskora.app.edits import Clip, Edit, load_clip, load_edit
from maskora.app.fingerprints import Turn
from maskora.app.workspace import Stage, Workspace
from maskora.config import Config, load_config
from maskora.errors import UserError
from maskora.hub import find_local, is_hub_id, locate_cached
from maskora.models.registry import Expert, VideoModel, open_model
from maskora.training.checkpoint import RunFolder

log = logging.getLogger("maskora")


@dataclass(frozen=True)
class Stacked:
    """A LoRA file that takes part.

    Attributes:
        expert: the name of the transformer that it belongs to; empty: all of them.
    """

    path: Path
    strength: float
    expert: str = ""


def choose_loras(
    workspace: Workspace,
    config: Config,
    clip: Clip,
    edited: Edit,
    edit: str | None,
    model: VideoModel,
    choice: list[str],
) -> list[Stacked]:
    """The clip's own LoRA (or `--lora`), then those of inference.loras.

    Raises:
        UserError: the clip has no LoRA yet, or a file belongs to a transformer that is not there.
    """
    extra = [
        Stacked(workspace.root / Path(item.path).expanduser(), item.strength, item.expert)
        for item in config.inference.loras
    ]
    if not choice:
        own = [
            Stacked(
                own_lora(workspace, config, clip, edited, edit, model, expert), 1.0, expert.name
            )
            for expert in model.experts
        ]
    else:
        own = [Stacked(Path(path), 1.0) for path in choice if path != "none"]
    loras = [_checked(one, config, model) for one in (*own, *extra)]
    bare = [e.name for e in model.experts if not of_expert(loras, e)]
    if loras and bare:
        log.warning("note: no LoRA is for %s noise: that transformer runs bare", " and ".join(bare))
    return loras


def _checked(one: Stacked, config: Config, model: VideoModel) -> Stacked:
    """A file whose fitting transformer is known; a wrong one is known before anything is loaded."""
    metadata = lora.read(one.path, model.names).metadata
    if warning := storage_warning(one.path, metadata, config):
        log.warning("note: %s", warning)
    expert = one.expert or str(metadata.get("expert", ""))
    for note in contradictions(one, metadata, model):
        log.warning("note: %s", note)
    names = [each.name for each in model.experts]
    if expert and expert not in names:
        has = f"has {' and '.join(names)}" if names[0] else "has one transformer alone"
        raise UserError(f"{one.path} is for the {expert} noise expert, and this base {has}")
    return Stacked(one.path, one.strength, expert)


def contradictions(one: Stacked, metadata: dict[str, Any], model: VideoModel) -> list[str]:
    """Where what a file says of itself is not what it is used for."""
    family, expert = metadata.get("family"), metadata.get("expert")
    notes = []
    if family and family != model.family:
        notes.append(f"{one.path} was trained on {family}, and this base is {model.family}")
    if expert and one.expert and expert != one.expert:
        notes.append(
            f"{one.path} was trained for {expert} noise, and is used for {one.expert} noise, as set"
        )
    return notes


def of_expert(loras: list[Stacked], expert: Expert) -> list[tuple[Path, float]]:
    """The files that one of the transformers is given, with their strengths."""
    return [(one.path, one.strength) for one in loras if one.expert in ("", expert.name)]


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
    edited: Edit | None,
    edit: str | None,
    model: VideoModel,
    expert: Expert,
) -> Path:
    """The LoRA that was trained for this edit; says where it is behind what is there now.

    Args:
        edited: None counts as an edit without keyframes.

    Raises:
        UserError: it has not been trained.
    """
    stage: Stage = "appearance" if edited is not None and edited.keyframes else "motion"
    turn = Turn(stage, expert)
    run = stages.run_folder(workspace, turn, edit)
    record, adapter = run.read(), run.newest_adapter()
    if record is None or adapter is None:
        name = f" --edit {edit}" if edit else ""
        levels = f" for {expert.name} noise" if expert.name else ""
        raise UserError(
            f"the {stage} stage has not been trained{levels}: python train.py --config "
            f"{workspace.config}{name} (or try the bare base with --lora none)"
        )
    depends = stages.motion_depends(clip, source_caption(workspace, config), config, model)
    if edited is not None and edited.keyframes:
        motion_run = stages.run_folder(workspace, Turn("motion", expert), None)
        motion = stages.adapter_digest(motion_run)
        depends = stages.appearance_depends(clip, edited, config, model, depends, motion)
    changed = stages.changes(record.depends_on, depends)
    if changed := [name for name in changed if name != stages.STORAGE]:  # has a note of its own
        what = ", ".join(changed)
        log.warning("note: the LoRA was trained before %s changed; train again to use that", what)
    steps = stages.steps(config, stage)
    if record.step < steps:
        log.warning("note: the stage (%s) stands at step %d of %d", turn.title, record.step, steps)
    return adapter


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
