"""The process that runs a workspace's commands: who lives, who was interrupted, who failed."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gui_mask import jobs
from gui_mask.jobs import INTERRUPT, Job, Process, identify, store
from gui_mask.supervisor import Supervisor, start_child
from maskora.app.workspace import Workspace
from tests.gui_mask.workspaces import job_of
from tests.system import posix_only


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """What this very process is said to supervise in `tmp_path`."""
    workspace, own = Workspace(tmp_path), identify(os.getpid())
    assert own is not None
    job = Job(what="train", edit=None, started=0, name="train", supervisor=own)
    store(workspace, job)
    workspace.job_log.touch()
    return job


def wait_for(word: str, workspace: Workspace) -> None:
    """Until a command has said so."""
    for _ in range(1000):
        if word in workspace.job_log.read_text():
            return
        time.sleep(0.02)
    raise AssertionError(workspace.job_log.read_text())


def test_a_number_that_another_process_got_is_not_taken_for_it(tmp_path: Path, job: Job) -> None:
    workspace, own = Workspace(tmp_path), job.supervisor
    assert own.lives
    assert jobs.read(workspace).status == "running"  # type: ignore[union-attr]
    other = Process(pid=own.pid, born=f"{own.born}0")
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
    tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is run, and nothing is said to be done."""
    workspace = Workspace(tmp_path)
    monkeypatch.setattr("gui_mask.supervisor.argv", lambda *_: ["no-such-command"])
    jobs.stop(workspace)
    with workspace.job_log.open("a") as out:
        Supervisor(workspace, job, out).run()
    assert (job_of(workspace).status, workspace.job_log.read_text()) == ("stopped", "")


def test_each_stop_reaches_the_command_once(tmp_path: Path, job: Job) -> None:
    """The window asks by files, which reach another console too; the second time is at once."""
    workspace = Workspace(tmp_path)
    store(workspace, job)
    code = """
import signal, sys, time
from maskora.system import INTERRUPTIONS
times = 0
def hear(number, frame):
    global times
    times += 1
    print("interrupted", times, flush=True)
for number in INTERRUPTIONS:
    signal.signal(number, hear)
print("ready", flush=True)
while times < 2:
    time.sleep(0.05)
sys.exit(100 + times)
"""

    def ask() -> None:
        for word, at_once in (("ready", False), ("interrupted 1", True)):
            wait_for(word, workspace)
            stopping = jobs.stop(workspace, at_once)
            assert stopping is not None
            assert stopping.status == "stopping"
            jobs.stop(workspace)  # not at once: what is stopping already is left alone

    with workspace.job_log.open("a") as out:
        process = start_child([sys.executable, "-c", code], out.fileno(), dict(os.environ))
        thread = threading.Thread(target=ask)
        thread.start()
        assert Supervisor(workspace, job, out).wait(process) == 102
        thread.join()
    assert job_of(workspace).asked_to_stop
    assert len(list(workspace.stops_dir.iterdir())) == 2


@pytest.mark.parametrize(
    ("says", "times"), [("", 2), ("print('interrupted', flush=True); time.sleep(2)", 1)]
)
def test_an_interruption_that_got_lost_is_repeated_and_no_other(
    tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch, says: str, times: int
) -> None:
    """In a destructor, Python prints KeyboardInterrupt and goes on."""
    monkeypatch.setattr("gui_mask.supervisor.HEARD_WITHIN", 0.5)
    workspace = Workspace(tmp_path)
    code = f"""
import signal, sys, time
from maskora.system import INTERRUPTIONS
count = 0
def note(number, frame):
    global count
    count += 1
for number in INTERRUPTIONS:
    signal.signal(number, note)
print("ready", flush=True)
while count < {times}:
    time.sleep(0.05)
{says}
sys.exit(100 + count)
"""
    with workspace.job_log.open("a") as out:
        process = start_child([sys.executable, "-c", code], out.fileno(), dict(os.environ))
        wait_for("ready", workspace)
        supervisor = Supervisor(workspace, job, out)
        supervisor.interrupt(signal.SIGINT, None)
        assert supervisor.wait(process) == 100 + times
    assert job_of(workspace).asked_to_stop


@pytest.mark.parametrize(
    ("ends", "code", "status"),
    [
        ("raise ImportError('no such part') from None", 1, "stopped"),
        pytest.param("os.abort()", -6, "stopped", marks=posix_only),
        ("print('interrupted', flush=True); sys.exit(1)", 1, "failed"),
        ("sys.exit(2)", 2, "failed"),
        pytest.param("os.kill(os.getpid(), 9)", -9, "failed", marks=posix_only),
        pytest.param(
            "os.unlink(os.readlink('/proc/self/fd/1')); sys.exit(1)",
            1,
            "failed",  # the log
            marks=posix_only,
        ),
        ("pass", 0, "done"),
    ],
)
def test_a_command_that_an_interruption_broke_was_stopped(
    tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch, ends: str, code: int, status: str
) -> None:
    """Imports turn Ctrl-C into errors of their own; who has heard it ends as it means to."""
    workspace = Workspace(tmp_path)
    (tmp_path / "command.py").write_text(f"""
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
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr("gui_mask.supervisor.argv", lambda *_: ["command"])
    with workspace.job_log.open("a") as out:
        supervisor = Supervisor(workspace, job, out)

        def interrupt() -> None:
            wait_for("ready", workspace)
            supervisor.interrupt(signal.SIGINT, None)

        thread = threading.Thread(target=interrupt)
        thread.start()
        supervisor.run()
        thread.join()
    assert (job_of(workspace).status, job_of(workspace).exit_code) == (status, code)


@pytest.mark.parametrize("listens", [True, False])
def test_a_child_is_interrupted_apart_from_its_parent(tmp_path: Path, listens: bool) -> None:
    code = f"""
import signal, sys, time
from maskora.system import INTERRUPTIONS
def heard(number, frame):
    print("heard", flush=True)
    sys.exit(7)
if {listens}:
    for number in INTERRUPTIONS:
        signal.signal(number, heard)
print("ready", flush=True)
time.sleep(60)
"""
    log = tmp_path / "log"
    with log.open("wb") as out:
        child = start_child([sys.executable, "-c", code], out.fileno(), dict(os.environ))
        for _ in range(400):
            if "ready" in log.read_text():
                break
            time.sleep(0.05)
        child.send_signal(INTERRUPT)
        ended = child.wait(20)
    assert ("heard" in log.read_text(), ended == 7) == (listens, listens)
