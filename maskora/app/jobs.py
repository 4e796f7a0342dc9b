"""jobs.toml: many edits in one file, checked as a whole, as command lines of `maskora edit`."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, ValidationError

from maskora.app.batch_results import ResultsFolder
from maskora.app.edit_line import (
    FOR_PREPARE,
    OPTIONS,
    parse_edit_line,
    results_of,
    split_words,
    words_of,
    workspace_problems,
)
from maskora.app.line_inputs import input_files
from maskora.app.remote import is_remote, open_store
from maskora.config.tables import Table
from maskora.config.toml import parse_toml
from maskora.errors import UserError
from maskora.files import read_text, refuse_inputs

SEE_BATCH = "maskora batch --help"
NAME = re.compile(r"\w[\w.-]*")
# Keys that are options of edit by the same name, and what a workspace has from its preparation.
AS_OPTIONS = ("base", "frames", "size", "fps", "caption", "edited_caption", "preset", "device")
PREPARED = ("box", "mask", *AS_OPTIONS[:6])


class BatchJob(NamedTuple):
    """One edit of a batch.

    Attributes:
        output: the edited video: a path, or a URL.
        words: after `maskora edit`.
        problem: why it cannot begin; empty where it can.
    """

    name: str
    output: str
    words: list[str]
    problem: str = ""


class JobDefaults(Table):
    """[defaults]: what every job has that does not say otherwise, as options of `maskora edit`."""

    base: str | None = None
    frames: int | Literal["all"] | None = None
    size: str | None = None
    fps: str | None = None
    caption: str | None = None
    edited_caption: str | None = None
    preset: str | None = None
    device: str | None = None
    set: tuple[str, ...] = Field(default=(), strict=False)
    seeds: tuple[int, ...] = Field(default=(), strict=False)


class JobTable(JobDefaults):
    """[[job]]: a video, where the edit is, and edited frames by their number, of which 0 is one.

    A workspace that is prepared takes the place of the video, and has all that already.
    """

    name: str
    video: str | None = None
    edits: dict[str, str] = Field(default={})
    box: list[int] | None = Field(default=None, min_length=4, max_length=4)
    clicks: tuple[str, ...] = Field(default=(), strict=False)
    mask: str | None = None
    workspace: str | None = None


class JobsFile(Table):
    """A whole jobs.toml."""

    defaults: JobDefaults = JobDefaults()
    job: list[JobTable] = Field(min_length=1)


def jobs_of_file(
    words: list[str], scratch: Path | None = None
) -> tuple[list[BatchJob], ResultsFolder]:
    """The jobs of `JOBS.toml [OUT_DIR] [-- options]`, and the folder of results. Raises UserError.

    Options after -- go before a job's own, which win.

    Args:
        scratch: as of `ResultsFolder`.
    """
    end = words.index("--") if "--" in words else len(words)
    names, common = words[:end], words[end + 1 :]
    if len(names) > 2 or any(name.startswith("-") for name in names):
        raise UserError(f"expected JOBS.toml [OUT_DIR], got {' '.join(names)} ({SEE_BATCH})")
    path = Path(names[0])
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    place = names[1] if len(names) == 2 else str(path.with_name(f"{path.stem}-out"))
    results = ResultsFolder.at(place, scratch)
    jobs = read_jobs(path, results, common)
    logs = [results.folder / f"{job.name}.log" for job in jobs]
    written = [
        *logs,
        *(path for job in jobs for path in results_of(parse_edit_line(job.words)).values()),
    ]
    refuse_inputs(written, [path, *(file for job in jobs for file in input_files(job.words))])
    return jobs, results


def read_jobs(path: Path, out: ResultsFolder, common: Sequence[str] = ()) -> list[BatchJob]:
    """The jobs of a jobs.toml; paths in it count from its folder, but that of `device` and `set`.

    Args:
        common: options for every job, over which its own win.

    Raises:
        UserError: with every mistake in it.
    """
    content = parse_toml(read_text(path), str(path))
    try:
        file = JobsFile.model_validate(content)
    except ValidationError as error:
        # A union tells each of its branches' mistakes.
        items = [item for item in error.errors() if not str(item["loc"][-1]).startswith("literal[")]
        raise _refused(path, [_explain(item, content) for item in items]) from None
    home = path.absolute().parent
    names = [table.name.lower() for table in file.job]
    mistakes = [f"two jobs are named {name!r}" for name in sorted(set(names))
                if names.count(name) > 1]  # fmt: skip
    jobs = []
    for table in file.job:
        found = _mistakes(table, home)
        if not found:
            jobs.append(_job(table, file.defaults, home, out, common))
            found = _line_mistakes(jobs[-1])
        mistakes += [f"job {table.name!r}: {mistake}" for mistake in found]
    mistakes = mistakes or _same_results(jobs)
    if mistakes:
        raise _refused(path, mistakes)
    return jobs


def _refused(path: Path, mistakes: list[str]) -> UserError:
    count = f"{len(mistakes)} mistake{'s' if len(mistakes) > 1 else ''}"
    return UserError("\n".join([f"{path}: {count}", *(f"  {mistake}" for mistake in mistakes)]))


def _explain(item: Any, content: dict[str, Any]) -> str:
    """One pydantic error as a line for a person."""
    *outer, key = item["loc"]
    place = "jobs.toml"
    fields: list[str] = list(JobsFile.model_fields)
    if outer[:1] == ["defaults"]:
        place, fields = "[defaults]", list(JobDefaults.model_fields)
    elif outer[:1] == ["job"] and len(outer) > 1:
        table = content["job"][outer[1]]
        name = table.get("name") if isinstance(table, dict) else None
        place = f"job {name!r}" if name else f"[[job]] {outer[1] + 1}"
        fields = list(JobTable.model_fields)
    if item["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(key), fields, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        return f"{place}: unknown key {key!r}: {hint}valid: {', '.join(fields)}"
    if item["type"] == "missing":
        return f"{place}: {key!r} is missing"
    return f"{place}: {'.'.join(map(str, item['loc'][2:] or item['loc']))}: {item['msg'].lower()}"


def _mistakes(table: JobTable, home: Path) -> list[str]:
    """What is wrong with a job, beyond the types of its values."""
    mistakes = []
    if not NAME.fullmatch(table.name):
        mistakes.append("a name has letters, digits, '_', '-' and '.', and begins with no sign")
    if table.video is not None:
        given = [table.box is not None, bool(table.clicks), table.mask is not None]
        if sum(given) != 1:
            mistakes.append("give one of box, clicks and mask")
        if "0" not in table.edits:
            mistakes.append('edits has no frame 0: edits = { 0 = "edited.png" }')
    elif table.workspace is None:
        mistakes.append("give a video, or a workspace that is prepared")
    elif useless := [key for key in PREPARED if getattr(table, key) is not None]:
        mistakes.append(
            f"{', '.join(useless)}: the workspace is prepared, and keeps what it has: leave that "
            f"out, or give the video too, for a workspace that is to be made"
        )
    if odd := [frame for frame in table.edits if not re.fullmatch("[0-9]+", frame)]:
        mistakes.append(f"edits: {', '.join(odd)}: frames are numbers")
    if any(seed < 0 for seed in table.seeds):
        mistakes.append("seeds are whole numbers from 0")
    return mistakes + _missing(table, home)


def _missing(table: JobTable, home: Path) -> list[str]:
    """Files that are not there. What lies in a store is looked for when the job's turn comes."""
    mistakes = []
    paths = {"video": table.video, "mask": table.mask,
             **{f"edits.{frame}": path for frame, path in table.edits.items()}}  # fmt: skip
    for key, path in paths.items():
        if path is None:
            continue
        if is_remote(path):
            try:
                open_store(path)
            except UserError as error:
                mistakes.append(f"{key}: {error}")
        elif not (home / path).exists():
            mistakes.append(f"{key}: no such file: {home / path}")
    return mistakes + [
        f"{key}: {path}: it lies on a disk, in no store"
        for key, path in (("workspace", table.workspace), ("base", table.base))
        if path is not None and is_remote(path)
    ]


def _at(home: Path, path: str) -> str:
    """A path of jobs.toml, from its folder; a URL as it is."""
    return path if is_remote(path) else str(home / path)


def _line_mistakes(job: BatchJob) -> list[str]:
    """What is wrong with a job's line, and with its workspace where it names one and no video."""
    try:
        line = parse_edit_line(job.words)
    except UserError as error:
        return [str(error)]
    return [] if line.video else workspace_problems(line)


def _same_results(jobs: Sequence[BatchJob]) -> list[str]:
    """Jobs that would write over each other's results: one named walk-seed-1 and walk's seed 1."""
    makes: dict[str, str] = {}
    mistakes = []
    for job in jobs:
        for path in results_of(parse_edit_line(job.words)).values():
            first = makes.setdefault(path.name.lower(), job.name)
            if first != job.name:
                mistakes.append(f"job {job.name!r}: {path.name} is a result of job {first!r} too")
    return mistakes


def _job(
    table: JobTable, defaults: JobDefaults, home: Path, out: ResultsFolder, common: Sequence[str]
) -> BatchJob:
    """The command line of a checked job; its own options win over those for every job."""
    output = out.name(f"{table.name}.mp4")
    words = [output]
    if table.video is not None:
        box = [] if table.box is None else [",".join(map(str, table.box))]
        words = [_at(home, table.video), *box, _at(home, table.edits["0"]), output]
    work = None if table.workspace is None else ["--workspace", str(home / table.workspace)]
    own = out.workspace_words(table.name) if work is None else work
    own += [word for click in table.clicks for word in ("--click", click)]
    own += [] if table.mask is None else ["--mask", _at(home, table.mask)]
    for frame, path in sorted(table.edits.items(), key=lambda edit: int(edit[0])):
        if int(frame) or table.video is None:
            own += ["--keyframe", f"{int(frame)}={_at(home, path)}"]
    for key in AS_OPTIONS:
        value = getattr(table, key) if getattr(table, key) is not None else getattr(defaults, key)
        if value is not None:
            value = str(home / value) if key == "base" else str(value)
            own.append(f"--{key.replace('_', '-')}={value}")
    own += [f"--set={setting}" for setting in (*defaults.set, *table.set)]
    if seeds := table.seeds or defaults.seeds:
        own.append(f"--seed={','.join(map(str, seeds))}")
    given = split_words(own)[1]
    if table.video is not None:
        return BatchJob(table.name, output, [*words, *common, *words_of(given, *OPTIONS)])
    # What is said for every job of its preparation is for those that are not prepared.
    kept = [name for name in OPTIONS if name not in FOR_PREPARE]
    words += [*words_of(split_words(common)[1], *kept), *words_of(given, *kept)]
    return BatchJob(table.name, output, words)
