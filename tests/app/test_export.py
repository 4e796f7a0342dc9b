"""export: a workspace's newest LoRA, or any file, for other programs."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from maskora import lora
from maskora.app.edits import load_clip
from maskora.app.fingerprints import motion_fingerprint
from maskora.app.workspace import Stage, Workspace
from maskora.config import load_config
from maskora.models.registry import open_model
from maskora.models.tiny import write_tiny_model
from maskora.training.checkpoint import RunFolder
from tests.app.conftest import Answer, recolour
from tests.lora.tiny import KINDS, random_lora

WAN = KINDS["wan2.1"]
ATTENTION = [f"blocks.0.attn1.to_{x}" for x in "qkv"]
Run = Callable[..., Answer]


def lora_file(
    path: Path, layout: str = "diffusers", modules: list[str] = ATTENTION, **metadata: Any
) -> lora.LoraWeights:
    weights = random_lora(WAN.transformer(), modules)
    weights = lora.LoraWeights(weights.updates, {}, metadata)
    lora.write(path, weights, layout, WAN.names)
    return weights


def trained(
    root: Path, stage: Stage, expert: str = "", edit: str | None = None, step: int = 2
) -> Path:
    """A workspace's run as it lies there after training, on what is there now if on motion."""
    config = load_config(root / "edit.toml", [])
    run = RunFolder(Workspace(root).run_dir(stage, edit, expert))
    path = run.adapter(step)
    lora_file(path, family=config.model.family, stage=stage, expert=expert, edit=edit)
    model = open_model(config.model.family, Path(config.model.path), "float32", "cpu")
    clip = load_clip(Workspace(root), config)
    depends = motion_fingerprint(clip, config.prompt.caption, config, model)
    record = {"depends_on": depends if stage == "motion" else {}, "step": step}
    (run.root / "run.json").write_text(json.dumps(record))
    return path


def add_keyframe(root: Path, *edit: str) -> None:
    folder = root.joinpath("edits", *edit)
    folder.mkdir(exist_ok=True)
    for frame in (0, 4):
        recolour(root / "source" / "00000.png", folder / f"{frame:05d}.png", (20, 40, 40, 30))


@pytest.fixture(scope="module")
def wan22(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wan22") / "model"
    write_tiny_model(folder, family="wan2.2-i2v")
    return folder


@pytest.fixture
def of_two(prepared: Callable[..., Path], wan22: Path) -> Path:
    """A workspace whose base has two transformers."""
    return prepared("--set", "model.family=wan2.2-i2v", "--set", f"model.path={wan22}")


def test_a_workspaces_lora_is_written_in_every_layout(
    run: Run, tmp_path: Path, prepared: Callable[..., Path]
) -> None:
    workspace = prepared()
    motion = trained(workspace, "motion")
    (workspace / "edits" / "00000.png").unlink()  # the motion is of the source alone
    for layout in lora.LAYOUTS:
        output = tmp_path / "for" / f"{layout}.safetensors"
        answer = run("export", workspace, output, "--layout", layout)
        assert (answer.status, answer.err) == (0, "")
        size = f"{output.stat().st_size / 2**20:.1f} MB"
        first = answer.out.splitlines()[0]
        assert first == f"{output}: {layout} layout, 3 modules of rank 2, {size}"
        assert ("diffusers cannot read this file" in answer.out) == (layout == "musubi")
        expected, found = (lora.read(path, WAN.names) for path in (motion, output))
        assert found.metadata == expected.metadata
        assert found.updates.keys() == expected.updates.keys()


def test_keyframes_ask_for_the_appearance_lora(
    run: Run, tmp_path: Path, prepared: Callable[..., Path]
) -> None:
    workspace, output = prepared(), tmp_path / "out.safetensors"
    trained(workspace, "motion")
    assert run("export", workspace, output).status == 0
    add_keyframe(workspace)
    answer = run("export", workspace, output, "--overwrite")
    assert answer.status == 2
    assert f"{workspace} holds no trained LoRA of appearance: python train.py" in answer.err
    trained(workspace, "appearance", step=1)
    again = run("export", workspace, output)
    assert again.status == 2
    assert re.search(r"out\.safetensors exists already.*--overwrite", again.err)
    assert lora.read_metadata(output)["stage"] == "motion"
    answer = run("export", workspace, output, "--overwrite")
    assert answer.status == 0
    assert lora.read_metadata(output)["stage"] == "appearance"
    assert "note: the LoRA was trained before [adapter], " in answer.err
    assert "note: the stage (appearance) stands at step 1 of 2" in answer.err
    (workspace / "edits" / "00004.png").unlink()
    assert run("export", workspace, output, "--overwrite").status == 0
    assert lora.read_metadata(output)["stage"] == "motion"


def test_an_edit_has_its_own_appearance_and_the_clips_motion(
    run: Run, tmp_path: Path, prepared: Callable[..., Path]
) -> None:
    workspace, output = prepared(), tmp_path / "out.safetensors"
    add_keyframe(workspace, "red")
    (workspace / "edits" / "green").mkdir()
    trained(workspace, "motion")
    trained(workspace, "appearance", edit="red")
    for edit, stage in (("red", "appearance"), ("green", "motion")):
        answer = run("export", workspace, output, "--edit", edit, "--overwrite")
        assert answer.status == 0
        assert lora.read_metadata(output)["stage"] == stage
    answer = run("export", workspace, output, "--edit", "blue", "--overwrite")
    assert answer.status == 2
    assert "no such folder (named edits here: green, red)" in answer.err


def test_each_expert_of_the_base_has_a_file(run: Run, tmp_path: Path, of_two: Path) -> None:
    output = tmp_path / "out.safetensors"
    high = trained(of_two, "motion", "high")
    answer = run("export", of_two, output)
    assert answer.status == 2
    assert "holds no trained LoRA of motion (low noise): python train.py" in answer.err
    trained(of_two, "motion", "low")
    trained(of_two, "motion")  # of a base of one transformer, configured earlier
    shutil.copytree(high.parents[1], high.parents[2] / "motion-backup")
    answer = run("export", of_two, output)
    assert (answer.status, answer.err) == (0, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "out-high.safetensors", "out-low.safetensors",
    ]  # fmt: skip
    for expert in ("high", "low"):
        path = tmp_path / f"out-{expert}.safetensors"
        assert lora.read_metadata(path)["expert"] == expert
    (tmp_path / "out-high.safetensors").unlink()
    assert run("export", of_two, output).status == 2
    assert not (tmp_path / "out-high.safetensors").exists(), "all or nothing"


@pytest.mark.parametrize("path", ["gone", "nobody/nothing-of-this-name"])
def test_without_the_base_the_runs_own_records_count(
    run: Run, tmp_path: Path, of_two: Path, path: str
) -> None:
    high = trained(of_two, "motion", "high", step=1)
    trained(of_two, "motion", "low")
    shutil.copytree(high.parents[1], high.parents[2] / "motion-backup")
    configured = of_two / "edit.toml"
    text = re.sub(r"(?m)^path = .*", f'path = "{path}"', configured.read_text(), count=1)
    configured.write_text(text)
    answer = run("export", of_two, tmp_path / "out.safetensors")
    assert answer.status == 0
    assert re.search(rf"note: whether the LoRA belongs to .* because .*{path}", answer.err)
    assert "note: the stage (motion (high noise)) stands at step 1 of 2" in answer.err
    assert len(list(tmp_path.glob("out-*.safetensors"))) == 2
    shutil.rmtree(of_two / "runs")
    answer = run("export", of_two, tmp_path / "other.safetensors")
    assert answer.status == 2
    assert "holds no trained LoRA of motion: python train.py" in answer.err


def test_a_foreign_file_is_converted_when_its_family_is_told(run: Run, tmp_path: Path) -> None:
    given, output = tmp_path / "theirs.safetensors", tmp_path / "out.safetensors"
    weights = lora_file(given, "musubi", [*ATTENTION, "blocks.1.ffn.net.2"])
    silent = run("export", given, output)
    assert silent.status == 2
    assert "does not say for which base it is: --family, one of wan2.1-i2v" in silent.err
    answer = run("export", given, output, "--family", "wan2.2-i2v", "--layout", "comfyui")
    assert answer.status == 0
    assert "diffusion_model.blocks.1.ffn.2.lora_A.weight" in load_file(output)
    assert lora.read(output, WAN.names).updates.keys() == weights.updates.keys()
    assert lora.read_metadata(output) == {}, "nothing is claimed of a foreign file"
    musubi = run("export", output, tmp_path / "b.safetensors", "--layout", "musubi",
                 "--family", "wan2.1-i2v")  # fmt: skip
    assert musubi.status == 0
    assert "note" not in musubi.out, "it has feed-forward layers"


@pytest.mark.parametrize("more", [[], ["--merge"]])
def test_an_output_that_cannot_be_is_refused_first(
    run: Run, tmp_path: Path, more: list[str]
) -> None:
    given, file = tmp_path / "own.safetensors", tmp_path / "afile"
    lora_file(given, family="wan2.1-i2v")
    file.touch()
    answer = run("export", given, file / "deep" / "x.safetensors", *more)
    assert answer.status == 2
    assert f"{file} is a file, not a folder" in answer.err
    undecodable = Path(os.fsdecode(bytes(tmp_path) + b"/\xff.safetensors"))
    answer = run("export", given, undecodable, *more)
    assert answer.status == 2
    assert "\\xff.safetensors' is no text in UTF-8: choose another name" in answer.err
    assert sorted(tmp_path.iterdir()) == [file, given]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.safetensors", "o.safetensors"], r"nothing\.safetensors does not exist"),
        (["own.safetensors", "o.pt"], r"o\.pt: other programs know LoRA files by their end"),
        (["own.safetensors", "o.safetensors", "--layout", "kohya"], "choose diffusers, comfyui, m"),
        (["own.safetensors", "o.safetensors", "--family", "sdxl"], "choose one of wan2.1-i2v"),
        (["own.safetensors", "o.safetensors", "--edit", "red"], "belongs to a workspace"),
        (["strange.safetensors", "o.safetensors"], "is for 'wan9', a kind of base"),
        ([".", "o.safetensors"], r"edit\.toml"),
    ],
)
def test_what_cannot_be_is_said(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    lora_file(Path("own.safetensors"), family="wan2.1-i2v")
    lora_file(Path("strange.safetensors"), family="wan9")
    answer = run("export", *arguments)
    assert answer.status == 2
    assert re.search(message, answer.err)
    assert not list(tmp_path.glob("o.*"))
