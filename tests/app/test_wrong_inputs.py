"""Wrong inputs: one readable message, status 2, nothing half-written."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskora.masks.files import write_labels
from tests.app.conftest import FAST, Answer

Run = Callable[..., Answer]
BOX = ["--box", "16,64,120,96"]


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "place" / "ws"


def refused(answer: Answer, *words: str, lines: int = 1) -> None:
    """Status 2 and a message of so many lines that says these words; no traceback."""
    assert answer.status == 2, answer
    message = answer.err[answer.err.index("maskora: ") :].strip()
    assert len(message.splitlines()) == lines, message
    assert "Traceback" not in answer.err
    for word in words:
        assert word in message, message


def untouched(target: Path) -> None:
    assert not target.exists()
    leftovers = list(target.parent.iterdir()) if target.parent.exists() else []
    assert leftovers == []


def prepare(run: Run, target: Path, video: Path, tiny_model: Path, *options: object) -> Answer:
    base = ["--size", "160x96", "--set", f"model.path={tiny_model}", *FAST]
    return run("prepare", video, target, *base, *options)


def test_a_missing_video(run: Run, target: Path, tiny_model: Path, tmp_path: Path) -> None:
    answer = prepare(run, target, tmp_path / "no.mp4", tiny_model, *BOX)
    refused(answer, "no.mp4", "no such video file or folder")
    untouched(target)


def test_a_text_file_named_mp4(run: Run, target: Path, tiny_model: Path, tmp_path: Path) -> None:
    video = tmp_path / "notes.mp4"
    video.write_text("buy milk\n" * 50)
    refused(prepare(run, target, video, tiny_model, *BOX), "notes.mp4")
    untouched(target)


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_a_truncated_mp4(
    run: Run, target: Path, tiny_model: Path, ball: Path, tmp_path: Path, share: float
) -> None:
    video = tmp_path / "cut.mp4"
    video.write_bytes(ball.read_bytes()[: int(ball.stat().st_size * share)])
    refused(prepare(run, target, video, tiny_model, *BOX), "cut.mp4")
    untouched(target)


def test_masks_of_the_wrong_length(
    run: Run, target: Path, tiny_model: Path, ball: Path, tmp_path: Path
) -> None:
    for number in range(5):
        labels = np.zeros((192, 320), np.uint8)
        labels[60:120, 40:100] = 1
        write_labels(tmp_path / "masks" / f"{number:05d}.png", labels)
    answer = prepare(run, target, ball, tiny_model, "--mask", tmp_path / "masks")
    refused(answer, "masks", "5", "9")
    untouched(target)


def test_empty_masks(run: Run, target: Path, tiny_model: Path, ball: Path, tmp_path: Path) -> None:
    for number in range(9):
        write_labels(tmp_path / "masks" / f"{number:05d}.png", np.zeros((192, 320), np.uint8))
    answer = prepare(run, target, ball, tiny_model, "--mask", tmp_path / "masks")
    refused(answer, "masks", "empty")
    untouched(target)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--frames", "8"], ["8 is not 4k+1", "5 or 9"]),
        (["--size", "150x96"], ["150x96", "16", "nearest is 144x96"]),
        (["--size", "big"], ["big", "WIDTHxHEIGHT"]),
        (["--start", "100"], ["9 frames", "100"]),
        (["--set", "mask.shape=circle"], ["[mask] shape", "'box'"]),
        (["--set", "mask.margn=0.2"], ["'margn'", "did you mean 'margin'"]),
    ],
)
def test_options_that_cannot_be(
    run: Run, target: Path, tiny_model: Path, ball: Path, options: list[str], words: list[str]
) -> None:
    answer = prepare(run, target, ball, tiny_model, *BOX, *options)
    refused(answer, *words, lines=1 if "frames" in words[0] or "nearest" in words[-1] else 2)
    untouched(target)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--box", "1,2,3"], ["X,Y,W,H"]),
        (["--box", "900,900,50,50"], ["320x192"]),
        (["--box", "10,10,0,5"], ["--box"]),
    ],
)
def test_no_place_for_the_edit(
    run: Run, target: Path, tiny_model: Path, ball: Path, options: list[str], words: list[str]
) -> None:
    if options == ["--box", "10,10,0,5"]:
        words = ["10"]
    refused(prepare(run, target, ball, tiny_model, *options), *words)
    untouched(target)


def test_a_workspace_is_not_overwritten_unasked(
    run: Run, prepared: Callable[..., Path], tiny_model: Path, ball: Path
) -> None:
    root = prepared()
    before = (root / "edit.toml").read_text()
    refused(prepare(run, root, ball, tiny_model, *BOX), "--overwrite")
    assert (root / "edit.toml").read_text() == before
    answer = prepare(run, root, ball, tiny_model, *BOX, "--overwrite", "--frames", 5)
    assert answer.status == 0, answer.err
    assert (root / "edits" / "00000.png").is_file()
    assert len(list((root / "source").glob("0*.png"))) == 5


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
