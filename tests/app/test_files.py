"""A base in single files through the commands: no folder, no download."""

import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from maskora import lora
from maskora.config import load_config
from tests.app.conftest import FAST, Answer, recolour
from tests.models.files import layouts

BOX = ["--box", "16,64,120,96", "--size", "160x96", "--frames", 9]
WORDS = ["--caption", "a blue ball", "--edited-caption", "an orange ball"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files, beside a TOML that names them."""
    folder = tmp_path_factory.mktemp("base")
    diffusers = layouts.write_diffusers(folder / "diffusers")
    files = layouts.write_files(folder / "files", diffusers, layouts.scaled, layouts.PREFIX)
    layouts.write_original(folder / "original", diffusers)
    named = ", ".join(f'{part} = "files/{path.name}"' for part, path in files.items())
    (folder / "base.toml").write_text(f'[model]\npath = ""\nfiles = {{{named}}}\n')
    return folder


@pytest.fixture(scope="module")
def workspace(
    base: Path, run: Callable[..., Answer], ball: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Prepared from the TOML; its edit.toml stands elsewhere."""
    root = tmp_path_factory.mktemp("edit") / "ws"
    toml = base / "base.toml"
    answer = run("prepare", ball, root, *BOX, *WORDS, "--base", toml, *FAST)
    assert answer.status == 0, answer.err
    recolour(root / "source" / "00000.png", root / "edits" / "00000.png", (20, 40, 40, 30))
    return root


def refused(answer: Answer, *told: str) -> None:
    assert answer.status == 2
    for text in told:
        assert text in answer.err, answer.err


def test_prepare_makes_the_paths_absolute(workspace: Path, base: Path) -> None:
    model = tomllib.loads((workspace / "edit.toml").read_text())["model"]
    assert model["path"] == ""
    assert model["files"] == {
        part: str(base / "files" / f"{part}.safetensors")
        for part in ("vae", "text_encoder", "transformer", "image_encoder")
    }
    lines = (workspace / "edit.toml").read_text().splitlines()
    assert sum(line.startswith("files = {") for line in lines) == 1, "one key per line"


def test_check_and_plan_tell_what_was_found(
    workspace: Path, base: Path, run: Callable[..., Answer]
) -> None:
    answer = run("check", "--config", workspace / "edit.toml")
    assert answer.status == 0, answer.err
    transformer = base / "files" / "transformer.safetensors"
    assert f"transformer: {transformer}, scaled float8, 2 blocks x 128, 36 input" in answer.out
    answer = run("plan", "--config", workspace / "edit.toml", "--device", "cuda")
    assert answer.status == 0, answer.err
    assert "wan2.1-i2v 2 x 128" in answer.out
    assert f"disk: {base / 'files'} has" in answer.out


def test_planning_with_files_imports_no_torch(workspace: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from maskora.app.plan import describe_plan; "
        "from maskora.config import load_config; from maskora.app.workspace import Workspace; "
        "root = Path(sys.argv[1]); "
        "list(describe_plan(load_config(root / 'edit.toml'), Workspace(root), 'cpu')); "
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, workspace], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_base_in_files_is_trained_and_carries_the_edit(
    workspace: Path, run: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    mapped = ["--set", "memory.weights=mapped", "--set", "model.dtype=bfloat16"]
    for command in ("train", "infer"):
        answer = run(command, "--config", workspace / "edit.toml", *mapped)
        assert answer.status == 0, answer.err
    assert "base: single files without a folder beside them" in answer.err
    assert "scaled float8, 2 blocks x 128" in answer.err
    assert (workspace / "output" / "edited.mp4").is_file()
    adapter = workspace / "runs" / "motion" / "step-00002" / "adapter.safetensors"
    recorded = lora.read_metadata(adapter)["files"]
    assert recorded == load_config(workspace / "edit.toml", []).model.files
    answer = run("export", workspace, tmp_path / "merged", "--merge")
    refused(answer, "was trained on a base of single files ([model] files)")


def test_the_original_layout_is_a_path(
    base: Path, run: Callable[..., Answer], ball: Path, tmp_path: Path
) -> None:
    root = tmp_path / "ws"
    path = ["--set", f"model.path={base / 'original'}"]
    answer = run("prepare", ball, root, *BOX, *WORDS, *FAST, *path)
    assert answer.status == 0, answer.err
    recolour(root / "source" / "00000.png", root / "edits" / "00000.png", (20, 40, 40, 30))
    for command in ("check", "plan", "infer"):
        more = ["--lora", "none"] if command == "infer" else []
        answer = run(command, "--config", root / "edit.toml", *more)
        assert answer.status == 0, answer.err
    assert "a folder in Wan's original layout" in answer.err


def test_one_file_for_one_run(workspace: Path, base: Path, run: Callable[..., Answer]) -> None:
    """`--set` reaches a part, and what is wrong with the file is told before anything loads."""
    broken = base / "files" / "broken.safetensors"
    tensors = load_file(base / "files" / "vae.safetensors")
    tensors["decoder.conv9.weight"] = tensors.pop("decoder.conv1.weight")
    save_file(tensors, broken)
    command = ["--config", workspace / "edit.toml", "--set", f"model.files.vae={broken}"]
    refused(run("infer", *command, "--lora", "none"), str(broken), "decoder.conv1.weight")
    swapped = ["--set", f"model.files.transformer={base / 'files' / 'vae.safetensors'}"]
    for name in ("check", "plan", "infer"):
        answer = run(name, "--config", workspace / "edit.toml", *swapped)
        refused(answer, "vae.safetensors is not a transformer of Wan2.1")


def test_every_mistake_in_files_is_told_at_once(
    workspace: Path, run: Callable[..., Answer]
) -> None:
    answer = run(
        "plan", "--config", workspace / "edit.toml", "--set", "model.files.trasformer=a",
        "--set", "motion.steps=0",
    )  # fmt: skip
    refused(answer, "2 mistakes", "[model] files: unknown part 'trasformer'", "'transformer'?")
    absent = ["--set", "model.files.vae=gone", "--set", "model.files.transformer=lost"]
    for command in ("check", "plan", "infer"):
        answer = run(command, "--config", workspace / "edit.toml", *absent)
        refused(answer, "vae = 'gone' does not exist", "transformer = 'lost' does not exist")
    file = ["--set", "model.path=wan.safetensors"]
    (workspace / "wan.safetensors").touch()
    answer = run("plan", "--config", workspace / "edit.toml", *file)
    refused(answer, "'wan.safetensors' is a file: name it in [model] files by its part")
    answer = run("plan", "--config", workspace / "edit.toml", "--set", "model.files={}")
    refused(answer, "[model]: path is empty: name a hub id, a folder, or single files")
    answer = run("plan", "--config", workspace / "edit.toml", "--set", "model.files.vae=")
    refused(answer, "[model] files: vae names no file")
