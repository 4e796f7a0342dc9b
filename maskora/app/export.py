"""export --merge: a base with a LoRA in its weights, as a folder of its own."""

import logging
import os
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from maskora import lora
from maskora.app.fingerprints import base_digest
from maskora.app.loras import Given, trained_loras
from maskora.app.workspace import Workspace
from maskora.errors import UserError
from maskora.files import is_hidden, lies_in, move
from maskora.hub import find_file, locate
from maskora.lora import LoraWeights
from maskora.models.files.folder import DiffusersFolder
from maskora.models.files.source import Source
from maskora.models.names import Names
from maskora.models.registry import FAMILIES, VideoModel, names_of, open_model, open_source

SUFFIX = ".safetensors"


def export_lora(
    source: Path, output: Path, layout: str, edit: str | None, family: str | None, overwrite: bool
) -> None:
    """Write the LoRA of a workspace, or a LoRA file, in a layout.

    Args:
        source: a workspace, of which the edit's LoRA is taken, or a file.
        edit: of a workspace: the name of the edit.
        family: the kind of base, for files that do not say it.
        overwrite: files that are there may be replaced.

    Raises:
        UserError: there is no LoRA, or it cannot be written so.
    """
    if layout not in lora.LAYOUTS:
        raise UserError(f"--layout {layout}: choose {', '.join(lora.LAYOUTS)}")
    given = find(source, edit)
    targets = [_target(output, one.expert) for one in given]
    check_output(output)
    for target in targets:
        if target.exists() and not overwrite:
            raise UserError(f"{target} exists already: choose another name, or add --overwrite")
    for one, target in zip(given, targets, strict=True):
        names = names_for(one.path, family)
        weights = lora.read(one.path, names)
        lora.write(target, weights, layout, names)
        print(_told(target, weights, layout))


def find(source: Path, edit: str | None) -> list[Given]:
    """The LoRA files of a workspace, one per transformer of its base; or the file itself.

    Raises:
        UserError: one is not there.
    """
    if not source.is_dir():
        if edit is not None:
            raise UserError(f"--edit {edit} belongs to a workspace, and {source} is none")
        return [Given(source)]
    return trained_loras(Workspace(source), edit)


def check_output(output: Path) -> None:
    """A path can be written and told. Raises UserError."""
    try:
        str(output).encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{os.fsencode(output)!r} is no text in UTF-8: choose another name"
        ) from None
    nearest = next(parent for parent in output.parents if parent.exists())
    if not nearest.is_dir():
        raise UserError(f"{output}: {nearest} is a file, not a folder")


def names_for(path: Path, family: str | None) -> Names:
    """The table of the kind of base that a LoRA is for: what the file says, else the person.

    Raises:
        UserError: neither does, or they contradict each other.
    """
    known = ", ".join(FAMILIES)
    if family is not None and family not in FAMILIES:
        raise UserError(f"--family {family}: choose one of {known}")
    told = lora.read_metadata(path).get("family")
    if told not in (None, *FAMILIES):
        raise UserError(f"{path} is for {told!r}, a kind of base that is not known here")
    if told and family and names_of(told) is not names_of(family):
        raise UserError(f"--family {family}: {path} says that it is for {told}")
    either: str | None = told or family
    if either is None:
        raise UserError(f"{path} does not say for which base it is: --family, one of {known}")
    return names_of(either)


def _target(output: Path, expert: str) -> Path:
    """Where one LoRA goes: that of an expert has its name."""
    if output.suffix != SUFFIX:
        raise UserError(f"{output}: other programs know LoRA files by their end, {SUFFIX}")
    return output.with_stem(f"{output.stem}-{expert}") if expert else output


def _told(path: Path, weights: LoraWeights, layout: str) -> str:
    """What was written."""
    ranks = sorted({update.rank for update in weights.updates.values()})
    kinds = [f"{len(weights.updates)} modules of rank {ranks[0]}"] if ranks else []
    if len(ranks) > 1:
        kinds = [f"{kinds[0]} to {ranks[-1]}"]
    if weights.differences:
        kinds.append(f"{len(weights.differences)} differences of weights")
    told = f"{path}: {layout} layout, {', '.join(kinds)}, {path.stat().st_size / 2**20:.1f} MB"
    if layout == "musubi" and not any(".ff" in module for module in weights.updates):
        told += (
            "\nnote: diffusers cannot read this file: its converter of this layout expects "
            "feed-forward layers, and the LoRA has none. For diffusers there is --layout diffusers"
        )
    return told


log = logging.getLogger("maskora")


def merge_lora(source: Path, output: Path, edit: str | None) -> None:
    """Write the base that a LoRA was trained on with the LoRA in it; whole or not at all.

    Args:
        source: a workspace, of which the edit's LoRA is taken, or a LoRA file of maskora's.
        output: the folder to make, in diffusers' layout.

    Raises:
        UserError: the base is not there or is laid out otherwise, or the LoRA does not fit it.
    """
    if output.exists() or output.is_symlink():
        raise UserError(f"{output} exists already: name a folder that is to be made")
    check_output(output)
    given = find(source, edit)
    metadata = lora.read_metadata(given[0].path)
    found = _find_base(metadata, given[0].path, source if source.is_dir() else Path.cwd())
    model = open_model(str(metadata["family"]), found, "float32", "cpu")
    _tell_differences(metadata, model, given[0].path)
    parts = {_part(model, one): one for one in given}
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".merge-") as scratch:
        built = Path(scratch) / output.name
        _link_others(found.where, built, parts)
        for part, one in parts.items():
            weights = lora.read(one.path, names_for(one.path, None))
            count = lora.merge(weights, one.path, found.where / part, built / part)
            print(f"{one.path}: added to {count} tensors of {part}")
        open_model(str(metadata["family"]), built, "float32", "cpu")  # refuses an incomplete one
        move(built, output)
    print(f"{output}: the merged base, in diffusers' layout")


def _find_base(metadata: dict[str, Any], path: Path, relative_to: Path) -> Source:
    """The base that a LoRA's record names."""
    names_for(path, None)
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


def _tell_differences(metadata: dict[str, Any], model: VideoModel, path: Path) -> None:
    """Say where the base is not quite what the LoRA has learned on."""
    if metadata.get("base_hash") != base_digest(str(metadata.get("dtype")), model):
        log.warning(
            "note: %s was trained on other weights than those that are there now (%s)",
            path, metadata["base"],
        )  # fmt: skip
    if (storage := metadata.get("storage", "same")) != "same":
        log.warning("note: %s was trained against %s weights; these are not", path, storage)


def _part(model: VideoModel, given: Given) -> str:
    """Which of the base's transformers a LoRA belongs to."""
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
