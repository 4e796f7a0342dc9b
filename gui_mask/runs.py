"""Training and inference in the background: they outlive the page, and the server."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock
from pydantic import ValidationError

from gui_mask.joblog import Progress, complaint, last_command, last_progress, read_lines
from gui_mask.losses import Losses, read_losses
from gui_mask.processes import start_detached
from gui_mask.supervise import INTERRUPTED, NAMES, Job, What, store, words
from maskora.app.workspace import Workspace
from maskora.errors import Fault, UserError
from maskora.files import patiently, remove
from maskora.system import quoted

Status = Literal["running", "stopping", "done", "failed", "stopped", "lost"]
PATIENCE = 120  # seconds for a command that loads no model
LOST = (
    "ended without a word: it was killed, or the machine was restarted. Start it again: training "
    "goes on from the last saved step"
)


@dataclass(frozen=True)
class RunState:
    """The last work that was started in a workspace.

    Attributes:
        status: "stopping" after `stop`, until it has ended; "lost": it ended without a word.
        what, edit: what was asked for.
        name: the command that runs, or ran last.
        started, ended: seconds since 1970.
        exit_code: of the last command that ended.
        message: how it stands, for the person.
        progress: the running command's last progress bar.
        log: its last lines.
        losses: of each stage that has any.
        result: the edited clip, where this work has made it.
    """

    status: Status
    what: What
    edit: str | None
    name: str
    started: float
    ended: float | None
    exit_code: int | None
    message: str
    progress: Progress | None
    log: tuple[str, ...]
    losses: tuple[Losses, ...]
    result: Path | None

    @property
    def is_active(self) -> bool:
        """Whether something still runs."""
        return self.status in ("running", "stopping")


def commands(workspace: Workspace, edit: str | None, what: What = "both") -> list[str]:
    """What a person would type for the same, quoted for a shell."""
    return [quoted(*words(workspace, name, edit)) for name in NAMES[what]]


def check_text(workspace: Workspace, edit: str | None) -> str:
    """What `maskora check` says. Raises UserError with what is to be mended."""
    further = [] if edit is None else ["--edit", edit]
    return _answer(["check", "--config", str(workspace.config), *further])


def plan_text(workspace: Workspace) -> str:
    """What `maskora plan` says for this machine. Raises UserError where it cannot fit."""
    return _answer(["plan", "--config", str(workspace.config)])


def start(workspace: Workspace, what: What, edit: str | None) -> RunState:
    """Check, and start the commands in a process of their own.

    Raises:
        UserError: something is to be mended first, or something runs already.
        Fault: the process could not be started.
    """
    if what != "train":
        _ = workspace.find_edits(edit, workspace.read_source().frames).first
    check_text(workspace, edit)
    further = [] if edit is None else [edit]
    program = [sys.executable, "-P", "-m", "gui_mask.supervise"]  # -P: nothing from the folder here
    supervise = [*program, str(workspace.root), what, *further]
    with _alone(workspace):
        job = _read_job(workspace)
        if job is not None and _status(workspace, job) in ("running", "stopping"):
            raise UserError(
                f"{workspace.root}: {_title(job)} runs already; stop it, or wait until it has ended"
            )
        with workspace.job_log.open("ab") as out:
            begun = out.tell()
            remove(workspace.stops_dir)  # they were for an earlier work
            has_begun = start_detached(supervise, out.fileno())
    if not has_begun:
        reason = complaint(read_lines(workspace.job_log, begun))
        raise Fault(f"{workspace.root}: the work could not be started ({reason})")
    state = read(workspace)
    assert state is not None
    return state


def stop(workspace: Workspace, at_once: bool = False) -> RunState | None:
    """Interrupt what runs, as Ctrl-C does: training finishes and saves the step in hand.

    Args:
        at_once: interrupt again what is stopping already: the step in hand is given up.

    Returns:
        how it stands: "stopping" until the command has ended. None where nothing ever ran.
    """
    with _alone(workspace):
        job = _read_job(workspace)
        if job is None:
            return None
        status = _status(workspace, job)
        if status == "running" or (status == "stopping" and at_once):
            if job.supervisor.lives:
                _ask_to_stop(workspace)
            elif job.command is not None:
                job.command.interrupt()
                store(workspace, job.model_copy(update={"asked_to_stop": True}))
    return read(workspace)


def read(workspace: Workspace, log_lines: int = 40) -> RunState | None:
    """How the last work stands; None where none was started. Reads files alone."""
    job = _read_job(workspace)
    if job is None:
        return None
    status = _status(workspace, job)
    lines = read_lines(workspace.job_log, job.log_from)
    own = last_command(lines)
    progress = last_progress(own)
    return RunState(
        status=status,
        what=job.what,
        edit=job.edit,
        name=job.name,
        started=job.started,
        ended=job.ended,
        exit_code=job.exit_code,
        message=_message(job, status, own, progress),
        progress=progress,
        log=tuple(lines[-log_lines:]),
        losses=tuple(read_losses(workspace, job.edit)),
        result=_result(workspace, job),
    )


def _ask_to_stop(workspace: Workspace) -> None:
    """One file more, which the supervising process sees; empty, as the disk may be full."""
    workspace.stops_dir.mkdir(exist_ok=True)
    asked = len(list(workspace.stops_dir.glob("*")))
    (workspace.stops_dir / str(asked + 1)).touch()


def _read_job(workspace: Workspace) -> Job | None:
    path = workspace.job_record
    try:
        return Job.model_validate_json(patiently(path.read_bytes, path))
    except FileNotFoundError:
        return None
    except ValidationError:
        raise UserError(
            f"{path} is damaged: remove it, and what it tells of is forgotten"
        ) from None


def _status(workspace: Workspace, job: Job) -> Status:
    """A record says "running" for ever when its process was killed: so that is looked at too."""
    if job.status != "running":
        return job.status
    asked = job.asked_to_stop or any(workspace.stops_dir.glob("*"))
    if job.supervisor.lives or (job.command is not None and job.command.lives):
        return "stopping" if asked else "running"
    return "stopped" if asked else "lost"


def _message(job: Job, status: Status, lines: list[str], progress: Progress | None) -> str:
    title = _title(job)
    if status == "done":
        return f"{title} is done"
    if status == "lost":
        return f"{title} {LOST}"
    if status == "failed":
        killed = -(job.exit_code or 0)
        if killed > 0 and -killed not in INTERRUPTED:
            name = signal.Signals(killed).name
            return f"{title} was killed from outside ({name}); often the memory was full"
        return f"{title} failed: {complaint(lines)}"
    saved = "; started again, training goes on from the last saved step"
    if status == "stopped":
        return f"{title} was stopped{saved if job.name == 'train' else ''}"
    if status == "stopping":
        waits = ": the step in hand is finished and saved first" if job.name == "train" else ""
        return f"{title} is being stopped{waits}"
    return progress.told if progress else next((line for line in reversed(lines) if line), title)


def _title(job: Job) -> str:
    of = "" if job.edit is None else f" of {job.edit}"
    return f"{'training' if job.name == 'train' else 'inference'}{of}"


def _result(workspace: Workspace, job: Job) -> Path | None:
    """run.json is written last, as the sign that all of a result is there."""
    folder = workspace.output_dir(job.edit, None)
    record, video = folder / "run.json", folder / "edited.mp4"
    if "infer" not in NAMES[job.what] or not (record.is_file() and video.is_file()):
        return None
    return video if record.stat().st_mtime >= job.started else None


@contextmanager
def _alone(workspace: Workspace) -> Iterator[None]:
    """Two pages that press the same button do so one after the other."""
    workspace.job_lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(workspace.job_lock):
        yield


def _answer(arguments: list[str]) -> str:
    """What a command prints. Raises UserError or Fault with its message."""
    command = [sys.executable, "-P", "-m", "maskora", *arguments]
    try:
        said = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, check=False,
            encoding="utf-8", errors="replace", env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Fault(f"{quoted(*command)} has not answered in {PATIENCE} seconds") from None
    if said.returncode:
        reason = complaint(said.stderr.splitlines())
        raise UserError(reason) if said.returncode == 2 else Fault(reason)
    return said.stdout
