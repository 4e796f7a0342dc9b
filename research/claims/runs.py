"""The main run: every condition on every scene with every seed, once; results as they come."""

import gc
import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import groupby
from math import isnan, nan
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from maskora.errors import UserError
from maskora.files import write_text
from maskora.models.building import without_bars
from research.claims.conditions import CONDITIONS
from research.claims.settings import Recipe, Settings
from research.claims.strips import write_row
from research.claims.subjects import draw_task, figures
from research.claims.trials import Bench, make_clips, open_base

Key = tuple[str, int, int]  # condition, scene, seed
PROTOCOL = 2  # raised when what is done or measured changes: old results are not mixed with new


@dataclass(frozen=True)
class Record:
    """One edited clip, told in figures; NaN where there is nothing to tell of."""

    condition: str
    scene: int
    seed: int
    figures: Mapping[str, float]

    def plain(self) -> dict[str, Any]:
        """The same for JSON, which knows no NaN."""
        told = {key: None if isnan(value) else value for key, value in self.figures.items()}
        return {**asdict(self), "figures": told}

    @classmethod
    def read(cls, plain: Mapping[str, Any]) -> "Record":
        """From what `plain` gave."""
        figures = {key: nan if value is None else value for key, value in plain["figures"].items()}
        return cls(**{**plain, "figures": figures})


@dataclass(frozen=True)
class Results:
    """What has been measured so far.

    Attributes:
        base: content name of the base.
        recipes: that it was trained with.
    """

    base: str
    recipes: Mapping[str, Recipe]
    records: list[Record]

    def write(self, path: Path) -> None:
        """Write for `read_results`, a record a line."""
        recipes = {what: asdict(recipe) for what, recipe in self.recipes.items()}
        head = {"protocol": PROTOCOL, "base": self.base, "recipes": recipes}
        lines = ",\n".join(json.dumps(record.plain(), allow_nan=False) for record in self.records)
        write_text(path, f'{json.dumps(head)[:-1]}, "records": [\n{lines}\n]}}\n')


@dataclass(frozen=True)
class Job:
    """Conditions that share their motion LoRA, on one scene with one seed."""

    model: Path
    cache: Path
    pictures: Path
    recipes: Mapping[str, Recipe]
    conditions: tuple[str, ...]
    scene: int
    seed: int


def results_of(path: Path, settings: Settings) -> Results:
    """The results in a file, which were made with these settings.

    Raises:
        UserError: there are none, they are damaged, or of another base or other recipes.
    """
    results = read_results(path)
    if (results.base, results.recipes) != (settings.base, settings.recipes):
        raise UserError(
            f"{path} holds results of another base or other settings: delete it, or name "
            f"another --output"
        )
    return results


def read_results(path: Path) -> Results:
    """The results in a file. Raises UserError where there are none, or they are damaged."""
    if not path.is_file():
        raise UserError(f"{path} is missing: run research/fidelity.py first")
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if content.get("protocol") != PROTOCOL:
            raise UserError(f"{path} holds results of other trials: delete it, and run again")
        recipes = {what: Recipe(**recipe) for what, recipe in content["recipes"].items()}
        return Results(content["base"], recipes, [Record.read(each) for each in content["records"]])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error!r}): delete it, and run again") from None


def measure(
    keys: Iterable[Key], model: Path, settings: Settings, output: Path, workers: int
) -> Results:
    """Run what is not in `output` yet, and write every result there as it comes.

    Raises:
        UserError: `output` holds results of another base or other recipes.
    """
    results = _begun(output, settings)
    done = {(r.condition, r.scene, r.seed) for r in results.records}
    missing = [key for key in keys if key not in done]
    with tempfile.TemporaryDirectory() as cache, pool(workers) as executor:
        jobs = [
            Job(model, Path(cache), pictures_of(output), settings.recipes, names, scene, seed)
            for names, scene, seed in grouped(missing)
        ]
        for records in finished(executor, run_job, jobs, "clips"):
            results.records.extend(records)
            results.write(output)
    return results


def _begun(output: Path, settings: Settings) -> Results:
    if not output.exists():
        return Results(settings.base, settings.recipes, [])
    return results_of(output, settings)


def pictures_of(output: Path) -> Path:
    """Where the clips of the first seed are kept as pictures, for the report."""
    return output.with_name(f"{output.stem}-frames")


def grouped(keys: Iterable[Key]) -> list[tuple[tuple[str, ...], int, int]]:
    """Keys that share a LoRA put together: the first seed first, and there claim by claim."""
    kinds = [(condition.training, condition.subject) for condition in CONDITIONS.values()]

    def shared(key: Key) -> tuple[int, int, int]:
        name, scene, seed = key
        return seed, kinds.index((CONDITIONS[name].training, CONDITIONS[name].subject)), scene

    return [
        (tuple(name for name, _, _ in group), scene, seed)
        for (seed, _, scene), group in groupby(sorted(keys, key=shared), shared)
    ]


def run_job(job: Job) -> list[Record]:
    """Train, sample and score."""
    model = open_base(job.model)
    conditions = {name: CONDITIONS[name] for name in job.conditions}
    task = draw_task(job.scene, next(iter(conditions.values())).subject)
    seed = 100 * job.scene + job.seed
    bench = Bench(model, task, job.cache, seed)
    clips = make_clips(model, bench, conditions, job.recipes, seed)
    if job.seed == 0:
        for name, frames_THWC in clips.items():
            write_row(job.pictures, name, job.scene, frames_THWC)
    return [
        Record(name, job.scene, job.seed, figures(frames_THWC, task))
        for name, frames_THWC in clips.items()
    ]


@contextmanager
def pool(workers: int) -> Iterator[Executor]:
    """Processes of one thread each: so small a model is slower with more."""
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker)
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


def _begin_worker() -> None:
    torch.set_num_threads(1)
    without_bars()
    gc.freeze()  # what is there now stays: collections between loads need not look at it
    sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - its bars would cover the one that counts


def finished(executor: Executor, work: Any, jobs: Sequence[Any], unit: str) -> Iterator[Any]:
    """What each job answers, in the order in which they end."""
    futures = [executor.submit(work, job) for job in jobs]
    for future in tqdm(as_completed(futures), total=len(futures), unit=unit):
        yield future.result()
