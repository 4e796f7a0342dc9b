"""A base in single files through the commands: no folder, no download."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from maskora import lora
from maskora.config import load_config
from tests.app.conftest import FAST, Run, at, ok, refused, repaint, sets
from tests.models.files import layouts

PREPARING = [
    "--box", "16,64,120,96", "--size", "160x96", "--frames", 9,
    "--caption", "a blue ball", "--edited-caption", "an orange ball", *FAST,
]  # fmt: skip


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
def workspace(base: Path, run: Run, ball: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared from the TOML; its edit.toml stands elsewhere."""
    root = tmp_path_factory.mktemp("edit") / "ws"
    ok(run("prepare", ball, root, *PREPARING, "--base", base / "base.toml"))
    repaint(root, 0)
    return root


def test_prepare_makes_the_paths_absolute(workspace: Path, base: Path) -> None:
    model = tomllib.loads((workspace / "edit.toml").read_text())["model"]
    assert model["path"] == ""
    assert model["files"] == {
        part: str(base / "files" / f"{part}.safetensors")
        for part in ("vae", "text_encoder", "transformer", "image_encoder")
    }
    lines = (workspace / "edit.toml").read_text().splitlines()
    assert sum(line.startswith("files = {") for line in lines) == 1, "one key per line"


def test_check_and_plan_tell_what_was_found(workspace: Path, base: Path, run: Run) -> None:
    answer = ok(run("check", *at(workspace)))
    transformer = base / "files" / "transformer.safetensors"
    assert f"transformer: {transformer}, scaled float8, 2 blocks x 128, 36 input" in answer.out
    answer = ok(run("plan", *at(workspace), "--device", "cuda"))
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
    workspace: Path, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for command in ("train", "infer"):
        answer = ok(run(command, *at(workspace, "memory.weights=mapped", "model.dtype=bfloat16")))
    assert "base: single files without a folder beside them" in answer.err
    assert "scaled float8, 2 blocks x 128" in answer.err
    assert (workspace / "output" / "edited.mp4").is_file()
    adapter = workspace / "runs" / "motion" / "step-00002" / "adapter.safetensors"
    recorded = lora.read_metadata(adapter)["files"]
    assert recorded == load_config(workspace / "edit.toml", []).model.files
    answer = run("export", workspace, tmp_path / "merged", "--merge")
    refused(answer, "was trained on a base of single files ([model] files)")


def test_the_original_layout_is_a_path(base: Path, run: Run, ball: Path, tmp_path: Path) -> None:
    root = tmp_path / "ws"
    ok(run("prepare", ball, root, *PREPARING, *sets(f"model.path={base / 'original'}")))
    repaint(root, 0)
    for command in ("check", "plan", "infer"):
        more = ["--lora", "none"] if command == "infer" else []
        answer = ok(run(command, *at(root), *more))
    assert "a folder in Wan's original layout" in answer.err


def test_one_file_for_one_run(workspace: Path, base: Path, run: Run) -> None:
    """`--set` reaches a part, and what is wrong with the file is told before anything loads."""
    broken = base / "files" / "broken.safetensors"
    tensors = load_file(base / "files" / "vae.safetensors")
    tensors["decoder.conv9.weight"] = tensors.pop("decoder.conv1.weight")
    save_file(tensors, broken)
    command = at(workspace, f"model.files.vae={broken}")
    refused(run("infer", *command, "--lora", "none"), str(broken), "decoder.conv1.weight")
    swapped = f"model.files.transformer={base / 'files' / 'vae.safetensors'}"
    for name in ("check", "plan", "infer"):
        answer = run(name, *at(workspace, swapped))
        assert answer.status == 2
        assert "vae.safetensors is not a transformer of Wan2.1" in answer.err


@pytest.mark.parametrize(
    ("settings", "words", "lines"),
    [
        (
            ["model.files.trasformer=a", "motion.steps=0"],
            ["2 mistakes", "[model] files: unknown part 'trasformer'", "'transformer'?"],
            3,
        ),
        (["model.path=wan.safetensors"], ["is a file: name it in [model] files by its part"], 1),
        (["model.files={}"], ["[model]: path is empty: name a hub id, a folder, or single"], 2),
        (["model.files.vae="], ["[model] files: vae names no file"], 2),
    ],
)
def test_mistakes_in_files_are_told(
    workspace: Path, run: Run, settings: list[str], words: list[str], lines: int
) -> None:
    (workspace / "wan.safetensors").touch()
    refused(run("plan", *at(workspace, *settings)), *words, lines=lines)


def test_every_file_that_is_missing_is_told(workspace: Path, run: Run) -> None:
    absent = at(workspace, "model.files.vae=gone", "model.files.transformer=lost")
    for command in ("check", "plan", "infer"):
        answer = run(command, *absent)
        assert answer.status == 2
        for part in ("vae = 'gone' does not exist", "transformer = 'lost' does not exist"):
            assert part in answer.err
