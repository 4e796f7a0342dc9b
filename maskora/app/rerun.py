"""rerun: a result made once more from its run.json, or what is not as it was then."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from maskora.app.infer import Check, infer_into
from maskora.app.workspace import Workspace, read_record
from maskora.config import build_config
from maskora.errors import UserError
from maskora.files import sha256_file

log = logging.getLogger("maskora")
# What a result is made from, and in what sense each is the machine's: then the bytes may differ.
INPUTS, MACHINE = (
    ("prompt", "inputs", "loras", "model"), ("program", "device", "vae_tiling", "versions")
)  # fmt: skip
UNNAMED = {"path", "folder", "origin"}  # where a file lies decides nothing


class Repeated(BaseModel):
    """The part of run.json that a repetition needs; all else is compared as it is."""

    model_config = ConfigDict(frozen=True, extra="allow")

    workspace: Path
    config: dict[str, Any]
    edit: str | None
    seed: int
    loras: list[dict[str, Any]]
    outputs: dict[str, str] = {}


def rerun(file: Path, output: Path | None) -> list[str]:
    """Repeat the run of a run.json; the result takes the place of the one that it describes.

    It is generated anew, whatever is kept of it in the cache.

    Args:
        file: a run.json, in its workspace's output/ or anywhere else.
        output: a copy of edited.mp4.

    Returns:
        for the person, whether the files are the same.

    Raises:
        UserError: the record is damaged, or what the run was made from has changed: a sentence for
            each difference.
    """
    then = read_record(Repeated, file, "only the run.json that infer has written can be repeated")
    workspace = _workspace_of(file, then)
    config = build_config(then.config, [], str(file))
    folder = file.resolve().parent
    if not folder.is_relative_to(workspace.root.resolve() / "output"):
        folder = workspace.output_dir(then.edit, then.seed)
    own = then.loras[: len(then.loras) - len(config.inference.loras)]
    names = [_place(str(one["path"]), then, workspace) for one in own] or ["none"]
    check = _checker(file, then.model_dump(mode="json"))
    folders = {then.seed: folder}
    infer_into(folders, config, workspace, then.edit, output, names, check, again=1)
    return list(_compare(folder, then.outputs))


def _workspace_of(file: Path, then: Repeated) -> Workspace:
    """The workspace around a record, which may have been moved; else the one that it names."""
    around = [Workspace(folder) for folder in file.resolve().parents]
    found = next((one for one in around if one.source_record.is_file()), None)
    return Workspace.open(Path(then.workspace) if found is None else found.root)


def _place(path: str, then: Repeated, workspace: Workspace) -> str:
    """Where a file of the workspace lies now. Raises UserError where there is none."""
    place = Path(path)
    if place.is_relative_to(then.workspace):
        place = workspace.root / place.relative_to(then.workspace)
    if not place.is_file():
        raise UserError(f"the LoRA {place}, with which this was made, is gone: put it back")
    return str(place)


def _checker(file: Path, then: dict[str, Any]) -> Check:
    """What compares a run that is about to begin with the recorded one."""

    def check(record: dict[str, Any]) -> None:
        now = json.loads(json.dumps(record))
        for difference in differences(then, now, MACHINE):
            log.warning("note: %s: the result may differ", difference)
        if changed := list(differences(then, now, INPUTS)):
            lines = [f"  {difference}" for difference in changed]
            raise UserError("\n".join([f"{file} cannot be repeated:", *lines]))

    return check


def differences(then: dict[str, Any], now: dict[str, Any], parts: tuple[str, ...]) -> Iterator[str]:
    """A sentence for each difference of two records; what only one of them knows is no difference.

    Args:
        parts: the records' keys that are compared.
    """
    before, after = (dict(_values({part: one.get(part) for part in parts})) for one in (then, now))
    told = set[str]()
    for name in sorted(before.keys() | after.keys()):
        is_edited = name.startswith("inputs.edited.")
        known = name in before and name in after
        if before.get(name) == after.get(name) or not (known or is_edited):
            continue
        if name.split(".")[0] in MACHINE:
            yield f"{name.removeprefix('versions.')} is {after[name]} here, and was {before[name]}"
        elif (what := _named(name, now)) not in told:
            told.add(what)
            yield f"{what} has changed" if known else f"{what} {_fate(name in after)}"


def _fate(there: bool) -> str:
    return "was not there then" if there else "is not there any more"


def _named(name: str, now: dict[str, Any]) -> str:
    """What a part of a record stands for, for people."""
    part, *rest = name.split(".")
    if part == "loras":
        return f"the LoRA {now['loras'][int(rest[0])]['path']}"
    if part == "model":
        return f"the base's {rest[0]}"
    if rest[:1] == ["edited"]:
        return f"edited frame {rest[1]}"
    known = {"original": "the original video", "frames": "the source (its frames)"}
    known |= {"masks": "the mask (masks/)", "source": "how the clip was prepared"}
    return known.get(rest[0], rest[0]) if rest else f"the {part}"


def _values(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every number and text in nested tables, by the keys that lead to it."""
    items = enumerate(value) if isinstance(value, list) else value.items()
    for key, one in items:
        path = f"{name}.{key}" if name else str(key)
        if isinstance(one, dict | list):
            yield from _values(one, path)
        elif key not in UNNAMED and one is not None:
            yield path, one


def _compare(folder: Path, outputs: dict[str, str]) -> Iterator[str]:
    if not outputs:
        yield "what came out then is not recorded, so it cannot be compared"
        return
    others = [name for name in outputs if sha256_file(folder / name) != outputs[name]]
    if others:
        yield f"not the same bytes as then: {', '.join(others)}"
    else:
        yield f"the same bytes as then: {', '.join(outputs)}"
