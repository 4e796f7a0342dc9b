"""batch: what of a job's folder goes into its command, and what is said of each job at the end."""

from collections.abc import Callable
from pathlib import Path

import pytest

from maskora.app.batch import collect, last_line, read_line, split_words
from maskora.cli import BATCH_HELP
from maskora.errors import UserError
from tests.app.children import Child, stand_in
from tests.app.conftest import Answer

Run = Callable[..., Answer]


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Child:
    return stand_in(tmp_path, monkeypatch)


def make_job(folder: Path, **files: str | bytes) -> Path:
    """A job's folder with a video, an edited frame, a box, and more texts: `NAME` is NAME.txt."""
    folder.mkdir(parents=True)
    (folder / "video.mp4").touch()
    (folder / "edited.png").touch()
    for name, content in {"box": "1, 2,\n3, 4\n", **files}.items():
        data = content if isinstance(content, bytes) else content.encode()
        (folder / f"{name}.txt").write_bytes(data)
    return folder


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
    assert collect(job, out, ["--frames", "9"]) == [
        str(job / "video.mp4"), "1,2,3,4", str(job / "edited.png"), str(out),
        "--workspace", str(tmp_path / "out" / "a.b.work"), "--frames", "9",
        "--caption", "a man", "--edited-caption", "eine Frau, größer",
        "--keyframe", f"24={job / 'keyframes' / '24.png'}",
        "--frames", "17", "--base", "C:\\my configs\\wan.toml", "--set=a.b=c",
    ]  # fmt: skip
    given = split_words(collect(job, out, ["--frames", "9"]))[1]
    assert given["--frames"][-1] == "17"  # its own option wins


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_texts_as_windows_writes_them(tmp_path: Path, mark: bytes) -> None:
    job = make_job(
        tmp_path / "a",
        box=mark + b"1,2,3,4\r\n",
        options=mark + b"--caption caf\xc3\xa9 au lait\r\n# no\r\n--frames 9\r\n",
    )
    words = collect(job, tmp_path / "a.mp4", [])
    assert words[1] == "1,2,3,4"
    assert words[6:] == ["--caption", "café au lait", "--frames", "9"]


def test_a_text_in_another_encoding_is_told_not_guessed(tmp_path: Path) -> None:
    job = make_job(tmp_path / "a", options="--frames 9\n".encode("utf-16"))
    with pytest.raises(UserError, match=r"options\.txt is no UTF-8 text .* save it as UTF-8"):
        collect(job, tmp_path / "a.mp4", [])


def test_names_count_in_any_case(tmp_path: Path) -> None:
    job = make_job(tmp_path / "a", box="")
    (job / "video.mp4").rename(job / "Video.MOV")
    (job / "edited.png").rename(job / "EDITED.JPG")
    (job / "box.txt").unlink()
    (job / "Clicks.TXT").write_text("0,1,1,+\n# not this\n\n0,2,2,-")
    words = collect(job, tmp_path / "a.mp4", [])
    assert words[:2] == [str(job / "Video.MOV"), str(job / "EDITED.JPG")]
    assert words[3:7] == ["--click", "0,1,1,+", "--click", "0,2,2,-"]


def test_jobs_in_order_without_the_folder_of_results(tmp_path: Path) -> None:
    for name in ("b", "a", ".git", "results"):
        (tmp_path / name).mkdir()
    line = [str(tmp_path), str(tmp_path / "results"), "--", "--frames", "9"]
    jobs, out, common = read_line(line)
    assert [job.name for job in jobs] == ["a", "b"]
    assert (out, common) == (tmp_path / "results", ["--frames", "9"])
    assert read_line([str(tmp_path)])[1] == tmp_path.with_name(f"{tmp_path.name}-out")


def test_results_do_not_go_into_a_file(tmp_path: Path) -> None:
    (tmp_path / "jobs" / "a").mkdir(parents=True)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"the results go into a folder, and .* is a file"):
        read_line([str(tmp_path / "jobs"), str(tmp_path / "file")])


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
