"""Wrong inputs of train, infer and check: one readable message, status 2, nothing half-written."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.app.conftest import Answer, refused

Run = Callable[..., Answer]


def test_an_edited_frame_of_a_strange_size(run: Run, prepared: Callable[..., Path]) -> None:
    root = prepared()
    Image.new("RGB", (100, 100)).save(root / "edits" / "00000.png")
    for command in ("infer", "check"):
        answer = run(command, "--config", root / "edit.toml")
        refused(answer, "100x100", "160x96", "320x192", lines=1 if command == "infer" else 2)
    assert not (root / "output").exists()


def test_a_missing_edited_frame(run: Run, prepared: Callable[..., Path]) -> None:
    root = prepared()
    (root / "edits" / "00000.png").unlink()
    refused(run("infer", "--config", root / "edit.toml"), "edits/00000.png is missing")


def test_an_automatic_caption_without_a_captioner(run: Run, prepared: Callable[..., Path]) -> None:
    auto = ["--set", "prompt.caption=auto", "--set", "prompt.edited_caption=auto"]
    root = prepared(*auto, "--set", "caption.model=none")
    config = root / "edit.toml"
    name = "[caption] model"
    refused(run("train", "--config", config), "source/00000.txt", 'caption = "…"', name)
    refused(run("infer", "--config", config), "edits/00000.txt", 'edited_caption = "…"', name)
    (root / "source" / "00000.txt").write_text("a blue ball")
    assert run("train", "--config", config, "--stage", "motion").status == 0


@pytest.mark.parametrize(
    "part",
    [
        "vae/diffusion_pytorch_model.safetensors",
        "transformer/config.json",
        "tokenizer/tokenizer.json",
        "scheduler/scheduler_config.json",
        "image_encoder",
    ],
)
def test_a_model_folder_with_a_part_missing(
    run: Run, prepared: Callable[..., Path], tiny_model: Path, tmp_path: Path, part: str
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_model, broken)
    path = broken / part
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    root = prepared()
    answer = run("train", "--config", root / "edit.toml", "--set", f"model.path={broken}")
    refused(answer, str(broken), part.split("/")[0])
    assert not (root / "runs").exists()


def test_a_text_to_video_checkpoint(
    run: Run, prepared: Callable[..., Path], tiny_model: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "t2v"
    shutil.copytree(tiny_model, broken)
    config = broken / "transformer" / "config.json"
    config.write_text(config.read_text().replace('"in_channels": 36', '"in_channels": 16'))
    root = prepared()
    answer = run("train", "--config", root / "edit.toml", "--set", f"model.path={broken}")
    refused(answer, "16 input channels", "text-to-video")


def test_a_model_that_is_nowhere(run: Run, prepared: Callable[..., Path]) -> None:
    root = prepared()
    answer = run("train", "--config", root / "edit.toml", "--set", "model.path=./nowhere")
    refused(answer, "./nowhere", "neither a folder nor a hub id")


def test_inference_before_training(run: Run, prepared: Callable[..., Path]) -> None:
    root = prepared()
    refused(run("infer", "--config", root / "edit.toml"), "motion stage has not been trained")


def test_settings_that_disagree_with_what_was_prepared(
    run: Run, prepared: Callable[..., Path]
) -> None:
    root = prepared()
    answer = run("train", "--config", root / "edit.toml", "--set", "video.frames=13")
    refused(answer, "[video] frames is 13", "prepared with 9")


def test_the_original_has_gone(run: Run, prepared: Callable[..., Path], ball: Path) -> None:
    root = prepared()
    record = root / "source" / "source.json"
    record.write_text(record.read_text().replace(str(ball), "/nowhere/ball.mp4"))
    refused(run("infer", "--config", root / "edit.toml"), "/nowhere/ball.mp4", '"origin"')


@pytest.mark.parametrize("seed", ["x", "1,1", "-3", "1.5"])
def test_seeds_that_are_none(run: Run, prepared: Callable[..., Path], seed: str) -> None:
    root = prepared()
    refused(run("infer", "--config", root / "edit.toml", f"--seed={seed}"), "--seed")


@pytest.mark.parametrize(
    "setting", ["inference.guidance=inf", "training.shift=inf", "adapter.alpha=nan"]
)
def test_numbers_that_are_none_are_refused(
    run: Run, prepared: Callable[..., Path], setting: str
) -> None:
    answer = run("check", "--config", prepared() / "edit.toml", "--set", setting)
    refused(answer, "finite number", lines=2)
