"""Training and inference in the background: they outlive the page, and the window's server.

One job at a time works on this machine; others wait in the queue (`gui_mask.waiting`), and the
process that has run a job begins the next.

A workspace's last job is described by files alone: runs/job.json (how it stands), runs/job.log
(what its commands said), runs/progress.jsonl (how far the running one is) and the metrics.jsonl of
each stage. `gui_mask.supervisor` is the process that runs the commands and writes the first two.
"""

import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
from filelock import FileLock
from pydantic import BaseModel, ConfigDict, ValidationError

from gui_mask.waiting import Ticket, Work, changing_queue, read_queue
from maskora.app.edits import find_edits
from maskora.app.plan import TimePart
from maskora.app.workspace import PREVIEW, Workspace, working
from maskora.config import load_config
from maskora.config.tables import Stage
from maskora.errors import Fault, UserError
from maskora.files import patiently, read_small, remove, write_text
from maskora.progress import State, read_state
from maskora.system import quoted
from maskora.training.report import read_metrics, smoothed

Command = Literal["preview", "train", "infer"]
Status = Literal["running", "stopping", "done", "failed", "stopped", "lost"]
COMMANDS: dict[Work, tuple[Command, ...]] = {
    "preview": ("preview",), "train": ("train",), "infer": ("infer",), "both": ("train", "infer"),
}  # fmt: skip
TITLES: dict[Command, str] = {"preview": "preview", "train": "training", "infer": "generation"}
MADE: dict[Command, tuple[str, ...]] = {  # the clip, and what else says that it is whole
    "preview": (PREVIEW,), "train": (), "infer": ("edited.mp4", "run.json"),
}  # fmt: skip
TASKS: dict[Command, tuple[str, ...]] = {  # of a plan's times
    "preview": (), "train": ("motion", "preview", "appearance"), "infer": ("denoise",),
}  # fmt: skip
SEGMENT = re.compile(r"segment ([0-9]+) of ([0-9]+)")
STAGES: tuple[Stage, ...] = ("motion", "appearance")
PATIENCE = 120  # seconds for a command that loads no model
LOG_LINES = 14
MOST_BYTES = 256 * 1024  # of the end of a log: older lines are not looked at
log = logging.getLogger("maskora")
COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
LOST = (
    "exited unexpectedly: it was killed, or the machine was restarted. Start it again: training "
    "goes on from the last saved step"
)

# On Windows, a process that is to be interrupted apart from this one is a group of its own, and
# only Ctrl-Break reaches such a group, on the console that both have. One that is to outlive the
# console of the program that starts it has another, which is not shown.
GROUP = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
OWN_CONSOLE = getattr(subprocess, "CREATE_NO_WINDOW", 0)
INTERRUPT: int = getattr(signal, "CTRL_BREAK_EVENT", signal.SIGINT)
# What a command ends with after Ctrl-C: it said so itself; it had not begun to listen (Windows has
# a number for that).
INTERRUPTED = (130, -INTERRUPT, 0xC000013A)


class Process(BaseModel):
    """One process, which no later one with the same number is taken for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pid: int
    born: str

    @property
    def lives(self) -> bool:
        return identify(self.pid) == self

    def interrupt(self) -> None:
        """Ask it to end, as Ctrl-C does; on Windows, whose consoles keep programs apart, end it."""
        try:
            process = psutil.Process(self.pid)
            if INTERRUPT == signal.SIGINT:
                process.send_signal(INTERRUPT)
                return
            for one in (*process.children(recursive=True), process):
                one.kill()
        except psutil.NoSuchProcess:
            return  # it has just ended by itself


class Job(BaseModel):
    """runs/job.json: the last work that was started, and how it stands.

    Attributes:
        what, edit: what was asked for.
        started, ended: seconds since 1970.
        status: as the supervising process last wrote it.
        supervisor: that process.
        name: the command that runs, or ran last.
        command: its process.
        asked_to_stop: it was interrupted.
        exit_code: of the last command that ended.
        log_from: where in the log this work begins, in bytes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    what: Work
    edit: str | None
    started: float
    ended: float | None = None
    status: Literal["running", "done", "failed", "stopped"] = "running"
    supervisor: Process
    name: Command
    command: Process | None = None
    asked_to_stop: bool = False
    exit_code: int | None = None
    log_from: int = 0

    @property
    def title(self) -> str:
        """ "training", "generation of hat"."""
        return TITLES[self.name] + ("" if self.edit is None else f" of {self.edit}")


@dataclass(frozen=True)
class JobState:
    """How the last job of a workspace stands.

    Attributes:
        status: "stopping" after `stop`, until it has ended; "lost": it exited unexpectedly.
        message: the same in a sentence for the person.
        progress: how far the running command is.
        log: the last lines.
        losses: steps with their smoothed losses, by stage; of a base with two transformers, by
            stage and transformer.
        result: the edited clip, or its preview, where this job has made it.
    """

    job: Job
    status: Status
    message: str
    progress: State | None
    log: tuple[str, ...]
    losses: dict[str, list[tuple[int, float]]]
    result: Path | None

    @property
    def is_active(self) -> bool:
        return self.status in ("running", "stopping")


def argv(workspace: Workspace, name: Command, edit: str | None) -> list[str]:
    """A command as a person would type it."""
    how = {"train": ["--stage", "all", "--resume"], "infer": ["--keep"], "preview": []}[name]
    return ["maskora", name, "--config", str(workspace.config), *how, *_options(edit)]


def commands(workspace: Workspace, edit: str | None, what: Work = "both") -> list[str]:
    """What a person would type for the same, quoted for a shell."""
    return [quoted(*argv(workspace, name, edit)) for name in COMMANDS[what]]


def _options(edit: str | None) -> list[str]:
    return [] if edit is None else ["--edit", edit]


class Forecast(BaseModel):
    """What `maskora plan` says of an edit on this machine.

    Attributes:
        text: as it prints it.
        times: all steps, in order.
    """

    model_config = ConfigDict(frozen=True)

    text: str
    times: tuple[TimePart, ...]


def forecast(workspace: Workspace, edit: str | None) -> Forecast:
    """Ask `maskora plan`. Raises UserError where it cannot fit."""
    where = ["--config", str(workspace.config), *_options(edit)]
    return Forecast.model_validate_json(_output("plan", *where, "--json"))


def seconds_left(times: Sequence[TimePart], state: JobState) -> float | None:
    """How long a job still takes; None where a step of it was never measured here.

    Args:
        times: of the whole edit, as `forecast` has them.
    """
    commands, now = COMMANDS[state.job.what], state.progress
    if commands == ("preview",):
        return None if now is None else now.eta
    wanted = {task for name in commands for task in TASKS[name]}
    share, left = 1.0, 0.0
    for part in times:
        share = share if part.task == "preview" else _share_left(part, state)
        if part.task not in wanted or not share or not part.steps:
            continue
        if part.seconds is None:
            return None
        left += share * part.steps * part.seconds
    return left


def _share_left(part: TimePart, state: JobState) -> float:
    """The share of such steps that a job has still to take."""
    now, trains = state.progress, state.job.name == "train"
    task = "" if now is None or now.part == "preview" else now.task.partition(" ")[0]
    if now is not None and now.total and task == part.task:
        share = 1 - now.done / now.total
        found = SEGMENT.fullmatch(now.part)
        place, count = (int(found[1]), int(found[2])) if found else (1, 1)
        return (count - place + share) / count
    if part.task == "denoise":
        return 1.0
    if not trains or (part.task == "motion" and task == "appearance"):
        return 0.0
    taken = state.losses.get(part.task, []) if part.task == "motion" else []
    return max(0.0, 1 - taken[-1][0] / part.steps) if taken else 1.0


def start(workspace: Workspace, what: Work, edit: str | None) -> JobState | None:
    """Check, and start the commands in a process of their own, or let them wait for their turn.

    One job at a time works on this machine. Where a thing is to be removed, they make the first
    frame that is missing.

    Returns:
        how the workspace's last job stands: this one, where it need not wait.

    Raises:
        UserError: something is wrong that a person can put right, or the same runs, or waits,
            already.
        Fault: the process could not be started.
    """
    if what != "train" and load_config(workspace.config).motion.task != "remove":
        _ = find_edits(workspace, edit, workspace.read_source().frames).first
    _output("check", "--config", str(workspace.config), *_options(edit))
    ticket = Ticket.of(workspace.root, what, edit)
    with changing_queue() as queue:
        _refuse_again(ticket, queue.waiting)
        if queue.waiting or (queue.latest is not None and _works(queue.latest)):
            queue.waiting.append(ticket)
        else:
            _begin(ticket)
            queue.latest = ticket.root
    return read(workspace)


def advance() -> None:
    """Begin the job that waits longest, where none works on this machine.

    Whoever sees that a job has ended calls this. One whose workspace is gone is forgotten; one
    whose workspace another program works in waits on, and lets later ones go before it.
    """
    if not read_queue().waiting:
        return
    with changing_queue() as queue:
        for ticket in [*queue.waiting]:
            if queue.latest is not None and _works(queue.latest):
                return
            try:
                _begin(ticket)
                queue.latest = ticket.root
            except UserError as error:
                log.info("%s waits on: %s", ticket.root, error)
                continue
            except (Fault, OSError) as error:
                log.warning("%s: its job cannot be begun: %s", ticket.root, error)
            queue.waiting.remove(ticket)


def withdraw(name: str) -> None:
    """Take a job out of the queue, if it still waits."""
    with changing_queue() as queue:
        queue.waiting = [ticket for ticket in queue.waiting if ticket.name != name]


def _refuse_again(ticket: Ticket, waiting: list[Ticket]) -> None:
    """Raises UserError where the same runs or waits already."""
    title = TITLES[COMMANDS[ticket.what][0]] + ("" if ticket.edit is None else f" of {ticket.edit}")
    if any(ticket.is_like(other) for other in waiting):
        raise UserError(f"{ticket.root}: {title} waits in the queue already")
    job = _read_job(Workspace(ticket.root))
    is_same = job is not None and (job.what, job.edit) == (ticket.what, ticket.edit)
    if is_same and _works(ticket.root):
        raise UserError(f"{ticket.root}: {title} runs already; stop it, or wait until it has ended")


def _works(root: Path) -> bool:
    """Whether a workspace's job is under way; of a damaged record nobody knows."""
    workspace, job = Workspace(root), None
    with suppress(UserError):
        job = _read_job(workspace)
    return job is not None and _status(workspace, job) in ("running", "stopping")


def _begin(ticket: Ticket) -> None:
    """Start a job's commands in a process of their own.

    Raises:
        UserError: another program works in its workspace.
        Fault: the process could not be started, or the workspace is gone.
    """
    workspace = Workspace(ticket.root)
    if not workspace.source_record.is_file():
        raise Fault(f"{ticket.root} is no prepared workspace any more")
    further = [] if ticket.edit is None else [ticket.edit]
    program = [sys.executable, "-P", "-m", "gui_mask.supervisor"]  # -P: nothing from this folder
    with _alone(workspace):
        if _works(ticket.root):
            raise UserError(f"{workspace.root}: a job runs here already")
        with working(workspace):  # else what is started here would be refused
            pass
        with workspace.job_log.open("ab") as out:
            begun = out.tell()
            remove(workspace.stops_dir)  # they were for an earlier job
            command = [*program, str(workspace.root), ticket.what, *further]
            has_begun = start_detached(command, out.fileno())
    if not has_begun:
        reason = complaint(tail(workspace.job_log, begun))
        raise Fault(f"{workspace.root}: the work could not be started ({reason})")


def stop(workspace: Workspace, at_once: bool = False) -> JobState | None:
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


def read(workspace: Workspace) -> JobState | None:
    """How the last job stands; None where none was started. Reads files alone."""
    job = _read_job(workspace)
    if job is None:
        return None
    status = _status(workspace, job)
    lines = tail(workspace.job_log, job.log_from)
    path = workspace.job_progress
    progress = patiently(lambda: read_state(path), path)  # it may just be removed
    return JobState(
        job=job,
        status=status,
        message=_message(job, status, _of_last_command(lines), progress),
        progress=progress,
        log=tuple(lines[-LOG_LINES:]),
        losses=_losses(workspace, job.edit),
        result=_result(workspace, job) if status == "done" else None,
    )


def result(workspace: Workspace, edit: str | None) -> Path | None:
    """The newest whole clip of an edit, its result or a preview; None where there is none."""
    made = [_made(workspace, name, edit) for name in MADE]
    clips = [path for path in made if path is not None]
    return max(clips, key=lambda path: path.stat().st_mtime_ns, default=None)


def store(workspace: Workspace, job: Job) -> None:
    """Write runs/job.json."""
    write_text(workspace.job_record, job.model_dump_json(indent=2) + "\n")


def tail(path: Path, start: int = 0) -> list[str]:
    """The last lines of a log, from a byte on, without colours; of an overwritten one, the last."""
    if not path.is_file():
        return []
    with path.open("rb") as file:
        begin = max(start, file.seek(0, 2) - MOST_BYTES)
        file.seek(begin)
        raw = file.read().decode("utf-8", "replace").split("\n")
    lines = [COLOURS.sub("", line).rstrip("\r").rpartition("\r")[2].rstrip() for line in raw]
    lines = lines if begin == start else lines[1:]  # the first may be cut
    return lines if lines[-1] else lines[:-1]


def complaint(lines: list[str]) -> str:
    """Why a command failed, in its own words: its last message, else its last line."""
    starts = [number for number, line in enumerate(lines) if line.startswith("maskora: ")]
    if starts:
        return "\n".join(lines[starts[-1] :]).removeprefix("maskora: ")
    return next((line for line in reversed(lines) if line), "it said nothing")


def identify(pid: int) -> Process | None:
    """A living process: by number and time of birth. None: there is none."""
    try:
        process = psutil.Process(pid)
        if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return None
        born = process.create_time()
    except (psutil.NoSuchProcess, psutil.AccessDenied):  # the second: it is nobody's of ours
        return None
    if psutil.LINUX:  # it counts from the machine's start, whatever becomes of the clock
        born -= psutil.boot_time()
    return Process(pid=pid, born=f"{born:.2f}")


def start_detached(command: list[str], errors: int) -> bool:
    """Start a process that outlives this one and its terminal, and wait until it says a line.

    Args:
        errors: the file descriptor for what it says on stderr.

    Returns:
        whether it said one; False: it has exited without.
    """
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
        creationflags=GROUP | OWN_CONSOLE, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    with process.stdout:
        has_begun = bool(process.stdout.readline())
    # Whoever has started a process must ask how it ended, or it stays as a zombie.
    threading.Thread(target=process.wait, name=f"wait-{process.pid}", daemon=True).start()
    return has_begun


def _ask_to_stop(workspace: Workspace) -> None:
    """One file more, which the supervising process sees; empty, as the disk may be full."""
    workspace.stops_dir.mkdir(exist_ok=True)
    asked = len(list(workspace.stops_dir.glob("*")))
    (workspace.stops_dir / str(asked + 1)).touch()


def _read_job(workspace: Workspace) -> Job | None:
    path = workspace.job_record
    try:
        return Job.model_validate_json(read_small(path))
    except FileNotFoundError:
        return None
    except (IsADirectoryError, ValidationError):
        raise UserError(f"{path} is damaged: remove it, and its job is forgotten") from None


def _status(workspace: Workspace, job: Job) -> Status:
    """A record says "running" for ever when its process was killed: so that is looked at too."""
    if job.status != "running":
        return job.status
    asked = job.asked_to_stop or any(workspace.stops_dir.glob("*"))
    if job.supervisor.lives or (job.command is not None and job.command.lives):
        return "stopping" if asked else "running"
    return "stopped" if asked else "lost"


def _of_last_command(lines: list[str]) -> list[str]:
    starts = [number for number, line in enumerate(lines) if line.startswith("$ maskora ")]
    return lines[starts[-1] + 1 :] if starts else lines


def _message(job: Job, status: Status, lines: list[str], progress: State | None) -> str:
    title = job.title
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
    return progress.text if progress else next((line for line in reversed(lines) if line), title)


def _losses(workspace: Workspace, edit: str | None) -> dict[str, list[tuple[int, float]]]:
    """The loss of each stage that has taken a step."""
    files = {t: path for stage in STAGES for t, path in workspace.metrics(stage, edit).items()}
    entries = {title: read_metrics(path) for title, path in files.items()}
    return {
        title: [*zip([e.step for e in steps], smoothed([e.loss for e in steps]), strict=True)]
        for title, steps in entries.items()
        if steps
    }


def _result(workspace: Workspace, job: Job) -> Path | None:
    """The clip that a job has made."""
    return _made(workspace, COMMANDS[job.what][-1], job.edit)


def _made(workspace: Workspace, name: Command, edit: str | None) -> Path | None:
    """What a command has made of an edit; of a result, run.json is written last."""
    folder = workspace.output_dir(edit, None)
    made = [folder / file for file in MADE[name]]
    return made[0] if made and all(path.is_file() for path in made) else None


@contextmanager
def _alone(workspace: Workspace) -> Iterator[None]:
    """Two pages that press the same button do so one after the other."""
    workspace.job_lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(workspace.job_lock):
        yield


def has_lora(workspace: Workspace, edit: str | None) -> bool:
    """Whether anything was trained of a clip, or of one of its edits."""
    files = [path for stage in STAGES for path in workspace.metrics(stage, edit).values()]
    return any(any(path.parent.glob("step-*")) for path in files)


def carry(workspace: Workspace, edit: str | None, frame: int) -> None:
    """Carry an edit's look to a later frame, in a process of its own, which is waited for.

    Raises:
        UserError: it cannot be done.
        Fault: it did not succeed.
    """
    where = [str(workspace.root), "--frame", str(frame)]
    _output("edit-frame", *where, "--carry", *_options(edit), patience=None)


def _output(*arguments: str, patience: float | None = PATIENCE) -> str:
    """What a command prints. Raises UserError or Fault with its message."""
    command = [sys.executable, "-P", "-m", "maskora", *arguments]
    try:
        result = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=patience, check=False,
            encoding="utf-8", errors="replace", env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Fault(f"{quoted(*command)} has not answered in {patience} seconds") from None
    if result.returncode:
        reason = complaint(result.stderr.splitlines())
        raise UserError(reason) if result.returncode == 2 else Fault(reason)
    return result.stdout
