"""A jobs.toml: its jobs as lines of edit, and every mistake in it."""

from pathlib import Path

from maskora.app import edit_line
from maskora.app.jobs import read_jobs
from tests.app.child import Child, write_jobs
from tests.app.conftest import Run, refused


def test_a_job_is_a_line_of_edit(tmp_path: Path) -> None:
    write_jobs(tmp_path)
    (tmp_path / "jobs.toml").write_text(
        '[defaults]\nframes = 9\nbase = "base.toml"\nset = ["a.b=c"]\nseeds = [3]\n'
        '[[job]]\nname = "walk"\nvideo = "clip.mp4"\nclicks = ["0,1,1,+", "0,9,9,-"]\n'
        'edits = { 24 = "later.png", 0 = "edited.png" }\nframes = "all"\nset = ["d.e=f"]\n'
        'seeds = [1, 2]\ncaption = "- a man"\nworkspace = "here"\n'
    )
    (job,) = read_jobs(tmp_path / "jobs.toml", tmp_path / "out")
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
