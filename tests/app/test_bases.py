"""Every base, at a tiny size, goes through prepare, both stages and inference on a real clip."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from maskora import lora
from maskora.app.workspace import Workspace
from maskora.masks.files import read_labels
from maskora.models.registry import FAMILIES, names_of
from maskora.training.checkpoint import RunFolder
from maskora.training.report import read_metrics
from maskora.video.images import read_image
from maskora.video.probe import probe
from maskora.video.read import read_frames
from tests.app.conftest import FAST, Answer, recolour
from tests.models.bases import TINY

Run = Callable[..., Answer]
SIZES = {"hunyuan-video-1.5-i2v": "128x64"}


def frames_of(root: Path) -> np.ndarray:
    """The lossless result, (T, H, W, 3)."""
    return np.stack(list(read_frames(probe(root / "output" / "edited.mkv"), 0, None)))


@pytest.fixture(scope="module")
def edited(
    run: Run, real_clips: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Nine frames of a walking dog, prepared for a family's tiny model, frames 0 and 8 edited."""

    def make(family: str) -> Path:
        folder = tmp_path_factory.mktemp(family.replace(".", "-"))
        TINY[family](folder / "model")
        answer = run(
            "prepare", real_clips / "dog.mp4", folder / "ws", "--box", "500,200,300,300",
            "--size", SIZES.get(family, "96x64"), "--frames", 9, "--caption", "a dog",
            "--edited-caption", "a red dog", *FAST, "--set", f"model.family={family}",
            "--set", f"model.path={folder / 'model'}",
        )  # fmt: skip
        assert answer.status == 0, answer.err
        for number in (0, 8):
            name = f"{number:05d}.png"
            recolour(
                folder / "ws" / "source" / name, folder / "ws" / "edits" / name, (40, 20, 20, 20)
            )
        return folder / "ws"

    return make


@pytest.mark.parametrize("family", FAMILIES)
def test_a_base_carries_an_edit_through_a_real_clip(
    run: Run, edited: Callable[[str], Path], family: str
) -> None:
    root = edited(family)
    config = root / "edit.toml"
    answer = run("train", "--config", config)
    assert answer.status == 0, answer.err
    answer = run("infer", "--config", config)
    assert answer.status == 0, answer.err
    frames = frames_of(root)
    assert len(frames) == 9
    for number, frame in enumerate(frames):
        source = read_image(root / "source" / f"{number:05d}.png")
        keep = read_labels(root / "masks" / f"{number:05d}.png") == 0
        assert 0 < keep.mean() < 1
        assert np.array_equal(frame[keep], source[keep])
    record = json.loads((root / "output" / "run.json").read_text())
    for one in record["loras"]:
        weights = lora.read(Path(one["path"]), names_of(family))
        assert weights.metadata["family"] == family
        assert weights.metadata["stage"] == "appearance"
        moved = [update.up_OR.abs().max() > 0 for update in weights.updates.values()]
        assert moved
        assert all(moved), "every module has learned something"
    answer = run("plan", "--config", config, "--device", "cuda")
    assert answer.status == 0, answer.err
    assert family in answer.out
    answer = run("train", "--config", config, "--set", "appearance.conditioning=anchored")
    assert answer.status == 0, answer.err
    for turn in {"high", "low"} if family == "wan2.2-i2v" else {""}:
        metrics = read_metrics(Workspace(root).run_dir("appearance", None, turn) / "metrics.jsonl")
        assert "keyframe 8, anchored" in {name for entry in metrics for name in entry.samples}


def test_two_experts_have_a_lora_each_of_its_own_levels(
    run: Run, edited: Callable[[str], Path], tmp_path: Path
) -> None:
    root = edited("wan2.2-i2v")
    workspace, config = Workspace(root), root / "edit.toml"
    answer = run("infer", "--config", config)
    assert answer.status == 2
    assert "appearance stage has not been trained for high noise" in answer.err
    assert run("train", "--config", config, "--set", "motion.steps=6").status == 0
    ranges = {"high": (0.9, 1.0), "low": (0.0, 0.9)}
    files = []
    for expert, (lowest, highest) in ranges.items():
        for stage in ("motion", "appearance"):
            run_folder = RunFolder(workspace.run_dir(stage, None, expert))
            adapter = run_folder.newest_adapter()
            assert adapter is not None
            assert lora.read(adapter).metadata["expert"] == expert
            levels = [entry.noise_level for entry in read_metrics(run_folder.metrics)]
            assert all(lowest <= level < highest for level in levels)
        files.append(adapter)
    assert len(workspace.metrics("motion")) == 3
    again = run("train", "--config", config, "--set", "motion.steps=6")
    assert again.err.count("done already") == 4

    first = run("infer", "--config", config)
    assert first.status == 0, first.err
    loras = json.loads((root / "output" / "run.json").read_text())["loras"]
    assert [one["expert"] for one in loras] == ["high", "low"]
    result = frames_of(root)
    named = run("infer", "--config", config, "--lora", files[0], "--lora", files[1])
    assert named.status == 0, named.err
    assert np.array_equal(frames_of(root), result), "a file knows its expert"
    one = run("infer", "--config", config, "--lora", files[0])
    assert one.status == 0, one.err
    assert not np.array_equal(frames_of(root), result)


def test_another_border_between_the_experts_trains_again_and_is_recorded(
    run: Run, edited: Callable[[str], Path]
) -> None:
    root = edited("wan2.2-i2v")
    config, index = root / "edit.toml", root.parent / "model" / "model_index.json"
    assert run("train", "--config", config).status == 0
    index.write_text(index.read_text().replace("0.9", "0.5"))
    again = run("train", "--config", config, "--stage", "motion")
    assert again.err.count("trains again, because of changed noise levels of the experts") == 2
    refused = run("train", "--config", config, "--stage", "appearance", "--set", "motion.steps=3")
    assert refused.status == 2
    assert "the motion stage for high noise stands at step 2 of 3" in refused.err
    assert "loading the transformer" not in refused.err
    low = RunFolder(Workspace(root).run_dir("motion", None, "low")).newest_adapter()
    answer = run(
        "infer", "--config", config, "--lora", "none",
        "--set", f'inference.loras=[{{path="{low}", expert="high"}}]',
    )  # fmt: skip
    assert "was trained for low noise, and is used for high noise, as set" in answer.err
    assert "no LoRA is for low noise: that transformer runs bare" in answer.err
    assert "denoise (high noise): 100%" in answer.err, "the bar is there without a terminal"
    record = json.loads((root / "output" / "run.json").read_text())["model"]
    assert [one["lowest"] for one in record["experts"]] == [0.5, 0.0]
    assert record["scheduler"]["flow_shift"] == 3.0


def test_a_lora_of_an_expert_is_refused_where_there_is_none(
    run: Run, edited: Callable[[str], Path], prepared: Callable[..., Path]
) -> None:
    two = edited("wan2.2-i2v")
    assert run("train", "--config", two / "edit.toml", "--stage", "motion").status == 0
    adapter = RunFolder(Workspace(two).run_dir("motion", None, "low")).newest_adapter()
    answer = run("infer", "--config", prepared() / "edit.toml", "--lora", adapter)
    assert answer.status == 2
    assert "is for the low noise expert, and this base has one transformer alone" in answer.err
