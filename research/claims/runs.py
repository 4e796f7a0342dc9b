"""The runs: learning rates and steps chosen by trial, then every condition on every scene, once.

Results are written as they come; what is there is not run again.
"""

import gc
import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from itertools import groupby
from math import isnan, nan
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from maskora.config.tables import Stage
from maskora.errors import UserError
from maskora.files import write_text
from maskora.models.building import without_bars
from maskora.training.loop import choose_mixed, choose_uniformly
from maskora.video.images import read_image, write_png
from research.claims import trials
from research.claims.claims import CONDITIONS, FIRST_TO_CHOOSE, Condition
from research.claims.trials import Bench, Recipe, figures

Key = tuple[str, int, int]  # condition, scene, seed
PROTOCOL = 3  # raised when what is done or measured changes: old results are not mixed with new
COLUMNS = 5  # frames of a clip that are kept as a picture
SCENES = 6
RATES = (1e-3, 3e-3)
STEPS: Mapping[Stage, Sequence[int]] = {
    "motion": (30, 60, 120, 240, 480),
    "appearance": (30, 60, 120, 240),
}
DECIDING: Mapping[Stage, str] = {"motion": "strict", "appearance": "evolved"}
TRIED: Mapping[Stage, Mapping[str, str]] = {  # conditioning -> condition
    "motion": {"masked": "mask-aware LoRA", "first-frame": "naive LoRA"},
    "appearance": {how: f"keyframe, {how}" for how in ("masked", "anchored", "first-frame")},
}


@dataclass(frozen=True)
class Settings:
    """The recipes that were chosen, and what they were chosen from.

    Attributes:
        base: content name of the base.
        recipes: by stage and conditioning, named by `recipe_name`.
        scenes: numbers of the cases that were tried.
        tried: every recipe that was tried, with its mean figure.
    """

    base: str
    recipes: Mapping[str, Recipe]
    scenes: Sequence[int]
    tried: Sequence[Mapping[str, Any]]


def write_settings(path: Path, settings: Settings) -> None:
    """Write settings for `read_settings`."""
    write_text(path, json.dumps(asdict(settings), indent=1) + "\n")


def read_settings(path: Path, base: str) -> Settings:
    """The settings in a file. Raises UserError: there are none, or damaged, or another base's."""
    again = "run python -m research.fidelity --choose"
    with _reading(path, f"{again} first", again):
        content = json.loads(path.read_text(encoding="utf-8"))
        recipes = {what: Recipe(**recipe) for what, recipe in content["recipes"].items()}
        settings = Settings(content["base"], recipes, content["scenes"], content["tried"])
    if settings.base != base:
        raise UserError(f"{path} was chosen on another base: {again}")
    return settings


@contextmanager
def _reading(path: Path, missing: str, damaged: str) -> Iterator[None]:
    """Turn what a missing or damaged file raises into a UserError that says what to do."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {missing}") from None
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error!r}): {damaged}") from None


@dataclass(frozen=True)
class Record:
    """One edited clip in figures; NaN where a figure has no pixels to be taken from."""

    condition: str
    scene: int
    seed: int
    figures: Mapping[str, float]

    def plain(self) -> dict[str, Any]:
        """The record for JSON, which knows no NaN."""
        figures = {key: None if isnan(value) else value for key, value in self.figures.items()}
        return {**asdict(self), "figures": figures}

    @classmethod
    def read(cls, plain: Mapping[str, Any]) -> "Record":
        """From what `plain` gave."""
        figures = {key: nan if value is None else value for key, value in plain["figures"].items()}
        return cls(**{**plain, "figures": figures})


@dataclass(frozen=True)
class Results:
    """The results so far.

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
    with _reading(path, "run python -m research.fidelity first", "delete it, and run again"):
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if content.get("protocol") != PROTOCOL:
            raise UserError(f"{path} holds results of other trials: delete it, and run again")
        recipes = {what: Recipe(**recipe) for what, recipe in content["recipes"].items()}
        return Results(content["base"], recipes, [Record.read(each) for each in content["records"]])


def measure(
    keys: Iterable[Key], model: Path, settings: Settings, output: Path, workers: int
) -> Results:
    """Run what is not in `output` yet, and write every result there as it comes.

    Raises:
        UserError: `output` holds results of another base or other recipes.
    """
    results = Results(settings.base, settings.recipes, [])
    if output.exists():
        results = results_of(output, settings)
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


def pictures_of(output: Path) -> Path:
    """The folder in which the first seed's clips are kept as pictures, for the report."""
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
    model = trials.open_base(job.model)
    conditions = {name: CONDITIONS[name] for name in job.conditions}
    case = trials.draw_task(job.scene, next(iter(conditions.values())).subject)
    seed = 100 * job.scene + job.seed
    bench = Bench(model, case, job.cache, seed)
    clips = trials.make_clips(model, bench, conditions, job.recipes, seed)
    if job.seed == 0:
        for name, frames_THWC in clips.items():
            write_row(job.pictures, name, job.scene, frames_THWC)
    return [
        Record(name, job.scene, job.seed, figures(frames_THWC, case))
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
    """The jobs' answers, in the order in which they end."""
    futures = [executor.submit(work, job) for job in jobs]
    for future in tqdm(as_completed(futures), total=len(futures), unit=unit):
        yield future.result()


def as_row(frames_THWC: np.ndarray) -> np.ndarray:
    """Some frames of a clip side by side, from the first to the last."""
    chosen = np.linspace(0, len(frames_THWC) - 1, COLUMNS).round().astype(int)
    return np.concatenate(list(frames_THWC[chosen]), axis=1)


def write_row(folder: Path, condition: str, scene: int, frames_THWC: np.ndarray) -> None:
    """Keep some frames of a clip for `read_row`."""
    write_png(row_path(folder, condition, scene), as_row(frames_THWC))


def read_row(folder: Path, condition: str, scene: int) -> np.ndarray | None:
    """A kept row, (H, W, 3) uint8; None where there is none."""
    path = row_path(folder, condition, scene)
    return read_image(path) if path.exists() else None


def row_path(folder: Path, condition: str, scene: int) -> Path:
    """The file of a row."""
    return folder / f"{condition.replace(', ', '-').replace(' ', '-')}-{scene}.png"


@dataclass(frozen=True)
class Attempt:
    """A stage trained at one rate on one scene, looked at after each number of steps.

    Attributes:
        recipe: what it is for.
        steps: numbers of steps, rising.
        start: of the motion LoRA, where the appearance stage is tried.
    """

    model: Path
    cache: Path
    recipe: str
    condition: str
    lr: float
    steps: Sequence[int]
    scene: int
    start: Recipe | None


def choose(
    folder: Path,
    executor: Executor,
    scenes: int = SCENES,
    rates: Sequence[float] = RATES,
    steps: Mapping[Stage, Sequence[int]] = STEPS,
    kept: Path | None = None,
) -> Settings:
    """Try all candidates of both stages, the motion stage first.

    Args:
        kept: a file of outcomes: those of this base are not tried again, and each is added.
    """
    base = trials.base_name(trials.open_base(folder))
    outcomes = _read_outcomes(kept, base)
    recipes: dict[str, Recipe] = {}
    tried: list[Mapping[str, Any]] = []
    numbers = range(FIRST_TO_CHOOSE, FIRST_TO_CHOOSE + scenes)
    with tempfile.TemporaryDirectory() as cache:
        for stage, conditions in TRIED.items():
            start = recipes.get(trials.recipe_name("motion", "masked"))
            attempts = [
                Attempt(
                    model=folder, cache=Path(cache), recipe=trials.recipe_name(stage, how),
                    condition=condition, lr=lr, steps=steps[stage], scene=number, start=start,
                )
                for how, condition in conditions.items()
                for lr in rates
                for number in numbers
            ]  # fmt: skip
            known = {_attempt_of(outcome) for outcome in outcomes}
            left = [one for one in attempts if (one.recipe, one.lr, one.scene) not in known]
            for answer in finished(executor, try_recipe, left, "trials"):
                outcomes += answer
                if kept is not None:
                    write_text(kept, json.dumps({"base": base, "outcomes": outcomes}) + "\n")
            for how in conditions:
                candidates = ranked(outcomes, trials.recipe_name(stage, how))
                tried += candidates
                best = max(candidates, key=lambda each: each["figure"])
                recipes[trials.recipe_name(stage, how)] = Recipe(best["lr"], best["steps"])
    return Settings(base, recipes, list(numbers), tried)


def _read_outcomes(kept: Path | None, base: str) -> list[dict[str, Any]]:
    """Outcomes of a run that was stopped; none where they are another base's."""
    if kept is None or not kept.exists():
        return []
    with _reading(kept, "", "delete it, and run again"):
        content = json.loads(kept.read_text(encoding="utf-8"))
        return list(content["outcomes"]) if content["base"] == base else []


def _attempt_of(outcome: Mapping[str, Any]) -> tuple[str, float, int]:
    return outcome["recipe"], outcome["lr"], outcome["scene"]


def ranked(outcomes: list[dict[str, Any]], recipe: str) -> list[dict[str, Any]]:
    """The candidates for a recipe, each with the mean figure over scenes."""
    ours = [outcome for outcome in outcomes if outcome["recipe"] == recipe]
    settings = sorted({(outcome["lr"], outcome["steps"]) for outcome in ours})
    return [
        {
            "recipe": recipe, "lr": lr, "steps": steps,
            "figure": float(np.mean(
                [o["figure"] for o in ours if (o["lr"], o["steps"]) == (lr, steps)]
            )),
        }
        for lr, steps in settings
    ]  # fmt: skip


def try_recipe(attempt: Attempt) -> list[dict[str, Any]]:
    """The deciding figure after each number of steps."""
    model, condition = trials.open_base(attempt.model), CONDITIONS[attempt.condition]
    case = trials.draw_task(attempt.scene, condition.subject)
    bench = Bench(model, case, attempt.cache, attempt.scene)
    chooser, stage = choose_uniformly(_windows(bench, condition)), stage_of(attempt)
    transformer = model.load_transformer()
    with closing(transformer.streamed):
        assert condition.training is not None
        trials.inject(model, transformer, condition.training, attempt.scene)
        if attempt.start is not None and condition.appearance is not None:
            trials.run(bench, transformer, chooser, attempt.start, "motion")
            keyframes = bench.keyframe(condition.appearance)
            chooser = choose_mixed(keyframes, _windows(bench, condition), trials.MOTION_SHARE)
        latents = {
            str(step): bench.sample(transformer, condition)
            for step in bench.train(transformer, chooser, attempt.lr, attempt.steps, stage)
        }
    return [
        {
            "recipe": attempt.recipe, "lr": attempt.lr, "steps": int(step),
            "scene": attempt.scene, "figure": figures(frames_THWC, case)[DECIDING[stage]],
        }
        for step, frames_THWC in trials.decode(model, latents).items()
    ]  # fmt: skip


def stage_of(attempt: Attempt) -> Stage:
    """Which stage is tried."""
    return "motion" if attempt.start is None else "appearance"


def _windows(bench: Bench, condition: Condition) -> list[Any]:
    assert condition.training is not None
    return bench.motion(condition.training)
