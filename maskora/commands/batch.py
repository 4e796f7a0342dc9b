"""batch: many edits in turn, each in a process of its own, so that a failing one stops no other."""

import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from maskora.commands.children import INTERRUPTED, run_maskora, told_crash
from maskora.errors import UserError
from maskora.files import is_hidden, write_text
from maskora.workspace import IMAGE_SUFFIXES

VIDEOS = ("video.mp4", "video.mov", "video.mkv", "video.webm")
EDITED = tuple(f"edited{suffix}" for suffix in IMAGE_SUFFIXES)
PLACES = ("box.txt", "clicks.txt", "mask")
SEE = "maskora batch --help"


@dataclass(frozen=True)
class Line:
    """A row of the table at the end; `last` is the output, or what went wrong."""

    job: str
    done: bool
    seconds: float
    last: str


def run_batch(words: Sequence[str]) -> None:
    """Run every job of a folder.

    Args:
        words: the command line after `maskora batch`.

    Raises:
        UserError: the line is wrong; then nothing has begun.
        typer.Exit: with 1 where jobs have failed, with 130 where they were interrupted.
    """
    jobs, out, common = read_line(words)
    out.mkdir(parents=True, exist_ok=True)
    lines: list[Line] = []
    interrupted = False
    for job in jobs:
        log = out / f"{job.name}.log"
        print(f"batch: {job.name} (log: {log})", flush=True)
        started = time.monotonic()
        output = out / f"{job.name}.mp4"
        status = run_job(job, output, log, common)
        last = last_line(log) if status else str(output)
        lines.append(Line(job.name, not status, time.monotonic() - started, last))
        interrupted = status == INTERRUPTED
        if interrupted:
            break
    print(render(lines), flush=True)
    if interrupted or not all(line.done for line in lines):
        raise typer.Exit(INTERRUPTED if interrupted else 1)


def read_line(words: Sequence[str]) -> tuple[list[Path], Path, list[str]]:
    """The jobs' folders in the order of their names, the folder of results, options for all.

    Raises:
        UserError: a word is too much or missing, or there are no jobs.
    """
    end = list(words).index("--") if "--" in words else len(words)
    folders, common = list(words[:end]), list(words[end + 1 :])
    if options := [word for word in folders if word.startswith("-")]:
        raise UserError(f"unknown option {options[0]}: options for every job come after -- ({SEE})")
    if len(folders) not in (1, 2):
        raise UserError(f"expected JOBS_DIR [OUT_DIR], got {len(folders)} of them ({SEE})")
    if not Path(folders[0]).is_dir():
        raise UserError(f"no such folder: {folders[0]}")
    home = Path(os.path.abspath(folders[0]))
    out = Path(folders[1]) if len(folders) == 2 else home.with_name(f"{home.name}-out")
    if out.exists() and not out.is_dir():
        raise UserError(f"the results go into a folder, and {out} is a file")
    jobs = sorted(path for path in home.iterdir() if path.is_dir() and path.name[0] != ".")
    jobs = [job for job in jobs if job.resolve() != out.resolve()]
    if not jobs:
        raise UserError(f"no job (no sub-folder) in {home}")
    return jobs, out, common


def run_job(job: Path, output: Path, log: Path, common: Sequence[str]) -> int:
    """Run `maskora edit` on a job's folder, its words going into `log`: its exit status."""
    try:
        words = collect(job, output, common)
    except UserError as error:
        write_text(log, f"maskora: {error}\n")
        return 2
    with log.open("wb") as file:
        status = run_maskora(["edit", *words], file)
        if crash := told_crash("edit", status):
            file.write(f"maskora: {crash}\n".encode())
    return status


def collect(job: Path, output: Path, common: Sequence[str]) -> list[str]:
    """What `maskora edit` is given for the job in a folder. Raises UserError."""
    video = one_of(job, "video", VIDEOS)
    edited = one_of(job, "edited frame", EDITED)
    places = [(name, path) for name in PLACES for path in _named(job, name)]
    if len(places) != 1:
        raise UserError("expected one of box.txt, clicks.txt and the folder mask")
    (name, place), options = places[0], []
    words = [str(video), str(edited), str(output)]
    if name == "box.txt":
        words.insert(1, "".join(read_text(place).split()))
    elif name == "clicks.txt":
        options = [word for line in read_lines(place) for word in ("--click", line)]
    else:
        options = ["--mask", str(place)]
    words += [*options, "--workspace", str(output.with_suffix(".work")), *common]
    for option in ("caption", "edited_caption"):
        for path in _named(job, f"{option}.txt"):
            words += [f"--{option.replace('_', '-')}", read_text(path).strip()]
    for folder in _named(job, "keyframes"):
        for image in sorted(folder.iterdir()):
            if not is_hidden(image):
                words += ["--keyframe", f"{image.stem}={image}"]
    for path in _named(job, "options.txt"):
        words += [word for line in read_lines(path) for word in line.split(maxsplit=1)]
    return words


def one_of(job: Path, what: str, names: Sequence[str]) -> Path:
    """The one file there is of these names. Raises UserError where there is none, or several."""
    found = [path for name in names for path in _named(job, name) if path.is_file()]
    if len(found) != 1:
        raise UserError(f"expected one {what}, found {len(found)} (of {' '.join(names)})")
    return found[0]


def _named(job: Path, name: str) -> list[Path]:
    """What has this name, in whatever case: VIDEO.MP4 is video.mp4 on every system."""
    return sorted(path for path in job.iterdir() if path.name.lower() == name)


def read_lines(path: Path) -> list[str]:
    """A text's lines, without empty ones and comments."""
    lines = (line.strip() for line in read_text(path).splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def read_text(path: Path) -> str:
    """A small text in UTF-8, with a byte order mark or without. Raises UserError."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is no UTF-8 text ({error.reason} at byte {error.start}): save it as UTF-8"
        ) from None


def last_line(log: Path) -> str:
    """The last thing a log says, also where progress bars were drawn over one another."""
    text = log.read_text(encoding="utf-8", errors="replace")
    lines = [line.strip() for line in re.split(r"[\r\n]", text) if line.strip()]
    return lines[-1] if lines else f"nothing was said: {log} is empty"


def render(lines: Sequence[Line]) -> str:
    """The table at the end."""
    rows = [("job", "result", "seconds", "output, or what went wrong")]
    rows += [
        (line.job, "ok" if line.done else "failed", f"{line.seconds:.0f}", line.last)
        for line in lines
    ]
    return "\n" + "\n".join(f"{a:<24} {b:<7} {c:>8}  {d}" for a, b, c, d in rows)
