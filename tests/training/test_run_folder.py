"""A run's folder: damaged files are found, and a killed writer leaves nothing half-done."""

import errno
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from maskora import files
from maskora.training import run_folder
from maskora.training.run_folder import RunFolder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run of two saved steps."""
    folder = RunFolder(tmp_path / "motion")
    for step in (1, 2, 3):
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
    assert run.load_optimizer(3, "adamw") == {}
    with run.renewed():
        assert run.read() is None
        run.adapter(1).parent.mkdir(parents=True)
        save_file({"weight": torch.ones(2)}, run.adapter(1))
        run.finish_step(1, {"caption": "b"})
    assert list(contents(run.root)) == ["run.json", "step-00001/adapter.safetensors"]


def flip(path: Path) -> None:
    """One other bit, as a disk has it."""
    content = bytearray(path.read_bytes())
    content[len(content) * 3 // 4] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


WAYS: dict[str, Callable[[Path], object]] = {
    "flipped": flip,
    "cut short": cut,
    "empty": lambda path: path.write_bytes(b""),
    "deleted": Path.unlink,
    "a folder": make_folder,
    "without its step": lambda path: shutil.rmtree(path.parent),
}


@pytest.mark.parametrize("name", ["adapter.safetensors", "optimizer.pt"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("version", ["this", "earlier"])
def test_the_step_before_a_damaged_one_is_the_newest_whole(
    run: RunFolder, name: str, way: str, version: str, caplog: pytest.LogCaptureFixture
) -> None:
    record = run.read()
    assert record is not None
    if version == "earlier":  # which knew no digests: a flipped bit may not be seen
        record = record.model_copy(update={"digests": {}})
    assert run.whole_step(record) == 3
    WAYS[way](run.adapter(3).with_name(name))
    if (version, way) == ("earlier", "flipped"):
        return
    assert run.whole_step(record) == 2
    (note,) = caplog.messages
    assert str(run.adapter(3).parent) in note
    assert ("is missing" if way in ("deleted", "without its step") else "is damaged") in note
    run.rewind(record, 2)
    assert run.read().step == 2
    assert run.newest_adapter() == run.adapter(2)
    assert not run.adapter(3).parent.exists()


def test_what_a_run_does_not_go_on_from_is_looked_over(
    run: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    run.metrics.write_text("{}\n{}\n{}\n")
    run.finish_step(3, {"caption": "a"})
    run.metrics.write_text("{}\n{}\n{}\n{}\n{")  # what came after the step does not count
    record = run.read()
    assert record is not None
    run.look_over(record)
    assert not caplog.messages
    flip(run.adapter(1))
    run.metrics.write_text("{}\n[]\n{}\n")
    run.look_over(record)
    assert caplog.messages == [
        f"note: {run.adapter(1)} is damaged; the step is removed",
        f"note: {run.metrics} is damaged; no LoRA depends on it",
    ]
    assert [path.name for path in sorted(run.root.glob("step-*"))] == ["step-00002", "step-00003"]


def test_no_step_is_whole(run: RunFolder) -> None:
    for step in (2, 3):
        flip(run.adapter(step).with_name("optimizer.pt"))
    record = run.read()
    assert record is not None
    assert run.whole_step(record) == 0  # step 1 has no optimizer any more


def test_a_damaged_record_is_told(run: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    path = run.root / "run.json"
    path.write_bytes(path.read_bytes()[:-20])
    assert run.read() is None
    make_folder(path)
    assert run.read() is None
    assert [f"{path} is damaged" in message for message in caplog.messages] == [True, True]


class Killed(BaseException):
    """As a killed process, this one cleans nothing up."""


def changes(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """From the n-th move or removal on, nothing happens any more."""
    done = 0

    def counted(real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            nonlocal done
            done += 1
            if done > at:
                raise Killed
            return real(*arguments)

        return call

    for name in ("move", "remove", "write_text"):
        monkeypatch.setattr(run_folder, name, counted(getattr(run_folder, name)))


@pytest.mark.parametrize("at", range(24))
def test_a_renewal_that_is_killed_leaves_one_whole_run(
    run: RunFolder, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = contents(run.root)
    with monkeypatch.context() as patch:
        changes(patch, at)
        try:
            with run.renewed():
                run.adapter(5).parent.mkdir(parents=True)
                save_file({"weight": torch.ones(2)}, run.adapter(5))
                run.save_optimizer(5, "adamw", {})
                run.finish_step(5, {"caption": "b"})
        except Killed:
            pass
        else:
            assert at > 12
    run.settle()
    new = ["run.json", "step-00005/adapter.safetensors", "step-00005/optimizer.pt"]
    assert contents(run.root) == earlier or list(contents(run.root)) == new
