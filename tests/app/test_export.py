"""export: a LoRA as a file for other programs, or merged into a copy of its base."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanImageToVideoPipeline, WanTransformer3DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from maskora import lora
from maskora.app.edits import load_clip
from maskora.app.fingerprints import base_digest, motion_fingerprint
from maskora.app.workspace import Workspace
from maskora.config import load_config
from maskora.config.tables import Stage
from maskora.lora import LoraWeights
from maskora.models.registry import open_model
from maskora.models.tiny import write_tiny_model
from maskora.training.run_folder import RunFolder
from tests.app.conftest import Answer, ok, recolour, refused
from tests.lora.tiny import KINDS, noise, random_lora

WAN = KINDS["wan2.1"]
ATTENTION = [f"blocks.0.attn1.to_{x}" for x in "qkv"]
Run = Callable[..., Answer]


def quiet(answer: Answer) -> Answer:
    """The answer of a command that must have succeeded without a warning."""
    assert (answer.status, answer.err) == (0, "")
    return answer


def lora_file(
    path: Path, layout: str = "diffusers", modules: list[str] = ATTENTION, **metadata: Any
) -> LoraWeights:
    weights = LoraWeights(random_lora(WAN.transformer(), modules).updates, {}, metadata)
    lora.write(path, weights, layout, WAN.names)
    return weights


def trained(
    root: Path, stage: Stage, expert: str = "", edit: str | None = None, step: int = 2,
    changes: Sequence[str] = (),
) -> Path:  # fmt: skip
    """A workspace's run as it lies there after training, on what is there now if on motion."""
    config = load_config(root / "edit.toml", list(changes))
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
        answer = quiet(run("export", workspace, output, "--layout", layout))
        size = f"{output.stat().st_size / 2**20:.1f} MB"
        first = answer.out.splitlines()[0]
        assert first == f"{output}: {layout} layout, 3 modules of rank 2, {size}"
        assert ("diffusers cannot read this file" in answer.out) == (layout == "musubi")
        expected, found = (lora.read(path, WAN.names) for path in (motion, output))
        assert found.metadata == expected.metadata
        assert found.updates.keys() == expected.updates.keys()


def test_a_lora_that_other_settings_have_trained_is_exported_with_these(
    run: Run, tmp_path: Path, prepared: Callable[..., Path]
) -> None:
    workspace, output = prepared(), tmp_path / "out.safetensors"
    change, preset = 'motion.conditioning="first-frame"', tmp_path / "mine.toml"
    preset.write_text('[motion]\nconditioning = "first-frame"\n')
    trained(workspace, "motion", changes=[change])
    assert "trained before" in ok(run("export", workspace, output)).err
    for given in (["--set", change], ["--preset", preset]):
        quiet(run("export", workspace, output, "--overwrite", *given))


def test_keyframes_ask_for_the_appearance_lora(
    run: Run, tmp_path: Path, prepared: Callable[..., Path]
) -> None:
    workspace, output = prepared(), tmp_path / "out.safetensors"
    trained(workspace, "motion")
    ok(run("export", workspace, output))
    add_keyframe(workspace)
    refused(
        run("export", workspace, output, "--overwrite"),
        f"{workspace} holds no trained LoRA of appearance: python train.py",
    )
    trained(workspace, "appearance", step=1)
    refused(run("export", workspace, output), "out.safetensors exists already", "--overwrite")
    assert lora.read_metadata(output)["stage"] == "motion"
    answer = ok(run("export", workspace, output, "--overwrite"))
    assert lora.read_metadata(output)["stage"] == "appearance"
    assert "note: the LoRA was trained before [adapter], " in answer.err
    assert "note: the stage (appearance) stands at step 1 of 2" in answer.err
    (workspace / "edits" / "00004.png").unlink()
    ok(run("export", workspace, output, "--overwrite"))
    assert lora.read_metadata(output)["stage"] == "motion"


def test_nothing_that_is_read_is_written_over(
    run: Run, tmp_path: Path, prepared: Callable[..., Path], tiny_model: Path
) -> None:
    workspace, file = prepared(), tmp_path / "lora.safetensors"
    motion = trained(workspace, "motion")
    lora_file(file, family="wan2.1-i2v")
    link = tmp_path / "link.safetensors"
    link.symlink_to(file)
    base = next((tiny_model / "transformer").glob("*.safetensors"))
    frame = tmp_path / "frame.safetensors"
    frame.symlink_to(workspace / "source" / "00003.png")
    for source, output in (
        (workspace, motion), (motion, motion), (file, file), (file, link), (workspace, base),
        (workspace, frame),
    ):  # fmt: skip
        before = output.read_bytes()
        refused(run("export", source, output, "--overwrite"), str(output), "is read here")
        assert output.read_bytes() == before


def test_an_edit_has_its_own_appearance_and_the_clips_motion(
    run: Run, tmp_path: Path, prepared: Callable[..., Path]
) -> None:
    workspace, output = prepared(), tmp_path / "out.safetensors"
    add_keyframe(workspace, "red")
    (workspace / "edits" / "green").mkdir()
    trained(workspace, "motion")
    trained(workspace, "appearance", edit="red")
    for edit, stage in (("red", "appearance"), ("green", "motion")):
        ok(run("export", workspace, output, "--edit", edit, "--overwrite"))
        assert lora.read_metadata(output)["stage"] == stage
    refused(
        run("export", workspace, output, "--edit", "blue", "--overwrite"),
        "no such folder (named edits here: green, red)",
    )


def test_each_expert_of_the_base_has_a_file(run: Run, tmp_path: Path, of_two: Path) -> None:
    output = tmp_path / "out.safetensors"
    high = trained(of_two, "motion", "high")
    refused(
        run("export", of_two, output),
        "holds no trained LoRA of motion (low noise): python train.py",
    )
    trained(of_two, "motion", "low")
    trained(of_two, "motion")  # of a base of one transformer, configured earlier
    shutil.copytree(high.parents[1], high.parents[2] / "motion-backup")
    quiet(run("export", of_two, output))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "out-high.safetensors", "out-low.safetensors",
    ]  # fmt: skip
    for expert in ("high", "low"):
        path = tmp_path / f"out-{expert}.safetensors"
        assert lora.read_metadata(path)["expert"] == expert
    (tmp_path / "out-high.safetensors").unlink()
    assert run("export", of_two, output).status == 2
    assert not (tmp_path / "out-high.safetensors").exists(), "all or nothing"


def test_what_is_written_before_one_fails_is_said(run: Run, tmp_path: Path, of_two: Path) -> None:
    trained(of_two, "motion", "high")
    low = trained(of_two, "motion", "low")
    weights = lora.read(low, WAN.names)
    (rows, *_), module = weights.updates[ATTENTION[0]].up_OR.shape, ATTENTION[0]
    odd = LoraWeights(weights.updates, {f"{module}.diff_b": torch.ones(rows)}, weights.metadata)
    lora.write(low, odd, "comfyui", WAN.names)
    answer = run("export", of_two, tmp_path / "out.safetensors")
    refused(answer, "diffusers' layout has no place for differences of weights")
    assert answer.out.startswith(f"{tmp_path / 'out-high.safetensors'}: diffusers layout, ")


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
    answer = ok(run("export", of_two, tmp_path / "out.safetensors"))
    assert re.search(rf"note: whether the LoRA belongs to .* because .*{path}", answer.err)
    assert "note: the stage (motion (high noise)) stands at step 1 of 2" in answer.err
    assert len(list(tmp_path.glob("out-*.safetensors"))) == 2
    shutil.rmtree(of_two / "runs")
    refused(
        run("export", of_two, tmp_path / "other.safetensors"),
        "holds no trained LoRA of motion: python train.py",
    )


def test_a_foreign_file_is_converted_when_its_family_is_told(run: Run, tmp_path: Path) -> None:
    given, output = tmp_path / "theirs.safetensors", tmp_path / "out.safetensors"
    weights = lora_file(given, "musubi", [*ATTENTION, "blocks.1.ffn.net.2"])
    refused(
        run("export", given, output),
        "does not say for which base it is: --family, one of wan2.1-i2v",
    )
    ok(run("export", given, output, "--family", "wan2.2-i2v", "--layout", "comfyui"))
    assert "diffusion_model.blocks.1.ffn.2.lora_A.weight" in load_file(output)
    assert lora.read(output, WAN.names).updates.keys() == weights.updates.keys()
    assert lora.read_metadata(output) == {}, "nothing is claimed of a foreign file"
    more = ("--layout", "musubi", "--family", "wan2.1-i2v")
    musubi = ok(run("export", output, tmp_path / "b.safetensors", *more))
    assert "note" not in musubi.out, "it has feed-forward layers"


@pytest.mark.parametrize("more", [[], ["--merge"]])
def test_an_output_that_cannot_be_is_refused_first(
    run: Run, tmp_path: Path, more: list[str]
) -> None:
    given, file = tmp_path / "own.safetensors", tmp_path / "afile"
    lora_file(given, family="wan2.1-i2v")
    file.touch()
    refused(
        run("export", given, file / "deep" / "x.safetensors", *more),
        f"{file} is a file, not a folder",
    )
    undecodable = Path(os.fsdecode(bytes(tmp_path) + b"/\xff.safetensors"))
    refused(
        run("export", given, undecodable, *more),
        "?.safetensors' is not in UTF-8: rename it",
    )
    assert sorted(tmp_path.iterdir()) == [file, given]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.safetensors", "o.safetensors"], r"nothing\.safetensors does not exist"),
        (["own.safetensors", "o.pt"], r"o\.pt: other programs know LoRA files by their end"),
        (["own.safetensors", "o.safetensors", "--layout", "kohya"], "'kohya' is not one of"),
        (["own.safetensors", "o.safetensors", "--family", "sdxl"], "'sdxl' is not one of"),
        (["own.safetensors", "o.safetensors", "--edit", "red"], "belong to a workspace"),
        (["own.safetensors", "o.safetensors", "--preset", "blend"], "belong to a workspace"),
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


MODULES = ["blocks.0.attn1.to_q", "blocks.1.attn2.to_out.0", "blocks.1.ffn.net.2"]
DIFFERING = {
    "blocks.0.norm2.weight": "blocks.0.norm2.diff",
    "blocks.1.attn1.to_v.bias": "blocks.1.attn1.to_v.diff_b",
    "blocks.0.scale_shift_table": "blocks.0.scale_shift_table.diff",
}
WEIGHTS = "diffusion_pytorch_model.safetensors"


def record(base: Path, family: str = "wan2.1-i2v", **more: Any) -> dict[str, Any]:
    """What training writes into a LoRA file."""
    digest = base_digest("float32", open_model(family, base, "float32", "cpu"))
    return {"family": family, "base": str(base), "base_hash": digest, "dtype": "float32", **more}


def transformer(base: Path, part: str = "transformer", **options: Any) -> Any:
    return WanTransformer3DModel.from_pretrained(base / part, **options).eval()


def differing_lora(
    path: Path, base: Path, metadata: dict[str, Any], part: str = "transformer"
) -> LoraWeights:
    module = transformer(base, part)
    differences = {
        difference: noise(seed, *module.get_parameter(name).shape)
        for seed, (name, difference) in enumerate(DIFFERING.items())
    }
    weights = LoraWeights(random_lora(module, MODULES).updates, differences, metadata)
    lora.write(path, weights, "comfyui", WAN.names)
    return weights


def sharded(tiny_model: Path, base: Path, size: str = "80KB", **options: Any) -> Path:
    """A copy of the tiny model whose transformer has several files; the transformer's folder."""
    shutil.copytree(tiny_model, base, ignore=shutil.ignore_patterns("transformer"))
    whole = transformer(tiny_model, **options)
    whole.save_pretrained(base / "transformer", max_shard_size=size)
    return base / "transformer"


def stacked(base: Path, path: Path, kind: str = "wan2.1", part: str = "transformer") -> Tensor:
    module = transformer(base, part)
    lora.stack(module, [(path, 1.0)], KINDS[kind].names)
    return KINDS[kind].answer(module)


def test_the_merged_base_answers_as_base_and_lora(
    run: Run, tiny_model: Path, tmp_path: Path
) -> None:
    path, output = tmp_path / "a.safetensors", tmp_path / "new" / "merged"
    differing_lora(path, tiny_model, record(tiny_model))
    answer = quiet(run("export", path, output, "--merge"))
    assert f"{path}: added to 6 tensors of transformer" in answer.out
    pipeline = WanImageToVideoPipeline.from_pretrained(output)
    merged = WAN.answer(pipeline.transformer)
    assert (merged - stacked(tiny_model, path)).abs().max() <= 1e-4
    assert (merged - WAN.answer(transformer(tiny_model))).abs().max() > 1e-2
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
    folder = sharded(tiny_model, base, "40KB", torch_dtype=torch.bfloat16)
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 4
    weights = differing_lora(path, base, record(base))
    ok(run("export", path, output, "--merge"))
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
        differing_lora(folder.adapter(2), base, {**told, "expert": expert}, part)
        (folder.root / "run.json").write_text(json.dumps({"depends_on": {}, "step": 2}))
    ok(run("export", workspace, output, "--merge"))
    for expert, part in parts.items():
        path = RunFolder(Workspace(workspace).run_dir("motion", None, expert)).adapter(2)
        expected = stacked(base, path, "wan2.2", part)
        found = KINDS["wan2.2"].answer(transformer(output, part))
        assert (found - expected).abs().max() <= 1e-4
    one = tmp_path / "one"
    monkeypatch.chdir(workspace)
    ok(run("export", path, one, "--merge"))  # the low noise expert's file alone
    assert (one / "transformer").exists()
    assert (one / "transformer" / WEIGHTS).samefile(base / "transformer" / WEIGHTS)
    assert not (one / parts["low"] / WEIGHTS).samefile(base / parts["low"] / WEIGHTS)


def test_another_base_than_the_lora_has_learned_on_is_told(
    run: Run, tiny_model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a.safetensors"
    told = record(tiny_model) | {"base_hash": "0123", "storage": "float8"}
    differing_lora(path, tiny_model, told)
    answer = ok(run("export", path, tmp_path / "merged", "--merge"))
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
        lora_file(path, "comfyui", MODULES, **record(tiny_model))  # of another width
    else:
        known = {} if metadata in ({}, {"family": "wan2.1-i2v"}) else record(tiny_model)
        differing_lora(path, tiny_model, known | metadata)
    answer = run("export", path, tmp_path / "merged", "--merge", *arguments)
    assert answer.status == 2
    assert re.search(message, answer.err)
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_there_is_not_touched(run: Run, tiny_model: Path, tmp_path: Path) -> None:
    path, output = tmp_path / "a.safetensors", tmp_path / "merged"
    differing_lora(path, tiny_model, record(tiny_model))
    output.mkdir()
    refused(run("export", path, output, "--merge"), "merged exists already")
    assert not list(output.iterdir())
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    refused(run("export", path, link, "--merge"), "link exists already")


def sums(base: Path) -> dict[Path, str]:
    """The MD5 of each of a folder's files."""
    paths = (path for path in base.rglob("*") if path.is_file())
    return {path: hashlib.md5(path.read_bytes()).hexdigest() for path in paths}


@pytest.mark.parametrize("indexed", [False, True])
def test_the_base_itself_is_never_written_to(
    run: Run, tiny_model: Path, tmp_path: Path, indexed: bool
) -> None:
    base, path, output = tmp_path / "base", tmp_path / "a.safetensors", tmp_path / "merged"
    if indexed:
        sharded(tiny_model, base)
    else:
        shutil.copytree(tiny_model, base)
    backup = base / "transformer" / "backup"
    shutil.copytree(base / "transformer", backup)
    for file in backup.glob("*.safetensors"):  # files of the same names in which nothing changes
        save_file({"other": torch.zeros(3)}, file)
    differing_lora(path, base, record(base))
    before = sums(base)
    quiet(run("export", path, output, "--merge"))
    assert sums(base) == before
    assert not (output / "transformer" / "backup").exists(), "nothing is loaded from it"
    merged = WAN.answer(transformer(output))
    assert (merged - stacked(base, path)).abs().max() <= 1e-4


def test_only_the_files_of_the_index_are_merged(run: Run, tiny_model: Path, tmp_path: Path) -> None:
    base, path, output = tmp_path / "base", tmp_path / "a.safetensors", tmp_path / "merged"
    folder = sharded(tiny_model, base)
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    content = json.loads(index.read_text())
    moved = sorted(set(content["weight_map"].values()))[0]
    (folder / "deep").mkdir()
    (folder / moved).rename(folder / "deep" / moved)
    content["weight_map"] = {
        name: f"deep/{file}" if file == moved else file
        for name, file in content["weight_map"].items()
    }
    index.write_text(json.dumps(content))
    differing_lora(path, tiny_model, record(base))
    (folder / "left-over.safetensors").write_bytes(b"no weights at all")
    before = sums(base)
    ok(run("export", path, output, "--merge"))
    assert sums(base) == before
    merged = {file.relative_to(output / "transformer") for file in sums(output / "transformer")}
    expected = {Path(name) for name in content["weight_map"].values()}
    assert merged == {*expected, Path(index.name), Path("config.json")}
    content["weight_map"] = dict.fromkeys(content["weight_map"], "../vae/x.safetensors")
    save_file(load_file(tiny_model / "transformer" / WEIGHTS), base / "vae" / "x.safetensors")
    index.write_text(json.dumps(content))
    refused(
        run("export", path, tmp_path / "outside", "--merge"),
        "x.safetensors lies in another folder",
    )


def test_linked_folders_are_taken_along(run: Run, tiny_model: Path, tmp_path: Path) -> None:
    base, path, output = tmp_path / "base", tmp_path / "a.safetensors", tmp_path / "merged"
    base.mkdir()
    for part in tiny_model.iterdir():
        (base / part.name).symlink_to(part)
    (base / "circle").symlink_to(base)
    differing_lora(path, base, record(base))
    before = sums(tiny_model)
    quiet(run("export", path, output, "--merge"))
    assert sums(tiny_model) == before
    ours = {file.relative_to(output) for file in sums(output)}
    assert ours == {file.relative_to(tiny_model) for file in sums(tiny_model)}
    open_model("wan2.1-i2v", output, "float32", "cpu")


def test_a_cut_off_weight_file_is_refused(run: Run, tiny_model: Path, tmp_path: Path) -> None:
    base, path, output = tmp_path / "base", tmp_path / "a.safetensors", tmp_path / "merged"
    shutil.copytree(tiny_model, base)
    differing_lora(path, base, record(base))
    weights = base / "transformer" / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1000])
    refused(run("export", path, output, "--merge"), f"{WEIGHTS} is cut off within")
    assert not output.exists()
