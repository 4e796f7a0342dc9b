"""One program at a time: who is kept out, is told by whom, and gets in when that one is gone."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from maskora.app.workspace import Workspace, workspace_lock
from maskora.errors import UserError

HOLD = """
import sys
from pathlib import Path
from maskora.app.workspace import workspace_lock
from maskora.app.workspace import Workspace
with workspace_lock(Workspace(Path(sys.argv[1]))):
    print("held", flush=True)
    input()
"""


def holder(root: Path) -> subprocess.Popen[bytes]:
    """Another program that holds a workspace until it reads a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == b"held"
    return process


def test_another_program_is_named_as_often_as_one_asks(tmp_path: Path) -> None:
    with holder(tmp_path) as other:
        for _ in range(2):
            with (
                pytest.raises(UserError, match=rf"another maskora \(process {other.pid}\): close"),
                workspace_lock(Workspace(tmp_path)),
            ):
                pass
        other.communicate(b"\n")
    with workspace_lock(Workspace(tmp_path)):
        assert Workspace(tmp_path).lock_holder.read_text() == str(os.getpid())


def test_what_a_killed_program_held_is_free(tmp_path: Path) -> None:
    with holder(tmp_path) as other:
        other.kill()
    with workspace_lock(Workspace(tmp_path)):
        pass


def test_a_holder_that_has_not_written_its_number_yet(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with workspace_lock(workspace):
        workspace.lock_holder.unlink()
        with pytest.raises(UserError, match="in another maskora: close"), workspace_lock(workspace):
            pass


def test_what_one_thread_holds_another_gives_back(tmp_path: Path) -> None:
    """The window opens a workspace in one thread and closes it in another."""
    held = workspace_lock(Workspace(tmp_path))
    held.__enter__()
    thread = threading.Thread(target=held.__exit__, args=(None, None, None))
    thread.start()
    thread.join()
    with workspace_lock(Workspace(tmp_path)):
        pass
