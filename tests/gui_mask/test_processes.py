"""Processes that outlive who started them, on every system."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from gui_mask import processes
from gui_mask.processes import Process, identify, start_child, start_detached
from tests.system import IS_POSIX, posix_only

LIVES = "import os, sys, time; print(os.getpid(), flush=True); time.sleep(60)"


def run_detached(tmp_path: Path, code: str) -> bool:
    with (tmp_path / "errors").open("wb") as errors:
        return start_detached([sys.executable, "-c", code], errors.fileno())


def gone(pid: int) -> bool:
    for _ in range(100):
        if identify(pid) is None:
            return True
        time.sleep(0.05)
    return False


def test_a_process_that_ends_without_a_word_is_told(tmp_path: Path) -> None:
    assert not run_detached(tmp_path, "raise SystemExit('no such workspace')")
    assert (tmp_path / "errors").read_text().strip() == "no such workspace"


def test_it_outlives_the_one_that_started_it(tmp_path: Path) -> None:
    """Its pipe is closed, the other has ended, and the terminal may be gone."""
    note = tmp_path / "note"
    inner = f"import os; open({str(note)!r}, 'w').write(str(os.getpid())); {LIVES}"
    outer = f"""
import sys; from gui_mask.processes import start_detached
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
        child.send_signal(processes.INTERRUPT)
        ended = child.wait(20)
    assert ("heard" in log.read_text(), ended == 7) == (listens, listens)


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
    monkeypatch.setattr(processes, "INTERRUPT", 1)
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
