"""batch: a jobs.toml, workers, what is done already, and the record and page of results."""

import json
import re
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from maskora.app import batch
from maskora.app.jobs import read_jobs
from maskora.errors import UserError
from maskora.video.write import write_mp4
from tests.app.conftest import Run, ok, refused
from tests.app.test_batch import Child, child  # noqa: F401

MAKES = "pathlib.Path(words[4]).write_bytes(words[4].encode())\n"


def write_jobs(folder: Path, count: int = 3, more: str = "") -> Path:
    """A jobs.toml of so many jobs, named j0, j1, …"""
    for name in ("clip.mp4", "edited.png", "later.png", "base.toml"):
        (folder / name).write_bytes(name.encode())
    jobs = [
        f'[[job]]\nname = "j{number}"\nvideo = "clip.mp4"\nbox = [1, 2, 3, 4]\n'
        f'edits = {{ 0 = "edited.png" }}\n'
        for number in range(count)
    ]
    path = folder / "jobs.toml"
    path.write_text("\n".join(['[defaults]\nframes = 9\nset = ["a.b=c"]', *jobs, more]))
    return path


def test_a_job_is_a_line_of_edit(tmp_path: Path) -> None:
    write_jobs(tmp_path)
    (tmp_path / "jobs.toml").write_text(
        '[defaults]\nframes = 9\nbase = "base.toml"\nset = ["a.b=c"]\nseeds = [3]\n'
        '[[job]]\nname = "walk"\nvideo = "clip.mp4"\nclicks = ["0,1,1,+", "0,9,9,-"]\n'
        'edits = { 24 = "later.png", 0 = "edited.png" }\nframes = "all"\nset = ["d.e=f"]\n'
        'seeds = [1, 2]\ncaption = "- a man"\nworkspace = "here"\n'
    )
    (job,) = read_jobs(tmp_path / "jobs.toml", tmp_path / "out")
    positional, given = batch.split_words(job.words)
    out = str(tmp_path / "out" / "walk.mp4")
    assert positional == [str(tmp_path / "clip.mp4"), str(tmp_path / "edited.png"), out]
    assert {name: values for name, values in given.items() if values} == {
        "--workspace": [str(tmp_path / "here")], "--click": ["0,1,1,+", "0,9,9,-"],
        "--keyframe": [f"24={tmp_path / 'later.png'}"], "--base": [str(tmp_path / "base.toml")],
        "--frames": ["all"], "--caption": ["- a man"], "--set": ["a.b=c", "d.e=f"],
        "--seed": ["1,2"],
    }  # fmt: skip
    line = batch.parse_edit_line(job.words)
    assert [path.name for path in batch.results_of(line).values()] == [
        "walk-seed-1.mp4", "walk-seed-2.mp4",
    ]  # fmt: skip


def test_every_mistake_of_a_file_is_told_at_once(
    run: Run,
    child: Child,  # noqa: F811
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


def test_what_is_done_is_not_done_again(run: Run, child: Child, tmp_path: Path) -> None:  # noqa: F811
    path, out = write_jobs(tmp_path, 12), tmp_path / "jobs-out"
    child.does("edit", MAKES + "if 'j5' in words[4]: sys.exit('maskora: a bad video')\n")
    assert run("batch", path).status == 1
    assert len(child.asked()) == 12
    record = json.loads((out / "batch.json").read_text())["jobs"]
    assert [job["status"] for job in record].count("ok") == 11
    assert (record[5]["status"], record[5]["message"]) == ("failed", "maskora: a bad video")
    child.does("edit", MAKES)
    ok(run("batch", path))
    assert [Path(words[4]).stem for words in child.asked()] == ["j5"]
    started = time.monotonic()
    ok(run("batch", path))
    assert time.monotonic() - started < 10
    assert child.asked() == []
    (out / "j3.mp4").write_bytes(b"damaged")
    (out / "j4.mp4").unlink()
    ok(run("batch", path))
    assert [Path(words[4]).stem for words in child.asked()] == ["j3", "j4"]
    (tmp_path / "edited.png").write_bytes(b"another")
    ok(run("batch", path))
    assert len(child.asked()) == 12


def test_workers_run_side_by_side_each_on_its_gpu(
    run: Run,
    child: Child,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write_jobs(tmp_path, 2)
    child.does(
        "edit",  # ends only when both are there
        "import time\nname = pathlib.Path(words[4]).stem\n"
        "gpu = os.environ.get('CUDA_VISIBLE_DEVICES', '')\n"
        "(home / f'{name}.gpu').write_text(gpu)\n"
        "end = time.monotonic() + 60\n"
        "while len(list(home.glob('*.gpu'))) < 2 and time.monotonic() < end: time.sleep(0.02)\n"
        "sys.exit(len(list(home.glob('*.gpu'))) - 2)\n",
    )
    monkeypatch.setattr(batch.devices, "gpus", lambda: (object(), object()))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    ok(run("batch", path))
    assert sorted(file.read_text() for file in child.folder.glob("*.gpu")) == ["3", "5"]
    refused(run("batch", path, "--workers", "0"), "--workers is a number from 1, not '0'")


def test_parts_share_a_folder_of_results_and_the_whole_knows_what_they_did(
    run: Run,
    child: Child,  # noqa: F811
    tmp_path: Path,
) -> None:
    path = write_jobs(tmp_path, 5)
    child.does("edit", MAKES)
    for part, names in (("1/2", ["j0", "j2", "j4"]), ("2/2", ["j1", "j3"])):
        ok(run("batch", path, "--part", part))
        assert [Path(words[4]).stem for words in child.asked()] == names
    ok(run("batch", path))
    assert child.asked() == []
    refused(run("batch", path, "--part=3/2"), "--part is written I/N")


def test_the_page_shows_results_and_needs_no_other_file(
    run: Run,
    child: Child,  # noqa: F811
    tmp_path: Path,
) -> None:
    clip = tmp_path / "made.mp4"
    write_mp4(clip, [np.full((64, 64, 3), 90, np.uint8)] * 5, Fraction(8))
    path = write_jobs(tmp_path, 2)
    child.does(
        "edit",
        f"import shutil\nif 'j1' in words[4]: sys.exit('maskora: <b>')\n"
        f"shutil.copyfile({str(clip)!r}, words[4])\n",
    )
    assert run("batch", path).status == 1
    page = (tmp_path / "jobs-out" / "batch.html").read_text()
    assert len(re.findall(r'src="data:image/jpeg;base64,', page)) == 3
    assert "maskora: &lt;b&gt;" in page
    assert not re.search(r"https?://|src=\"(?!data:)|<link|<script", page)


def test_a_damaged_record_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "batch.json").write_text("{")
    with pytest.raises(UserError, match=r"batch\.json is damaged: remove it"):
        batch.read_record(tmp_path)
