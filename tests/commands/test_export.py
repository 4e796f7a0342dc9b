"""export: a workspace's newest LoRA, or any file, for other programs."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from maskora import lora
from maskora.training.checkpoint import RunFolder
from maskora.workspace import Stage, Workspace
from tests.commands.conftest import Answer
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


def trained(root: Path, stage: Stage, expert: str = "", edit: str | None = None) -> Path:
    """A workspace's run as it lies there after training."""
    run = RunFolder(Workspace(root).run_dir(stage, edit, expert))
    path = run.adapter(7)
    lora_file(path, family="wan2.1-i2v", stage=stage, expert=expert, edit=edit)
    (run.root / "run.json").write_text(json.dumps({"depends_on": {}, "step": 7}))
    return path


@pytest.mark.parametrize("layout", lora.LAYOUTS)
def test_a_workspace_gives_its_newest_lora(run: Run, tmp_path: Path, layout: str) -> None:
    workspace, output = tmp_path / "edit", tmp_path / "for" / "others.safetensors"
    motion = trained(workspace, "motion")
    answer = run("export", workspace, output, "--layout", layout)
    assert (answer.status, answer.err) == (0, "")
    size = f"{output.stat().st_size / 2**20:.1f} MB"
    first = answer.out.splitlines()[0]
    assert first == f"{output}: {layout} layout, 3 modules of rank 2, {size}"
    assert ("diffusers cannot read this file" in answer.out) == (layout == "musubi")
    expected, found = (lora.read(path, WAN.names) for path in (motion, output))
    assert found.metadata == expected.metadata
    assert found.updates.keys() == expected.updates.keys()
    trained(workspace, "appearance")
    again = run("export", workspace, output, "--layout", layout)
    assert again.status == 2
    assert re.search(r"others\.safetensors exists already.*--overwrite", again.err)
    assert lora.read_metadata(output)["stage"] == "motion"
    assert run("export", workspace, output, "--layout", layout, "--overwrite").status == 0
    assert lora.read_metadata(output)["stage"] == "appearance"


def test_an_edit_has_its_own_appearance_and_the_clips_motion(run: Run, tmp_path: Path) -> None:
    workspace, output = tmp_path / "edit", tmp_path / "out.safetensors"
    for name in ("red", "green"):
        (workspace / "edits" / name).mkdir(parents=True)
    trained(workspace, "motion")
    trained(workspace, "appearance", edit="red")
    for edit, stage in (("red", "appearance"), ("green", "motion")):
        answer = run("export", workspace, output, "--edit", edit, "--overwrite")
        assert answer.status == 0
        assert lora.read_metadata(output)["stage"] == stage
    answer = run("export", workspace, output, "--edit", "blue", "--overwrite")
    assert answer.status == 2
    assert "no such folder (named edits here: green, red)" in answer.err


def test_each_expert_has_a_file(run: Run, tmp_path: Path) -> None:
    workspace, output = tmp_path / "edit", tmp_path / "out.safetensors"
    for expert in ("high", "low"):
        trained(workspace, "motion", expert)
    trained(workspace, "appearance", "high")
    assert run("export", workspace, output).status == 0
    told = {}
    for expert in ("high", "low"):
        metadata = lora.read_metadata(tmp_path / f"out-{expert}.safetensors")
        told[metadata["expert"]] = metadata["stage"]
    assert told == {"high": "appearance", "low": "motion"}
    (tmp_path / "out-high.safetensors").unlink()
    assert run("export", workspace, output).status == 2
    assert not (tmp_path / "out-high.safetensors").exists(), "all or nothing"


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.safetensors", "o.safetensors"], r"nothing\.safetensors does not exist"),
        (["own.safetensors", "o.pt"], r"o\.pt: other programs know LoRA files by their end"),
        (["own.safetensors", "o.safetensors", "--layout", "kohya"], "choose diffusers, comfyui, m"),
        (["own.safetensors", "o.safetensors", "--family", "sdxl"], "choose one of wan2.1-i2v"),
        (["own.safetensors", "o.safetensors", "--edit", "red"], "belongs to a workspace"),
        (["strange.safetensors", "o.safetensors"], "is for 'wan9', a kind of base"),
        ([".", "o.safetensors"], r"holds no trained LoRA: python train\.py --config"),
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
