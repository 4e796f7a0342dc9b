"""batch: many edits, by some workers, and the record of how far they are."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from maskora import devices
from maskora.app.batch_page import NAME, JobRecord, read_record, write_page, write_record
from maskora.app.batch_results import ResultsFolder
from maskora.app.edit_line import Say, parse_edit_line, place_of, results_of, split_words
from maskora.app.job_folders import folder_job, parse_batch_line
from maskora.app.jobs import SEE_BATCH, BatchJob, jobs_of_file
from maskora.app.line_inputs import inputs_digest
from maskora.app.locks import held_alone
from maskora.app.processes import (
    INTERRUPTED,
    crash_message,
    last_line,
    passing_on_signals,
    start_maskora,
)
from maskora.app.remembered import known_sha256
from maskora.app.remote import find_version, is_remote
from maskora.errors import Fault, UserError
from maskora.files import remove, write_text
from maskora.system import explain, printable


def run_batch(words: Sequence[str], say: Say) -> int:
    """Run every job of a jobs.toml or of a folder; a finished job is not done again.

    Args:
        words: the command line after `maskora batch`.

    Returns:
        0 where all jobs are done, 1 where some have failed, 130 where they were interrupted.

    Raises:
        UserError: the line or jobs.toml is wrong; then nothing has begun.
    """
    words, own = split_batch_words(words)
    if words and Path(words[0]).suffix.lower() == ".toml":
        jobs, out = jobs_of_file(words, own.scratch)
    else:
        folders, out, common = parse_batch_line(words, own.scratch)
        jobs = [folder_job(folder, out, common) for folder in folders]
    jobs = [own.with_scratch(job) for job in jobs[own.part - 1 :: own.parts]]
    with _filling(out.folder, own.suffix):
        out.pull()
        if own.ray is None:
            return Batch(jobs, out, LocalWorkers(devices_of_workers(own.workers)), say, own).run()
        if importlib.util.find_spec("ray") is None:
            raise UserError("--ray needs Ray: pip install 'maskora[cluster]'")
        from maskora.app.ray_cluster import cluster

        with cluster(own.ray, len(jobs)) as workers:
            return Batch(jobs, out, workers, say, own).run()


@contextmanager
def _filling(folder: Path, part: str) -> Iterator[None]:
    """Hold a folder of results, or a part's share of it. Raises UserError: another batch does."""
    folder.mkdir(parents=True, exist_ok=True)
    lock, holder = (folder / f".{NAME}{part}.{what}" for what in ("lock", "holder"))
    busy = f"another maskora batch fills {folder}{{}}: wait until it has ended, or stop it there"
    with held_alone(lock, holder, busy):
        yield


@dataclass(frozen=True)
class BatchOptions:
    """Batch's own options: --workers, --ray ADDRESS, --watch, --scratch DIR, and --part I/N."""

    workers: int | None = None
    ray: str | None = None
    watch: bool = False
    scratch: Path | None = None
    part: int = 1
    parts: int = 1

    def with_scratch(self, job: BatchJob) -> BatchJob:
        """A job that is told where it keeps copies of what lies in stores."""
        told = ["--scratch", str(self.scratch)] if self.scratch and job.words else []
        return job._replace(words=[*job.words, *told])

    @property
    def suffix(self) -> str:
        """Of the record's name: parts that run side by side write none together."""
        return f"-{self.part}-of-{self.parts}" if self.parts > 1 else ""


def split_batch_words(words: Sequence[str]) -> tuple[list[str], BatchOptions]:
    """The line without batch's own options, and these. Raises UserError."""
    end = list(words).index("--") if "--" in words else len(words)
    own, rest, found = iter(words[:end]), [], BatchOptions()
    for word in own:
        name, sign, value = word.partition("=")
        if word == "--watch":
            found = replace(found, watch=True)
        elif name == "--part":
            value = value if sign else next(own, "")
            numbers = re.fullmatch(r"([1-9][0-9]{0,5})/([1-9][0-9]{0,5})", value)
            if numbers is None or int(numbers[1]) > int(numbers[2]):
                raise UserError(f"--part is written I/N, I from 1 to N, not {value!r}")
            found = replace(found, part=int(numbers[1]), parts=int(numbers[2]))
        elif name == "--workers":
            value = value if sign else next(own, "")
            if not re.fullmatch(r"[1-9][0-9]{0,3}", value):
                raise UserError(f"--workers is a number from 1, not {value!r} ({SEE_BATCH})")
            found = replace(found, workers=int(value))
        elif name in ("--ray", "--scratch"):
            if not (value := value if sign else next(own, "")):
                raise UserError(f"{name} needs a value ({SEE_BATCH})")
            is_ray = name == "--ray"
            found = replace(found, ray=value) if is_ray else replace(found, scratch=Path(value))
        else:
            rest.append(word)
    if found.ray is not None and found.workers is not None:
        raise UserError("--workers is for this machine alone: with --ray, the cluster decides")
    return [*rest, *words[end:]], found


def devices_of_workers(workers: int | None) -> list[str | None]:
    """What CUDA_VISIBLE_DEVICES says for each worker: one per GPU; None: as it is.

    Args:
        workers: as asked for; by default as many as there are GPUs, and one without any.
    """
    count = len(devices.gpus())
    if workers is None and count < 2:
        return [None]
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = told.split(",")[:count] if told else [str(index) for index in range(count)]
    return [names[number % count] if count else None for number in range(workers or count)]


class Running(Protocol):
    """A job under way.

    Attributes:
        seconds: that it has worked, without what it waited for its turn.
    """

    seconds: float

    def poll(self) -> int | None:
        """Its exit status; None while it is under way."""

    def terminate(self) -> None:
        """Ask it to save what it has, and to end."""


class Workers(Protocol):
    """What runs jobs.

    Attributes:
        count: jobs that are under way at a time.
        pause: seconds between two looks at them.
        told: signals to this process that jobs have to be told of.
    """

    count: int
    pause: float
    told: Sequence[int]

    def start(self, words: Sequence[str], log: Path, worker: int) -> Running:
        """Begin `maskora edit WORDS…`.

        Args:
            worker: which of `count`; none of its jobs is under way.
        """


class LocalProcess:
    """A job as a process of this machine."""

    def __init__(self, child: "subprocess.Popen[bytes]") -> None:
        self.child, self.since, self.seconds = child, time.monotonic(), 0.0

    def poll(self) -> int | None:
        self.seconds = round(time.monotonic() - self.since, 3)
        return self.child.poll()

    def terminate(self) -> None:
        self.child.terminate()


class LocalWorkers:
    """This machine's GPUs, or its processor."""

    pause = 0.05
    told: Sequence[int] = (signal.SIGTERM,)  # Ctrl-C reaches them by itself

    def __init__(self, gpus: list[str | None]) -> None:
        self.gpus, self.count = gpus, len(gpus)

    def start(self, words: Sequence[str], log: Path, worker: int) -> LocalProcess:
        gpu = None if split_words(words)[1]["--device"] else self.gpus[worker]
        with log.open("wb") as file:
            return LocalProcess(start_maskora(["edit", *words], file, gpu))


class Batch:
    """The jobs of a batch, run by some workers, and the record of how far they are."""

    def __init__(
        self,
        jobs: list[BatchJob],
        results: ResultsFolder,
        workers: Workers,
        say: Say,
        options: BatchOptions,
    ) -> None:
        earlier = read_record(results.folder)
        self.jobs, self.workers, self.say = jobs, workers, say
        self.results, self.out = results, results.folder
        self.unsent: set[Path] = set()  # what the store has not taken yet
        self.live = options.watch and sys.stdout.isatty()
        self.part = options.suffix
        self.records = {
            job.name: before
            if (
                before := next(
                    (one for one in earlier.get(job.name, []) if one.status == "ok"), None
                )
            )
            else JobRecord(name=job.name, output=job.output)
            for job in jobs
        }
        self.begun: list[str] = []
        self.earlier = earlier
        self.running: dict[int, tuple[BatchJob, Running, StageReader]] = {}  # by worker
        self.drawn = 0

    def run(self) -> int:
        """Run what is not done; returns batch's exit status."""
        waiting, changed, told = list(self.jobs), False, self.workers.told
        with passing_on_signals(told) as (received, children), self._ending_all():
            while (waiting and not received) or self.running:
                free = [n for n in range(self.workers.count) if n not in self.running]
                while waiting and free and not received:
                    if started := self._begin(waiting.pop(0), free[0]):
                        free.pop(0)
                        children.append(started)
                        if set(received) & set(told):  # before there was anybody to pass it on to
                            started.terminate()
                        self._write_record()
                changed = self._collect(interrupted=bool(received))
                self._draw()
                if self.running and not changed:
                    time.sleep(self.workers.pause)
            interrupted = bool(received)
        return self._end(interrupted)

    @contextmanager
    def _ending_all(self) -> Iterator[None]:
        """Where this process cannot go on (the disk is full, say), no job is left to run alone."""
        try:
            yield
        finally:
            left = [running for _, running, _ in self.running.values()]
            for running in left:
                running.terminate()
            while [running for running in left if running.poll() is None]:
                time.sleep(self.workers.pause)

    def _begin(self, job: BatchJob, worker: int) -> Running | None:
        """Start a job's process; None where it is done already, or cannot begin."""
        record = JobRecord(name=job.name, output=job.output)
        self.records[job.name], log = record, self.out / f"{job.name}.log"
        self.begun.append(job.name)
        if job.problem:
            self._refuse(record, log, job.problem)
            return None
        try:
            inputs = inputs_digest(job.words)
            done = [one for one in self.earlier.get(job.name, []) if is_done(one, inputs)]
        except (UserError, Fault) as error:
            self._refuse(record, log, str(error))
            return None
        except OSError as error:
            self._refuse(record, log, explain(error))
            return None
        if done:
            now = {"status": "ok", "message": "", "output": job.output}
            self.records[job.name] = done[0].model_copy(update=now)
            self.say(f"batch: {job.name} is done already")
            return None
        self.say(f"batch: {job.name} (log: {log})")
        remove(log)  # an earlier one may be a link
        log.touch()
        running = self.workers.start(job.words, log, worker)
        self.running[worker] = job, running, StageReader(log)
        record.status, record.inputs = "running", inputs
        return running

    def _refuse(self, record: JobRecord, log: Path, problem: str) -> None:
        """Write down why a job cannot begin; what an earlier run has made of it stays."""
        for earlier in self.earlier.get(record.name, []):
            if earlier.outputs:
                record.inputs, record.outputs = earlier.inputs, earlier.outputs
        write_text(log, f"maskora: {problem}\n")
        record.status, record.message = "failed", last_line(log)
        self._publish(log)

    def _collect(self, *, interrupted: bool) -> bool:
        """Look at the processes; returns whether one has ended."""
        ended = []
        for worker, (job, running, log) in list(self.running.items()):
            record, status = self.records[job.name], running.poll()
            record.stage, record.seconds = log.stage(), running.seconds
            if status is not None:
                del self.running[worker]
                self._finish(job, INTERRUPTED if interrupted and status else status)
                ended.append(job)
        if ended:
            self._publish(self._write_record())
        return bool(ended)

    def _finish(self, job: BatchJob, status: int) -> None:
        """Write down what became of a job."""
        record, log = self.records[job.name], self.out / f"{job.name}.log"
        if crash := crash_message("edit", status):
            with log.open("ab") as file:
                file.write(f"maskora: {crash}\n".encode())
        record.status = "failed" if status else "ok"
        record.message = last_line(log) if status else ""
        if status == 0:
            line = parse_edit_line(job.words)
            places = [place_of(line, result) for result in results_of(line).values()]
            try:
                contents = {place: content_of(place) for place in places}
                record.outputs = {place: found for place, found in contents.items() if found}
            except Fault as error:
                record.status, record.message = "failed", str(error)
        self._publish(log)

    def _write_record(self) -> Path:
        return write_record(self.out, list(self.records.values()), self.part)

    def _publish(self, *paths: Path) -> None:
        """Put files into the store, if there is one; what it does not take is tried again later."""
        self.unsent.update(paths)
        for path in sorted(self.unsent):
            try:
                self.results.push(path)
                self.unsent.remove(path)
            except (UserError, Fault) as error:
                self.say(f"batch: {error}")

    def _draw(self) -> None:
        """The live table, over the one before it."""
        if self.live and self.running:
            rows = self._table(list(self.records))
            up = f"\x1b[{self.drawn}F\x1b[J" if self.drawn else ""
            sys.stdout.write(up + printable("\n".join(rows)) + "\n")
            sys.stdout.flush()
            self.drawn = len(rows)
            time.sleep(0.5)

    def _table(self, names: list[str]) -> list[str]:
        rows = [("job", "result", "seconds", "output, or what went wrong")]
        for name in names:
            record = self.records[name]
            told = record.stage if record.status == "running" else record.message
            text = told or (record.output if record.status == "ok" else "")
            rows.append((name, record.status, f"{record.seconds:.0f}", text))
        return [f"{a:<24} {b:<7} {c:>8}  {d}" for a, b, c, d in rows]

    def _end(self, interrupted: bool) -> int:
        """The record, the page and the table; returns batch's exit status."""
        record = self._write_record()
        page = write_page(self.out, list(self.records.values()), self._videos(), self.part)
        self._publish(record, page)
        self.say("\n" + "\n".join(self._table(self.begun)))
        if interrupted:
            return INTERRUPTED
        failed = any(record.status == "failed" for record in self.records.values())
        return int(failed or bool(self.unsent))

    def _videos(self) -> dict[str, list[Path]]:
        """The results on this machine, by job."""
        found: dict[str, list[Path]] = {}
        for name, record in self.records.items():
            if record.status == "ok":
                try:
                    places = list(record.outputs) or [record.output]
                    found[name] = [self.results.video(one, record.outputs) for one in places]
                except (UserError, Fault) as error:  # the page has no pictures of it then
                    self.say(f"batch: {error}")
        return found


def is_done(earlier: JobRecord, inputs: str) -> bool:
    """Whether an earlier run made a job from the same inputs, and its results are still there.

    Raises:
        Fault: the store they are in does not answer.
    """
    if earlier.inputs != inputs:
        return False
    return bool(earlier.outputs) and all(
        content_of(place) == content for place, content in earlier.outputs.items()
    )


def content_of(place: str) -> str | None:
    """The SHA-256 of a file, or what a store says of its content; None where it is not there."""
    if is_remote(place):
        return find_version(place)
    return known_sha256(Path(place)) if Path(place).is_file() else None


class StageReader:
    """The stage that a job has come to, from its log, of which only what is new is read."""

    def __init__(self, log: Path) -> None:
        self._log, self._begun, self._stage = log, 0, ""

    def stage(self) -> str:
        """As its last whole line `edit: STAGE` says; empty before the first."""
        with self._log.open("rb") as file:
            file.seek(self._begun)
            new = file.read()
        *lines, rest = re.split(rb"[\r\n]", new)
        self._begun += len(new) - len(rest)
        for line in lines:
            if line.startswith(b"edit: "):
                self._stage = line.decode("utf-8", "replace").removeprefix("edit: ").strip()
        return self._stage
