"""The queue: one job at a time works on this machine, and others wait for their turn."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from gui_mask import jobs
from gui_mask.jobs import Job, identify, store
from gui_mask.waiting import Queue, Ticket, changing_queue, queue_file, read_queue
from maskora.app.workspace import Workspace
from maskora.config import set_values
from maskora.errors import Fault, UserError
from tests.app.conftest import recolour
from tests.gui_mask.workspaces import copied, job_of

Begun = list[tuple[str, str]]


@pytest.fixture(autouse=True)
def _empty_queue() -> Iterator[None]:
    """Nobody waits before a test, or after it."""
    queue_file().unlink(missing_ok=True)
    yield
    queue_file().unlink(missing_ok=True)


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> Begun:
    """Jobs are checked by nobody, and begin by their record alone; the names of those that did."""
    names: Begun = []

    def begin(ticket: Ticket) -> None:
        if not ticket.root.is_dir():
            raise Fault("it is gone")
        names.append((ticket.root.name, ticket.what))
        runs(Workspace(ticket.root))

    monkeypatch.setattr(jobs, "_output", lambda *_: "")
    monkeypatch.setattr(jobs, "_begin", begin)
    return names


def runs(workspace: Workspace, status: str = "running") -> None:
    """Its job is this very process, or has ended."""
    own = identify(os.getpid())
    assert own is not None
    job = {"what": "train", "edit": None, "started": 1.0, "supervisor": own, "name": "train"}
    store(workspace, Job.model_validate({**job, "status": status}))


def empty(root: Path) -> Workspace:
    workspace = Workspace(root)
    workspace.runs_dir.mkdir(parents=True)
    return workspace


def waiting() -> list[tuple[str, str]]:
    return [(ticket.root.name, ticket.what) for ticket in read_queue().waiting]


def test_jobs_of_all_workspaces_take_their_turn(tmp_path: Path, begun: Begun) -> None:
    one, other = empty(tmp_path / "one"), empty(tmp_path / "other")
    assert jobs.start(one, "train", None) is not None
    assert jobs.start(other, "train", None) is None, "nothing ever ran there"
    with pytest.raises(UserError, match="training waits in the queue already"):
        jobs.start(other, "train", None)
    with pytest.raises(UserError, match="training runs already"):
        jobs.start(one, "train", None)
    jobs.start(one, "train", "hat")
    assert begun == [("one", "train")]
    assert waiting() == [("other", "train"), ("one", "train")]
    jobs.advance()
    assert begun == [("one", "train")], "it works still"
    runs(one, "failed")
    jobs.advance()
    assert begun[1:] == [("other", "train")]
    jobs.advance()
    assert waiting() == [("one", "train")], "one at a time"
    runs(other, "done")
    jobs.advance()
    assert (begun[2:], waiting()) == ([("one", "train")], [])


def test_one_is_taken_out(tmp_path: Path, begun: Begun) -> None:
    one, other = empty(tmp_path / "one"), empty(tmp_path / "other")
    jobs.start(one, "train", None)
    jobs.start(other, "train", None)
    jobs.start(one, "train", "hat")
    jobs.withdraw(read_queue().waiting[0].name)
    jobs.withdraw("no such name")
    assert waiting() == [("one", "train")]
    assert begun == [("one", "train")]


def test_what_waits_outlives_a_restart_and_what_is_gone_is_forgotten(
    tmp_path: Path, begun: Begun
) -> None:
    one, gone, last = (empty(tmp_path / name) for name in ("one", "gone", "last"))
    jobs.start(one, "train", None)
    jobs.start(gone, "train", None)
    jobs.start(last, "train", None)
    shutil.rmtree(gone.root)
    job = job_of(one)
    dead = job.supervisor.model_copy(update={"born": "long ago"})
    store(one, job.model_copy(update={"supervisor": dead}))  # the machine was restarted
    jobs.advance()
    assert (begun[1:], waiting()) == ([("last", "train")], [])


def test_a_job_that_cannot_begin_now_lets_others_go_before(
    boxed: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terminal's command works in the workspace of the first."""
    held, free = copied(boxed, tmp_path / "held"), copied(boxed, tmp_path / "free")
    begun: list[str] = []

    def start_detached(command: list[str], errors: int) -> bool:
        begun.append(Path(command[4]).name)
        return True

    monkeypatch.setattr(jobs, "start_detached", start_detached)
    with changing_queue() as queue:
        queue.waiting = [Ticket.of(one.root, "train", None) for one in (held, free)]
    with FileLock(held.work_lock):
        jobs.advance()
    assert (begun, waiting()) == (["free"], [("held", "train")])
    jobs.advance()
    assert (begun, waiting()) == (["free", "held"], [])


def test_a_damaged_queue_is_told_of(tmp_path: Path, begun: Begun) -> None:
    queue_file().parent.mkdir(parents=True, exist_ok=True)
    queue_file().write_text("{")
    with pytest.raises(UserError, match=r"queue\.json is damaged: remove it"):
        jobs.start(empty(tmp_path / "one"), "train", None)
    assert begun == []
    queue_file().unlink()
    assert read_queue() == Queue()


@pytest.mark.slow
def test_a_supervisor_begins_the_next_job_itself(boxed: Workspace, tmp_path: Path) -> None:
    """No window looks, and nobody asks again."""
    one, other = copied(boxed, tmp_path / "one"), copied(boxed, tmp_path / "other")
    for workspace in (one, other):
        recolour(workspace.source_frame(0), workspace.edited_frame(None, 0, ".png"), (20, 40, 9, 9))
    set_values(one.config, {"motion.steps": 100_000})
    jobs.start(one, "train", None)
    assert jobs.start(other, "train", None) is None
    until(lambda: bool((state := jobs.read(one)) and state.losses))
    jobs.stop(one)
    until(lambda: (state := jobs.read(other)) is not None and not state.is_active)
    assert (job_of(one).status, job_of(other).status) == ("stopped", "done")
    assert job_of(other).started >= (job_of(one).ended or 0)
    assert waiting() == []


def until(so: Callable[[], bool]) -> None:
    for _ in range(1200):
        if so():
            return
        time.sleep(0.1)
    raise AssertionError("it did not come to that")
