"""Every base, at a tiny size, goes through prepare, both stages and inference on a real clip."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from maskora import lora
from maskora.app.workspace import Workspace
from maskora.models.registry import FAMILIES, names_of
from maskora.training.report import read_metrics
from maskora.training.run_folder import RunFolder
from tests.app.conftest import (
    FAST,
    Answer,
    frames_of,
    keeps_the_background,
    ok,
    recolour,
    refused,
)
from tests.models.bases import TINY

Run = Callable[..., Answer]
SIZES = {"hunyuan-video-1.5-i2v": "128x64"}
TWO = "wan2.2-i2v"  # of two transformers


@pytest.fixture(scope="module")
def edited(
    run: Run, real_clips: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Nine frames of a walking dog, prepared for a family's tiny model, frames 0 and 8 edited."""

    def make(family: str) -> Path:
        folder = tmp_path_factory.mktemp(family.replace(".", "-"))
        root = folder / "ws"
        TINY[family](folder / "model")
        answer = run(
            "prepare", real_clips / "dog.mp4", root, "--box", "500,200,300,300",
            "--size", SIZES.get(family, "96x64"), "--frames", 9, "--caption", "a dog",
            "--edited-caption", "a red dog", *FAST, "--set", f"model.family={family}",
            "--set", f"model.path={folder / 'model'}",
        )  # fmt: skip
        ok(answer)
        for name in ("00000.png", "00008.png"):
            recolour(root / "source" / name, root / "edits" / name, (40, 20, 20, 20))
        return root

    return make


@pytest.fixture(scope="module")
def trained_two(run: Run, edited: Callable[[str], Path]) -> Path:
    """Both stages of both transformers, trained; not to be changed."""
    root = edited(TWO)
    refused(
        run("infer", "--config", root / "edit.toml"),
        "appearance stage has not been trained for high noise",
    )
    ok(run("train", "--config", root / "edit.toml", "--set", "motion.steps=6"))
    return root


def newest_adapter(root: Path, expert: str, stage: str = "motion") -> Path:
    """The LoRA of one of two transformers."""
    adapter = RunFolder(root / "runs" / f"{stage}-{expert}").newest_adapter()
    assert adapter is not None
    return adapter


def run_record(root: Path) -> dict[str, list[dict[str, str]]]:
    record: dict[str, list[dict[str, str]]] = json.loads((root / "output" / "run.json").read_text())
    return record


@pytest.mark.parametrize("family", FAMILIES)
def test_a_base_carries_an_edit_through_a_real_clip(
    run: Run, edited: Callable[[str], Path], family: str
) -> None:
    root = edited(family)
    config = ["--config", root / "edit.toml"]
    ok(run("train", *config))
    ok(run("infer", *config))
    assert len(keeps_the_background(root)) == 9
    for one in run_record(root)["loras"]:
        weights = lora.read(Path(one["path"]), names_of(family))
        assert weights.metadata["family"] == family
        assert weights.metadata["stage"] == "appearance"
        moved = [update.up_OR.abs().max() > 0 for update in weights.updates.values()]
        assert moved
        assert all(moved), "every module has learned something"
    assert family in ok(run("plan", *config, "--device", "cuda")).out
    ok(run("train", *config, "--set", "appearance.conditioning=anchored"))
    for expert in {"high", "low"} if family == TWO else {""}:
        metrics = read_metrics(
            Workspace(root).run_dir("appearance", None, expert) / "metrics.jsonl"
        )
        assert "keyframe 8, anchored" in {name for entry in metrics for name in entry.samples}


def test_two_experts_have_a_lora_each_of_its_own_levels(
    run: Run, trained_two: Path, tmp_path: Path
) -> None:
    root = tmp_path / "ws"
    shutil.copytree(trained_two, root)
    config = ["--config", root / "edit.toml"]
    for expert, (lowest, highest) in {"high": (0.9, 1.0), "low": (0.0, 0.9)}.items():
        for stage in ("motion", "appearance"):
            adapter = newest_adapter(root, expert, stage)
            assert lora.read(adapter).metadata["expert"] == expert
            levels = [e.noise_level for e in read_metrics(adapter.parents[1] / "metrics.jsonl")]
            assert levels
            assert all(lowest <= level < highest for level in levels)
    assert len(Workspace(root).metrics("motion")) == 3
    again = run("train", *config, "--set", "motion.steps=6")
    assert again.err.count("done already") == 4

    ok(run("infer", *config))
    assert [one["expert"] for one in run_record(root)["loras"]] == ["high", "low"]
    result = frames_of(root)
    high, low = (newest_adapter(root, expert, "appearance") for expert in ("high", "low"))
    ok(run("infer", *config, "--lora", high, "--lora", low))
    assert np.array_equal(frames_of(root), result), "a file knows its expert"
    ok(run("infer", *config, "--lora", high))
    assert not np.array_equal(frames_of(root), result)


def test_another_border_between_the_experts_trains_again_and_is_recorded(
    run: Run, trained_two: Path, tmp_path: Path
) -> None:
    root, model = tmp_path / "ws", tmp_path / "model"
    shutil.copytree(trained_two, root)
    shutil.copytree(trained_two.parent / "model", model)
    index = model / "model_index.json"
    index.write_text(index.read_text().replace("0.9", "0.5"))
    config = ["--config", root / "edit.toml", "--set", f"model.path={model}"]
    again = ok(run("train", *config, "--stage", "motion"))
    assert again.err.count("retraining: noise levels of the experts changed") == 2
    answer = run("train", *config, "--stage", "appearance", "--set", "motion.steps=3")
    refused(answer, "the motion stage for high noise stands at step 2 of 3")
    assert "loading the transformer" not in answer.err
    low = f'inference.loras=[{{path="{newest_adapter(root, "low")}", expert="high"}}]'
    answer = run("infer", *config, "--lora", "none", "--set", low)
    assert "was trained for low noise, and is used for high noise, as set" in answer.err
    assert "no LoRA is for low noise: that transformer runs bare" in answer.err
    assert "denoise (high noise): 100%" in answer.err, "the bar is there without a terminal"
    record = json.loads((root / "output" / "run.json").read_text())["model"]
    assert [one["lowest"] for one in record["experts"]] == [0.5, 0.0]
    assert record["scheduler"]["flow_shift"] == 3.0


def test_a_lora_of_an_expert_is_refused_where_there_is_none(
    run: Run, trained_two: Path, prepared: Callable[..., Path]
) -> None:
    adapter = newest_adapter(trained_two, "low")
    answer = run("infer", "--config", prepared() / "edit.toml", "--lora", adapter)
    refused(answer, "is for the low noise expert, and this base has one transformer alone")
