"""batch: workers, what is done already, the record and page of results, and how it ends."""

import errno
import json
import os
import re
import signal
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from maskora.app import batch
from maskora.app.locks import held_alone
from maskora.app.processes import last_line
from maskora.cli import BATCH_HELP
from maskora.errors import UserError
from maskora.video.write import write_mp4
from tests.app.child import SAVES, Child, begin, make_job, write_jobs
from tests.app.conftest import Run, ok, refused
from tests.system import posix_only

MAKES = "pathlib.Path(words[4]).write_bytes(words[4].encode())\n"


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
    assert last_line(tmp_path / "out" / "c.log") == "step 2"


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


def test_what_is_done_is_not_done_again(run: Run, child: Child, tmp_path: Path) -> None:
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
    child: Child,
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
    child: Child,
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


def test_what_a_part_has_done_anew_counts_before_what_the_whole_did(
    run: Run, child: Child, tmp_path: Path
) -> None:
    path = write_jobs(tmp_path, 1)
    child.does("edit", MAKES)
    ok(run("batch", path))
    (tmp_path / "edited.png").write_bytes(b"another")
    for part in ("1/1", "1/2"):
        ok(run("batch", path, "--part", part))
    assert len(child.asked()) == 2
    for more in (["--part", "1/2"], []):
        ok(run("batch", path, *more))
    assert child.asked() == []


def test_a_job_whose_inputs_cannot_be_read_stops_no_other_and_stays_done(
    run: Run, child: Child, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_jobs(tmp_path, 2)
    child.does("edit", MAKES)
    ok(run("batch", path))
    child.asked()
    whole = batch.inputs_digest

    def refuses(words: list[str]) -> str:
        if "j0" in words[3]:
            raise PermissionError(errno.EACCES, "Permission denied", words[0])
        return whole(words)

    (tmp_path / "jobs-out" / "j1.mp4").unlink()
    monkeypatch.setattr(batch, "inputs_digest", refuses)
    answer = run("batch", path)
    assert answer.status == 1
    assert "Permission denied: " in answer.out
    assert [Path(words[4]).stem for words in child.asked()] == ["j1"]
    monkeypatch.undo()
    monkeypatch.setattr("maskora.app.processes.program", lambda: child.program)
    ok(run("batch", path))
    assert child.asked() == []


@posix_only
def test_a_batch_that_cannot_go_on_leaves_no_job_running(
    run: Run, child: Child, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_jobs(tmp_path, 2)
    child.does("edit", SAVES)

    def full(*_: object) -> None:
        while not (child.folder / "ready").exists():
            time.sleep(0.01)
        raise OSError(errno.ENOSPC, "No space left on device", "batch.json")

    monkeypatch.setattr(batch, "write_record", full)
    answer = run("batch", path, "--workers", "2")
    assert (answer.status, "No space left" in answer.err) == (1, True)
    assert (child.folder / "heard").read_text() == "1"


def test_an_option_of_batch_has_a_value(run: Run, child: Child, tmp_path: Path) -> None:
    for option in ("--ray", "--scratch", "--ray=", "--scratch="):
        name = option.rstrip("=")
        refused(run("batch", write_jobs(tmp_path, 1), option), f"{name} needs a value")
    assert child.asked() == []


def test_the_page_shows_every_result_of_a_job(run: Run, child: Child, tmp_path: Path) -> None:
    clip = tmp_path / "made.mp4"
    write_mp4(clip, [np.full((64, 64, 3), 90, np.uint8)] * 5, Fraction(8))
    path = write_jobs(tmp_path, 1)
    path.write_text(path.read_text() + "seeds = [1, 2]\n")
    child.does(
        "edit",
        "import shutil\nout = pathlib.Path(words[4])\n"
        "for n in (1, 2):\n"
        f"    shutil.copyfile({str(clip)!r}, out.with_stem(f'{{out.stem}}-seed-{{n}}'))\n",
    )
    ok(run("batch", path))
    page = (tmp_path / "jobs-out" / "batch.html").read_text()
    assert len(re.findall(r'src="data:image/jpeg;base64,', page)) == 6


def test_the_page_shows_results_and_needs_no_other_file(
    run: Run,
    child: Child,
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


def test_a_folder_of_results_is_filled_by_one_batch_at_a_time(
    run: Run, child: Child, tmp_path: Path
) -> None:
    make_job(tmp_path / "jobs" / "a")
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.log").write_text("is written now")
    place, told = out / ".batch.lock", "{} is elsewhere"
    with held_alone(place, out / ".batch.holder", told):
        refused(run("batch", tmp_path / "jobs", out), f"fills {out} (process {os.getpid()}")
        ok(run("batch", tmp_path / "jobs", out, "--part", "1/2"))  # which has its own record
    assert child.asked()
    (out / "batch-1-of-2.json").unlink()
    ok(run("batch", tmp_path / "jobs", out))
    assert child.asked()


def test_a_stage_is_read_as_the_log_grows(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.touch()
    stages = batch.StageReader(log)
    for text, stage in (
        ("", ""),
        ("edit: prep", ""),
        ("aring a.work\n", "preparing a.work"),
        ("1%\r2%\redit: training\r\n", "training"),
        ("the edit: is no stage\nedit: making é", "training"),
        ("\n", "making é"),
    ):
        with log.open("a", encoding="utf-8", newline="") as file:
            file.write(text)
        assert stages.stage() == stage


def test_a_damaged_record_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "batch.json").write_text("{")
    with pytest.raises(UserError, match=r"batch\.json is damaged: remove it"):
        batch.read_record(tmp_path)
