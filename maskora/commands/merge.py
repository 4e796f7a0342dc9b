"""export --merge: a base with a LoRA in its weights, as a folder of its own."""

import logging
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from maskora import lora
from maskora.commands.export import check_output, find, names_for
from maskora.commands.stages import base_digest
from maskora.commands.trained import Given
from maskora.errors import UserError
from maskora.files import is_hidden, lies_in, move
from maskora.hub import find_file, locate
from maskora.models import VideoModel, open_model, open_source
from maskora.models.source import DiffusersFolder, Source

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
