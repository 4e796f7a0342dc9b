"""Wrong inputs of train, infer and check: one readable message, status 2, nothing half-written."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from maskora.video.images import read_image, write_png
from tests.app.conftest import Prepared, Run, at, ok, refused, sets


def test_an_edited_frame_of_a_strange_size(run: Run, prepared: Prepared) -> None:
    root = prepared()
    Image.new("RGB", (100, 100)).save(root / "edits" / "00000.png")
    for command, lines in (("infer", 1), ("check", 2)):
        refused(run(command, *at(root)), "100x100", "160x96", "320x192", lines=lines)
    assert not (root / "output").exists()


def test_a_missing_edited_frame(run: Run, prepared: Prepared) -> None:
    root = prepared()
    (root / "edits" / "00000.png").unlink()
    refused(run("infer", *at(root)), "edits/00000.png is missing")


@pytest.mark.parametrize("frame", [0, 8])
def test_a_source_frame_over_which_something_was_saved(
    run: Run, prepared: Prepared, frame: int
) -> None:
    root = prepared()
    path = root / "source" / f"{frame:05d}.png"
    image = read_image(path).copy()
    image[0, 0] ^= 1  # it still decodes
    write_png(path, image)
    for command, lines in (("train", 1), ("infer", 1), ("check", 2)):
        answer = run(command, *at(root))
        refused(answer, f"{path} is not what prepare wrote", str(root / "edits"), lines=lines)
    assert not (root / "runs").exists()
    (root / "source" / "frames.json").unlink()  # as in a workspace of a version before
    ok(run("check", *at(root)))


def test_an_automatic_caption_without_a_captioner(run: Run, prepared: Prepared) -> None:
    auto = ("prompt.caption=auto", "prompt.edited_caption=auto", "caption.model=none")
    root, name = prepared(*sets(*auto)), "[caption] model"
    refused(run("train", *at(root)), "source/00000.txt", 'caption = "…"', name)
    refused(run("infer", *at(root)), "edits/00000.txt", 'edited_caption = "…"', name)
    (root / "source" / "00000.txt").write_text("a blue ball")
    ok(run("train", *at(root), "--stage", "motion"))


@pytest.fixture
def broken(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, to break."""
    return Path(shutil.copytree(tiny_model, tmp_path / "broken"))


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
    run: Run, prepared: Prepared, broken: Path, part: str
) -> None:
    path, root = broken / part, prepared()
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    answer = run("train", *at(root, f"model.path={broken}"))
    refused(answer, str(broken), part.split("/")[0])
    assert not (root / "runs").exists()


def test_a_text_to_video_checkpoint(run: Run, prepared: Prepared, broken: Path) -> None:
    config = broken / "transformer" / "config.json"
    config.write_text(config.read_text().replace('"in_channels": 36', '"in_channels": 16'))
    answer = run("train", *at(prepared(), f"model.path={broken}"))
    refused(answer, "16 input channels", "text-to-video")


def test_the_original_has_gone(run: Run, prepared: Prepared, ball: Path) -> None:
    root = prepared()
    record = root / "source" / "source.json"
    record.write_text(record.read_text().replace(str(ball), "/nowhere/ball.mp4"))
    refused(run("infer", *at(root)), "/nowhere/ball.mp4", '"origin"')


@pytest.mark.parametrize(
    ("command", "option", "words"),
    [
        ("infer", "", ["motion stage has not been trained"]),
        ("train", "--set=model.path=./nowhere", ["./nowhere", "neither a folder nor a hub id"]),
        ("train", "--set=video.frames=13", ["[video] frames is 13", "prepared with 9"]),
        *[("infer", f"--seed={seed}", ["--seed"]) for seed in ("x", "1,1", "-3", "1.5")],
    ],
)
def test_options_that_cannot_be(
    run: Run, prepared: Prepared, command: str, option: str, words: list[str]
) -> None:
    refused(run(command, *at(prepared()), *option.split()), *words)


@pytest.mark.parametrize(
    "setting", ["inference.guidance=inf", "training.shift=inf", "adapter.alpha=nan"]
)
def test_numbers_that_are_none_are_refused(run: Run, prepared: Prepared, setting: str) -> None:
    refused(run("check", *at(prepared(), setting)), "finite number", lines=2)
