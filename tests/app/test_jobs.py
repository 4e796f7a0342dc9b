"""A jobs.toml: its jobs as lines of edit, and every mistake in it."""

import json
import shutil
from pathlib import Path

import pytest

from maskora.app import edit_line
from maskora.app.batch_results import ResultsFolder
from maskora.app.jobs import read_jobs
from tests.app.child import DRIVER, Child, write_jobs
from tests.app.conftest import Prepared, Run, at, ok, refused


def test_a_job_is_a_line_of_edit(tmp_path: Path) -> None:
    write_jobs(tmp_path)
    (tmp_path / "jobs.toml").write_text(
        '[defaults]\nframes = 9\nbase = "base.toml"\nset = ["a.b=c"]\nseeds = [3]\n'
        '[[job]]\nname = "walk"\nvideo = "clip.mp4"\nclicks = ["0,1,1,+", "0,9,9,-"]\n'
        'edits = { 24 = "later.png", 0 = "edited.png" }\nframes = "all"\nset = ["d.e=f"]\n'
        'seeds = [1, 2]\ncaption = "- a man"\nworkspace = "here"\n'
    )
    (job,) = read_jobs(tmp_path / "jobs.toml", ResultsFolder.at(str(tmp_path / "out")))
    positional, given = edit_line.split_words(job.words)
    out = str(tmp_path / "out" / "walk.mp4")
    assert positional == [str(tmp_path / "clip.mp4"), str(tmp_path / "edited.png"), out]
    assert {name: values for name, values in given.items() if values} == {
        "--workspace": [str(tmp_path / "here")], "--click": ["0,1,1,+", "0,9,9,-"],
        "--keyframe": [f"24={tmp_path / 'later.png'}"], "--base": [str(tmp_path / "base.toml")],
        "--frames": ["all"], "--caption": ["- a man"], "--set": ["a.b=c", "d.e=f"],
        "--seed": ["1,2"],
    }  # fmt: skip
    line = edit_line.parse_edit_line(job.words)
    assert [path.name for path in edit_line.results_of(line).values()] == [
        "walk-seed-1.mp4", "walk-seed-2.mp4",
    ]  # fmt: skip


def test_every_mistake_of_a_file_is_told_at_once(
    run: Run,
    child: Child,
    tmp_path: Path,
) -> None:
    path = write_jobs(tmp_path, more='[[job]]\nname = "j9"\nvideo = "none.mp4"\nedits = {}\n')
    refused(run("batch", path), "3 mistakes", "'j9': give one of box, clicks and mask",
            "'j9': edits has no frame 0", "no such file", lines=4)  # fmt: skip
    path.write_text(path.read_text() + 'captoin = "x"\nframes = 1.5\n')
    refused(run("batch", path), "job 'j9': unknown key 'captoin': did you mean 'caption'?",
            "job 'j9': frames", lines=3)  # fmt: skip
    path = write_jobs(tmp_path, more='[[job]]\nname = "J1"\nvideo = "clip.mp4"\nbox=[1,2,3,4]\n'
                      'edits = {0 = "edited.png"}\n')  # fmt: skip
    refused(run("batch", path), "two jobs are named 'j1'", lines=2)
    assert child.asked() == []
    assert not (tmp_path / "jobs-out").exists()


def test_results_are_of_one_job_and_write_over_no_input(
    run: Run, child: Child, tmp_path: Path
) -> None:
    path, out = write_jobs(tmp_path, 1), tmp_path / "jobs-out"
    text = path.read_text() + "seeds = [1, 2]\n"
    job = '[[job]]\nname = "{}"\nvideo = "{}"\nbox = [1, 2, 3, 4]\nedits = {{0 = "edited.png"}}\n'
    path.write_text(text + job.format("J0-seed-2", "clip.mp4"))
    refused(run("batch", path), "'J0-seed-2'", "is a result of job 'j0' too", lines=2)
    out.mkdir()
    (out / "j0-seed-2.mp4").touch()
    path.write_text(text + job.format("b", "jobs-out/j0-seed-2.mp4"))
    refused(run("batch", path), "j0-seed-2.mp4 is read here")
    path.write_text(text.replace("[1, 2]\n", "[2, 2]\n"))
    refused(run("batch", path), "'j0': --seed 2,2: write different whole numbers", lines=2)
    assert child.asked() == []


def write_workspace_job(path: Path, root: Path, more: str = "") -> Path:
    """A jobs.toml with a job in a workspace."""
    path.write_text(f'[[job]]\nname = "walk"\nworkspace = {json.dumps(str(root))}\n{more}')
    return path


def test_a_job_in_a_workspace_has_what_it_was_prepared_with(
    prepared: Prepared, tmp_path: Path
) -> None:
    root = prepared()
    path = write_workspace_job(tmp_path / "jobs.toml", root, "seeds = [1]\n")
    path.write_text('[defaults]\nframes = 9\nset = ["inference.steps=3"]\n' + path.read_text())
    (job,) = read_jobs(
        path, ResultsFolder.at(str(tmp_path / "out")), ["--fps", "8", "--device", "cpu"]
    )
    out = str(tmp_path / "out" / "walk.mp4")
    assert job.words == [
        out, "--device", "cpu", "--workspace", str(root), "--seed", "1",
        "--set", "inference.steps=3",
    ]  # fmt: skip


def test_what_contradicts_a_workspace_is_told_at_once(
    run: Run, child: Child, prepared: Prepared, tmp_path: Path
) -> None:
    root = prepared()
    (root / "edits" / "00000.png").unlink()
    path = write_workspace_job(tmp_path / "jobs.toml", root, 'clicks = ["0,76,112,+"]\n')
    path.write_text(
        path.read_text()
        + '[[job]]\nname = "b"\nworkspace = "none"\n'
        + '[[job]]\nname = "c"\nworkspace = "none"\nbox = [1, 2, 3, 4]\nframes = 9\n'
        + '[[job]]\nname = "d"\n'
    )
    refused(
        run("batch", path), "5 mistakes", "'walk': no edited frame 0", "'walk': clicks: ",
        "'b': ", "none is not a prepared workspace", "'c': box, frames: the workspace is prepared",
        "'d': give a video, or a workspace", lines=6,
    )  # fmt: skip
    assert child.asked() == []


@pytest.mark.parametrize("clicked", [False, True])
def test_a_job_in_a_workspace_is_done_once_and_again_where_its_inputs_change(
    run: Run, child: Child, prepared: Prepared, tmp_path: Path, clicked: bool
) -> None:
    root, edited = prepared(), tmp_path / "edited.png"
    shutil.copyfile(root / "source" / "00000.png", edited)
    more = f"edits = {{ 0 = {json.dumps(str(edited))} }}\n"
    if clicked:
        shutil.rmtree(root / "masks")
        more += 'clicks = ["0,76.04,112,+"]\n'
        child.does("track", "import runpy; sys.argv = ['maskora', *words]\n"
                   "runpy.run_module('maskora', run_name='__main__')\n")  # fmt: skip
    path = write_workspace_job(tmp_path / "jobs.toml", root, more)
    # The line itself, in this process: its stages are the stand-in's.
    child.does("edit", DRIVER.partition("program =")[0] + "program = [sys.executable, __file__]\n"
               "processes.program = lambda: program\nmain()\n")  # fmt: skip
    child.does("infer", "pathlib.Path(words[-1]).write_bytes(b'made')\n")

    def stages() -> list[str]:
        ok(run("batch", path))
        return [words[0] for words in child.asked()]

    assert stages() == ["edit", *(["track"] if clicked else []), "train", "infer"]
    assert (tmp_path / "jobs-out" / "walk.mp4").read_bytes() == b"made"
    assert stages() == []
    for name in ("edit.toml", "source/00003.png", "edits/00000.txt", "masks/00002.png"):
        with (root / name).open("ab") as file:
            file.write(b"\n# another")
        assert stages() == ["edit", "train", "infer"], name
        assert stages() == [], name
    edited.write_bytes(edited.read_bytes() + b"another")
    assert stages() == ["edit", "train", "infer"]
    assert stages() == []


@pytest.mark.slow
def test_a_result_of_a_workspace_is_that_of_a_lone_run(
    run: Run, prepared: Prepared, tmp_path: Path
) -> None:
    root, lone = prepared(), prepared()
    path = write_workspace_job(tmp_path / "jobs.toml", root)
    ok(run("batch", path))
    ok(run("train", *at(lone), "--stage", "all"))
    ok(run("infer", *at(lone)))
    made = (tmp_path / "jobs-out" / "walk.mp4").read_bytes()
    assert made == (lone / "output" / "edited.mp4").read_bytes()
    assert "walk is done already" in ok(run("batch", path)).out
