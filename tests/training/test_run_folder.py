"""A run's folder where another program has a file of it open, as only Windows minds."""

import errno
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from maskora import files
from maskora.training.run_folder import RunFolder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run of two saved steps."""
    folder = RunFolder(tmp_path / "motion")
    for step in (1, 2):
        folder.adapter(step).parent.mkdir(parents=True)
        save_file({"weight": torch.zeros(2)}, folder.adapter(step))
        folder.save_optimizer(step, "adamw", {})
        folder.finish_step(step, {"caption": "a"})
    folder.metrics.write_text("{}\n")
    folder.tensorboard.mkdir()
    (folder.tensorboard / "events").touch()
    return folder


def contents(root: Path) -> dict[str, bytes]:
    found = sorted(path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}


@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl", "step-00001", "tensorboard"])
def test_a_run_that_is_open_elsewhere_stays_where_it_is(
    run: RunFolder, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, real = contents(run.root), Path.replace

    def replace(self: Path, target: Path) -> Path:
        if self.name == name:
            error = PermissionError(errno.EACCES, "in use", str(self))
            error.winerror = 32  # type: ignore[attr-defined]
            raise error
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    monkeypatch.setattr(files, "PATIENCE", 0.0)
    with pytest.raises(PermissionError, match="open in another program"), run.renewed():
        raise AssertionError("nothing of it may begin")
    assert contents(run.root) == before
    assert run.read() is not None


def test_a_run_that_was_read_can_be_replaced(run: RunFolder) -> None:
    """Nothing of it is kept open by this program."""
    assert run.read() is not None
    assert run.load_optimizer(2, "adamw") == {}
    with run.renewed():
        assert run.read() is None
        run.adapter(1).parent.mkdir(parents=True)
        save_file({"weight": torch.ones(2)}, run.adapter(1))
        run.finish_step(1, {"caption": "b"})
    assert list(contents(run.root)) == ["run.json", "step-00001/adapter.safetensors"]
