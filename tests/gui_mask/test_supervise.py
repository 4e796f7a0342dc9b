"""The process that runs a workspace's commands: who lives, who was interrupted, who failed."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gui_mask import runs, supervise
from gui_mask.supervise import Job, Process, Supervisor, identify, store
from maskora.workspace import Workspace
from tests.gui_mask.jobs import job_of


def test_a_number_that_another_process_got_is_not_taken_for_it(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    own = identify(os.getpid())
    assert own is not None
    assert own.lives
    job = Job(what="train", edit=None, started=0, name="train", supervisor=own)
    store(workspace, job)
    assert runs.read(workspace).status == "running"  # type: ignore[union-attr]
    other = Process(pid=own.pid, born=f"{own.born}0")
    store(workspace, job.model_copy(update={"supervisor": other, "command": other}))
    assert runs.read(workspace).status == "lost"  # type: ignore[union-attr]
    assert identify(2**22 + 1) is None


def test_a_dead_process_that_nobody_has_asked_about_does_not_live() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    for _ in range(200):
        if identify(process.pid) is None:
            break
        time.sleep(0.05)
    assert identify(process.pid) is None, "it is a zombie"
    process.wait()


@pytest.mark.parametrize(
    ("says", "times"), [("", 2), ("print('interrupted', flush=True); time.sleep(2)", 1)]
)
def test_an_interruption_that_got_lost_is_repeated_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, times: int
) -> None:
    """In a destructor, Python prints KeyboardInterrupt and goes on."""
    monkeypatch.setattr(supervise, "HEARD_WITHIN", 0.5)
    workspace, own = Workspace(tmp_path), identify(os.getpid())
    assert own is not None
    workspace.job_log.parent.mkdir()
    job = Job(what="train", edit=None, started=0, name="train", supervisor=own)
    code = f"""
import signal, sys, time
count = 0
def note(number, frame):
    global count
    count += 1
signal.signal(signal.SIGINT, note)
print("ready", flush=True)
while count < {times}:
    time.sleep(0.05)
{says}
sys.exit(100 + count)
"""
    with workspace.job_log.open("a") as out:
        process = subprocess.Popen([sys.executable, "-c", code], stdout=out)
        while not workspace.job_log.read_text():
            time.sleep(0.05)
        supervisor = Supervisor(workspace, job, out)
        supervisor.interrupt(signal.SIGINT, None)
        assert supervisor.wait(process) == 100 + times
    assert job_of(workspace).asked_to_stop


@pytest.mark.parametrize(
    ("ends", "code", "status"),
    [
        ("raise ImportError('no such part') from None", 1, "stopped"),
        ("os.abort()", -6, "stopped"),
        ("print('interrupted', flush=True); sys.exit(1)", 1, "failed"),
        ("sys.exit(2)", 2, "failed"),
        ("os.kill(os.getpid(), 9)", -9, "failed"),
        ("os.unlink(os.readlink('/proc/self/fd/1')); sys.exit(1)", 1, "failed"),  # the log
        ("pass", 0, "done"),
    ],
)
def test_a_command_that_an_interruption_broke_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str, code: int, status: str
) -> None:
    """Imports turn Ctrl-C into errors of their own; who has heard it ends as it means to."""
    workspace, own = Workspace(tmp_path), identify(os.getpid())
    assert own is not None
    workspace.job_log.parent.mkdir()
    (tmp_path / "command.py").write_text(f"""
import os, sys, time
try:
    print("ready", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    {ends}
""")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(supervise, "words", lambda *_: ["command"])
    with workspace.job_log.open("a") as out:
        job = Job(what="train", edit=None, started=0, name="train", supervisor=own)
        supervisor = Supervisor(workspace, job, out)

        def interrupt() -> None:
            while "ready" not in workspace.job_log.read_text():
                time.sleep(0.05)
            supervisor.interrupt(signal.SIGINT, None)

        thread = threading.Thread(target=interrupt)
        thread.start()
        supervisor.run()
        thread.join()
    assert (job_of(workspace).status, job_of(workspace).exit_code) == (status, code)
