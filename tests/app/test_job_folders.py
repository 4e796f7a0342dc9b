"""batch: a folder of jobs, as lines of edit."""

import os
import re
from pathlib import Path

import fsspec
import pytest

from maskora.app import edit_line, job_folders
from maskora.app.batch_results import ResultsFolder
from maskora.cli import BATCH_HELP
from maskora.errors import UserError
from tests.app.child import Child, make_job
from tests.app.conftest import Run, refused
from tests.conftest import REPOSITORY
from tests.system import posix_only


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
    results = ResultsFolder.at(str(tmp_path / "out"))
    out = tmp_path / "out" / "a.b.mp4"
    words = job_folders.folder_job(job, results, ["--frames", "9"]).words
    assert words == [
        str(job / "video.mp4"), "1,2,3,4", str(job / "edited.png"), str(out),
        "--workspace", str(tmp_path / "out" / "a.b.work"), "--frames", "9",
        "--caption", "a man", "--edited-caption", "eine Frau, größer",
        "--keyframe", f"24={job / 'keyframes' / '24.png'}",
        "--frames", "17", "--base", "C:\\my configs\\wan.toml", "--set=a.b=c",
    ]  # fmt: skip
    given = edit_line.split_words(words)[1]
    assert given["--frames"][-1] == "17"  # its own option wins


def test_texts_as_windows_writes_them(tmp_path: Path) -> None:
    for mark in (b"", b"\xef\xbb\xbf"):
        job = make_job(
            tmp_path / str(len(mark)),
            box=mark + b"1,2,3,4\r\n",
            options=mark + b"--caption caf\xc3\xa9 au lait\r\n# no\r\n--frames 9\r\n",
        )
        words = job_folders.job_words(job, "a.mp4", [])
        assert words[1] == "1,2,3,4"
        assert words[4:] == ["--caption", "café au lait", "--frames", "9"]
    job = make_job(tmp_path / "a", options="--frames 9\n".encode("utf-16"))
    with pytest.raises(UserError, match=r"options\.txt is no text in UTF-8 .*encoding UTF-8"):
        job_folders.job_words(job, "a.mp4", [])


def test_names_count_in_any_case(tmp_path: Path) -> None:
    job = make_job(tmp_path / "a", box="")
    (job / "video.mp4").rename(job / "Video.MOV")
    (job / "edited.png").rename(job / "EDITED.JPG")
    (job / "box.txt").unlink()
    (job / "Clicks.TXT").write_text("0,1,1,+\n# not this\n\n0,2,2,-")
    words = job_folders.job_words(job, "a.mp4", [])
    assert words[:2] == [str(job / "Video.MOV"), str(job / "EDITED.JPG")]
    assert words[3:7] == ["--click", "0,1,1,+", "--click", "0,2,2,-"]


def test_a_job_may_have_a_folder_of_images(tmp_path: Path) -> None:
    job = make_job(tmp_path / "job")
    (job / "video").mkdir()
    with pytest.raises(UserError, match="expected one video, found 2"):
        job_folders.job_words(job, "a.mp4", [])
    (job / "video.mp4").unlink()
    assert job_folders.job_words(job, "a.mp4", [])[0] == str(job / "video")
    (job / "video").rmdir()
    (job / "video").touch()
    with pytest.raises(UserError, match="expected one video, found 0"):
        job_folders.job_words(job, "a.mp4", [])


def test_jobs_in_order_without_the_folder_of_results(tmp_path: Path) -> None:
    for name in ("b", "a", ".git", "results"):
        (tmp_path / name).mkdir()
    line = [str(tmp_path), str(tmp_path / "results"), "--", "--frames", "9"]
    jobs, out, common = job_folders.parse_batch_line(line)
    assert [job.name for job in jobs] == ["a", "b"]
    assert (out.folder, common) == (tmp_path / "results", ["--frames", "9"])
    assert job_folders.parse_batch_line([str(tmp_path)])[1].folder == tmp_path.with_name(
        f"{tmp_path.name}-out"
    )
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"the results go into a folder, and .* is a file"):
        job_folders.parse_batch_line([str(tmp_path), str(tmp_path / "file")])


@pytest.mark.parametrize(
    ("line", "told"),
    [
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


def test_the_options_of_a_job_are_named_where_jobs_are_described() -> None:
    page = (REPOSITORY / "docs" / "editing.md").read_text(encoding="utf-8")
    for text, first, last in (
        (page, "its `options.txt` may say", "but name no other"),
        (BATCH_HELP, "# comments;", "are the options that a job may have"),
    ):
        listed = text.partition(first)[2].partition(last)[0]
        assert sorted(re.findall(r"--[a-z-]+", listed)) == sorted(job_folders.OF_A_JOB)


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
    job = make_job(tmp_path / "jobs" / "a", **files)
    if told:
        with pytest.raises(UserError, match=told):
            job_folders.job_words(job, "a.mp4", [])
    else:
        results = ResultsFolder.at(str(tmp_path))
        given = edit_line.split_words(job_folders.folder_job(job, results, []).words)[1]
        assert given["--workspace"] == [str(tmp_path / "a.work")]


def test_a_job_leads_to_no_server(run: Run, child: Child, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/wan.toml", b"")
    for number, option in enumerate(("--base=memory://wan.toml", "--preset memory://wan.toml")):
        make_job(tmp_path / "jobs" / str(number), options=option)
    answer = run("batch", tmp_path / "jobs", tmp_path / "out")
    assert answer.out.count("memory://wan.toml: it lies on a disk, in no store") == 2
    assert child.asked() == []
    memory.rm("/wan.toml")


def test_the_name_of_a_job_is_no_option(
    child: Child, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tmp_path / "jobs" / "--base=x")
    monkeypatch.chdir(tmp_path)
    words = job_folders.folder_job(job, ResultsFolder.at("."), []).words
    assert edit_line.split_words(words)[0][-1] == os.path.join(".", "--base=x.mp4")


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
