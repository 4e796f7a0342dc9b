"""Which files of a hub repository are fetched."""

from pathlib import Path

import pytest
from huggingface_hub.utils import filter_repo_objects

from maskora.app.plan import CONFIGS
from maskora.config.tables import Model
from maskora.errors import UserError
from maskora.hub import WANTED, find_file, find_local, locate_cached
from maskora.models.files.source import resolve_base, resolve_files
from tests.loopback_hub import serving, use

DIFFUSERS = [
    "model_index.json", "transformer/config.json", "vae/config.json",
    "transformer/diffusion_pytorch_model-00001-of-00014.safetensors",
    "transformer/diffusion_pytorch_model.safetensors.index.json",
    "vae/diffusion_pytorch_model.safetensors", "tokenizer/spiece.model",
    "tokenizer/tokenizer.json", "scheduler/scheduler_config.json", "tokenizer_2/merges.txt",
]  # fmt: skip
ORIGINAL = [
    "config.json", "diffusion_pytorch_model-00001-of-00007.safetensors",
    "diffusion_pytorch_model.safetensors.index.json", "Wan2.1_VAE.pth",
    "models_t5_umt5-xxl-enc-bf16.pth", "google/umt5-xxl/tokenizer.json",
    "high_noise_model/config.json",
    "high_noise_model/diffusion_pytorch_model-00001-of-00006.safetensors",
]  # fmt: skip
OTHERS = ["README.md", "assets/logo.png", "examples/i2v_input.JPG", "all-in-one.safetensors"]


def fetched(files: list[str], patterns: list[str], without: list[str] | None = None) -> list[str]:
    return list(filter_repo_objects(files, allow_patterns=patterns, ignore_patterns=without))


def test_both_layouts_are_fetched_whole_and_nothing_else() -> None:
    assert fetched(DIFFUSERS + ORIGINAL + OTHERS, WANTED) == DIFFUSERS + ORIGINAL


def test_a_plan_fetches_configurations_alone() -> None:
    found = fetched(DIFFUSERS + ORIGINAL, CONFIGS)
    assert all(name.endswith(".json") for name in found)
    assert {"config.json", "transformer/config.json", "high_noise_model/config.json"} <= set(found)


def test_weights_of_a_part_that_is_a_file_are_not_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "a.safetensors").touch()
    model = Model(path="somebody/base", files={"transformer": "a.safetensors"})
    with serving({name: name.encode() for name in DIFFUSERS}) as hub:
        use(hub, str(tmp_path / "cache"), monkeypatch)
        resolve_base(model, tmp_path)
        found = {path for path, _ in hub.contents()}
    assert "transformer/diffusion_pytorch_model-00001-of-00014.safetensors" not in found
    assert "transformer/config.json" in found
    assert "vae/diffusion_pytorch_model.safetensors" in found


def test_paths_count_from_the_configuration_then_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        (folder / "model").mkdir(parents=True)
        (folder / "a.pth").touch()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(there))
    assert find_file("a.pth", there) == there / "a.pth"
    assert find_file("a.pth", tmp_path) == here / "a.pth"
    assert find_file("~/a.pth", tmp_path) == there / "a.pth"
    assert find_file("model", there) is None
    assert find_local("~/model", tmp_path) == there / "model"


def test_all_files_that_are_not_there_are_told(tmp_path: Path) -> None:
    model = Model(path="", files={"vae": "a.pth", "transformer": "b.safetensors"})
    with pytest.raises(UserError) as caught:
        resolve_files(model, tmp_path)
    assert str(caught.value).splitlines() == [
        "[model] files: vae = 'a.pth' does not exist",
        "[model] files: transformer = 'b.safetensors' does not exist",
    ]


def test_what_was_fetched_before_is_found_without_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="somebody/base has not been fetched from the hub yet"):
        locate_cached("somebody/base")
    revision = "0123456789" * 4
    cached = tmp_path / "models--somebody--base"
    (cached / "snapshots" / revision).mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(revision)
    assert locate_cached("somebody/base") == cached / "snapshots" / revision
