"""edit: which commands it runs, what it places, and how it ends when they do not."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from maskora.app.batch import OPTIONS, place_edit, program, read_order
from maskora.app.workspace import Workspace
from maskora.cli import EDIT_HELP
from maskora.errors import UserError
from tests.app.children import Child, stand_in
from tests.app.conftest import Answer
from tests.conftest import REPOSITORY

Run = Callable[..., Answer]


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Child:
    return stand_in(tmp_path, monkeypatch)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a space in its name, where the person is; it holds what an edit begins with."""
    made = tmp_path / "my clips"
    made.mkdir()
    for name in ("clip.mp4", "edited.PNG", "later one.jpg", "mask.png"):
        (made / name).write_bytes(name.encode())
    monkeypatch.chdir(made)
    return made


def test_a_first_run_prepares_trains_and_infers(run: Run, child: Child, folder: Path) -> None:
    line = ["clip.mp4", "1,2,3,4", "edited.PNG", "--frames=9", "out.mp4", "--set", "a.b=c"]
    answer = run("edit", *line, "--", "--caption", "- a man", "--keyframe", "4=later one.jpg")

    assert answer.status == 0, answer.err
    config = ["--config", str(Path("out.work", "edit.toml"))]
    given = ["--box", "1,2,3,4", "--frames", "9", "--caption", "- a man", "--set", "a.b=c"]
    assert child.asked() == [
        ["prepare", "clip.mp4", "out.work", *given],
        ["train", *config, "--stage", "all", "--resume"],
        ["infer", *config, "--output", "out.mp4"],
    ]
    edits = {path.name: path.read_bytes() for path in (folder / "out.work" / "edits").iterdir()}
    assert edits == {"00000.png": b"edited.PNG", "00004.jpg": b"later one.jpg"}
    assert answer.out.splitlines()[-1] == "edit: done: out.mp4"


def test_run_again_it_continues_and_settings_count_for_that_run(
    run: Run, child: Child, folder: Path
) -> None:
    place = folder / "kept here"
    line = ["edit", "clip.mp4", "--mask", "mask.png", "edited.PNG", "o.mp4", "--workspace", place]
    assert run(*line).status == 0
    first = child.asked()
    assert first[0] == ["prepare", "clip.mp4", str(place), "--mask", "mask.png"]

    answer = run(*line, "--set", "a.b=c", "--device", "cuda:1", "--set=d.e=f")

    assert "is prepared already: continuing with it" in answer.out
    again = child.asked()
    assert [words[0] for words in again] == ["train", "infer"]
    given = ["--device", "cuda:1", "--set", "a.b=c", "--set", "d.e=f"]
    assert all(words[3:9] == given for words in again)


def test_what_is_clicked_is_followed_once(run: Run, child: Child, folder: Path) -> None:
    clicks = ["--click", "0,1,1,+", "--click", "0,9,9,-"]
    line = ["edit", "clip.mp4", "edited.PNG", "out.mp4", *clicks]
    child.does("track", "d = pathlib.Path(words[1], 'masks'); d.mkdir(); (d/'masks.json').touch()")
    assert run(*line).status == 0
    asked = child.asked()
    assert asked[0] == ["prepare", "clip.mp4", "out.work"]
    assert asked[1] == ["track", "out.work", *clicks]
    assert run(*line).status == 0
    assert [words[0] for words in child.asked()] == ["train", "infer"]


@pytest.mark.parametrize("status", [1, 2, 130])
def test_a_failing_stage_has_told_why_and_ends_all(
    run: Run, child: Child, folder: Path, status: int
) -> None:
    child.does("train", f"sys.exit({status})")
    answer = run("edit", "clip.mp4", "1,2,3,4", "edited.PNG", "out.mp4")
    assert answer.status == status
    assert answer.err == ""
    assert [words[0] for words in child.asked()] == ["prepare", "train"]


def test_a_stage_that_is_killed_is_told(run: Run, child: Child, folder: Path) -> None:
    child.does("train", "os.kill(os.getpid(), 9)")
    answer = run("edit", "clip.mp4", "1,2,3,4", "edited.PNG", "out.mp4")
    assert answer.status == 1
    assert answer.err.startswith("maskora: maskora train was killed or has crashed (s")
    assert [words[0] for words in child.asked()] == ["prepare", "train"]


@pytest.mark.parametrize("before", ["00004.png", "00004.jpg", "4.webp", "00004.JPEG"])
def test_an_edit_takes_the_place_of_an_earlier_one(folder: Path, before: str) -> None:
    workspace = Workspace(folder / "work")
    workspace.edits_dir.mkdir(parents=True)
    for name in (before, "00004.txt", "00005.png"):
        (workspace.edits_dir / name).write_text("earlier")
    place_edit(workspace, 4, folder / "later one.jpg")
    names = sorted(path.name for path in workspace.edits_dir.iterdir())
    assert names == ["00004.jpg", "00004.txt", "00005.png"]
    assert (workspace.edits_dir / "00004.jpg").read_text() == "later one.jpg"


@pytest.mark.parametrize("name", ["00000.png", "0.png"])
def test_an_edit_that_lies_in_its_place_already_stays(folder: Path, name: str) -> None:
    workspace = Workspace(folder / "work")
    workspace.edits_dir.mkdir(parents=True)
    (workspace.edits_dir / name).write_text("mine")
    place_edit(workspace, 0, workspace.edits_dir / name)
    assert [(p.name, p.read_text()) for p in workspace.edits_dir.iterdir()] == [(name, "mine")]


def test_absolute_paths_with_spaces_and_equals_signs(folder: Path) -> None:
    odd = folder / "a=b 24.WEBP"
    odd.touch()
    order = read_order(
        [str(folder / "clip.mp4"), "1,2,3,4", str(folder / "edited.PNG"),
         str(folder / "out.v2.MP4"), "--keyframe", f"0024={odd}"]
    )  # fmt: skip
    assert order.edits == {0: folder / "edited.PNG", 24: odd}
    assert order.workspace.root == folder / "out.v2.work"


def test_the_help_names_every_option() -> None:
    told = [line.split()[0] for line in EDIT_HELP.splitlines() if line.startswith("  --")]
    assert sorted(told) == sorted([*OPTIONS, "--help"])


def test_an_option_without_a_value_is_told(folder: Path) -> None:
    with pytest.raises(UserError, match="--caption needs a value"):
        read_order(["clip.mp4", "1,2,3,4", "edited.PNG", "out.mp4", "--caption"])


def test_what_is_no_device_is_refused_before_any_work(run: Run, child: Child, folder: Path) -> None:
    answer = run("edit", "clip.mp4", "1,2,3,4", "edited.PNG", "out.mp4", "--device", "gpu")
    assert (answer.status, child.asked()) == (2, [])
    assert "--device gpu: write cpu, cuda or cuda:N" in answer.err


def test_nothing_is_imported_from_the_folder_where_a_person_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "maskora").mkdir()
    (tmp_path / "maskora" / "__init__.py").write_text("raise SystemExit('the wrong one')")
    monkeypatch.chdir(tmp_path)
    told = subprocess.run(
        [*program(), "--version"], env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (told.returncode, told.stdout.split()[:1]) == (0, ["maskora"]), told.stderr


DRIVER = """
import sys
from maskora.app import children
from maskora.cli import main
children.program = lambda: [sys.executable, sys.argv.pop(1)]
program = children.program()
children.program = lambda: program
main()
"""
SAVES = """
import signal, time
heard = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: heard.append(number))
(home / "ready").touch()
while not heard:
    time.sleep(0.01)
time.sleep(0.5)  # the step in hand is finished
(home / "heard").write_text(str(len(heard)))
sys.exit(130)
"""


def begin(child: Child, *line: str) -> "subprocess.Popen[str]":
    """`maskora …` in a group of processes of its own, as a terminal starts it."""
    begun = subprocess.Popen(
        [sys.executable, "-c", DRIVER, child.program[1], *line],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (child.folder / "ready").exists():
        assert begun.poll() is None, begun.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return begun


@pytest.mark.skipif(sys.platform == "win32", reason="signals to a group are POSIX's")
@pytest.mark.parametrize(("of_the_terminal", "status"), [(True, 130), (False, 130), (False, 0)])
def test_an_interruption_is_passed_on_once_and_waited_for(
    child: Child, folder: Path, of_the_terminal: bool, status: int
) -> None:
    child.does("train", SAVES.replace("130", str(status)))
    begun = begin(child, "edit", "clip.mp4", "1,2,3,4", "edited.PNG", "out.mp4")
    if of_the_terminal:
        os.killpg(begun.pid, signal.SIGINT)
    else:
        begun.terminate()
    _, err = begun.communicate(timeout=30)
    assert begun.returncode == 130, err
    assert (child.folder / "heard").read_text() == "1"
    assert [words[0] for words in child.asked()] == ["prepare", "train"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals to a group are POSIX's")
def test_an_interrupted_batch_tells_how_far_it_is(child: Child, folder: Path) -> None:
    for name in ("a", "b"):
        (folder / "jobs" / name).mkdir(parents=True)
        (folder / "jobs" / name / "video.mp4").touch()
        (folder / "jobs" / name / "edited.png").touch()
        (folder / "jobs" / name / "box.txt").write_text("1,2,3,4")
    child.does("edit", f"print('half done')\nsys.stdout.flush()\n{SAVES}")
    begun = begin(child, "batch", "jobs", "out")
    os.killpg(begun.pid, signal.SIGINT)
    out, err = begun.communicate(timeout=30)
    assert begun.returncode == 130, err
    assert [line.split()[:2] for line in out.splitlines()[-1:]] == [["a", "failed"]]
    assert "half done" in out
    assert [words[0] for words in child.asked()] == ["edit"]
