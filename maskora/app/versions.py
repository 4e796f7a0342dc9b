"""Versions of a result: the newest, and those that it has taken the place of.

output/[NAME/]                  the newest result
output/[NAME/]001/, 002/, …     earlier ones, the first result first, where `infer --keep` kept them
…/best.star                     an empty file in the best one's folder
"""

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from maskora.app.outputs import RESULT, STAR
from maskora.app.workspace import Workspace, read_record
from maskora.errors import UserError
from maskora.files import remove, write_bytes

STEP = re.compile(r"step-([0-9]{1,9})")
# Tables of the configuration that decide how a result looks.
TELLING = (
    "model", "prompt", "adapter", "optimizer", "motion", "appearance", "training", "inference",
    "transfer", "acceleration",
)  # fmt: skip
SAID_ELSEWHERE = (
    "inference.seed", "inference.loras", "training.checkpoint_every", "training.preview_every",
)  # fmt: skip


class Told(BaseModel):
    """A part of run.json; an earlier program's may lack some, and a stranger's may say anything."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class FileRecord(Told):
    """A file that a result was made from."""

    path: str = ""
    sha256: str | None = None


class InputsRecord(Told):
    """What a result was made from; edited frames by their numbers."""

    edited: dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], FileRecord] = {}
    masks: Any = None
    frames: Any = None


class VersionRecord(Told):
    """What tells two versions apart."""

    config: dict[str, dict[str, Any]] = {}
    seed: int = 0
    loras: list[FileRecord] = []
    inputs: InputsRecord = InputsRecord()
    outputs: dict[str, str] = {}


@dataclass(frozen=True)
class Version:
    """A finished result.

    Attributes:
        number: of its folder; None for the newest.
        made: when, in seconds since 1970.
        nbytes: of its files.
        starred: a person has called it the best.
        settings: how it was made, in a few words.
        changes: what is other than in the version before; empty for the first.
    """

    number: int | None
    folder: Path
    made: float
    nbytes: int
    starred: bool
    settings: str
    changes: tuple[str, ...]


def version_folder(workspace: Workspace, edit: str | None, number: int | None) -> Path:
    """The folder of a version; None is the newest."""
    home = workspace.output_dir(edit, None)
    return home if number is None else home / f"{number:03d}"


def find_versions(workspace: Workspace, edit: str | None) -> list[Version]:
    """Every finished result of an edit, the first one first.

    Raises:
        UserError: a run.json is damaged.
    """
    home = workspace.output_dir(edit, None)
    folders = [(number, version_folder(workspace, edit, number)) for number in kept_numbers(home)]
    found: list[Version] = []
    before: VersionRecord | None = None
    for number, folder in [*folders, (None, home)]:
        path = folder / "run.json"
        if not path.is_file():
            continue
        record = read_record(VersionRecord, path, f"remove {folder}, or put it back")
        files = [folder / name for name in RESULT if (folder / name).is_file()]
        found.append(
            Version(
                number, folder, path.stat().st_mtime, sum(file.stat().st_size for file in files),
                (folder / STAR).is_file(), describe(record),
                () if before is None else tuple(changes(before, record)),
            )
        )  # fmt: skip
        before = record
    return found


def kept_numbers(home: Path) -> list[int]:
    """The numbers of the versions that are kept in a result's folder, in order."""
    folders = home.glob("[0-9]*/") if home.is_dir() else ()
    return sorted(int(path.name) for path in folders if path.name.isdecimal())


def keep_version(folder: Path, new: Path) -> None:
    """Let the result in a folder become a version, once what is in `new` takes its place.

    Nothing is copied where the file system knows second names of a file. A result that is the same
    to the byte is kept once.

    Args:
        new: the complete new result, of an exchange.
    """
    record = folder / "run.json"
    if not record.is_file():
        return
    remedy = f"remove {folder}, or make the result without --keep"
    old, now = (read_record(VersionRecord, one / "run.json", remedy) for one in (folder, new))
    if old.outputs == now.outputs:
        if (folder / STAR).is_file():
            write_bytes(new / STAR, b"")
        return
    number = max(kept_numbers(folder), default=0) + 1
    target = new / f"{number:03d}"
    target.mkdir()
    for name in RESULT:
        if (folder / name).is_file():
            _second_name(folder / name, target / name)


def keep_starred(folder: Path, new: Path) -> None:
    """As `keep_version`, where a person has called the result the best one."""
    if (folder / STAR).is_file():
        keep_version(folder, new)


def _second_name(file: Path, target: Path) -> None:
    try:
        os.link(file, target)
    except OSError:  # this file system knows none
        shutil.copy2(file, target)


def set_star(workspace: Workspace, edit: str | None, number: int | None, starred: bool) -> None:
    """Call a version the best one, or no longer; nothing else of any version changes.

    Raises:
        UserError: there is no such version.
    """
    folder = _existing(workspace, edit, number)
    home = version_folder(workspace, edit, None)
    for other in (home, *(version_folder(workspace, edit, n) for n in kept_numbers(home))):
        if other != folder or not starred:
            remove(other / STAR)
    if starred:
        write_bytes(folder / STAR, b"")


def remove_version(workspace: Workspace, edit: str | None, number: int) -> None:
    """Remove an earlier version from the disk.

    Raises:
        UserError: there is no such version, or it has the star.
    """
    folder = _existing(workspace, edit, number)
    if (folder / STAR).is_file():
        raise UserError(f"{folder} has the star: take that away first, then remove it")
    remove(folder / "run.json")  # what is removed in part is no version
    remove(folder)


def _existing(workspace: Workspace, edit: str | None, number: int | None) -> Path:
    folder = version_folder(workspace, edit, number)
    if not (folder / "run.json").is_file():
        raise UserError(f"{folder} holds no finished result")
    return folder


def describe(record: VersionRecord) -> str:
    """How a version was made: its LoRA, steps and seed."""
    loras = ", ".join(_lora(one) for one in record.loras) or "no LoRA"
    steps = record.config.get("inference", {}).get("steps", "unknown")
    return f"{loras}, {steps} steps, seed {record.seed}"


def changes(before: VersionRecord, now: VersionRecord) -> Iterator[str]:
    """What differs between how two versions were made, a phrase each."""
    yield from _lora_changes(before, now)
    if before.seed != now.seed:
        yield f"seed {now.seed} (was {before.seed})"
    yield from _edit_changes(before.inputs.edited, now.inputs.edited)
    for key, what in (("masks", "another mask"), ("frames", "the clip prepared anew")):
        if getattr(before.inputs, key) != getattr(now.inputs, key):
            yield what
    old, new = _settings(before), _settings(now)
    for name in sorted(old.keys() | new.keys()):
        known = name in old and name in new  # a later program knows more settings
        if known and old[name] != new[name]:
            yield f"{name} {_shown(new.get(name))} (was {_shown(old.get(name))})"


def _lora_changes(before: VersionRecord, now: VersionRecord) -> Iterator[str]:
    if [one.sha256 for one in before.loras] == [one.sha256 for one in now.loras]:
        return
    old, new = (
        ", ".join(_lora(one) for one in record.loras) or "no LoRA" for record in (before, now)
    )
    yield f"{new} (was {old})" if old != new else f"{new}, trained anew"


def _edit_changes(before: dict[str, FileRecord], now: dict[str, FileRecord]) -> Iterator[str]:
    """What was done to the edited frames, by their numbers."""
    for frame in sorted(before.keys() | now.keys(), key=int):
        if frame not in before:
            yield f"frame {frame} edited"
        elif frame not in now:
            yield f"frame {frame} no longer edited"
        elif before[frame].sha256 != now[frame].sha256:
            yield f"frame {frame} edited again"


def _lora(one: FileRecord) -> str:
    """ "motion step 100" of a run's own LoRA; of another one its file's name."""
    path = Path(one.path)
    step, names = STEP.fullmatch(path.parent.name), path.parts[:-2]
    if step is None or not names:
        return path.name
    stage = next((n for n in reversed(names) if n.startswith(("motion", "appearance"))), names[-1])
    return f"{stage} step {int(step[1])}"


def _settings(record: VersionRecord) -> dict[str, Any]:
    """The settings that tell versions apart, by their full names."""
    named = {
        f"{table}.{key}": value
        for table in TELLING
        for key, value in record.config.get(table, {}).items()
    }
    return {name: value for name, value in named.items() if name not in SAID_ELSEWHERE}


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:40]}…"


def disk_use(workspace: Workspace) -> dict[str, int]:
    """Bytes of a workspace by what they are for; a file of two names counts once."""
    parts = {"cache": "cache", "runs": "training", "output": "results"}
    sizes = dict.fromkeys([*parts.values(), "clip"], 0)
    seen: set[tuple[int, int]] = set()
    for folder, _, names in os.walk(workspace.root):
        relative = Path(folder).relative_to(workspace.root).parts
        part = parts.get(relative[0], "clip") if relative else "clip"
        for name in names:
            try:
                stat = os.lstat(os.path.join(folder, name))
            except FileNotFoundError:  # a command has just removed it
                continue
            if (place := (stat.st_dev, stat.st_ino)) not in seen:
                seen.add(place)
                sizes[part] += stat.st_size
    return sizes
