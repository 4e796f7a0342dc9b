"""What `maskora batch` takes beside its jobs, and what a second worker gains, as ratios.

    python benchmarks/batch.py --jobs 4 --output benchmarks/results/NAME.json

Tiny jobs on the processor, with the base that ships with maskora. benchmarks/README.md says what
each row means.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

if not __package__:  # started as a file: the repository's root is where imports count from
    sys.path.insert(0, str(Path(__file__).parents[1]))

from maskora.app.batch_results import ResultsFolder
from maskora.app.demo import SETTINGS, DemoClip, write_clip
from maskora.app.jobs import read_jobs
from maskora.app.processes import last_line, run_maskora
from maskora.errors import Fault
from maskora.files import write_text
from maskora.memory.machine import processor_name
from maskora.progress import track
from maskora.system import ram

WORKERS = (1, 2)
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Round:
    """Seconds on the wall for the same jobs.

    Attributes:
        lone: `maskora edit`, one job after another.
        one, two: `maskora batch` with so many workers.
        again: the same batch once more, in which all is done already.
    """

    lone: float
    one: float
    two: float
    again: float


@app.command()
def main(
    jobs: Annotated[int, typer.Option(min=1, help="in a batch; an even number shows two")] = 4,
    steps: Annotated[int, typer.Option(min=1, help="of training, in each job")] = 20,
    rounds: Annotated[int, typer.Option(min=1, help="of which the median is taken")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="of each job")] = 1,
    output: Annotated[Path | None, typer.Option(help="a .json; a .md is written beside it")] = None,
) -> None:
    """Measure and print a table."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    try:
        with tempfile.TemporaryDirectory() as name:
            measured = measure(Path(name), jobs, steps, rounds)
    except Fault as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    ram_bytes = ram().installed
    machine = {"processor": processor_name(), "ram_bytes": ram_bytes, "torch": version("torch")}
    settings = {"jobs": jobs, "steps": steps, "rounds": rounds, "threads": threads}
    results = {"machine": machine, "settings": settings, "rounds": list(map(asdict, measured))}
    if output:
        write_text(output, json.dumps(results, indent=2) + "\n")
        write_text(output.with_suffix(".md"), markdown(results))
    print(markdown(results))


def measure(folder: Path, jobs: int, steps: int, rounds: int) -> list[Round]:
    """Run the same jobs alone and in batches. Raises Fault where one fails.

    Args:
        folder: an empty one, for all that is made.
    """
    clip = DemoClip(folder / "clip")
    write_clip(clip)
    path = write_jobs(folder / "jobs.toml", clip, jobs, steps)
    run(["edit", *read_jobs(path, ResultsFolder.at(str(folder / "warm-up")))[0].words])
    measured = []
    for number in track(range(rounds), "benchmark", rounds):
        home = folder / str(number)
        lone = read_jobs(path, ResultsFolder.at(str(home / "lone")))
        seconds = [sum(run(["edit", *job.words]) for job in lone)]
        for workers in WORKERS:
            seconds.append(run(batch_words(path, home / str(workers), workers)))
        seconds.append(run(batch_words(path, home / "1", 1)))
        measured.append(Round(*seconds))
    return measured


def write_jobs(path: Path, clip: DemoClip, count: int, steps: int) -> Path:
    """A jobs.toml of so many jobs, which are alike but for the seed."""
    changed = {"motion.steps": steps, "motion.augment": "none", "inference.steps": 4}
    settings = {**SETTINGS, **changed}
    sets = [f"{key}={json.dumps(value).strip(chr(34))}" for key, value in settings.items()]
    job = (
        f"video = {json.dumps(str(clip.video))}\nmask = {json.dumps(str(clip.masks))}\n"
        f"edits = {{ 0 = {json.dumps(str(clip.truth_frame(0)))} }}\n"
    )
    tables = [f'[[job]]\nname = "j{number}"\n{job}seeds = [{number}]\n' for number in range(count)]
    defaults = f'[defaults]\ndevice = "cpu"\nset = {json.dumps(sets)}\n'
    write_text(path, "\n".join([defaults, *tables]))
    return path


def batch_words(jobs: Path, out: Path, workers: int) -> list[str]:
    """The command line of a batch."""
    return ["batch", str(jobs), str(out), "--workers", str(workers)]


def run(words: Sequence[str]) -> float:
    """The seconds that `maskora WORDS…` takes. Raises Fault where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        started = time.perf_counter()
        with log.open("wb") as file:
            status = run_maskora(words, file)
        seconds = time.perf_counter() - started
        if status:
            raise Fault(f"maskora {words[0]} has failed: {last_line(log)}")
    return seconds


def markdown(results: dict[str, Any]) -> str:
    """A document with the machine and a row for each way of running the jobs."""
    machine, settings = results["machine"], results["settings"]
    rounds = [Round(**one) for one in results["rounds"]]
    count = settings["jobs"]

    def row(what: str, seconds: list[float], against: str, ratios: list[float]) -> str:
        ratio = f"{statistics.median(ratios):.2f} of {against}" if ratios else ""
        return f"| {what} | {statistics.median(seconds):.1f} | {ratio} |"

    beside = statistics.median([(one.one - one.lone) / count for one in rounds])
    lines = [
        "# The batch runner",
        "",
        f"- machine: {machine['processor']}, "
        f"{machine['ram_bytes'] / 2**30:.0f} GB RAM, torch {machine['torch']}",
        f"- {count} jobs of {settings['steps']} steps, {settings['threads']} thread(s) each, "
        f"median of {settings['rounds']} round(s)",
        "",
        "| what | seconds | ratio |",
        "|---|---|---|",
        row("lone runs, one after another", [one.lone for one in rounds], "", []),
        row("batch, 1 worker", [one.one for one in rounds], "the lone runs",
            [one.one / one.lone for one in rounds]),
        row("batch, 2 workers", [one.two for one in rounds], "1 worker",
            [one.two / one.one for one in rounds]),
        row("batch again, all done", [one.again for one in rounds], "1 worker",
            [one.again / one.one for one in rounds]),
        "",
        f"Beside its jobs, a batch takes {beside:+.2f} seconds a job.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    app()
