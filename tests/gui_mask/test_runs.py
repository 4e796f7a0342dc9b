"""Work in the background: it outlives the page, tells how it stands, and can be stopped."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from gui_mask import runs
from gui_mask.joblog import Progress
from gui_mask.processes import Process
from gui_mask.runs import RunState
from maskora.app.workspace import Workspace
from maskora.errors import Fault, UserError
from maskora.training.checkpoint import RunFolder
from maskora.video.probe import probe
from tests.app.conftest import recolour
from tests.gui_mask.ball import prepare_ball
from tests.gui_mask.jobs import job_of
from tests.system import IS_POSIX

LONG = ("motion.steps=100000", "training.checkpoint_every=100000")
Make = Callable[..., Workspace]


@pytest.fixture
def make(tmp_path: Path, tiny_model: Path) -> Iterator[Make]:
    """A workspace with an edited first frame; what is left running in it is ended."""
    made: list[Workspace] = []

    def prepare(*settings: str) -> Workspace:
        workspace = prepare_ball(tmp_path, tiny_model, *settings)
        target = workspace.edited_frame(None, 0, ".png")
        recolour(workspace.source_frame(0), target, (20, 40, 40, 30))
        made.append(workspace)
        return workspace

    yield prepare
    for workspace in made:
        if workspace.job_record.is_file():
            job = job_of(workspace)
            for process in (job.supervisor, job.command):
                if process is not None and process.lives:
                    kill(process)


def kill(process: Process) -> None:
    """End a process hard, and on Windows what an interpreter of a venv has started for itself."""
    found = psutil.Process(process.pid)
    for one in (*found.children(), found) if os.name == "nt" else [found]:
        one.kill()


def wait(workspace: Workspace, until: Callable[[RunState], bool]) -> RunState:
    """Look again until it is so."""
    for _ in range(1200):
        state = runs.read(workspace)
        assert state is not None
        if until(state):
            return state
        time.sleep(0.1)
    raise AssertionError(f"it did not come to that: {state}")


def ended(workspace: Workspace) -> RunState:
    return wait(workspace, lambda state: not state.is_active)


def in_mid_training(workspace: Workspace) -> RunState:
    """Some steps are done, and the page has seen a progress bar."""
    return wait(
        workspace,
        lambda s: s.progress is not None and s.progress.step > 1 and bool(s.losses),
    )


def saved_step(workspace: Workspace) -> int:
    record = RunFolder(workspace.run_dir("motion")).read()
    assert record is not None
    return record.step


def test_commands_are_those_a_person_would_type(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "my edit")
    config = f"'{tmp_path}/my edit/edit.toml'"
    assert runs.commands(workspace, None) == [
        f"maskora train --config {config} --stage all --resume",
        f"maskora infer --config {config}",
    ]
    assert runs.commands(workspace, "hat", "infer") == [
        f"maskora infer --config {config} --edit hat"
    ]


def test_nothing_was_started_yet(tmp_path: Path) -> None:
    assert runs.read(Workspace(tmp_path)) is None
    assert runs.stop(Workspace(tmp_path)) is None


@pytest.mark.slow
def test_both_commands_run_in_turn_and_the_result_is_found(make: Make) -> None:
    workspace = make()
    begun = runs.start(workspace, "both", None)
    assert begun.is_active
    assert begun.result is None
    with pytest.raises(UserError, match="training runs already; stop it, or wait"):
        runs.start(workspace, "infer", None)
    state = ended(workspace)
    assert (state.status, state.exit_code, state.name) == ("done", 0, "infer"), state.log
    assert state.message == "inference is done"
    assert state.ended is not None
    assert state.ended > state.started
    assert state.result == workspace.root / "output" / "edited.mp4"
    assert probe(state.result).frames == 9
    (losses,) = state.losses
    assert (losses.stage, losses.steps, len(losses.smoothed)) == ("motion", (1, 2), 2)
    assert state.progress == Progress("denoise", 2, 2, "00:00")
    log = workspace.job_log.read_text()
    first, second = runs.commands(workspace, None)
    assert log.index(f"$ {first}\n") < log.index(f"$ {second}\n")

    again = runs.start(workspace, "both", None)
    assert again.result is None, "the result that is there is of an earlier work"
    runs.stop(workspace)
    state = ended(workspace)
    assert (state.status, state.result) == ("stopped", None)
    assert sum(line == f"$ {first}" for line in state.log) <= 1, "the log is this work's alone"


def test_training_is_stopped_in_the_middle_and_goes_on(make: Make) -> None:
    workspace = make(*LONG)
    runs.start(workspace, "both", None)
    state = in_mid_training(workspace)
    assert state.status == "running"
    assert state.progress is not None
    assert state.message == state.progress.told
    assert state.progress.steps == 100_000
    stopping = runs.stop(workspace)
    assert stopping is not None
    assert stopping.status in ("running", "stopping", "stopped")
    state = ended(workspace)
    assert (state.status, state.exit_code, state.name) == ("stopped", 130, "train")
    assert "goes on from the last saved step" in state.message
    assert state.result is None
    assert "maskora infer" not in workspace.job_log.read_text()
    step = saved_step(workspace)
    assert step >= state.losses[0].steps[-1] > 1

    runs.start(workspace, "train", None)
    wait(workspace, lambda s: bool(s.losses) and s.losses[0].steps[-1] > step)
    assert f"motion: continues after step {step}" in workspace.job_log.read_text()
    runs.stop(workspace)
    assert ended(workspace).status == "stopped"
    assert saved_step(workspace) > step


@pytest.mark.parametrize("seconds", [0, 0.3])
def test_what_is_stopped_before_anything_has_begun(make: Make, seconds: float) -> None:
    workspace = make(*LONG)
    runs.start(workspace, "both", None)
    time.sleep(seconds)
    runs.stop(workspace)
    state = ended(workspace)
    assert (state.status, state.name) == ("stopped", "train")
    assert "maskora infer" not in workspace.job_log.read_text()


@pytest.mark.slow
def test_a_supervisor_killed_hard_leaves_its_command_in_view(make: Make) -> None:
    workspace = make(*LONG)
    runs.start(workspace, "both", None)
    in_mid_training(workspace)
    job = job_of(workspace)
    assert job.command is not None
    kill(job.supervisor)
    wait(workspace, lambda _: not job.supervisor.lives)
    assert job.command.lives
    state = runs.read(workspace)
    assert state is not None
    assert state.status == "running", "the training goes on"
    with pytest.raises(UserError, match="runs already"):
        runs.start(workspace, "train", None)
    runs.stop(workspace)
    assert ended(workspace).status == "stopped"
    if IS_POSIX:  # elsewhere no interruption reaches it from here, so it is ended
        assert saved_step(workspace) > 1


@pytest.mark.slow
def test_everything_killed_hard_is_not_said_to_run_for_ever(make: Make) -> None:
    workspace = make(*LONG)
    runs.start(workspace, "both", None)
    in_mid_training(workspace)
    job = job_of(workspace)
    assert job.command is not None
    kill(job.supervisor)
    kill(job.command)
    state = ended(workspace)
    assert state.status == "lost"
    assert "ended without a word" in state.message
    assert job_of(workspace).status == "running", "nobody was left to write it"
    runs.start(workspace, "train", None)
    assert runs.read(workspace).status == "running"  # type: ignore[union-attr]


@pytest.mark.slow
def test_a_command_that_is_killed_says_so(make: Make) -> None:
    workspace = make(*LONG)
    runs.start(workspace, "train", None)
    in_mid_training(workspace)
    command = job_of(workspace).command
    assert command is not None
    kill(command)
    state = ended(workspace)
    assert state.status == "failed"
    if os.name == "nt":
        return
    assert state.exit_code == -9
    assert "killed from outside (SIGKILL); often the memory was full" in state.message


def test_a_command_that_fails_is_told_in_its_own_words(make: Make) -> None:
    workspace = make()
    runs.start(workspace, "infer", None)
    state = ended(workspace)
    assert (state.status, state.exit_code) == ("failed", 2)
    assert state.message.startswith("inference failed: ")
    assert "train" in state.message, "there is no LoRA yet"


def test_what_is_to_be_mended_is_said_at_once(make: Make) -> None:
    workspace = make()
    workspace.source_frame(3).unlink()
    with pytest.raises(UserError, match=r"1 problem\n.*00003\.png"):
        runs.start(workspace, "train", None)
    assert not workspace.job_record.exists()


def test_inference_needs_the_edited_first_frame(make: Make) -> None:
    workspace = make()
    workspace.edited_frame(None, 0, ".png").unlink()
    for what in ("infer", "both"):
        with pytest.raises(UserError, match=r"00000\.png is missing: open source/00000\.png"):
            runs.start(workspace, what, None)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no such folder"):
        runs.start(workspace, "train", "hat")


def test_what_cannot_be_started_is_a_fault(make: Make) -> None:
    """Here the record cannot be written."""
    workspace = make()
    workspace.job_record.mkdir(parents=True)
    (workspace.job_record / "x").touch()
    with pytest.raises((Fault, OSError)):
        runs.start(workspace, "train", None)


def test_the_plan_is_that_of_the_command(make: Make) -> None:
    workspace = make()
    assert "training" in runs.plan_text(workspace)
    assert "9 frames of 160x96" in runs.check_text(workspace, None)
    with pytest.raises(UserError, match="no such file"):
        runs.plan_text(Workspace(workspace.root / "nowhere"))


def test_a_damaged_record_is_told(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.job_record.parent.mkdir()
    workspace.job_record.write_text("{")
    with pytest.raises(UserError, match=r"job\.json is damaged: remove it"):
        runs.read(workspace)
