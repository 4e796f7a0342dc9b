"""export: a LoRA as a file for other programs, or in the weights of a copy of its base."""

import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskora import lora
from maskora.app.captions import source_caption
from maskora.app.edits import find_edits, load_clip, load_edit
from maskora.app.fingerprints import (
    LoraChoice,
    base_digest,
    run_folder,
    stage_run,
    trained_lora,
    warn_unfinished,
)
from maskora.app.workspace import Workspace
from maskora.config import Config, load_config
from maskora.config.tables import Stage
from maskora.errors import UserError
from maskora.files import is_hidden, lies_in, move, refuse_inputs, scratch_folder
from maskora.hub import find_file, find_local, is_hub_id, locate, locate_cached
from maskora.lora import LoraWeights
from maskora.models.files.folder import DiffusersFolder
from maskora.models.files.model_files import ModelFiles, resolve_base
from maskora.models.names import Names
from maskora.models.registry import (
    FAMILIES,
    Expert,
    VideoModel,
    names_of,
    open_model,
    open_source,
)
from maskora.training.loop import StageRun
from maskora.training.run_folder import RunFolder

log = logging.getLogger("maskora")
SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Trained:
    """Which LoRA of a workspace.

    Attributes:
        edit: the name of the edit.
        overrides, preset: what changed the settings when it was trained.
    """

    edit: str | None = None
    overrides: Sequence[str] = ()
    preset: str | None = None

    def config(self, workspace: Workspace) -> Config:
        """The settings that it was trained with. Raises UserError."""
        return load_config(workspace.config, list(self.overrides), self.preset)


def export_lora(
    source: Path, output: Path, layout: str, which: Trained, family: str | None, overwrite: bool
) -> Iterator[str]:
    """Write the LoRA of a workspace, or a LoRA file, in a layout.

    Args:
        source: a workspace, of which the edit's LoRA is taken, or a file.
        layout: one of `lora.LAYOUTS`.
        which: of the workspace's.
        family: the kind of base, for files that do not say it.
        overwrite: files that are there may be replaced.

    Yields:
        what was written, in lines for the person.

    Raises:
        UserError: there is no LoRA, or it cannot be written so.
    """
    given = _find_loras(source, which)
    targets = [_target(output, one.expert) for one in given]
    _check_output(output)
    for target in targets:
        if target.exists() and not overwrite:
            raise UserError(f"{target} exists already: choose another name, or add --overwrite")
    refuse_inputs(targets, _read(source, which, given))
    for one, target in zip(given, targets, strict=True):
        names = _names_for(one.path, family)
        weights = lora.read(one.path, names)
        lora.write(target, weights, layout, names)
        yield from _describe(target, weights, layout)


def _read(source: Path, which: Trained, given: list[LoraChoice]) -> Iterator[Path]:
    """The files from which a LoRA is made, and those of its base and its workspace."""
    home, bases, files = Path.cwd(), set[str](), set[str]()
    yield from (one.path for one in given)
    if source.is_dir():
        workspace, home = Workspace(source), source
        yield from workspace.given_files(workspace.read_source().origin)
        folders = (workspace.runs_dir, workspace.cache_dir)
        yield from (path for folder in folders for path in folder.rglob("*") if path.is_file())
        config = which.config(workspace)
        bases.add(config.model.path)
        files.update(
            [*config.model.files.values(), *(item.path for item in config.inference.loras)]
        )
    for one in given:
        metadata = lora.read_metadata(one.path)
        bases.add(str(metadata.get("base", "")))
        named = metadata.get("files")
        files.update(map(str, named.values()) if isinstance(named, dict) else [])
    yield from (found for name in files if (found := find_file(name, home)))
    for base in bases - {""}:
        if folder := find_local(base, home):
            yield from folder.rglob("*.safetensors")


def merge_lora(source: Path, output: Path, which: Trained) -> Iterator[str]:
    """Write the base that a LoRA was trained on with the LoRA in it; whole or not at all.

    Args:
        source: a workspace, or a LoRA file of maskora's.
        which: of the workspace's LoRAs.
        output: the folder to make, in diffusers' layout.

    Yields:
        what was done, in lines for the person.

    Raises:
        UserError: the base is not there or is laid out otherwise, or the LoRA does not fit it.
    """
    if output.exists() or output.is_symlink():
        raise UserError(f"{output} exists already: name a folder that is to be made")
    _check_output(output)
    given = _find_loras(source, which)
    first = given[0].path
    metadata = lora.read_metadata(first)
    found = _find_base(metadata, first, source if source.is_dir() else Path.cwd())
    model = open_model(str(metadata["family"]), found, "float32", "cpu")
    _warn_of_differences(metadata, model, first)
    parts = {_part(model, one): one.path for one in given}
    output.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(output.parent, "merge") as scratch:
        built = scratch / output.name
        _link_others(found.where, built, parts)
        for part, path in parts.items():
            weights = lora.read(path, _names_for(path, None))
            count = lora.merge(weights, path, found.where / part, built / part)
            yield f"{path}: added to {count} tensors of {part}"
        open_model(str(metadata["family"]), built, "float32", "cpu")  # refuses an incomplete one
        move(built, output)
    yield f"{output}: the merged base, in diffusers' layout"


def _find_loras(source: Path, which: Trained) -> list[LoraChoice]:
    """The LoRA files of a workspace, one per transformer of its base; or the file itself.

    Raises:
        UserError: one is not there.
    """
    if not source.is_dir():
        if which != Trained():
            raise UserError(
                f"--edit, --set and --preset belong to a workspace, which {source} is not"
            )
        return [LoraChoice(source)]
    return _trained_loras(Workspace.open(source), which)


def _trained_loras(workspace: Workspace, which: Trained) -> list[LoraChoice]:
    """One LoRA per transformer of the configured base; warns where one is outdated.

    Raises:
        UserError: the workspace or the edit is not complete, or a transformer has no LoRA yet.
    """
    config, edit = which.config(workspace), which.edit
    files = find_edits(workspace, edit, workspace.read_source().frames)
    stage: Stage = "appearance" if files.keyframes else "motion"
    try:
        model = _configured_base(config, workspace)
    except UserError as reason:
        _warn_uncompared(reason)
        names = _recorded_experts(workspace, config, stage, edit)
        return _recorded(workspace, [stage_run(config, stage, Expert(one)) for one in names], edit)
    runs = [stage_run(config, stage, expert) for expert in model.experts]
    _check_trained(workspace, runs, edit)
    try:
        clip = load_clip(workspace, config)
        edited = load_edit(workspace, config, clip, edit) if files.keyframes else None
        source_caption(workspace, config)
    except UserError as reason:
        _warn_uncompared(reason)
        return _recorded(workspace, runs, edit)
    return [trained_lora(workspace, config, clip, edited, edit, model, run) for run in runs]


def _configured_base(config: Config, workspace: Workspace) -> VideoModel:
    """The base, if it is on this machine: for a LoRA's sake nothing is fetched."""
    table = config.model
    if is_hub_id(table.path) and find_local(table.path, workspace.root) is None:
        table = table.model_copy(update={"path": str(locate_cached(table.path))})
    return open_model(table.family, resolve_base(table, workspace.root), table.dtype, "cpu")


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


def _recorded(workspace: Workspace, runs: Sequence[StageRun], edit: str | None) -> list[LoraChoice]:
    """The runs' newest LoRAs as they are; says where a run has not come to its end."""
    _check_trained(workspace, runs, edit)
    given = []
    for run in runs:
        folder = run_folder(workspace, run, edit)
        record, adapter = folder.read(), folder.newest_adapter()
        assert record is not None
        assert adapter is not None
        warn_unfinished(run, record.step)
        given.append(LoraChoice(adapter, expert=run.expert.name))
    return given


def _check_trained(workspace: Workspace, runs: Sequence[StageRun], edit: str | None) -> None:
    """Every run has left a LoRA. Raises UserError with all that have not."""
    missing = [run.title for run in runs if run_folder(workspace, run, edit).read() is None]
    if missing:
        name = f" --edit {edit}" if edit else ""
        raise UserError(
            f"{workspace.root} holds no trained LoRA of {' and '.join(missing)}: "
            f"python train.py --config {workspace.config}{name}"
        )


def _warn_uncompared(reason: UserError) -> None:
    log.warning(
        "note: whether the LoRA belongs to what is there now was not looked at, because %s", reason
    )


def _check_output(output: Path) -> None:
    """Check that a path can be written. Raises UserError."""
    nearest = next(parent for parent in output.parents if parent.exists())
    if not nearest.is_dir():
        raise UserError(f"{output}: {nearest} is a file, not a folder")


def _names_for(path: Path, family: str | None) -> Names:
    """The module names of the kind of base that a LoRA is for: as the file says, else the person.

    Raises:
        UserError: neither says it, or they contradict each other.
    """
    recorded = lora.read_metadata(path).get("family")
    if recorded not in (None, *FAMILIES):
        raise UserError(f"{path} is for {recorded!r}, a kind of base that is not known here")
    if recorded and family and names_of(recorded) is not names_of(family):
        raise UserError(f"--family {family}: {path} says that it is for {recorded}")
    either: str | None = recorded or family
    if either is None:
        known = ", ".join(FAMILIES)
        raise UserError(f"{path} does not say for which base it is: --family, one of {known}")
    return names_of(either)


def _target(output: Path, expert: str) -> Path:
    """The file of one LoRA: that of an expert has its name. Raises UserError."""
    if output.suffix != SUFFIX:
        raise UserError(f"{output}: other programs know LoRA files by their end, {SUFFIX}")
    return output.with_stem(f"{output.stem}-{expert}") if expert else output


def _describe(path: Path, weights: LoraWeights, layout: str) -> list[str]:
    ranks = sorted({update.rank for update in weights.updates.values()})
    kinds = [f"{len(weights.updates)} modules of rank {ranks[0]}"] if ranks else []
    if len(ranks) > 1:
        kinds = [f"{kinds[0]} to {ranks[-1]}"]
    if weights.differences:
        kinds.append(f"{len(weights.differences)} differences of weights")
    size = path.stat().st_size / 2**20
    lines = [f"{path}: {layout} layout, {', '.join(kinds)}, {size:.1f} MB"]
    if layout == "musubi" and not any(".ff" in module for module in weights.updates):
        lines.append(
            "note: diffusers cannot read this file: its converter of this layout expects "
            "feed-forward layers, and the LoRA has none. For diffusers there is --layout diffusers"
        )
    return lines


def _find_base(metadata: dict[str, Any], path: Path, relative_to: Path) -> ModelFiles:
    """The base that a LoRA's record names."""
    _names_for(path, None)
    if "base" not in metadata:
        raise UserError(f"{path} does not say which base it was trained on: it cannot be merged")
    base = str(metadata["base"])
    if metadata.get("files") or find_file(base, relative_to):
        raise UserError(
            f"{path} was trained on a base of single files ([model] files), and only a base that "
            f"is a folder in diffusers' layout can be merged into"
        )
    found = open_source(locate(base, relative_to, key=f"the base of {path}"))
    if not isinstance(found, DiffusersFolder):
        raise UserError(f"{found.where}: only a base in diffusers' layout can be merged into")
    return found


def _warn_of_differences(metadata: dict[str, Any], model: VideoModel, path: Path) -> None:
    """Log how the base differs from the one that the LoRA was trained on."""
    if metadata.get("base_hash") != base_digest(str(metadata.get("dtype")), model):
        log.warning(
            "note: %s was trained on other weights than those that are there now (%s)",
            path, metadata["base"],
        )  # fmt: skip
    if (storage := metadata.get("storage", "same")) != "same":
        log.warning("note: %s was trained against %s weights; these are not", path, storage)


def _part(model: VideoModel, given: LoraChoice) -> str:
    """The part of the base that a LoRA belongs to."""
    expert = given.expert or lora.read_metadata(given.path).get("expert", "")
    parts = {one.name: one.part for one in model.experts}
    if expert not in parts:
        raise UserError(f"{given.path} is for the {expert} noise expert, which this base lacks")
    return parts[expert]


def _link_others(root: Path, target: Path, merged: Collection[str]) -> None:
    """All files but those of merged parts, which keep what describes their weights."""
    described = [path for part in merged for path in (root / part).glob("*.json")]
    for path in [*described, *_files(root, merged)]:
        place = target / path.relative_to(root)
        place.parent.mkdir(parents=True, exist_ok=True)
        lora.link(path, place)


def _files(folder: Path, without: Collection[str] = ()) -> Iterator[Path]:
    """The files of a folder and of those in it, linked ones too, but hidden ones."""
    for path in sorted(folder.iterdir()):
        if is_hidden(path) or path.name in without:
            continue
        if path.is_file():
            yield path
        elif path.is_dir() and not lies_in(folder, path):
            yield from _files(path)
