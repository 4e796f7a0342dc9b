"""prepare never costs a person a file, and a workspace is whole or as it was."""

import errno
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from maskora.app.masking import load_masks
from maskora.app.prepare import scaffold
from maskora.app.workspace import Workspace
from maskora.config import load_config
from maskora.masks import files as mask_files
from tests.app.conftest import FAST, Answer

Run = Callable[..., Answer]


def prepare(run: Run, video: Path, root: Path, model: Path, *options: object) -> Answer:
    base = ["--box", "16,64,120,96", "--size", "160x96", "--set", f"model.path={model}", *FAST]
    return run("prepare", video, root, *base, *options)


@pytest.mark.parametrize("options", [[], ["--overwrite"]])
def test_a_folder_with_a_persons_own_source_is_refused(
    run: Run, ball: Path, tiny_model: Path, tmp_path: Path, options: list[str]
) -> None:
    video = tmp_path / "project" / "source" / "holiday.mp4"
    video.parent.mkdir(parents=True)
    shutil.copy(ball, video)
    answer = prepare(run, video, tmp_path / "project", tiny_model, *options)
    assert answer.status == 2
    assert "was not made by prepare" in answer.err
    assert video.read_bytes() == ball.read_bytes()
    assert sorted(p.name for p in (tmp_path / "project").iterdir()) == ["source"]


def test_a_video_inside_what_is_replaced_is_refused(
    run: Run, prepared: Callable[..., Path], ball: Path, tiny_model: Path
) -> None:
    root = prepared()
    video = root / "source" / "clip.mp4"
    shutil.copy(ball, video)
    answer = prepare(run, video, root, tiny_model, "--overwrite")
    assert answer.status == 2
    assert "move it elsewhere" in answer.err
    assert video.is_file()


def test_what_fails_halfway_leaves_the_workspace_as_it_was(
    prepared: Callable[..., Path],
) -> None:
    root = prepared()
    before = {p: p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}
    with pytest.raises(FileNotFoundError), scaffold(Workspace(root)) as built:
        built.source_dir.mkdir()  # no edit.toml: the exchange stops there
    after = {p: p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}
    after.pop(Workspace(root).lock, None)  # Windows removes that too
    assert after == before


def test_new_masks_that_cannot_be_put_in_place_leave_the_earlier_ones(
    prepared: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Windows a virus scanner may have one of the new files open."""
    root, real = prepared(), Path.replace
    workspace, config = Workspace(root), load_config(root / "edit.toml", ["mask.margin=0.4"])
    before = {p: p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}

    def replace(self: Path, target: Path) -> Path:
        if target == workspace.masks_dir and self.name == "masks":
            raise OSError(errno.EIO, "refused", str(self))
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(OSError, match="refused"):
        load_masks(workspace, config.mask, workspace.read_source())
    assert {p: p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()} == before


def test_masks_that_come_too_early_go_again(prepared: Callable[..., Path]) -> None:
    """A workspace that waited for its masks waits on where preparing it anew fails."""
    workspace = Workspace(prepared())
    shutil.rmtree(workspace.masks_dir)

    def fill(built: Workspace) -> None:
        built.source_dir.mkdir()
        built.masks_dir.mkdir()  # no edit.toml: the exchange stops there

    with pytest.raises(FileNotFoundError), scaffold(workspace) as built:
        fill(built)
    assert not workspace.masks_dir.exists()
    assert workspace.source_record.is_file()


def test_an_interrupted_remake_leaves_the_masks_as_they_were(
    prepared: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = prepared()
    workspace = Workspace(root)
    config = load_config(workspace.config, ["mask.margin=0.4"])
    before = {p: p.read_bytes() for p in sorted(workspace.masks_dir.rglob("*.png"))}
    written = 0

    def interrupted(path: Path, labels: object) -> None:
        nonlocal written
        written += 1
        if written == 5:
            raise KeyboardInterrupt
        mask_files.write_labels(path, labels)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr("maskora.app.masking.write_labels", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load_masks(workspace, config.mask, workspace.read_source())
    assert {p: p.read_bytes() for p in sorted(workspace.masks_dir.rglob("*.png"))} == before
    labels = load_masks(workspace, config.mask, workspace.read_source())
    assert (labels > 0).mean() > 0.3
    assert not list(root.glob(".masks-*"))


@pytest.mark.parametrize(
    "setting", ["inference.guidance=inf", "training.shift=inf", "adapter.alpha=nan"]
)
def test_numbers_that_are_none_are_refused(
    run: Run, prepared: Callable[..., Path], setting: str
) -> None:
    answer = run("check", "--config", prepared() / "edit.toml", "--set", setting)
    assert answer.status == 2
    assert "finite number" in answer.err


def test_a_relative_model_path_works_from_everywhere(
    run: Run, ball: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_model.parent)
    answer = prepare(run, ball, tmp_path / "ws", Path(tiny_model.name), "--caption", "a ball")
    assert answer.status == 0, answer.err
    monkeypatch.chdir(tmp_path)
    answer = run("train", "--config", "ws/edit.toml", "--stage", "motion")
    assert answer.status == 0, answer.err
