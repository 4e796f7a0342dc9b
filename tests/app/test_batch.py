"""edit and batch: which commands they run, what they place and say, and how they end."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from maskora.app import batch
from maskora.app.workspace import Source, Workspace, video_sha256
from maskora.cli import BATCH_HELP, EDIT_HELP
from maskora.errors import UserError
from tests.app.conftest import Run, ok, refused
from tests.conftest import REPOSITORY
from tests.system import posix_only

LINE = ["clip.mp4", "1,2,3,4", "edited.PNG", "out.mp4"]
CHILD = """
import json, os, pathlib, sys
home = pathlib.Path(__file__).parent
words = sys.argv[1:]
with (home / "asked.jsonl").open("a", encoding="utf-8") as file:
    file.write(json.dumps(words) + "\\n")
todo = home / f"{words[0]}.py"
if todo.exists():
    exec(todo.read_text(encoding="utf-8"))
"""


class Child:
    """What is run instead of maskora."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.program = [sys.executable, str(folder / "child.py")]
        (folder / "child.py").write_text(CHILD, encoding="utf-8")

    def does(self, name: str, code: str) -> None:
        """Python that a command runs; `words` are the command and what it is given."""
        (self.folder / f"{name}.py").write_text(code, encoding="utf-8")

    def asked(self) -> list[list[str]]:
        """The lines of all commands so far; they are forgotten."""
        path = self.folder / "asked.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [json.loads(line) for line in lines]


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Child:
    """Takes maskora's place in processes that are started by commands in this one."""
    made = Child(tmp_path / "a child")
    monkeypatch.setattr("maskora.app.batch.program", lambda: made.program)
    made.does(
        "prepare", "root = pathlib.Path(words[2]); root.mkdir(); (root / 'edit.toml').touch()"
    )
    return made


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a space in its name, where the person is; it holds what an edit begins with."""
    made = tmp_path / "my clips"
    made.mkdir()
    for name in ("clip.mp4", "edited.PNG", "later one.jpg", "mask.png"):
        (made / name).write_bytes(name.encode())
    monkeypatch.chdir(made)
    return made


def make_job(folder: Path, **files: str | bytes) -> Path:
    """A job's folder with a video, an edited frame, a box, and more texts: `NAME` is NAME.txt."""
    folder.mkdir(parents=True)
    (folder / "video.mp4").touch()
    (folder / "edited.png").touch()
    for name, content in {"box": "1, 2,\n3, 4\n", **files}.items():
        data = content if isinstance(content, bytes) else content.encode()
        (folder / f"{name}.txt").write_bytes(data)
    return folder


def test_a_first_run_prepares_trains_and_infers(run: Run, child: Child, folder: Path) -> None:
    line = ["clip.mp4", "1,2,3,4", "edited.PNG", "--frames=9", "out.mp4", "--set", "a.b=c"]
    answer = ok(run("edit", *line, "--", "--caption", "- a man", "--keyframe", "4=later one.jpg"))
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
    settings = ["--set", "a.b=c", "--preset", "instant", "--device", "cuda:1", "--set=d.e=f"]
    ok(run(*line, *settings))
    first = child.asked()
    given = ["--preset", "instant", "--set", "a.b=c", "--set", "d.e=f"]
    assert first[0] == ["prepare", "clip.mp4", str(place), "--mask", "mask.png", *given]
    assert not {"--set", "--preset"} & {word for words in first[1:] for word in words}

    answer = run(*line, *settings)

    assert "is prepared already: continuing with it" in answer.out
    again = child.asked()
    assert [words[0] for words in again] == ["train", "infer"]
    assert all(words[3:11] == ["--device", "cuda:1", *given] for words in again)


@pytest.mark.parametrize("recorded", [True, False])
def test_another_video_for_a_workspace_that_is_there_is_refused(
    run: Run, child: Child, folder: Path, recorded: bool
) -> None:
    clip, other = folder / "clip.mp4", folder / "other.mp4"
    other.write_bytes(b"another video")
    ok(run("edit", *LINE))
    child.asked()
    known = {"origin_sha256": video_sha256(clip), "origin_frames": 9} if recorded else {}
    workspace = Workspace(folder / "out.work")
    workspace.source_dir.mkdir()
    workspace.write_source(
        Source(
            origin=str(clip.resolve()),
            start=0,
            every=1,
            frames=9,
            fps="16",
            **known,
            original_size=(64, 64),
            size=(64, 64),
            cell=8,
            fit="crop",
            region=(0, 0, 64, 64),
        )
    )
    ok(run("edit", *LINE))
    child.asked()
    refused(run("edit", "other.mp4", *LINE[1:]), str(clip), "other.mp4 is another video")
    assert child.asked() == []
    assert (folder / "out.work" / "edits" / "00000.png").read_bytes() == b"edited.PNG"
    clip.rename(folder / "moved.mp4")
    if recorded:  # the same video by another name
        answer = ok(run("edit", "moved.mp4", *LINE[1:]))
        assert f"{clip} was moved: moved.mp4, which is the same, takes its place" in answer.out
        assert workspace.read_source().origin == str(folder.resolve() / "moved.mp4")
        child.asked()
        (folder / "moved.mp4").write_bytes(b"exported again")
        line = ["moved.mp4", *LINE[1:]]
        refused(run("edit", *line), "out.work was made from", "it has another content now")
    else:
        refused(run("edit", "moved.mp4", *LINE[1:]), str(clip), "moved.mp4 is another video")


@pytest.mark.parametrize("link", [None, Path.symlink_to, Path.hardlink_to])
@pytest.mark.parametrize("name", ["clip.mp4", "edited.PNG", "later one.jpg", "mask.png"])
def test_an_input_is_no_output(
    run: Run, child: Child, folder: Path, link: Callable[[Path, Path], None] | None, name: str
) -> None:
    out = folder / "out.mp4"
    if link is not None:
        link(out, folder / name)
    elif name == "clip.mp4":
        out = folder / "." / ".." / folder.name / name
    else:
        pytest.skip("an output is an .mp4")
    before = (folder / name).read_bytes()
    line = ["clip.mp4", "edited.PNG", out, "--mask", "mask.png", "--keyframe", "4=later one.jpg"]
    refused(run("edit", *line), name, "is read here")
    assert child.asked() == []
    assert (folder / name).read_bytes() == before


@pytest.mark.parametrize("name", ["a.mp4", "a.log"])
def test_the_results_of_a_batch_are_no_input_of_a_job(
    run: Run, child: Child, tmp_path: Path, name: str
) -> None:
    for job in ("a", "b"):
        make_job(tmp_path / "jobs" / job)
    video, out = tmp_path / "jobs" / "b" / "video.mp4", tmp_path / "out"
    video.write_bytes(b"b")
    out.mkdir()
    (out / name).symlink_to(video)
    refused(run("batch", tmp_path / "jobs", out), name, "video.mp4, which is read here")
    refused(run("batch", tmp_path / "jobs", tmp_path / "jobs" / "b"), "b is a job itself")
    assert child.asked() == []
    assert video.read_bytes() == b"b"


def test_edits_are_not_placed_where_another_program_works(
    run: Run, child: Child, folder: Path
) -> None:
    ok(run("edit", *LINE))
    child.asked()
    (folder / "edited.PNG").write_bytes(b"another")
    with FileLock(Workspace(folder / "out.work").work_lock):
        refused(run("edit", *LINE), "another maskora works in out.work")
    assert (folder / "out.work" / "edits" / "00000.png").read_bytes() == b"edited.PNG"
    assert child.asked() == []


def test_what_is_clicked_is_followed_once(run: Run, child: Child, folder: Path) -> None:
    clicks = ["--click", "0,1,1,+", "--click", "0,9,9,-"]
    line = ["edit", "clip.mp4", "edited.PNG", "out.mp4", *clicks]
    child.does("track", "d = pathlib.Path(words[1], 'masks'); d.mkdir(); (d/'masks.json').touch()")
    ok(run(*line))
    asked = child.asked()
    assert asked[0] == ["prepare", "clip.mp4", "out.work"]
    assert asked[1] == ["track", "out.work", *clicks]
    ok(run(*line))
    assert [words[0] for words in child.asked()] == ["train", "infer"]


@pytest.mark.parametrize(
    ("code", "status", "message"),
    [
        ("sys.exit(1)", 1, ""),
        ("sys.exit(2)", 2, ""),
        ("sys.exit(130)", 130, ""),
        ("os.kill(os.getpid(), 9)", 1, "maskora: maskora train was killed or has crashed (s"),
    ],
)
def test_a_failing_stage_has_told_why_and_ends_all(
    run: Run, child: Child, folder: Path, code: str, status: int, message: str
) -> None:
    child.does("train", code)
    answer = run("edit", *LINE)
    assert answer.status == status
    assert answer.err.startswith(message) if message else answer.err == ""
    assert [words[0] for words in child.asked()] == ["prepare", "train"]


@pytest.mark.parametrize("before", ["00004.png", "00004.jpg", "4.webp", "00004.JPEG"])
def test_an_edit_takes_the_place_of_an_earlier_one(folder: Path, before: str) -> None:
    workspace = Workspace(folder / "work")
    workspace.edits_dir.mkdir(parents=True)
    for name in (before, "00004.txt", "00005.png"):
        (workspace.edits_dir / name).write_text("earlier")
    batch.place_edit(workspace, None, 4, folder / "later one.jpg")
    batch.place_edit(workspace, None, 5, workspace.edits_dir / "00005.png")  # it is there already
    found = {path.name: path.read_text() for path in workspace.edits_dir.iterdir()}
    assert found == {"00004.jpg": "later one.jpg", "00004.txt": "earlier", "00005.png": "earlier"}


def test_lines_as_people_write_them(folder: Path) -> None:
    odd = folder / "a=b 24.WEBP"
    odd.touch()
    edited, out = folder / "edited.PNG", folder / "out.v2.MP4"
    words = [str(folder / "clip.mp4"), "1,2,3,4", str(edited), str(out)]
    line = batch.parse_edit_line([*words, "--keyframe", f"0024={odd}"])
    assert line.edits == {0: edited, 24: odd}
    assert line.workspace.root == folder / "out.v2.work"


def test_the_help_names_every_option() -> None:
    told = [line.split()[0] for line in EDIT_HELP.splitlines() if line.startswith("  --")]
    assert sorted(told) == sorted([*batch.OPTIONS, "--help"])


def test_the_options_of_a_job_are_named_where_jobs_are_described() -> None:
    page = (REPOSITORY / "docs" / "editing.md").read_text(encoding="utf-8")
    for text, first, last in (
        (page, "its `options.txt` may say", "but name no other"),
        (BATCH_HELP, "# comments;", "are the options that a job may have"),
    ):
        listed = text.partition(first)[2].partition(last)[0]
        assert sorted(re.findall(r"--[a-z-]+", listed)) == sorted(batch.OF_A_JOB)


ALL = " ".join(LINE)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("edit", "got 0"),
        ("edit clip.mp4 1,2,3,4 edited.PNG", "got 3"),
        ("edit clip.mp4 1,2,3 edited.PNG out.mp4", "X,Y,W,H in pixels, not 1,2,3"),
        ("edit none.mp4 1,2,3,4 edited.PNG out.mp4", "no such video: none.mp4"),
        ("edit clip.mp4 1,2,3,4 none.png out.mp4", "no such image: none.png"),
        ("edit clip.mp4 1,2,3,4 clip.mp4 out.mp4", "not a picture that can be read (png, jpg"),
        ("edit clip.mp4 1,2,3,4 edited.PNG out.avi", "not out.avi"),
        (f"edit {ALL} --frame 17", "unknown option --frame"),
        (f"edit {ALL} --frames", "--frames needs a value"),
        (f"edit {ALL} --mask clip.mp4", "beside --mask, got 4"),
        (f"edit {ALL} --click 0,1,1,+", "beside --click, got 4"),
        ("edit clip.mp4 edited.PNG out.mp4 --click 0,1,1,+ --mask m", "--mask and --click"),
        ("edit clip.mp4 edited.PNG out.mp4 --mask none", "no such mask: none"),
        (f"edit {ALL} -- --keyframe edited.PNG", "written N=IMAGE"),
        (f"edit {ALL} --keyframe=9=no.png", "no such image: no.png"),
        (f"edit {ALL} --device gpu", "--device gpu: write cpu, cuda or cuda:N"),
        ("batch", "expected JOBS_DIR"),
        ("batch a b c", "expected JOBS_DIR"),
        ("batch none", "no such folder: none"),
        ("batch .", "no job (no sub-folder) in"),
        ("batch . --frames 17", "options for every job come after --"),
    ],
)
def test_a_wrong_line_is_refused_before_any_work(
    run: Run, child: Child, folder: Path, line: str, told: str
) -> None:
    refused(run(*line.split()), told)
    assert child.asked() == []
    assert not (folder / "out.work").exists()


def test_nothing_is_imported_from_the_folder_where_a_person_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "maskora").mkdir()
    (tmp_path / "maskora" / "__init__.py").write_text("raise SystemExit('the wrong one')")
    monkeypatch.chdir(tmp_path)
    told = subprocess.run(
        [*batch.program(), "--version"], env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (told.returncode, told.stdout.split()[:1]) == (0, ["maskora"]), told.stderr


@pytest.mark.parametrize("program", [["-m", "maskora"], ["train.py"], ["infer.py"]])
def test_a_module_in_a_strangers_folder_is_not_run(tmp_path: Path, program: list[str]) -> None:
    for name in ("typer", "torch", "numpy", "json", "pydantic"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong one')")
    if program[0].endswith(".py"):
        program = [str(REPOSITORY / program[0])]
    told = subprocess.run(
        [sys.executable, *program, "--help"], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert "Usage" in told.stdout


DRIVER = """
import sys
from maskora.app import batch
from maskora.cli import main
program = [sys.executable, sys.argv.pop(1)]
batch.program = lambda: program
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
    begun = begin(child, "edit", *LINE)
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
        make_job(folder / "jobs" / name)
    child.does("edit", f"print('half done')\nsys.stdout.flush()\n{SAVES}")
    begun = begin(child, "batch", "jobs", "out")
    os.killpg(begun.pid, signal.SIGINT)
    out, err = begun.communicate(timeout=30)
    assert begun.returncode == 130, err
    assert [line.split()[:2] for line in out.splitlines()[-1:]] == [["a", "failed"]]
    assert "half done" in out
    assert [words[0] for words in child.asked()] == ["edit"]


def test_the_words_of_a_job(tmp_path: Path) -> None:
    job = make_job(
        tmp_path / "the jobs" / "a.b",
        caption="a man\n",
        edited_caption="eine Frau, größer\n",
        options="# faster\n\n --frames   17  \n--base C:\\my configs\\wan.toml\n--set=a.b=c\n",
    )
    (job / "keyframes").mkdir()
    (job / "keyframes" / "24.png").touch()
    (job / "keyframes" / "Thumbs.db").touch()
    (job / "keyframes" / ".DS_Store").touch()
    out = tmp_path / "out" / "a.b.mp4"
    assert batch.job_words(job, out, ["--frames", "9"]) == [
        str(job / "video.mp4"), "1,2,3,4", str(job / "edited.png"), str(out),
        "--workspace", str(tmp_path / "out" / "a.b.work"), "--frames", "9",
        "--caption", "a man", "--edited-caption", "eine Frau, größer",
        "--keyframe", f"24={job / 'keyframes' / '24.png'}",
        "--frames", "17", "--base", "C:\\my configs\\wan.toml", "--set=a.b=c",
    ]  # fmt: skip
    given = batch.split_words(batch.job_words(job, out, ["--frames", "9"]))[1]
    assert given["--frames"][-1] == "17"  # its own option wins


def test_a_job_may_take_the_whole_clip(run: Run, child: Child, tmp_path: Path) -> None:
    make_job(tmp_path / "jobs" / "long", options="--frames all\n")
    make_job(tmp_path / "jobs" / "short")
    ok(run("batch", tmp_path / "jobs", "--", "--frames=9"))
    long, short = child.asked()
    for asked, frames in ((long, "all"), (short, "9")):
        ok(run(*asked))
        prepare = child.asked()[0]
        assert prepare[prepare.index("--frames") + 1] == frames
    ok(run("batch", tmp_path / "jobs", "--", "--frames", "all"))
    assert child.asked()[1][-2:] == ["--frames", "all"]


def test_texts_as_windows_writes_them(tmp_path: Path) -> None:
    for mark in (b"", b"\xef\xbb\xbf"):
        job = make_job(
            tmp_path / str(len(mark)),
            box=mark + b"1,2,3,4\r\n",
            options=mark + b"--caption caf\xc3\xa9 au lait\r\n# no\r\n--frames 9\r\n",
        )
        words = batch.job_words(job, tmp_path / "a.mp4", [])
        assert words[1] == "1,2,3,4"
        assert words[6:] == ["--caption", "café au lait", "--frames", "9"]
    job = make_job(tmp_path / "a", options="--frames 9\n".encode("utf-16"))
    with pytest.raises(UserError, match=r"options\.txt is no text in UTF-8 .*encoding UTF-8"):
        batch.job_words(job, tmp_path / "a.mp4", [])


def test_names_count_in_any_case(tmp_path: Path) -> None:
    job = make_job(tmp_path / "a", box="")
    (job / "video.mp4").rename(job / "Video.MOV")
    (job / "edited.png").rename(job / "EDITED.JPG")
    (job / "box.txt").unlink()
    (job / "Clicks.TXT").write_text("0,1,1,+\n# not this\n\n0,2,2,-")
    words = batch.job_words(job, tmp_path / "a.mp4", [])
    assert words[:2] == [str(job / "Video.MOV"), str(job / "EDITED.JPG")]
    assert words[3:7] == ["--click", "0,1,1,+", "--click", "0,2,2,-"]


def test_a_job_may_have_a_folder_of_images(tmp_path: Path) -> None:
    job = make_job(tmp_path / "job")
    (job / "video").mkdir()
    with pytest.raises(UserError, match="expected one video, found 2"):
        batch.job_words(job, tmp_path / "a.mp4", [])
    (job / "video.mp4").unlink()
    assert batch.job_words(job, tmp_path / "a.mp4", [])[0] == str(job / "video")
    (job / "video").rmdir()
    (job / "video").touch()
    with pytest.raises(UserError, match="expected one video, found 0"):
        batch.job_words(job, tmp_path / "a.mp4", [])


def test_jobs_in_order_without_the_folder_of_results(tmp_path: Path) -> None:
    for name in ("b", "a", ".git", "results"):
        (tmp_path / name).mkdir()
    line = [str(tmp_path), str(tmp_path / "results"), "--", "--frames", "9"]
    jobs, out, common = batch.parse_batch_line(line)
    assert [job.name for job in jobs] == ["a", "b"]
    assert (out, common) == (tmp_path / "results", ["--frames", "9"])
    assert batch.parse_batch_line([str(tmp_path)])[1] == tmp_path.with_name(f"{tmp_path.name}-out")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"the results go into a folder, and .* is a file"):
        batch.parse_batch_line([str(tmp_path), str(tmp_path / "file")])


def test_a_crash_of_one_job_stops_no_other(run: Run, child: Child, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        make_job(tmp_path / "jobs" / name)
    child.does(
        "edit",
        "job = pathlib.Path(words[1]).parent.name\n"
        "if job == 'a': os.kill(os.getpid(), 9)\n"
        "print('step 1\\rstep 2', file=sys.stderr)\n"
        "if job == 'b': sys.exit('maskora: this will not do')\n",
    )
    answer = run("batch", tmp_path / "jobs", tmp_path / "out")
    assert answer.status == 1
    rows = [line.split(maxsplit=3) for line in answer.out.splitlines()[-3:]]
    assert [row[:2] for row in rows] == [["a", "failed"], ["b", "failed"], ["c", "ok"]]
    assert "maskora edit was killed or has crashed" in rows[0][3]
    assert rows[1][3] == "maskora: this will not do"
    assert rows[2][3] == str(tmp_path / "out" / "c.mp4")
    assert batch.last_line(tmp_path / "out" / "c.log") == "step 2"


def test_a_log_is_utf8_whatever_the_system_says(
    run: Run, child: Child, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii:backslashreplace")
    make_job(tmp_path / "jobs" / "猫")
    child.does("edit", "print('größer 猫'); sys.exit(1)")
    answer = run("batch", tmp_path / "jobs", tmp_path / "out", "--", "--caption", "猫")
    assert answer.status == 1
    assert answer.out.splitlines()[-1].split(maxsplit=3)[3] == "größer 猫"
    assert (tmp_path / "out" / "猫.log").read_text(encoding="utf-8").strip() == "größer 猫"


def test_help_is_for_batch_only_before_the_jobs_options(run: Run, tmp_path: Path) -> None:
    assert run("batch", "--help").out == BATCH_HELP
    answer = run("batch", tmp_path / "none", "--", "--help")
    assert (answer.status, answer.err) == (2, f"maskora: no such folder: {tmp_path / 'none'}\n")


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"options": "--workspace /tmp/mine"}, "--workspace is no option of a job"),
        ({"options": "--workspace=/tmp/mine"}, "--workspace is no option of a job"),
        ({"options": "--keyframe 4=/tmp/mine.png"}, "--keyframe is no option of a job"),
        ({"options": "/tmp/mine.mp4"}, "mine.mp4 is no option of a job"),
        ({"options": "a b"}, "a is no option of a job"),
        ({"options": "--caption\n--workspace\n--set=/tmp"}, "--caption needs a value"),
        ({"options": "--set =x --workspace"}, ""),
        ({"box": "--workspace=/tmp"}, "X,Y,W,H in pixels"),
    ],
)
def test_a_job_names_no_other_places(tmp_path: Path, files: dict[str, str], told: str) -> None:
    job, out = make_job(tmp_path / "jobs" / "a", **files), tmp_path / "a.mp4"
    if told:
        with pytest.raises(UserError, match=told):
            batch.job_words(job, out, [])
    else:
        given = batch.split_words(batch.job_words(job, out, []))[1]
        assert given["--workspace"] == [str(tmp_path / "a.work")]


@posix_only
def test_links_of_a_job_stay_among_the_jobs(run: Run, child: Child, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key.txt").write_text("hunter2")
    shared = tmp_path / "jobs" / ".shared"
    shared.mkdir(parents=True)
    (shared / "video.mp4").touch()
    for name in ("a", "b", "c"):
        make_job(tmp_path / "jobs" / name)
    (tmp_path / "jobs" / "a" / "caption.txt").symlink_to(secret / "key.txt")
    (tmp_path / "jobs" / "b" / "keyframes").symlink_to(secret)
    (tmp_path / "jobs" / "c" / "video.mp4").unlink()
    (tmp_path / "jobs" / "c" / "video.mp4").symlink_to("../.shared/video.mp4")
    (tmp_path / "out").mkdir()
    (secret / "diary.txt").write_text("dear diary")
    (tmp_path / "out" / "c.log").symlink_to(secret / "diary.txt")
    answer = run("batch", tmp_path / "jobs", tmp_path / "out")
    rows = [line.split(maxsplit=3) for line in answer.out.splitlines()[-3:]]
    assert [row[:2] for row in rows] == [["a", "failed"], ["b", "failed"], ["c", "ok"]]
    assert all("is a link that leads elsewhere" in row[3] for row in rows[:2])
    assert len(child.asked()) == 1
    assert (secret / "key.txt").read_text() == "hunter2"
    assert (secret / "diary.txt").read_text() == "dear diary"
