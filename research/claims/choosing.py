"""Learning rates and steps by trial, on scenes that are not reported.

Each conditioning of a stage gets its own, by the same rule and of the same candidates: the highest
mean of the deciding figure.
"""

import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maskora.app.workspace import Stage
from maskora.training.loop import choose_mixed, choose_uniformly
from research.claims.conditions import CONDITIONS, Condition
from research.claims.runs import finished
from research.claims.settings import Recipe, Settings, name
from research.claims.subjects import FIRST_TO_CHOOSE, draw_task, figures
from research.claims.trials import MOTION_SHARE, Bench, base_name, decode, inject, open_base, run

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
) -> Settings:
    """Try all candidates of both stages, the motion stage first."""
    base = base_name(open_base(folder))
    recipes: dict[str, Recipe] = {}
    tried: list[Mapping[str, Any]] = []
    numbers = range(FIRST_TO_CHOOSE, FIRST_TO_CHOOSE + scenes)
    with tempfile.TemporaryDirectory() as cache:
        for stage, conditions in TRIED.items():
            start = recipes.get(name("motion", "masked"))
            attempts = [
                Attempt(
                    model=folder, cache=Path(cache), recipe=name(stage, how), condition=condition,
                    lr=lr, steps=steps[stage], scene=number, start=start,
                )
                for how, condition in conditions.items()
                for lr in rates
                for number in numbers
            ]  # fmt: skip
            answers = list(finished(executor, try_out, attempts, "trials"))
            outcomes = [outcome for answer in answers for outcome in answer]
            for how in conditions:
                candidates = ranked(outcomes, name(stage, how))
                tried += candidates
                best = max(candidates, key=lambda each: each["figure"])
                recipes[name(stage, how)] = Recipe(best["lr"], best["steps"])
    return Settings(base, recipes, list(numbers), tried)


def ranked(outcomes: list[dict[str, Any]], recipe: str) -> list[dict[str, Any]]:
    """What was tried for a recipe, each with the mean figure over scenes."""
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


def try_out(attempt: Attempt) -> list[dict[str, Any]]:
    """The deciding figure after each number of steps."""
    model, condition = open_base(attempt.model), CONDITIONS[attempt.condition]
    task = draw_task(attempt.scene, condition.subject)
    bench = Bench(model, task, attempt.cache, attempt.scene)
    chooser, stage = choose_uniformly(_windows(bench, condition)), stage_of(attempt)
    transformer = model.load_transformer()
    with closing(transformer.streamed):
        inject(model, transformer, attempt.scene)
        if attempt.start is not None and condition.appearance is not None:
            run(bench, transformer, chooser, attempt.start, "motion")
            keyframes = bench.keyframe(condition.appearance)
            chooser = choose_mixed(keyframes, _windows(bench, condition), MOTION_SHARE)
        latents = {
            str(step): bench.sample(transformer, condition)
            for step in bench.train(transformer, chooser, attempt.lr, attempt.steps, stage)
        }
    return [
        {
            "recipe": attempt.recipe, "lr": attempt.lr, "steps": int(step),
            "figure": figures(frames_THWC, task)[DECIDING[stage]],
        }
        for step, frames_THWC in decode(model, latents).items()
    ]  # fmt: skip


def stage_of(attempt: Attempt) -> Stage:
    """Which stage is tried."""
    return "motion" if attempt.start is None else "appearance"


def _windows(bench: Bench, condition: Condition) -> list[Any]:
    assert condition.training is not None
    return bench.motion(condition.training)
