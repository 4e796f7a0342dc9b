"""export: a trained LoRA, or anybody's, as a file for other programs."""

import os
from pathlib import Path

from maskora import lora
from maskora.commands.trained import Given, trained_loras
from maskora.errors import UserError
from maskora.lora import LoraWeights
from maskora.models import FAMILIES, names_of
from maskora.models.names import Names
from maskora.workspace import Workspace

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
