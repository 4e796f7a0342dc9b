"""Work in the background: it outlives the page, tells how it stands, and can be stopped."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from filelock import FileLock

from gui_mask import jobs
from gui_mask.jobs import JobState, Process, complaint, identify, start_detached, tail
from gui_mask.results import result_html
from gui_mask.session import Session
from maskora.app.plan import TimePart
from maskora.app.workspace import Workspace
from maskora.config import set_values
from maskora.errors import Fault, UserError
from maskora.progress import State
from maskora.training.run_folder import RunFolder
from maskora.video.probe import probe
from tests.app.conftest import recolour
from tests.gui_mask.workspaces import copied, job_of
from tests.system import IS_POSIX, posix_only

LONG = {"motion.steps": 100_000, "training.checkpoint_every": 100_000}
LIVES = "import os, sys, time; print(os.getpid(), flush=True); time.sleep(60)"


@pytest.fixture
def workspace(tmp_path: Path, boxed: Workspace) -> Iterator[Workspace]:
    """A workspace with an edited first frame; what is left running in it is ended."""
    workspace = copied(boxed, tmp_path / "ws")
    target = workspace.edited_frame(None, 0, ".png")
    recolour(workspace.source_frame(0), target, (20, 40, 40, 30))
    yield workspace
    if workspace.job_record.is_file():
        job = job_of(workspace)
        for process in (job.supervisor, job.command):
            if process is not None and process.lives:
                kill(process)


@pytest.fixture
def training(workspace: Workspace) -> Iterator[Workspace]:
    """The same, in the middle of a training that takes for ever; inference would come next."""
    set_values(workspace.config, LONG)
    with closing(Session(workspace)):
        jobs.start(workspace, "both", None)
        in_mid_training(workspace)
        yield workspace


def kill(process: Process) -> None:
    """End a process hard, and on Windows what an interpreter of a venv has started for itself."""
    found = psutil.Process(process.pid)
    for one in (*found.children(), found) if os.name == "nt" else [found]:
        one.kill()


def wait(workspace: Workspace, until: Callable[[JobState], bool]) -> JobState:
    """Look again until it is so."""
    for _ in range(1200):
        state = jobs.read(workspace)
        assert state is not None
        if until(state):
            return state
        time.sleep(0.1)
    raise AssertionError(f"it did not come to that: {state}")


def ended(workspace: Workspace) -> JobState:
    return wait(workspace, lambda state: not state.is_active)


def in_mid_training(workspace: Workspace) -> JobState:
    """Some steps are done, and the page has seen that."""
    return wait(
        workspace,
        lambda s: s.progress is not None and s.progress.done > 1 and bool(s.losses),
    )


def saved_step(workspace: Workspace) -> int:
    record = RunFolder(workspace.run_dir("motion")).read()
    assert record is not None
    return record.step


def test_commands_are_those_a_person_would_type(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "my edit")
    config = f"'{tmp_path}/my edit/edit.toml'"
    assert jobs.commands(workspace, None) == [
        f"maskora train --config {config} --stage all --resume",
        f"maskora infer --config {config} --keep",
    ]
    assert jobs.commands(workspace, "hat", "infer") == [
        f"maskora infer --config {config} --keep --edit hat"
    ]
    assert jobs.commands(workspace, None, "preview") == [f"maskora preview --config {config}"]


@pytest.mark.slow
def test_a_preview_is_shown_and_nothing_is_trained(workspace: Workspace) -> None:
    begun = jobs.start(workspace, "preview", None)
    assert begun is not None
    assert begun.is_active
    state = ended(workspace)
    assert (state.status, state.message) == ("done", "preview is done"), state.log
    assert state.result == workspace.output_dir(None, None) / "preview.mp4"
    assert probe(state.result).frames == 9
    assert state.losses == {}
    session = SimpleNamespace(token="t", workspace=workspace)
    shown = result_html(session, "")  # type: ignore[arg-type]
    assert shown.count("maskora/t/output/preview.mp4?") == 2
    assert "comparison.mp4" not in shown


@pytest.mark.slow
def test_both_commands_run_in_turn_and_the_result_is_found(workspace: Workspace) -> None:
    begun = jobs.start(workspace, "both", None)
    assert begun is not None
    assert begun.is_active
    assert begun.result is None
    with pytest.raises(UserError, match="training runs already; stop it, or wait"):
        jobs.start(workspace, "both", None)
    state = ended(workspace)
    job = state.job
    assert (state.status, job.exit_code, job.name) == ("done", 0, "infer"), state.log
    assert state.message == "generation is done"
    assert job.ended is not None
    assert job.ended > job.started
    assert state.result == workspace.root / "output" / "edited.mp4"
    assert probe(state.result).frames == 9
    assert [step for step, _ in state.losses["motion"]] == [1, 2]
    progress = [json.loads(line) for line in workspace.job_progress.read_text().splitlines()]
    assert ("denoise", 2, 2) in [(one["task"], one["done"], one["total"]) for one in progress]
    log = workspace.job_log.read_text()
    first, second = jobs.commands(workspace, None)
    assert log.index(f"$ {first}\n") < log.index(f"$ {second}\n")
    assert "\r" not in log, "no bar is drawn into it"

    again = jobs.start(workspace, "both", None)
    assert again is not None
    assert again.result is None, "the result that is there is of an earlier work"
    jobs.stop(workspace)
    state = ended(workspace)
    assert (state.status, state.result) == ("stopped", None)
    assert sum(line == f"$ {first}" for line in state.log) <= 1, "the log is this work's alone"


def test_training_is_stopped_in_the_middle_and_goes_on(training: Workspace) -> None:
    workspace = training
    state = in_mid_training(workspace)
    assert state.status == "running"
    assert state.progress is not None
    assert (state.message, state.progress.total) == (state.progress.text, 100_000)
    assert state.progress.loss is not None
    stopping = jobs.stop(workspace)
    assert stopping is not None
    assert stopping.status in ("running", "stopping", "stopped")
    state = ended(workspace)
    assert (state.status, state.job.exit_code, state.job.name) == ("stopped", 130, "train")
    assert "goes on from the last saved step" in state.message
    assert state.result is None
    assert "maskora infer" not in workspace.job_log.read_text()
    step = saved_step(workspace)
    assert step >= state.losses["motion"][-1][0] > 1

    jobs.start(workspace, "train", None)
    wait(workspace, lambda s: bool(s.losses) and s.losses["motion"][-1][0] > step)
    assert f"motion: continues after step {step}" in workspace.job_log.read_text()
    jobs.stop(workspace)
    assert ended(workspace).status == "stopped"
    assert saved_step(workspace) > step


@pytest.mark.parametrize("seconds", [0, 0.3])
def test_what_is_stopped_before_anything_has_begun(workspace: Workspace, seconds: float) -> None:
    set_values(workspace.config, LONG)
    jobs.start(workspace, "both", None)
    time.sleep(seconds)
    jobs.stop(workspace)
    state = ended(workspace)
    assert (state.status, state.job.name) == ("stopped", "train")
    assert "maskora infer" not in workspace.job_log.read_text()


@pytest.mark.slow
def test_a_supervisor_killed_hard_leaves_its_command_in_view(training: Workspace) -> None:
    job = job_of(training)
    assert job.command is not None
    kill(job.supervisor)
    wait(training, lambda _: not job.supervisor.lives)
    assert job.command.lives
    state = jobs.read(training)
    assert state is not None
    assert state.status == "running", "the training goes on"
    with pytest.raises(UserError, match="runs already"):
        jobs.start(training, "both", None)
    jobs.stop(training)
    assert ended(training).status == "stopped"
    if IS_POSIX:  # elsewhere no interruption reaches it from here, so it is ended
        assert saved_step(training) > 1


@pytest.mark.slow
def test_everything_killed_hard_is_not_said_to_run_for_ever(training: Workspace) -> None:
    job = job_of(training)
    assert job.command is not None
    kill(job.supervisor)
    kill(job.command)
    state = ended(training)
    assert state.status == "lost"
    assert "exited unexpectedly" in state.message
    assert job_of(training).status == "running", "nobody was left to write it"
    jobs.start(training, "train", None)
    assert jobs.read(training).status == "running"  # type: ignore[union-attr]


@pytest.mark.slow
def test_a_command_that_is_killed_says_so(training: Workspace) -> None:
    command = job_of(training).command
    assert command is not None
    kill(command)
    state = ended(training)
    assert state.status == "failed"
    if os.name == "nt":
        return
    assert state.job.exit_code == -9
    assert "killed from outside (SIGKILL); often the memory was full" in state.message


def test_a_command_that_fails_is_told_in_its_own_words(workspace: Workspace) -> None:
    jobs.start(workspace, "infer", None)
    state = ended(workspace)
    assert (state.status, state.job.exit_code) == ("failed", 2)
    assert state.message.startswith("generation failed: ")
    assert "train" in state.message, "there is no LoRA yet"


def test_what_is_wrong_is_said_at_once(workspace: Workspace) -> None:
    with pytest.raises(UserError, match="no such folder"):
        jobs.start(workspace, "train", "hat")
    edited = workspace.edited_frame(None, 0, ".png")
    edited.rename(workspace.root / "aside.png")
    for what in ("infer", "both"):
        with pytest.raises(UserError, match=r"00000\.png is missing: open source/00000\.png"):
            jobs.start(workspace, what, None)  # type: ignore[arg-type]
    (workspace.root / "aside.png").rename(edited)
    workspace.source_frame(3).unlink()
    with pytest.raises(UserError, match=r"00003\.png"):
        jobs.start(workspace, "train", None)
    assert not workspace.job_record.exists()


def test_a_first_frame_that_a_removal_makes_is_not_missed(workspace: Workspace) -> None:
    edited = workspace.edited_frame(None, 0, ".png")
    edited.unlink()
    set_values(workspace.config, {"motion.task": "remove"})
    jobs.start(workspace, "infer", None)
    assert "train" in ended(workspace).message, "there is no LoRA yet"
    assert edited.is_file()


def test_where_a_terminals_command_works_nothing_is_started(workspace: Workspace) -> None:
    with FileLock(workspace.work_lock), pytest.raises(UserError, match="another maskora works in"):
        jobs.start(workspace, "train", None)
    assert not workspace.job_record.exists()


@pytest.mark.slow
def test_a_terminals_training_is_refused_beside_the_windows_own(training: Workspace) -> None:
    """The window stays open, and its job works."""
    command = [sys.executable, "-m", "maskora", *jobs.argv(training, "train", None)[1:]]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 2, refused.stderr
    assert f"maskora: another maskora works in {training.root} (process" in refused.stderr
    assert "maskora train --config" in refused.stderr
    in_mid_training(training)
    jobs.stop(training)
    assert ended(training).status == "stopped"


def test_what_cannot_be_started_is_a_fault(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the record cannot be written."""
    monkeypatch.setattr(jobs, "_output", lambda *_: "")
    monkeypatch.setattr(jobs, "_read_job", lambda *_: None)
    (workspace.job_record / "x").mkdir(parents=True)
    with pytest.raises(Fault, match="the work could not be started"):
        jobs.start(workspace, "train", None)


def test_the_plan_is_that_of_the_command(workspace: Workspace) -> None:
    found = jobs.forecast(workspace, None)
    assert "training" in found.text
    assert [(part.task, part.steps) for part in found.times] == [("motion", 2), ("denoise", 2)]
    with pytest.raises(UserError, match="no such file"):
        jobs.forecast(Workspace(workspace.root / "nowhere"), None)


def job_at(name: str, what: str, now: State | None, losses: object = None) -> JobState:
    """A job that is so far."""
    job = SimpleNamespace(what=what, name=name)
    return JobState(job, "running", "", now, (), losses or {}, None)  # type: ignore[arg-type]


TIMES = (
    TimePart("motion", 100, 2.0), TimePart("preview", 24, 1.0), TimePart("appearance", 90, 1.0),
    TimePart("appearance", 10, 2.0), TimePart("preview", 24, 1.0), TimePart("denoise", 60, 5.0),
)  # fmt: skip


@pytest.mark.parametrize(
    ("state", "left"),
    [
        (job_at("train", "both", None), 200 + 24 + 110 + 24 + 300),
        (job_at("train", "train", None), 200 + 24 + 110 + 24),
        (job_at("train", "both", State("motion", "step", 25, 100)), 150 + 18 + 110 + 24 + 300),
        (job_at("train", "both", State("encode video", "video", 1, 9), {"motion": [(100, 0.1)]}),
         110 + 24 + 300),
        (job_at("train", "both", State("denoise", "step", 3, 12, part="preview"),
                {"motion": [(50, 0.1)]}), 100 + 12 + 110 + 24 + 300),
        (job_at("train", "both", State("appearance", "step", 50, 100)), 55 + 12 + 300),
        (job_at("infer", "both", State("load", "block")), 300),
        (job_at("infer", "both", State("denoise", "step", 15, 30)), 150),
        (job_at("infer", "both", State("denoise", "step", 15, 30, part="segment 2 of 2")), 75),
    ],
)  # fmt: skip
def test_the_time_left_is_of_all_that_is_still_to_do(state: JobState, left: float) -> None:
    assert jobs.seconds_left(TIMES, state) == pytest.approx(left)


def test_a_time_that_was_never_measured_is_not_guessed() -> None:
    unknown = (*TIMES[:-1], TimePart("denoise", 60, None))
    assert jobs.seconds_left(unknown, job_at("train", "both", None)) is None
    assert jobs.seconds_left(unknown, job_at("train", "train", None)) is not None
    preview = State("denoise", "step", 3, 12, eta=7.0)
    assert jobs.seconds_left(unknown, job_at("preview", "preview", preview)) == 7.0


def test_no_record_and_a_damaged_one(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert jobs.read(workspace) is None
    assert jobs.stop(workspace) is None
    workspace.job_record.write_text("{")
    with pytest.raises(UserError, match=r"job\.json is damaged: remove it"):
        jobs.read(workspace)
    os.truncate(workspace.job_record, 2**31)
    with pytest.raises(UserError, match=r"job\.json has 2147 MB"):
        jobs.read(workspace)


def test_the_end_of_a_log_is_plain_text(tmp_path: Path) -> None:
    path = tmp_path / "job.log"
    path.write_bytes(b"earlier\nloading\n\r 1%\r 2%\n\x1b[31mred\x1b[0m\r\nhalf of \xe2\x96")
    assert tail(path, start=8) == ["loading", " 2%", "red", "half of \N{REPLACEMENT CHARACTER}"]
    path.write_text("".join(f"line {n}\n" for n in range(100_000)))
    lines = tail(path)
    assert len(lines) < 50_000
    assert lines == [f"line {n}" for n in range(100_000 - len(lines), 100_000)]
    assert tail(tmp_path / "none") == []


def test_the_reason_of_a_failure_is_the_last_message() -> None:
    assert complaint(["x", "maskora: a: 2 problems", "  one", "  two"]) == (
        "a: 2 problems\n  one\n  two"
    )
    assert complaint(["Traceback", "KeyError: 1", ""]) == "KeyError: 1"
    assert complaint([]) == "it said nothing"


def run_detached(tmp_path: Path, code: str) -> bool:
    with (tmp_path / "errors").open("wb") as errors:
        return start_detached([sys.executable, "-c", code], errors.fileno())


def gone(pid: int) -> bool:
    for _ in range(100):
        if identify(pid) is None:
            return True
        time.sleep(0.05)
    return False


def test_a_process_that_ends_without_a_line_is_told(tmp_path: Path) -> None:
    assert not run_detached(tmp_path, "raise SystemExit('no such workspace')")
    assert (tmp_path / "errors").read_text().strip() == "no such workspace"


def test_it_outlives_the_one_that_started_it(tmp_path: Path) -> None:
    """Its pipe is closed, the other has ended, and the terminal may be gone."""
    note = tmp_path / "note"
    inner = f"import os; open({str(note)!r}, 'w').write(str(os.getpid())); {LIVES}"
    outer = f"""
import sys; from gui_mask.jobs import start_detached
assert start_detached([sys.executable, "-c", {inner!r}], 2)
"""
    subprocess.run([sys.executable, "-c", outer], check=True, timeout=60)
    process = identify(int(note.read_text()))
    assert process is not None
    assert process.lives
    if IS_POSIX:
        assert os.getsid(process.pid) == process.pid, "it has left the terminal"
    psutil.Process(process.pid).kill()
    assert gone(process.pid)


def test_one_that_has_ended_is_no_zombie(tmp_path: Path) -> None:
    before = {child.pid for child in psutil.Process().children()}
    assert run_detached(tmp_path, "print('begun')")
    for _ in range(100):
        left = [c for c in psutil.Process().children() if c.pid not in before]
        if not left:
            return
        time.sleep(0.05)
    raise AssertionError(left)


def test_a_clock_that_is_set_makes_no_other_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Linux psutil's times move with the clock; the record of a running job must not."""
    own = identify(os.getpid())
    assert own is not None
    real = psutil.Process.create_time
    if psutil.LINUX:
        start = psutil.boot_time()
        monkeypatch.setattr(psutil.Process, "create_time", lambda self: real(self) + 3600)
        monkeypatch.setattr(psutil, "boot_time", lambda: start + 3600)
    assert own.lives


def test_an_earlier_versions_record_is_of_a_process_that_has_ended() -> None:
    boot = "0fdc2a3c-7ad4-4b5c-9a0e-1d2f3a4b5c6d"
    assert not Process(pid=os.getpid(), born=f"{boot} 123456").lives


def test_a_process_of_somebody_else_is_none_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows does not tell about every process."""

    def refused(self: psutil.Process) -> float:
        raise psutil.AccessDenied(self.pid)

    monkeypatch.setattr(psutil.Process, "create_time", refused)
    assert identify(os.getpid()) is None


@posix_only
def test_a_command_whose_supervisor_is_gone_is_interrupted(tmp_path: Path) -> None:
    code = "import time\ntry: print('r', flush=True); time.sleep(60)\nexcept KeyboardInterrupt: "
    with subprocess.Popen(
        [sys.executable, "-c", f"{code}raise SystemExit(5)"], stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        command = identify(child.pid)
        assert command is not None
        command.interrupt()
        assert child.wait(20) == 5
    command.interrupt()  # it is gone: nothing happens


def test_where_no_interruption_reaches_it_it_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows the window's console is not the command's."""
    monkeypatch.setattr(jobs, "INTERRUPT", 1)
    grandchild = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    with subprocess.Popen(
        [sys.executable, "-c", grandchild, LIVES], stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        inner = int(child.stdout.readline())
        command = identify(child.pid)
        assert command is not None
        command.interrupt()
        child.wait(20)
    assert gone(inner), "on Windows, the interpreter of a venv is the parent of the real one"
