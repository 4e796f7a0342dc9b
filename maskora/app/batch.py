"""edit and batch: one edit in a line, and many in turn.

Every stage runs as a `maskora` process of its own, so that a failing one stops no other and gives
back all its memory.
"""

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import IO, Protocol

from filelock import FileLock, Timeout

import maskora
from maskora import devices
from maskora.app.batch_page import JobRecord, read_record, write_page, write_record
from maskora.app.jobs import BatchJob, read_jobs
from maskora.app.plan import planned_ram
from maskora.app.remembered import known_sha256
from maskora.app.workspace import Workspace, video_sha256, working
from maskora.config.toml import load_config
from maskora.errors import Fault, UserError
from maskora.files import (
    IMAGE_SUFFIXES,
    IMAGES,
    check_links,
    digest,
    is_hidden,
    read_text,
    refuse_inputs,
    remove,
    replacing,
    sha256_file,
    write_text,
)
from maskora.system import INTERRUPTIONS, ends_with_parent, printable

INTERRUPTED = 130  # the exit status after Ctrl-C or SIGTERM
FOR_PREPARE = ("--base", "--frames", "--size", "--fps", "--caption", "--edited-caption")
REPEATABLE = ("--click", "--keyframe", "--set")
OPTIONS = (
    "--mask", "--workspace", "--device", "--preset", "--seed", "--stop-before", *FOR_PREPARE,
    *REPEATABLE,
)  # fmt: skip
# What a job's own options may say: a job may come from a stranger, and names no other places.
OF_A_JOB = ("--device", "--preset", "--set", *FOR_PREPARE)
SEE_EDIT, SEE_BATCH = "maskora edit --help lists the options", "maskora batch --help"
IMAGE_FOLDER = "video"  # a folder of images in place of the video
VIDEOS = ("video.mp4", "video.mov", "video.mkv", "video.webm", IMAGE_FOLDER)
EDITED = tuple(f"edited{suffix}" for suffix in IMAGE_SUFFIXES)
REGIONS = ("box.txt", "clicks.txt", "mask")
STOP = "--stop-before=train"
PATIENCE = 120  # seconds that an edit which is stopped elsewhere has to save what it has
Say = Callable[[str], None]  # takes a line for the person


@dataclass(frozen=True)
class EditLine:
    """The command line of `maskora edit`, checked as far as it can be before any work.

    Attributes:
        options, clicks, settings, preset, device: words for the commands: those of `prepare`;
            `--click …`; `--set …`; `--preset`, and `--device`, or nothing.
        seed: `--seed`, or nothing.
        edits: frame of the workspace -> edited image. Frame 0 is there.
        prepares_only: `--stop-before train`.
    """

    video: str
    options: list[str]
    clicks: list[str]
    settings: list[str]
    preset: list[str]
    device: list[str]
    seed: list[str]
    edits: dict[int, Path]
    output: Path
    workspace: Workspace
    prepares_only: bool


def edit_video(words: Sequence[str], say: Say) -> int:
    """Prepare, track what was clicked, train and infer; or continue where that stands.

    Args:
        words: the command line after `maskora edit`.

    Returns:
        the exit status of the first stage that failed, which has said why; 0 where all is done.

    Raises:
        UserError: the line is wrong; then nothing has begun.
        Fault: a stage was killed.
    """
    line = parse_edit_line(words)
    workspace, settings, preset = line.workspace, line.settings, line.preset
    if workspace.config.is_file():
        settle_video(workspace, Path(line.video), say)
        say(f"edit: {workspace.root} is prepared already: continuing with it")
    else:
        say(f"edit: preparing {workspace.root}")
        if status := _run_stage(
            "prepare", line.video, str(workspace.root), *line.options, *preset, *settings
        ):
            return status
        preset, settings = [], []  # they are in the workspace's configuration now
    if line.clicks and not workspace.mask_record.is_file():
        say("edit: following what was clicked")
        if status := _run_stage("track", str(workspace.root), *line.clicks, *settings):
            return status
    with working(workspace):
        for frame, image in line.edits.items():
            place_edit(workspace, None, frame, image)
    if line.prepares_only:
        say(f"edit: {workspace.root} is ready for training")
        return 0
    config = ["--config", str(workspace.config), *line.device, *preset, *settings]
    say("edit: training")
    if status := _run_stage("train", *config, "--stage", "all", "--resume"):
        return status
    say(f"edit: making {line.output}")
    results = results_of(line)
    copied = ["--output", str(line.output)] if len(results) == 1 else []
    if status := _run_stage("infer", *config, *line.seed, *copied):
        return status
    for made, result in results.items() if not copied else ():
        with replacing(result) as scratch:
            shutil.copyfile(made, scratch)
    say(f"edit: done: {', '.join(map(str, results.values()))}")
    return 0


def results_of(line: EditLine) -> dict[Path, Path]:
    """Each video that is made in the workspace -> its copy: OUT.mp4, of several OUT-seed-N.mp4."""
    seeds = line.seed[-1].split(",") if line.seed else []
    if len(seeds) < 2:
        return {line.workspace.output_dir(None, None) / "edited.mp4": line.output}
    return {
        line.workspace.output_dir(None, int(seed) if number else None) / "edited.mp4":
        line.output.with_name(f"{line.output.stem}-seed-{seed}.mp4")
        for number, seed in enumerate(seeds)
    }  # fmt: skip


def settle_video(workspace: Workspace, video: Path, say: Say) -> None:
    """A workspace that is there was made from this video, which may have been moved meanwhile.

    Raises:
        UserError: it was made from another one.
    """
    if not workspace.source_record.is_file():
        return  # the first stage says what is wrong with it
    source = workspace.read_source()
    origin, recorded = Path(source.origin), source.origin_sha256
    if recorded is not None:
        is_same = video_sha256(video) == recorded
    else:
        is_same = video.resolve() == origin or (origin.exists() and video.samefile(origin))
    if not is_same:
        changed = video.resolve() == origin
        what = "it has another content now" if changed else f"{video} is another video"
        raise UserError(
            f"{workspace.root} was made from {origin}, and {what}: name another --workspace (or "
            f"another OUT.mp4), or remove {workspace.root} to begin anew"
        )
    if not origin.exists():
        with working(workspace):
            moved = {"origin": str(video.resolve())}
            workspace.write_source(source.model_copy(update=moved))
        say(f"edit: {origin} was moved: {video}, which is the same, takes its place")


def parse_edit_line(words: Sequence[str]) -> EditLine:
    """Read and check a command line. Raises UserError."""
    positional, given = split_words(words)
    masks, clicks = given["--mask"][-1:], given["--click"]
    if masks and clicks:
        raise UserError("--mask and --click: give one of them")
    named = next((f" beside {name}" for name in ("--mask", "--click") if given[name]), "")
    wanted = ["VIDEO", *([] if named else ["X,Y,W,H"]), "EDITED_FRAME", "OUT.mp4"]
    if len(positional) != len(wanted):
        raise UserError(
            f"expected {' '.join(wanted)}{named}, got {len(positional)} of them ({SEE_EDIT})"
        )
    video, *box, edited, output = positional
    if not Path(video).exists():
        raise UserError(f"no such video: {video}")
    if Path(output).suffix.lower() != ".mp4":
        raise UserError(f"the output is an .mp4 file, not {output}")
    for device in given["--device"]:
        devices.parse(device)
    root = Path([str(Path(output).with_suffix(".work")), *given["--workspace"]][-1])
    last = {name: values[-1:] for name, values in given.items()}
    edits = {0: _image(edited), **dict(_keyframe(text) for text in given["--keyframe"])}
    bases = map(Path, last["--base"])
    refuse_inputs([Path(output)], [*_files(video), *_files(*masks), *bases, *edits.values()])
    for seeds in last["--seed"]:
        if not re.fullmatch(r"[0-9]+(,[0-9]+)*", seeds):
            raise UserError(f"--seed is written N or N,N,…, not {seeds}")
    if any(stage != "train" for stage in given["--stop-before"]):
        raise UserError("--stop-before train is the only place to stop")
    return EditLine(
        video=video,
        options=[*_region(box, masks), *_words(last, *FOR_PREPARE)],
        clicks=_words(given, "--click"),
        settings=_words(given, "--set"),
        preset=_words(last, "--preset"),
        device=_words(last, "--device"),
        seed=_words(last, "--seed"),
        edits=edits,
        output=Path(output),
        workspace=Workspace.open(root),
        prepares_only=bool(given["--stop-before"]),
    )


def _files(*paths: str) -> list[Path]:
    """Files, and those in folders."""
    return [
        file for path in map(Path, paths) for file in (path.rglob("*") if path.is_dir() else [path])
    ]


def split_words(words: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """The positional words, and option -> all values that it was given. Raises UserError.

    Options may stand anywhere on the line, also after a lone --.
    """
    positional: list[str] = []
    given: dict[str, list[str]] = {name: [] for name in OPTIONS}
    waiting = iter(words)
    for word in waiting:
        name, sign, value = word.partition("=")
        if word == "--":
            continue
        if not word.startswith("-"):
            positional.append(word)
            continue
        if name not in given:
            raise UserError(f"unknown option {name} ({SEE_EDIT})")
        if not sign:
            try:
                value = next(waiting)
            except StopIteration:
                raise UserError(f"{name} needs a value ({SEE_EDIT})") from None
        given[name].append(value)
    return positional, given


def _words(given: dict[str, list[str]], *names: str) -> list[str]:
    """Options as words of a command line."""
    return [word for name in names for value in given[name] for word in (name, value)]


def _region(box: list[str], masks: list[str]) -> list[str]:
    for text in box:
        if not re.fullmatch(r"[0-9]+(,[0-9]+){3}", text):
            raise UserError(f"the box is written X,Y,W,H in pixels, not {text}")
        return ["--box", text]
    for mask in masks:
        if not Path(mask).exists():
            raise UserError(f"no such mask: {mask}")
        return ["--mask", mask]
    return []


def _keyframe(text: str) -> tuple[int, Path]:
    number, _, path = text.partition("=")
    if not (re.fullmatch(r"[0-9]+", number) and path):
        raise UserError(f"--keyframe is written N=IMAGE (24=frame24.png), not {text}")
    return int(number), _image(path)


def _image(path: str) -> Path:
    if not Path(path).is_file():
        raise UserError(f"no such image: {path}")
    if Path(path).suffix.lower() not in IMAGE_SUFFIXES:
        raise UserError(f"not a picture that can be read ({IMAGES}): {path}")
    return Path(path)


def place_edit(workspace: Workspace, edit: str | None, frame: int, image: Path) -> None:
    """Copy an edited image to a frame of an edit, in place of an earlier one."""
    target = workspace.edited_frame(edit, frame, image.suffix.lower())
    earlier = workspace.edited_files(edit, frame)
    if not any(path.samefile(image) for path in earlier):
        with replacing(target) as scratch:
            shutil.copyfile(image, scratch)
        image = target
    for path in earlier:
        if not path.samefile(image):
            path.unlink()


def _run_stage(*words: str) -> int:
    """One stage's exit status. Raises Fault where it crashed, so that it could not say why."""
    status = run_maskora(words)
    if crash := crash_message(words[0], status):
        raise Fault(crash)
    return status


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
        jobs, out = jobs_of_file(words)
    else:
        folders, out, common = parse_batch_line(words)
        jobs = [folder_job(folder, out, common) for folder in folders]
    out.mkdir(parents=True, exist_ok=True)
    jobs = jobs[own.part - 1 :: own.parts]
    if own.ray is None:
        return Batch(jobs, out, LocalWorkers(devices_of_workers(own.workers)), say, own).run()
    if importlib.util.find_spec("ray") is None:
        raise UserError("--ray needs Ray: pip install 'maskora[cluster]'")
    from maskora.app.ray_cluster import cluster

    with cluster(own.ray, len(jobs), prepare_on_node, finish_on_node) as workers:
        return Batch(jobs, out, workers, say, own).run()


@dataclass(frozen=True)
class BatchOptions:
    """Batch's own options: --workers, --ray ADDRESS, --watch, and --part I/N."""

    workers: int | None = None
    ray: str | None = None
    watch: bool = False
    part: int = 1
    parts: int = 1

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
        elif name == "--ray":
            found = replace(found, ray=value if sign else next(own, ""))
        else:
            rest.append(word)
    if found.ray is not None and found.workers is not None:
        raise UserError("--workers is for this machine alone: with --ray, the cluster decides")
    return [*rest, *words[end:]], found


def jobs_of_file(words: list[str]) -> tuple[list[BatchJob], Path]:
    """The jobs of `JOBS.toml [OUT_DIR] [-- options]`, and the folder of results. Raises UserError.

    Options after -- go before a job's own, which win.
    """
    end = words.index("--") if "--" in words else len(words)
    names, common = words[:end], words[end + 1 :]
    if len(names) > 2 or any(name.startswith("-") for name in names):
        raise UserError(f"expected JOBS.toml [OUT_DIR], got {' '.join(names)} ({SEE_BATCH})")
    path = Path(names[0])
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    out = Path(names[1]) if len(names) == 2 else path.with_name(f"{path.stem}-out")
    if out.exists() and not out.is_dir():
        raise UserError(f"the results go into a folder, and {out} is a file")
    jobs = [
        job._replace(words=[*_positional(job.words), *common, *_options(job.words)])
        for job in read_jobs(path, out)
    ]
    results = [out / f"{job.name}{suffix}" for job in jobs for suffix in (".mp4", ".log")]
    refuse_inputs(results, [path, *(file for job in jobs for file in input_files(job.words))])
    return jobs, out


def _positional(words: list[str]) -> list[str]:
    return split_words(words)[0]


def _options(words: list[str]) -> list[str]:
    return _words(split_words(words)[1], *OPTIONS)


def folder_job(folder: Path, out: Path, common: Sequence[str]) -> BatchJob:
    """The job in a folder; what is wrong with it is in the job, so that it stops no other."""
    output = out / f"{folder.name}.mp4"
    try:
        return BatchJob(folder.name, output, job_words(folder, output, common))
    except UserError as error:
        return BatchJob(folder.name, output, [], str(error))


def input_files(words: Sequence[str]) -> list[Path]:
    """Every file that a line of `maskora edit` names to be read."""
    positional, given = split_words(words)
    named = [*positional[:1], *positional[-2:-1], *given["--mask"], *given["--base"]]
    named += [text.partition("=")[2] for text in given["--keyframe"]]
    named += [text for text in given["--preset"] if text.endswith(".toml")]
    return [path for path in _files(*named) if path.is_file()]


def inputs_digest(words: Sequence[str]) -> str:
    """The content name of what a job is made from: its line, and the content of its files."""
    files = sorted(input_files(words))
    return digest(maskora.__version__, *words, *(known_sha256(file) for file in files))


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
            return LocalProcess(_start(["edit", *words], file, gpu))


def prepare_on_node(
    has_gpus: bool, words: list[str], log: Path, folder: Path
) -> tuple[int, int | None]:
    """On a node of a cluster, without a GPU: what of a job comes before its training.

    Args:
        has_gpus: whether training gets one.
        folder: where the batch was started; paths count from it.

    Returns:
        the exit status, and the bytes of RAM that training and inference will take there; None
        where it is not known.
    """
    status = _on_node([*words, STOP], log, folder, "")
    return status, None if status else ram_of_job(parse_edit_line(words), has_gpus)


def finish_on_node(words: list[str], log: Path, folder: Path) -> tuple[int, None]:
    """On a node of a cluster: what is left of a job, on the GPU that the cluster gives it."""
    return _on_node(words, log, folder, None), None


def _on_node(words: list[str], log: Path, folder: Path, gpu: str | None) -> int:
    """Run `maskora edit WORDS…`, which ends when this process does, to its end."""
    os.chdir(folder)
    lock = parse_edit_line(words).workspace.work_lock
    if lock.exists():  # a worker that was lost may still be saving
        with suppress(Timeout), FileLock(lock, timeout=PATIENCE):  # edit itself tells who holds it
            pass
    with log.open("ab") as file:
        child = _start(["edit", *words], file, gpu, ends_with_parent())
    try:
        while child.poll() is None:  # Ray's cancelling would not wake wait()
            time.sleep(0.1)
    except KeyboardInterrupt:
        child.terminate()
    return child.wait()


def ram_of_job(line: EditLine, has_gpus: bool) -> int | None:
    """The planner's bytes of RAM for training and inference; None where it refuses to plan."""
    device = line.device[-1] if line.device else "cuda" if has_gpus else "cpu"
    preset = line.preset[-1] if line.preset else None
    try:
        config = load_config(line.workspace.config, line.settings[1::2], preset)
        return planned_ram(config, line.workspace, device)
    except (UserError, Fault):
        return None  # what stands in the way is said when training begins


class Batch:
    """The jobs of a batch, run by some workers, and the record of how far they are."""

    def __init__(
        self,
        jobs: list[BatchJob],
        out: Path,
        workers: Workers,
        say: Say,
        options: BatchOptions,
    ) -> None:
        earlier = read_record(out)
        self.jobs, self.out, self.workers, self.say = jobs, out, workers, say
        self.live = options.watch and sys.stdout.isatty()
        self.part = options.suffix
        self.records = {
            job.name: before
            if (before := earlier.get(job.name)) and before.status == "ok"
            else JobRecord(name=job.name, output=str(job.output))
            for job in jobs
        }
        self.begun: list[str] = []
        self.earlier = earlier
        self.running: dict[int, tuple[BatchJob, Running]] = {}  # by worker
        self.drawn = 0

    def run(self) -> int:
        """Run what is not done; returns batch's exit status."""
        waiting, changed, told = list(self.jobs), False, self.workers.told
        with _passing_on_signals(told) as (received, children):
            while (waiting and not received) or self.running:
                free = [n for n in range(self.workers.count) if n not in self.running]
                while waiting and free and not received:
                    if started := self._begin(waiting.pop(0), free[0]):
                        free.pop(0)
                        children.append(started)
                        if set(received) & set(told):  # before there was anybody to pass it on to
                            started.terminate()
                        write_record(self.out, list(self.records.values()), self.part)
                changed = self._collect(interrupted=bool(received))
                self._draw()
                if self.running and not changed:
                    time.sleep(self.workers.pause)
            interrupted = bool(received)
        return self._end(interrupted)

    def _begin(self, job: BatchJob, worker: int) -> Running | None:
        """Start a job's process; None where it is done already, or cannot begin."""
        record = JobRecord(name=job.name, output=str(job.output))
        self.records[job.name], log = record, self.out / f"{job.name}.log"
        self.begun.append(job.name)
        if job.problem:
            self._refuse(record, log, job.problem)
            return None
        try:
            inputs = inputs_digest(job.words)
        except UserError as error:
            self._refuse(record, log, str(error))
            return None
        if is_done(earlier := self.earlier.get(job.name), inputs):
            assert earlier is not None
            self.records[job.name] = earlier.model_copy(update={"output": str(job.output)})
            self.say(f"batch: {job.name} is done already")
            return None
        self.say(f"batch: {job.name} (log: {log})")
        remove(log)  # an earlier one may be a link
        log.touch()
        running = self.workers.start(job.words, log, worker)
        record.status, record.inputs = "running", inputs
        self.running[worker] = job, running
        return running

    def _refuse(self, record: JobRecord, log: Path, problem: str) -> None:
        """Write down why a job cannot begin."""
        write_text(log, f"maskora: {problem}\n")
        record.status, record.message = "failed", last_line(log)

    def _collect(self, *, interrupted: bool) -> bool:
        """Look at the processes; returns whether one has ended."""
        ended = []
        for worker, (job, running) in list(self.running.items()):
            record, log = self.records[job.name], self.out / f"{job.name}.log"
            status = running.poll()
            record.stage, record.seconds = stage_in(log), running.seconds
            if status is not None:
                del self.running[worker]
                self._finish(job, INTERRUPTED if interrupted and status else status)
                ended.append(job)
        if ended:
            write_record(self.out, list(self.records.values()), self.part)
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
            paths = results_of(parse_edit_line(job.words)).values()
            record.outputs = {str(path): sha256_file(path) for path in paths if path.is_file()}

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
        records = list(self.records.values())
        write_record(self.out, records, self.part)
        write_page(self.out, records, self.part)
        self.say("\n" + "\n".join(self._table(self.begun)))
        if interrupted:
            return INTERRUPTED
        return int(any(record.status == "failed" for record in records))


def is_done(earlier: JobRecord | None, inputs: str) -> bool:
    """Whether an earlier run made a job from the same inputs, and its results are still there."""
    if earlier is None or earlier.status != "ok" or earlier.inputs != inputs:
        return False
    return bool(earlier.outputs) and all(
        Path(path).is_file() and known_sha256(Path(path)) == sha256
        for path, sha256 in earlier.outputs.items()
    )


def stage_in(log: Path) -> str:
    """The stage that a job's log has come to; empty before the first."""
    text = log.read_text(encoding="utf-8", errors="replace")
    said = [line.strip() for line in text.splitlines() if line.startswith("edit: ")]
    return said[-1].removeprefix("edit: ") if said else ""


def parse_batch_line(words: Sequence[str]) -> tuple[list[Path], Path, list[str]]:
    """The jobs' folders in the order of their names, the folder of results, options for all.

    Raises:
        UserError: a word is too much or missing, or there are no jobs.
    """
    end = list(words).index("--") if "--" in words else len(words)
    folders, common = list(words[:end]), list(words[end + 1 :])
    if options := [word for word in folders if word.startswith("-")]:
        raise UserError(
            f"unknown option {options[0]}: options for every job come after -- ({SEE_BATCH})"
        )
    if len(folders) not in (1, 2):
        raise UserError(f"expected JOBS_DIR [OUT_DIR], got {len(folders)} of them ({SEE_BATCH})")
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
    if any(path.is_dir() and path.resolve() == out.resolve() for path in home.iterdir()) and (
        any(_named(out, name) for name in REGIONS)
    ):
        raise UserError(f"{out} is a job itself: the results go into another folder")
    results = [out / f"{job.name}{suffix}" for job in jobs for suffix in (".mp4", ".log")]
    refuse_inputs(results, _files(*map(str, jobs)))
    return jobs, out, common


def job_words(job: Path, output: Path, common: Sequence[str]) -> list[str]:
    """The words after `maskora edit` for the job in a folder.

    Raises:
        UserError: something is missing or wrong, or a link leads out of the folder of all jobs.
    """
    check_links([job], job.parent)
    video = _one_of(job, "video", VIDEOS)
    edited = _one_of(job, "edited frame", EDITED)
    regions = [(name, path) for name in REGIONS for path in _named(job, name)]
    if len(regions) != 1:
        raise UserError("expected one of box.txt, clicks.txt and the folder mask")
    (name, region), options = regions[0], []
    words = [str(video), str(edited), str(output)]
    if name == "box.txt":
        words.insert(1, _region(["".join(read_text(region).split())], [])[1])
    elif name == "clicks.txt":
        options = [word for line in _lines(region) for word in ("--click", line)]
    else:
        options = ["--mask", str(region)]
    words += [*options, "--workspace", str(output.with_suffix(".work")), *common]
    for option in ("caption", "edited_caption"):
        for path in _named(job, f"{option}.txt"):
            words += [f"--{option.replace('_', '-')}", read_text(path).strip()]
    for folder in _named(job, "keyframes"):
        for image in sorted(folder.iterdir()):
            if not is_hidden(image):
                words += ["--keyframe", f"{image.stem}={image}"]
    for path in _named(job, "options.txt"):
        words += [word for line in _lines(path) for word in _option(line, path)]
    return words


def _option(line: str, path: Path) -> list[str]:
    """An option of a job as words. Raises UserError where a job may not say it."""
    words = line.split(maxsplit=1)
    name, sign, _ = words[0].partition("=")
    if name not in OF_A_JOB:
        raise UserError(f"{path}: {name} is no option of a job, but {', '.join(OF_A_JOB)} are")
    if sign:  # the value may have spaces
        return [line]
    if len(words) == 1:
        raise UserError(f"{path}: {name} needs a value in the same line")
    return words


def _one_of(job: Path, what: str, names: Sequence[str]) -> Path:
    """The one file there is of these names. Raises UserError where there is none, or several."""
    found = [
        path
        for name in names
        for path in _named(job, name)
        if (path.is_dir() if name == IMAGE_FOLDER else path.is_file())
    ]
    if len(found) != 1:
        raise UserError(f"expected one {what}, found {len(found)} (of {' '.join(names)})")
    return found[0]


def _named(job: Path, name: str) -> list[Path]:
    """Files of this name in whatever case: VIDEO.MP4 is video.mp4 on every system."""
    return sorted(path for path in job.iterdir() if path.name.lower() == name)


def _lines(path: Path) -> list[str]:
    """A text's lines, without empty ones and comments."""
    lines = (line.strip() for line in read_text(path).splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def last_line(log: Path) -> str:
    """The last line of a log, also where progress bars were drawn over one another."""
    text = log.read_text(encoding="utf-8", errors="replace")
    lines = [line.strip() for line in re.split(r"[\r\n]", text) if line.strip()]
    return lines[-1] if lines else f"nothing was said: {log} is empty"


def _start(
    words: Sequence[str],
    log: IO[bytes] | None,
    gpu: str | None = None,
    in_child: Callable[[], None] | None = None,
) -> "subprocess.Popen[bytes]":
    """Begin `maskora WORDS…`.

    Args:
        log: where its output and errors go, in UTF-8; None for where this process's go.
        gpu: what CUDA_VISIBLE_DEVICES says there; None: as it is here.
        in_child: is called in the new process before it becomes maskora.
    """
    in_utf8 = {} if log is None else {"PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8"}
    environment = {**os.environ, **in_utf8}
    if gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = gpu
    return subprocess.Popen(
        [*program(), *words], stdin=subprocess.DEVNULL, stdout=log,
        stderr=None if log is None else subprocess.STDOUT, env=environment, preexec_fn=in_child,
    )  # fmt: skip


def run_maskora(words: Sequence[str], log: IO[bytes] | None = None) -> int:
    """Run `maskora WORDS…` to its end.

    Ctrl-C reaches the whole group of processes at a terminal, on Windows too: this process then
    waits until the command has saved what it wants to save. SIGTERM, which is sent to one process,
    is passed on.

    Args:
        log: as of `_start`.

    Returns:
        its exit status; 130 where this process was interrupted meanwhile. Negative: a POSIX signal
        killed it.
    """
    with _passing_on_signals() as (received, children):
        child = _start(words, log)
        children.append(child)
        if signal.SIGTERM in received:  # before there was anybody to pass it on to
            child.terminate()
        status = child.wait()
    return INTERRUPTED if received else status


def crash_message(name: str, status: int) -> str | None:
    """A sentence for a crashed command, which could not say why; None where it did not crash."""
    if status in (0, 1, 2, INTERRUPTED):
        return None
    code = f"signal {-status}" if status < 0 else f"status {status:#x}"
    return (
        f"maskora {name} was killed or has crashed ({code}); often the memory was full. "
        f"The same command continues"
    )


def program() -> list[str]:
    """The words that run maskora in another process: this interpreter, this copy of the package.

    Python's -P keeps it from importing what happens to lie in the current folder.
    """
    at_home = Path(maskora.__file__).parents[1].samefile(Path.cwd())
    return [sys.executable, *([] if at_home else ["-P"]), "-m", "maskora"]


@contextmanager
def _passing_on_signals(
    told: Sequence[int] = (signal.SIGTERM,),
) -> Iterator[tuple[list[int], list["subprocess.Popen[bytes] | Running"]]]:
    """Yields a list of the signals received, and one of the children that are ended at `told`."""
    received: list[int] = []
    children: list[subprocess.Popen[bytes] | Running] = []

    def receive(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if number in told:
            for child in children:
                child.terminate()

    heeded = [number for number in INTERRUPTIONS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, receive) for number in heeded}
    try:
        yield received, children
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
