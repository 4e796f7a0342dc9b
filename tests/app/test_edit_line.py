"""edit: which commands it runs, what it places and says, and how it ends."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from maskora.app import edit_line
from maskora.app.workspace import Source, Workspace, video_sha256
from maskora.cli import EDIT_HELP
from tests.app.child import LINE, SAVES, Child, begin
from tests.app.conftest import Prepared, Run, ok, refused


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


def test_another_preparation_of_a_workspace_that_is_there_is_refused(
    run: Run, child: Child, folder: Path
) -> None:
    base, frames = folder / "base.toml", ["--frames", "9", "--base", "base.toml"]
    base.write_text("")
    masked = ["clip.mp4", "--mask", "mask.png", "edited.PNG", "o.mp4"]
    ok(run("edit", *LINE, *frames))
    ok(run("edit", *masked))
    child.asked()
    for line, told in (
        ([LINE[0], "1,2,3,5", *LINE[2:], *frames], "another --box:"),
        ([*LINE, *frames[:2]], "another --base:"),
        ([*LINE, *frames, "--frames=5", "--caption", "a man"], "another --caption, --frames:"),
        (["clip.mp4", "edited.PNG", "out.mp4", "--click", "0,1,1,+", *frames], "another --box:"),
    ):
        refused(run("edit", *line), f"out.work was prepared with {told}", "remove out.work")
    base.write_text("[motion]\nsteps = 7\n")
    refused(run("edit", *LINE, *frames), "another --base")
    (folder / "mask.png").rename(folder / "moved.png")
    ok(run("edit", *masked[:2], "moved.png", *masked[3:]))
    assert [words[0] for words in child.asked()] == ["train", "infer"]
    (folder / "moved.png").write_bytes(b"another mask")
    refused(run("edit", *masked[:2], "moved.png", *masked[3:]), "o.work", "another --mask")
    (folder / "o.work" / "source" / "line.json").unlink()  # of a version before
    ok(run("edit", *masked[:2], "moved.png", *masked[3:]))


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
    workspace.source_dir.mkdir(exist_ok=True)
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


def test_a_result_of_one_of_several_seeds_is_no_input(run: Run, child: Child, folder: Path) -> None:
    (folder / "out-seed-2.mp4").write_bytes(b"a video")
    line = ["out-seed-2.mp4", *LINE[1:], "--seed", "1,2"]
    refused(run("edit", *line), "out-seed-2.mp4 is read here, and would be written over")
    for seeds in ("1,1", "4294967296"):  # told before a training of hours, not after
        refused(run("edit", *LINE, "--seed", seeds), f"--seed {seeds}: write different")
    assert child.asked() == []


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
    refused(run(*line[:-1], "0,9,8,-"), "out.work was prepared with another --click: say the same")
    assert child.asked() == []
    (folder / "out.work" / "masks" / "masks.json").unlink()  # they are to be followed anew
    child.does("track", "pathlib.Path(words[1], 'masks', 'masks.json').touch()")
    ok(run(*line[:-1], "0,9,8,-"))
    assert [words[0] for words in child.asked()] == ["track", "train", "infer"]
    refused(run(*line), "another --click")
    for name in ("masks/masks.json", "source/line.json"):  # as if the window had made it
        (folder / "out.work" / name).unlink()
    ok(run(*line))
    assert not (folder / "out.work" / "source" / "line.json").exists()


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
    edit_line.place_edit(workspace, None, 4, folder / "later one.jpg")
    in_place = workspace.edits_dir / "00005.png"
    edit_line.place_edit(workspace, None, 5, in_place)
    found = {path.name: path.read_text() for path in workspace.edits_dir.iterdir()}
    assert found == {"00004.jpg": "later one.jpg", "00004.txt": "earlier", "00005.png": "earlier"}


def test_lines_as_people_write_them(folder: Path) -> None:
    odd = folder / "a=b 24.WEBP"
    odd.touch()
    edited, out = folder / "edited.PNG", folder / "out.v2.MP4"
    words = [str(folder / "clip.mp4"), "1,2,3,4", str(edited), str(out)]
    line = edit_line.parse_edit_line([*words, "--keyframe", f"0024={odd}"])
    assert line.edits == {0: str(edited), 24: str(odd)}
    assert line.workspace.root == folder / "out.v2.work"


def test_the_help_names_every_option() -> None:
    told = [line.split()[0] for line in EDIT_HELP.splitlines() if line.startswith("  --")]
    assert sorted(told) == sorted([*edit_line.OPTIONS, "--help"])


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
    ],
)
def test_a_wrong_line_is_refused_before_any_work(
    run: Run, child: Child, folder: Path, line: str, told: str
) -> None:
    refused(run(*line.split()), told)
    assert child.asked() == []
    assert not (folder / "out.work").exists()


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


def test_a_workspace_that_is_prepared_takes_the_place_of_the_video(
    run: Run, child: Child, prepared: Prepared, folder: Path
) -> None:
    root = prepared()
    line = ["edit", "out.mp4", "--workspace", root, "--set", "inference.steps=3"]
    ok(run(*line, "--keyframe", "4=later one.jpg"))
    config = ["--config", str(root / "edit.toml"), "--set", "inference.steps=3"]
    assert child.asked() == [
        ["train", *config, "--stage", "all", "--resume"],
        ["infer", *config, "--output", "out.mp4"],
    ]
    assert (root / "edits" / "00004.jpg").read_bytes() == b"later one.jpg"
    refused(run(*line, "--frames=9", "--mask", "mask.png"), "--mask, --frames: ", "is prepared")
    refused(run("edit", "out.mp4", "--workspace", folder), "is not a prepared workspace")
    refused(run("edit", "out.mp4"), "got 1 of them")
    refused(run(*line, "--click", "0,76,112,+"), "clicks: ", "was not made from these")
    (root / "edits" / "00000.png").unlink()
    refused(run(*line), "no edited frame 0: put it into")
    (root / "masks" / "masks.json").unlink()
    refused(run(*line), "no edited frame 0", "masks is not there yet: give clicks", lines=2)
    assert child.asked() == []


def test_the_original_video_is_not_written_over(
    run: Run, child: Child, prepared: Prepared, ball: Path
) -> None:
    refused(run("edit", ball, "--workspace", prepared()), "ball.mp4 is read here")
    assert child.asked() == []
