"""export --merge: a folder that other programs take for a base of its own."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanImageToVideoPipeline, WanTransformer3DModel
from safetensors.torch import load_file
from torch import Tensor

from maskora import lora
from maskora.app.fingerprints import base_digest
from maskora.app.workspace import Workspace
from maskora.lora import LoraWeights
from maskora.models.registry import open_model
from maskora.models.tiny import write_tiny_model
from maskora.training.checkpoint import RunFolder
from tests.app.conftest import Answer
from tests.lora.tiny import KINDS, noise, random_lora

MODULES = ["blocks.0.attn1.to_q", "blocks.1.attn2.to_out.0", "blocks.1.ffn.net.2"]
DIFFERING = {
    "blocks.0.norm2.weight": "blocks.0.norm2.diff",
    "blocks.1.attn1.to_v.bias": "blocks.1.attn1.to_v.diff_b",
    "blocks.0.scale_shift_table": "blocks.0.scale_shift_table.diff",
}
WEIGHTS = "diffusion_pytorch_model.safetensors"
Run = Callable[..., Answer]


def record(base: Path, family: str = "wan2.1-i2v", **more: Any) -> dict[str, Any]:
    """What training writes into a LoRA file."""
    digest = base_digest("float32", open_model(family, base, "float32", "cpu"))
    return {"family": family, "base": str(base), "base_hash": digest, "dtype": "float32", **more}


def transformer(base: Path, part: str = "transformer", **options: Any) -> Any:
    return WanTransformer3DModel.from_pretrained(base / part, **options).eval()


def lora_file(
    path: Path, base: Path, metadata: dict[str, Any], part: str = "transformer"
) -> LoraWeights:
    module = transformer(base, part)
    weights = random_lora(module, MODULES)
    differences = {
        difference: noise(seed, *module.get_parameter(name).shape)
        for seed, (name, difference) in enumerate(DIFFERING.items())
    }
    weights = LoraWeights(weights.updates, differences, metadata)
    lora.write(path, weights, "comfyui", KINDS["wan2.1"].names)
    return weights


def stacked(base: Path, path: Path, kind: str = "wan2.1", part: str = "transformer") -> Tensor:
    module = transformer(base, part)
    lora.stack(module, [(path, 1.0)], KINDS[kind].names)
    return KINDS[kind].answer(module)


def test_the_merged_base_answers_as_base_and_lora(
    run: Run, tiny_model: Path, tmp_path: Path
) -> None:
    path, output = tmp_path / "a.safetensors", tmp_path / "new" / "merged"
    lora_file(path, tiny_model, record(tiny_model))
    answer = run("export", path, output, "--merge")
    assert (answer.status, answer.err) == (0, "")
    assert f"{path}: added to 6 tensors of transformer" in answer.out
    pipeline = WanImageToVideoPipeline.from_pretrained(output)
    merged = KINDS["wan2.1"].answer(pipeline.transformer)
    assert (merged - stacked(tiny_model, path)).abs().max() <= 1e-4
    assert (merged - KINDS["wan2.1"].answer(transformer(tiny_model))).abs().max() > 1e-2
    ours, theirs = (
        {p.relative_to(root) for p in root.rglob("*") if p.is_file()}
        for root in (output, tiny_model)
    )
    assert ours == theirs
    same = [p for p in ours if (output / p).samefile(tiny_model / p)]
    assert {p.parts[0] for p in ours - set(same)} == {"transformer"}
    assert len(ours - set(same)) == 1, "only the transformer's weights take room"
    assert list(output.parent.iterdir()) == [output]


def test_shards_and_precision_stay_as_published(run: Run, tiny_model: Path, tmp_path: Path) -> None:
    base, path, output = tmp_path / "base", tmp_path / "a.safetensors", tmp_path / "merged"
    shutil.copytree(tiny_model, base)
    shutil.rmtree(base / "transformer")
    half = transformer(tiny_model, torch_dtype=torch.bfloat16)
    half.save_pretrained(base / "transformer", max_shard_size="40KB")
    shards = sorted((base / "transformer").glob("*.safetensors"))
    assert len(shards) > 4
    weights = lora_file(path, base, record(base))
    assert run("export", path, output, "--merge").status == 0
    changed = [p for p in shards if not (output / "transformer" / p.name).samefile(p)]
    assert 0 < len(changed) < len(shards)
    kinds = set()
    for path in shards:
        before, after = load_file(path), load_file(output / "transformer" / path.name)
        assert before.keys() == after.keys()
        for name, tensor in after.items():
            kinds.add(tensor.dtype)
            expected, (module, _, leaf) = before[name].float(), name.rpartition(".")
            if leaf == "weight" and (update := weights.updates.get(module)):
                expected = expected + update.alpha / 2 * update.up_OR @ update.down_RI
            if difference := DIFFERING.get(name):
                expected = expected + weights.differences[difference]
            assert torch.equal(tensor, expected.to(before[name].dtype)), name
    assert torch.bfloat16 in kinds


def test_a_workspaces_experts_are_merged_into_their_own_transformers(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prepared: Callable[..., Path]
) -> None:
    base, output = tmp_path / "base", tmp_path / "merged"
    write_tiny_model(base, family="wan2.2-i2v")
    workspace = prepared("--set", "model.family=wan2.2-i2v", "--set", f"model.path={base}")
    parts = {"high": "transformer", "low": "transformer_2"}
    told = record(base, "wan2.2-i2v")
    told["base"] = os.path.relpath(base, workspace)  # as a workspace's edit.toml may name it
    for expert, part in parts.items():
        folder = RunFolder(Workspace(workspace).run_dir("motion", None, expert))
        lora_file(folder.adapter(2), base, {**told, "expert": expert}, part)
        (folder.root / "run.json").write_text(json.dumps({"depends_on": {}, "step": 2}))
    answer = run("export", workspace, output, "--merge")
    assert answer.status == 0, answer.err
    for expert, part in parts.items():
        path = RunFolder(Workspace(workspace).run_dir("motion", None, expert)).adapter(2)
        expected = stacked(base, path, "wan2.2", part)
        found = KINDS["wan2.2"].answer(transformer(output, part))
        assert (found - expected).abs().max() <= 1e-4
    one = tmp_path / "one"
    monkeypatch.chdir(workspace)
    assert run("export", path, one, "--merge").status == 0  # the low noise expert's file alone
    assert (one / "transformer").exists()
    assert (one / "transformer" / WEIGHTS).samefile(base / "transformer" / WEIGHTS)
    assert not (one / parts["low"] / WEIGHTS).samefile(base / parts["low"] / WEIGHTS)


def test_another_base_than_the_lora_has_learned_on_is_told(
    run: Run, tiny_model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a.safetensors"
    told = record(tiny_model) | {"base_hash": "0123", "storage": "float8"}
    lora_file(path, tiny_model, told)
    answer = run("export", path, tmp_path / "merged", "--merge")
    assert answer.status == 0
    assert "a.safetensors was trained on other weights than those that are there" in answer.err
    assert "a.safetensors was trained against float8 weights; these are not" in answer.err


@pytest.mark.parametrize(
    ("metadata", "arguments", "message"),
    [
        ({}, [], "does not say for which base it is"),
        ({"family": "wan2.1-i2v"}, [], "does not say which base it was trained on"),
        ({"base": "gone"}, [], r"the base of .*a\.safetensors: 'gone' is neither a folder nor"),
        ({"files": {"transformer": "x.safetensors"}}, [], "was trained on a base of single files"),
        ({"base": __file__}, [], "was trained on a base of single files"),
        ({"expert": "high"}, [], "is for the high noise expert, which this base lacks"),
        (None, ["--layout", "comfyui"], "--layout, --family and --overwrite have no use"),
        (None, [], r"does not fit this base: blocks\.0\.attn1\.to_q\.weight is for a weight of"),
    ],
)
def test_what_cannot_be_merged_leaves_nothing(
    run: Run, tiny_model: Path, tmp_path: Path, metadata: dict[str, Any] | None,
    arguments: list[str], message: str,
) -> None:  # fmt: skip
    path = tmp_path / "a.safetensors"
    if metadata is None:
        weights = random_lora(KINDS["wan2.1"].transformer(), MODULES)  # of another width
        weights = LoraWeights(weights.updates, {}, record(tiny_model))
        lora.write(path, weights, "comfyui", KINDS["wan2.1"].names)
    else:
        known = {} if metadata in ({}, {"family": "wan2.1-i2v"}) else record(tiny_model)
        lora_file(path, tiny_model, known | metadata)
    answer = run("export", path, tmp_path / "merged", "--merge", *arguments)
    assert answer.status == 2
    assert re.search(message, answer.err)
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_there_is_not_touched(run: Run, tiny_model: Path, tmp_path: Path) -> None:
    path, output = tmp_path / "a.safetensors", tmp_path / "merged"
    lora_file(path, tiny_model, record(tiny_model))
    output.mkdir()
    answer = run("export", path, output, "--merge")
    assert answer.status == 2
    assert "merged exists already" in answer.err
    assert not list(output.iterdir())
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    answer = run("export", path, link, "--merge")
    assert answer.status == 2
    assert "link exists already" in answer.err
