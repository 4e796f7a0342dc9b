"""The claims' runs on a miniature with random weights: shared, resumed, reported; their files."""

import json
import math
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from maskora.errors import UserError
from maskora.files import remove
from maskora.latents import TensorCache, encode_samples
from maskora.method.conditioning import inference_sample
from maskora.method.transfer import steps_within
from maskora.models.registry import VideoModel
from maskora.training.loop import PendingStep, train_step
from research.claims import runs, trials
from research.claims.claims import (
    CONDITIONS,
    EVOLVING,
    FIRST,
    HUES,
    Condition,
    Subject,
    Training,
    at_length,
)
from research.claims.costs import cost_of, read_costs, write_costs
from research.claims.report import Measured, with_truths
from research.claims.runs import Record, Results, Settings
from research.claims.trials import Bench, Recipe, base_name, draw_task, make_clips, open_base
from research.fidelity import BASES, app
from research.miniature import gate
from research.miniature.gate import unit

RECIPES = {
    f"{stage}, {how}": Recipe(1e-2, 2)
    for stage, hows in (
        ("motion", ("masked", "first-frame")),
        ("appearance", ("masked", "anchored", "first-frame")),
    )
    for how in hows
}
DOCS = Path(__file__).parents[2] / "docs"
ROWS = {  # of the table in transfer.md -> what the preset is called in the claims
    "naive": "naive LoRA", "paper": "mask-aware LoRA", "anyv2v": "anyv2v", "instant": "instant",
    "best": "mask-aware LoRA, looking",
}  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Encoded clips, which tests share."""
    return tmp_path_factory.mktemp("cache")


def fidelity(*words: object) -> Result:
    """Run `python -m research.fidelity`."""
    return CliRunner().invoke(app, [str(word) for word in words])


def refused(answer: Result, message: str) -> None:
    assert answer.exit_code == 2
    assert message in answer.output


def test_conditions_share_a_lora_and_the_first_seed_comes_first_claim_by_claim() -> None:
    wanted = [
        (name, scene, seed)
        for name in ("naive LoRA", "mask-aware LoRA", "naive LoRA, blended")
        for scene in (5, 6)
        for seed in (1, 0)
    ]
    groups = runs.grouped(wanted)
    naive, aware = ("naive LoRA", "naive LoRA, blended"), ("mask-aware LoRA",)
    assert groups == [
        (names, scene, seed) for seed in (0, 1) for names in (naive, aware) for scene in (5, 6)
    ]


def test_windows_and_colourings_are_samples_of_their_own(model: VideoModel, cache: Path) -> None:
    bench = Bench(model, draw_task(FIRST, Subject()), cache, 0)
    names = [sample.name for sample in bench.motion(Training(window=5))]
    assert names == ["motion 0-4", "motion 4-8"]
    five = Bench(model, draw_task(FIRST, Subject(frames=5)), cache, 0)
    assert len(five.motion(Training(recoloured=True))) == 6


def test_every_second_stage_starts_from_the_motion_lora(model: VideoModel, cache: Path) -> None:
    bench = Bench(model, draw_task(FIRST, EVOLVING), cache, 0)
    names = ["no keyframe", "keyframe, first-frame", "keyframe, masked"]
    conditions = {name: CONDITIONS[name] for name in names}
    together = make_clips(model, bench, conditions, RECIPES, 0)
    last = names[-1]
    alone = make_clips(model, bench, {last: CONDITIONS[last]}, RECIPES, 0)
    assert np.array_equal(together[last], alone[last])
    assert not np.array_equal(together[last], together["no keyframe"])
    assert not np.array_equal(together[last], together["keyframe, first-frame"])


def shown_to_the_model(bench: Bench, condition: Condition, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What a condition shows at inference, and its lock, without denoising."""
    shown: dict[str, Any] = {}

    class Seen(Exception):
        """Enough is known."""

    def look(model: Any, sample: Any, *others: Any) -> None:
        *_, shown["lock"], shown["lead"] = others
        shown["sample"] = sample
        raise Seen

    monkeypatch.setattr(trials, "Denoising", look)
    with pytest.raises(Seen):
        bench.sample(bench._model.load_transformer(), condition)
    return shown


@pytest.mark.parametrize(
    ("name", "boxed", "locked"),
    [
        ("base, plain", False, False), ("base, boxed", True, False),
        ("naive LoRA", False, False), ("naive LoRA, blended", False, True),
        ("mask-aware LoRA", True, False), ("mask-aware LoRA, recoloured", True, False),
        ("keyframe, first-frame", True, False), ("instant", True, False),
        ("anyv2v", False, False), ("mask, carried along the flow", True, False),
    ],
)  # fmt: skip
def test_a_condition_is_shown_what_its_name_says(
    model: VideoModel, cache: Path, monkeypatch: pytest.MonkeyPatch,
    name: str, boxed: bool, locked: bool,
) -> None:  # fmt: skip
    condition = CONDITIONS[name]
    case = draw_task(FIRST, condition.subject)
    shown = shown_to_the_model(Bench(model, case, cache, 0), condition, monkeypatch)
    keep_THW = case.keep_THW.clone() if boxed else torch.zeros_like(case.keep_THW)
    keep_THW[0] = 1
    assert torch.equal(shown["sample"].keep_THW, keep_THW)
    seen = inference_sample(
        unit(case.source_THWC), case.keep_THW,
        unit(case.edited_THWC)[:, :1], "masked" if boxed else "first-frame", "",
    )  # fmt: skip
    (encoded,) = encode_samples([seen], model, TensorCache(cache))
    assert torch.equal(shown["sample"].condition_CTHW, encoded.condition_CTHW)
    assert (shown["lead"].branch is not None) == condition.transfer.inverts
    assert (shown["lead"].carried_CTHW is not None) == (condition.transfer.start == "flow")
    assert (shown["lock"] is not None) == locked
    if locked:
        assert not shown["lock"].keep_THW[0].any()
        assert shown["lock"].keep_THW[1:].any()


def test_seeds_of_a_scene_differ_and_recipes_are_those_of_the_stage(
    untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[tuple[Recipe, int]] = []

    def note(*given: Any) -> PendingStep:
        *_, plan, step = given
        if step == 1:
            used.append((Recipe(plan.optimizer.lr, plan.steps), plan.seed))
        return train_step(*given)

    monkeypatch.setattr(trials, "train_step", note)
    recipes = {what: Recipe(1e-2, 1 + number) for number, what in enumerate(RECIPES)}
    jobs = [
        runs.Job(
            untrained, tmp_path, tmp_path / "rows", recipes, ("keyframe, anchored",), FIRST, seed
        )
        for seed in (0, 1)
    ]
    (one,), (other,) = runs.run_job(jobs[0]), runs.run_job(jobs[1])
    assert one.figures != other.figures
    stages = [recipes["motion, masked"], recipes["appearance, anchored"]]
    assert [recipe for recipe, _ in used] == [*stages, *stages]
    assert [seed - 100 * FIRST for _, seed in used] == [0, 1, 1, 2], "as train.py has them"


def test_an_anchored_keyframe_of_the_last_frame_is_the_last_latent_frame(
    model: VideoModel, cache: Path
) -> None:
    bench = Bench(model, draw_task(FIRST, EVOLVING), cache, 0)
    assert [each.times for each in bench.keyframe("anchored")] == [(0, 2)]
    assert [each.times for each in bench.keyframe("masked")] == [None]


def test_a_run_is_reported_and_not_repeated(untrained: Path, tmp_path: Path) -> None:
    settings, output = tmp_path / "chosen.json", tmp_path / "results" / "fidelity.json"
    page = tmp_path / "docs" / "evidence.md"
    runs.write_settings(settings, Settings(base_name(open_base(untrained)), RECIPES, [1], []))
    options = [
        "--model", untrained, "--settings", settings, "--output", output, "--page", page,
        "--scenes", 2, "--seeds", 1,
    ]  # fmt: skip
    first = fidelity(*options, "--claim", 7, "--workers", 1)
    assert first.exit_code == 0, first.output
    content = json.loads(output.read_text())
    assert len(content["records"]) == 6  # two conditions and the ceiling, on two scenes
    content["records"][0]["figures"]["hit"] = 0.75
    output.write_text(json.dumps(content))

    assert fidelity(*options, "--claim", 7).exit_code == 0
    assert json.loads(output.read_text()) == content

    assert fidelity(*options, "--report").exit_code == 0
    assert "2 × 1" in page.read_text()
    assert "Not run: keyframe, masked minus keyframe, first-frame" in page.read_text()
    assert [path.name for path in sorted(page.with_suffix("").iterdir())] == ["claim-7.png"]

    written = page.read_text()
    remove(runs.pictures_of(output))  # a checkout has not the clips, but the pictures
    assert fidelity(*options, "--report").exit_code == 0
    assert page.read_text() == written
    assert "(evidence/claim-7.png)" in written

    content["recipes"]["motion, masked"]["steps"] += 1
    output.write_text(json.dumps(content))
    refused(fidelity(*options, "--report"), "other settings")


def test_the_documents_tell_what_was_measured(tmp_path: Path) -> None:
    page = tmp_path / "evidence.md"
    shutil.copytree(DOCS / "evidence", page.with_suffix(""))
    assert fidelity("--report", "--page", page).exit_code == 0
    assert page.read_text() == (DOCS / "evidence.md").read_text(encoding="utf-8")

    told = (DOCS / "transfer.md").read_text(encoding="utf-8")
    bases = [Measured(base.evidence().results, 16) for base in BASES.values()]
    for preset, condition in ROWS.items():
        right = [
            [f"{100 * share_right(base, at_length(condition, frames)):.0f} %" for frames in (9, 49)]
            for base in bases
        ]
        row = " | ".join(", ".join(of_base) for of_base in right)
        assert f"| `{preset}` | {row} |" in told


def share_right(base: Measured, condition: str) -> float:
    """The mean of `strict` over edits of the hue."""
    seeds = base.seeds([condition], HUES)
    values = base.values(condition, base.common([condition], HUES), seeds)
    return float(np.mean(list(values["strict"].values())))


def test_a_preset_is_measured_in_seconds_evaluations_and_memory(
    untrained: Path, tmp_path: Path
) -> None:
    recipes = {recipe: Recipe(1e-3, 2) for recipe in RECIPES}
    plain, instant, trained = (
        cost_of(untrained, tmp_path, name, recipes)
        for name in ("base, boxed", "instant", "mask-aware LoRA")
    )
    steps, taken = gate.STEPS, steps_within(0.8, gate.STEPS)
    assert plain.evaluations == trained.evaluations == steps
    assert instant.evaluations == steps + (steps + taken), "inverted, and beside the source"
    assert plain.training < trained.training
    assert min(each.memory for each in (plain, instant, trained)) > 0
    write_costs(tmp_path / "costs.json", "base", {"instant": instant})
    assert read_costs(tmp_path / "costs.json", "base") == {"instant": instant}
    assert read_costs(tmp_path / "costs.json", "another") == {}


def test_clips_of_another_length_stand_under_their_own_truth() -> None:
    row = np.zeros((1, 1, 3), np.uint8)
    rows = dict.fromkeys(("mask-aware LoRA", "13 frames", "5 frames"), row)
    found = with_truths(rows, CONDITIONS["mask-aware LoRA"].subject, FIRST)
    assert list(found) == [
        "source", "truth", "mask-aware LoRA",
        "truth, 5 frames", "5 frames", "truth, 13 frames", "13 frames",
    ]  # fmt: skip
    assert not np.array_equal(found["truth"], found["truth, 13 frames"])


def test_other_settings_do_not_go_into_the_same_results(untrained: Path, tmp_path: Path) -> None:
    base, settings = base_name(open_base(untrained)), tmp_path / "chosen.json"
    output = tmp_path / "fidelity.json"
    Results(base, {}, []).write(output)
    runs.write_settings(settings, Settings(base, RECIPES, [1], []))
    options = ["--model", untrained, "--settings", settings, "--output", output]
    refused(fidelity(*options), "other settings")


def test_the_highest_mean_over_scenes_counts() -> None:
    outcomes = [
        {"recipe": "motion, masked", "lr": lr, "steps": steps, "figure": figure}
        for lr, steps, figures in ((1e-3, 30, (0.2, 0.4)), (2e-3, 30, (0.9, 0.1)))
        for figure in figures
    ]
    found = runs.ranked([*outcomes, outcomes[0] | {"recipe": "another"}], "motion, masked")
    assert [each["figure"] for each in found] == pytest.approx([0.3, 0.5])


@pytest.mark.slow
def test_each_stage_gets_the_best_of_what_was_tried(untrained: Path, tmp_path: Path) -> None:
    kept, steps = tmp_path / "tried.json", {"motion": (1, 2), "appearance": (2, 3)}
    few = {"scenes": 1, "rates": (1e-3, 1e-2), "steps": steps, "kept": kept}
    with ThreadPoolExecutor(1) as executor:
        settings = runs.choose(untrained, executor, **few)  # type: ignore[arg-type]
    # What was tried is not tried again: the executor takes no more work.
    assert runs.choose(untrained, executor, **few) == settings  # type: ignore[arg-type]
    assert settings.base == base_name(open_base(untrained))
    assert settings.recipes.keys() == RECIPES.keys()
    for name, recipe in settings.recipes.items():
        tried = [each for each in settings.tried if each["recipe"] == name]
        assert len(tried) == 4
        best = max(tried, key=lambda each: float(each["figure"]))
        assert recipe == Recipe(best["lr"], best["steps"])


def test_results_come_back_and_are_plain_json(tmp_path: Path) -> None:
    records = [
        Record("tight mask", 3000, 1, {"hit": 0.5, "grown": math.nan}),
        Record("source", 3001, 0, {"hit": 0.25, "grown": 1.0}),
    ]
    path = tmp_path / "results.json"
    Results("a base", RECIPES, records).write(path)
    json.loads(path.read_text(), parse_constant=pytest.fail)  # no NaN, which JSON has not
    found = runs.read_results(path)
    assert (found.base, found.recipes) == ("a base", RECIPES)
    assert found.records[1] == records[1]
    assert found.records[0].figures["hit"] == 0.5
    assert math.isnan(found.records[0].figures["grown"])


def test_results_of_other_trials_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    Results("a base", RECIPES, []).write(path)
    path.write_text(path.read_text().replace(f'"protocol": {runs.PROTOCOL}', '"protocol": 1'))
    with pytest.raises(UserError, match="results of other trials: delete it"):
        runs.read_results(path)


def test_settings_belong_to_a_base(tmp_path: Path) -> None:
    path = tmp_path / "chosen.json"
    with pytest.raises(UserError, match="--choose first"):
        runs.read_settings(path, "one")
    runs.write_settings(path, Settings("one", RECIPES, [1], []))
    assert runs.read_settings(path, "one").recipes == RECIPES
    with pytest.raises(UserError, match="another base"):
        runs.read_settings(path, "two")


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"protocol": 3}', '{"protocol": 3, "base": "x", "recipes": 3}']
)
def test_damaged_files_are_told(untrained: Path, tmp_path: Path, content: str) -> None:
    damaged = tmp_path / "damaged.json"
    damaged.write_text(content)
    answer = fidelity("--model", untrained, "--settings", damaged)
    refused(answer, f"{damaged} is damaged")
    with pytest.raises(UserError, match="is damaged"):
        runs.read_results(damaged)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--claim", "42"], "choose of 1 to 16"),
        (["--choose", "--report"], "name one"),
        (["--report", "--claim", "1"], "for the run alone"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: list[str], message: str) -> None:
    refused(fidelity(*options), message)
