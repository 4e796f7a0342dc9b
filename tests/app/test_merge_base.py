"""export --merge: which of a base's files are taken, and that none of them is written to."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from maskora.models.registry import open_model
from tests.app.test_merge import WEIGHTS, Run, lora_file, record, stacked, transformer
from tests.lora.tiny import KINDS


def sums(base: Path) -> dict[Path, str]:
    """The MD5 of each of a folder's files."""
    paths = (path for path in base.rglob("*") if path.is_file())
    return {path: hashlib.md5(path.read_bytes()).hexdigest() for path in paths}


def sharded(tiny_model: Path, base: Path) -> Path:
    """A copy of the tiny model whose transformer has several files; the transformer's folder."""
    shutil.copytree(tiny_model, base)
    shutil.rmtree(base / "transformer")
    transformer(tiny_model).save_pretrained(base / "transformer", max_shard_size="80KB")
    return base / "transformer"


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
    lora_file(path, base, record(base))
    before = sums(base)
    answer = run("export", path, output, "--merge")
    assert (answer.status, answer.err) == (0, "")
    assert sums(base) == before
    assert not (output / "transformer" / "backup").exists(), "nothing is loaded from it"
    merged = KINDS["wan2.1"].answer(transformer(output))
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
    lora_file(path, tiny_model, record(base))
    (folder / "left-over.safetensors").write_bytes(b"no weights at all")
    before = sums(base)
    assert run("export", path, output, "--merge").status == 0
    assert sums(base) == before
    merged = {file.relative_to(output / "transformer") for file in sums(output / "transformer")}
    expected = {Path(name) for name in content["weight_map"].values()}
    assert merged == {*expected, Path(index.name), Path("config.json")}
    content["weight_map"] = dict.fromkeys(content["weight_map"], "../vae/x.safetensors")
    save_file(load_file(tiny_model / "transformer" / WEIGHTS), base / "vae" / "x.safetensors")
    index.write_text(json.dumps(content))
    answer = run("export", path, tmp_path / "outside", "--merge")
    assert answer.status == 2
    assert "x.safetensors, which lies outside of it" in answer.err


def test_linked_folders_are_taken_along(run: Run, tiny_model: Path, tmp_path: Path) -> None:
    base, path, output = tmp_path / "base", tmp_path / "a.safetensors", tmp_path / "merged"
    base.mkdir()
    for part in tiny_model.iterdir():
        (base / part.name).symlink_to(part)
    (base / "circle").symlink_to(base)
    lora_file(path, base, record(base))
    before = sums(tiny_model)
    answer = run("export", path, output, "--merge")
    assert (answer.status, answer.err) == (0, "")
    assert sums(tiny_model) == before
    ours = {file.relative_to(output) for file in sums(output)}
    assert ours == {file.relative_to(tiny_model) for file in sums(tiny_model)}
    open_model("wan2.1-i2v", output, "float32", "cpu")


def test_a_cut_off_weight_file_is_refused(run: Run, tiny_model: Path, tmp_path: Path) -> None:
    base, path, output = tmp_path / "base", tmp_path / "a.safetensors", tmp_path / "merged"
    shutil.copytree(tiny_model, base)
    lora_file(path, base, record(base))
    weights = base / "transformer" / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1000])
    answer = run("export", path, output, "--merge")
    assert answer.status == 2
    assert re.search(rf"{WEIGHTS} is cut off within", answer.err)
    assert not output.exists()
