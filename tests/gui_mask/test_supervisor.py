"""The process that runs a workspace's commands: who lives, who was interrupted, who failed."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gui_mask import jobs
from gui_mask.jobs import INTERRUPT, Job, Process, identify, store
from gui_mask.supervisor import Supervisor, start_child
from maskora.app.workspace import Workspace
from maskora.progress import State
from tests.gui_mask.workspaces import job_of
from tests.system import posix_only

Command = Callable[[str], int]
LISTENS = """
import os, signal, sys, time
from maskora.system import INTERRUPTIONS
times = 0
def hear(number, frame):
    global times
    times += 1
    {hears}
for number in INTERRUPTIONS:
    signal.signal(number, hear)
print("ready", flush=True)
while times < {wanted}:
    time.sleep(0.05)
{ends}
sys.exit(100 + times)
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Its job is supervised by this very process, as the record says."""
    workspace, own = Workspace(tmp_path), identify(os.getpid())
    assert own is not None
    store(workspace, Job(what="train", edit=None, started=0, name="train", supervisor=own))
    workspace.job_log.touch()
    return workspace


def wait_for(word: str, log: Path) -> None:
    """Until a command has said so."""
    for _ in range(1000):
        if word in log.read_text():
            return
        time.sleep(0.02)
    raise AssertionError(log.read_text())


def supervised(
    workspace: Workspace,
    meanwhile: Callable[[Supervisor], None],
    work: Callable[[Supervisor, int], int | None],
) -> int | None:
    """Let a supervisor work, with the log's file descriptor, while something else happens."""
    with workspace.job_log.open("a") as out:
        supervisor = Supervisor(workspace, job_of(workspace), out)
        thread = threading.Thread(target=meanwhile, args=(supervisor,))
        thread.start()
        result = work(supervisor, out.fileno())
        thread.join()
    return result


def interrupt(workspace: Workspace) -> Callable[[Supervisor], None]:
    """Interrupts a supervisor as soon as its command is ready."""

    def interrupt(supervisor: Supervisor) -> None:
        wait_for("ready", workspace.job_log)
        supervisor.interrupt(signal.SIGINT, None)

    return interrupt


@pytest.fixture
def command(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Has a script take the place of the job's command."""
    monkeypatch.setenv("PYTHONPATH", str(workspace.root), prepend=os.pathsep)
    monkeypatch.setattr("gui_mask.supervisor.argv", lambda *_: ["command"])
    return (workspace.root / "command.py").write_text


def exit_code_of(code: str) -> Callable[[Supervisor, int], int]:
    """Runs a script as a command is run, and waits for it."""
    return lambda supervisor, out: supervisor.wait(
        start_child([sys.executable, "-c", code], out, dict(os.environ))
    )


def test_a_number_that_another_process_got_is_not_taken_for_it(workspace: Workspace) -> None:
    job = job_of(workspace)
    assert job.supervisor.lives
    assert jobs.read(workspace).status == "running"  # type: ignore[union-attr]
    other = Process(pid=job.supervisor.pid, born=f"{job.supervisor.born}0")
    store(workspace, job.model_copy(update={"supervisor": other, "command": other}))
    assert jobs.read(workspace).status == "lost"  # type: ignore[union-attr]
    assert identify(2**22 + 1) is None


def test_a_dead_process_that_nobody_has_asked_about_does_not_live() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    for _ in range(200):
        if identify(process.pid) is None:
            break
        time.sleep(0.05)
    assert identify(process.pid) is None, "it is a zombie"
    process.wait()


def test_a_stop_that_was_asked_for_before_all_began(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is run, and nothing is said to be done."""
    monkeypatch.setattr("gui_mask.supervisor.argv", lambda *_: ["no-such-command"])
    jobs.stop(workspace)
    supervised(workspace, lambda _: None, lambda supervisor, _: supervisor.run())
    assert (job_of(workspace).status, workspace.job_log.read_text()) == ("stopped", "")


def test_each_stop_reaches_the_command_once(workspace: Workspace) -> None:
    """The window asks by files, which reach another console too; the second time is at once."""

    def ask(_: Supervisor) -> None:
        for word, at_once in (("ready", False), ("interrupted 1", True)):
            wait_for(word, workspace.job_log)
            stopping = jobs.stop(workspace, at_once)
            assert stopping is not None
            assert stopping.status == "stopping"
            jobs.stop(workspace)  # not at once: what is stopping already is left alone

    code = LISTENS.format(hears='print("interrupted", times, flush=True)', wanted=2, ends="")
    assert supervised(workspace, ask, exit_code_of(code)) == 102
    assert job_of(workspace).asked_to_stop
    assert len(list(workspace.stops_dir.iterdir())) == 2


@pytest.mark.parametrize(
    ("ends", "times"), [("", 2), ("print('interrupted', flush=True); time.sleep(2)", 1)]
)
def test_an_interruption_that_got_lost_is_repeated_and_no_other(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, ends: str, times: int
) -> None:
    """In a destructor, Python prints KeyboardInterrupt and goes on."""
    monkeypatch.setattr("gui_mask.supervisor.HEARD_WITHIN", 0.5)
    code = LISTENS.format(hears="pass", wanted=times, ends=ends)
    assert supervised(workspace, interrupt(workspace), exit_code_of(code)) == 100 + times
    assert job_of(workspace).asked_to_stop


@pytest.mark.parametrize(
    ("ends", "code", "status"),
    [
        ("raise ImportError('no such part') from None", 1, "stopped"),
        pytest.param("os.abort()", -6, "stopped", marks=posix_only),
        ("print('interrupted', flush=True); sys.exit(1)", 1, "failed"),
        ("sys.exit(2)", 2, "failed"),
        pytest.param("os.kill(os.getpid(), 9)", -9, "failed", marks=posix_only),
        pytest.param(  # the log is gone
            "os.unlink(os.readlink('/proc/self/fd/1')); sys.exit(1)", 1, "failed", marks=posix_only
        ),
        ("pass", 0, "done"),
    ],
)
def test_a_command_that_an_interruption_broke_was_stopped(
    workspace: Workspace, command: Command, ends: str, code: int, status: str
) -> None:
    """Imports turn Ctrl-C into errors of their own; who has heard it ends as it means to."""
    command(f"""
import os, signal, sys, time
from maskora.system import INTERRUPTIONS
for number in INTERRUPTIONS:
    signal.signal(number, signal.default_int_handler)
try:
    print("ready", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    {ends}
""")
    supervised(workspace, interrupt(workspace), lambda supervisor, _: supervisor.run())
    assert (job_of(workspace).status, job_of(workspace).exit_code) == (status, code)


def test_a_command_is_told_where_to_report(workspace: Workspace, command: Command) -> None:
    """The bars that libraries draw of their own say so once a second: the log stays short."""
    command("import os; print(os.environ['MASKORA_PROGRESS'], os.environ['TQDM_MININTERVAL'])")
    workspace.job_progress.write_text("of an earlier command")
    supervised(workspace, lambda _: None, lambda supervisor, _: supervisor.run())
    assert f"{workspace.job_progress} 1\n" in workspace.job_log.read_text()
    assert not workspace.job_progress.exists()


def test_a_report_that_is_just_being_removed_is_waited_for(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows refuses to read it for a moment."""
    error = PermissionError(errno.EACCES, "access is denied")
    error.winerror = 5  # type: ignore[attr-defined]
    refused = [error, error]

    def read_state(path: Path) -> State | None:
        if refused:
            raise refused.pop()
        return None

    monkeypatch.setattr(jobs, "read_state", read_state)
    state = jobs.read(workspace)
    assert state is not None
    assert (state.status, state.progress, refused) == ("running", None, [])


@pytest.mark.parametrize("listens", [True, False])
def test_a_child_is_interrupted_apart_from_its_parent(tmp_path: Path, listens: bool) -> None:
    deaf = "import time; print('ready', flush=True); time.sleep(60)"
    heard = LISTENS.format(hears='print("heard", flush=True)', wanted=1, ends="sys.exit(7)")
    log = tmp_path / "log"
    with log.open("wb") as out:
        command = [sys.executable, "-c", heard if listens else deaf]
        child = start_child(command, out.fileno(), dict(os.environ))
        wait_for("ready", log)
        child.send_signal(INTERRUPT)
        ended = child.wait(20)
    assert ("heard" in log.read_text(), ended == 7) == (listens, listens)
