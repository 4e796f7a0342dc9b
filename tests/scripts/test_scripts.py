"""The shell scripts as a person runs them."""

import os
import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from maskora.video.images import write_png

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts"
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there, `maskora edit` is typed")


def script(name: str, *arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a shipped script in the folder `cwd` with the interpreter of these tests."""
    return subprocess.run(
        ["bash", SCRIPTS / name, *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", ["edit.sh", "batch.sh"])
def test_help(name: str, tmp_path: Path) -> None:
    result = script(name, "--help", cwd=tmp_path)
    assert result.returncode == 0
    assert result.stdout.startswith(f"Usage: maskora {Path(name).stem} ")
    assert result.stderr == ""


@pytest.mark.parametrize(("name", "told"), [("edit.sh", "got 0"), ("batch.sh", "JOBS_DIR")])
def test_wrong_arguments_are_refused_in_one_line(name: str, told: str, tmp_path: Path) -> None:
    result = script(name, cwd=tmp_path)
    assert result.returncode == 2
    assert told in result.stderr
    assert len(result.stderr.splitlines()) == 1


def make_job(folder: Path, **files: str) -> None:
    """A job's folder; a name's double underscore stands for its dot."""
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content)


def test_batch_reports_every_failing_job(tmp_path: Path) -> None:
    jobs = tmp_path / "the jobs"
    make_job(jobs / "a", edited__png="", box__txt="1,2,3,4")
    make_job(jobs / "b", video__mp4="", edited__png="", box__txt="1, 2, 3\n")
    make_job(jobs / "c", video__mp4="", video__mkv="", edited__png="", box__txt="1,2,3,4")
    make_job(jobs / "d", video__mp4="", edited__png="")
    options = "# faster\n\n--frames   17\n--colour red\n"
    make_job(jobs / "e", video__mp4="", edited__png="", box__txt="1, 2, 3, 4", options__txt=options)

    result = script("batch.sh", jobs, "results", "--", "--set", "a.b=c", cwd=tmp_path)

    assert result.returncode == 1
    table = [line.split(maxsplit=3) for line in result.stdout.splitlines()[-5:]]
    assert [(row[0], row[1]) for row in table] == [(name, "failed") for name in "abcde"]
    assert [row[3].partition(": ")[2] for row in table] == [
        "expected one video, found 0 (of video.mp4 video.mov video.mkv video.webm video)",
        "the box is written X,Y,W,H in pixels, not 1,2,3",
        "expected one video, found 2 (of video.mp4 video.mov video.mkv video.webm video)",
        "expected one of box.txt, clicks.txt and the folder mask",
        f"{jobs / 'e' / 'options.txt'}: --colour is no option of a job, but --device, --preset, "
        "--set, --base, --frames, --size, --fps, --caption, --edited-caption are",
    ]
    for row in table:
        assert row[3] in (tmp_path / "results" / f"{row[0]}.log").read_text()


def make_clip(path: Path) -> None:
    """A moving test picture: 9 frames of 64x64 at 8 fps."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "lavfi"]
    command += ["-i", "testsrc=size=64x64:rate=8", "-frames:v", "9", path]
    subprocess.run(command, check=True)


def frame_count(path: Path) -> int:
    return int(imageio_ffmpeg.count_frames_and_secs(str(path))[0])


@pytest.mark.slow
def test_batch_edits_the_good_job_and_reports_the_bad_one(tmp_path: Path) -> None:
    maskora = [sys.executable, "-m", "maskora"]
    subprocess.run([*maskora, "tiny-model", tmp_path / "model"], cwd=ROOT, check=True)
    small = ["--size", "64x64", "--frames", "9", "--caption", "a picture"]
    small += ["--edited-caption", "a red picture"]
    settings = [f"model.path={tmp_path / 'model'}", "motion.steps=2", "appearance.steps=2"]
    settings += ["inference.steps=2", "optimizer.type=adamw"]
    for setting in settings:
        small += ["--set", setting]
    make_job(tmp_path / "jobs" / "bad", box__txt="500,500,16,16")
    make_job(tmp_path / "jobs" / "clicked", clicks__txt="# the square\n0,24,24,+\n0,4,4,-\n")
    make_job(tmp_path / "jobs" / "good", box__txt="16,16,32,32")
    for name in ("bad", "clicked", "good"):
        make_clip(tmp_path / "jobs" / name / "video.mp4")
        (tmp_path / "jobs" / name / "keyframes").mkdir()
        red_HWC = np.full((64, 64, 3), (200, 0, 0), np.uint8)
        write_png(tmp_path / "jobs" / name / "edited.png", red_HWC)
        write_png(tmp_path / "jobs" / name / "keyframes" / "4.png", red_HWC)

    first = script("batch.sh", "jobs", "out", "--", *small, cwd=tmp_path)
    again = script("batch.sh", "jobs", "out", "--", *small, cwd=tmp_path)

    for result in (first, again):
        log = (tmp_path / "out" / "good.log").read_text()
        bad, clicked, good = (line.split(maxsplit=3) for line in result.stdout.splitlines()[-3:])
        assert result.returncode == 1
        assert (bad[0], bad[1]) == ("bad", "failed")
        assert (good[0], good[1], good[3]) == ("good", "ok", "out/good.mp4"), log
        assert (clicked[0], clicked[1], clicked[3]) == ("clicked", "ok", "out/clicked.mp4")
    assert "batch: good is done already" in again.stdout
    assert frame_count(tmp_path / "out" / "good.mp4") == 9
    assert (tmp_path / "out" / "good.work" / "edits" / "00004.png").is_file()
    assert not (tmp_path / "out" / "bad.work" / "edit.toml").exists()


@pytest.mark.parametrize(("first", "last"), [("3", "4"), ("1", "7")])
def test_a_part_of_a_slurm_array_is_refused(tmp_path: Path, first: str, last: str) -> None:
    of_slurm = {"ID": last, "MIN": first, "MAX": last, "COUNT": "2"}
    result = subprocess.run(
        ["bash", SCRIPTS / "slurm-array.sh", "jobs", "out"], cwd=tmp_path, capture_output=True,
        text=True, check=False,
        env=os.environ | {f"SLURM_ARRAY_TASK_{name}": value for name, value in of_slurm.items()},
    )  # fmt: skip
    assert (result.returncode, "submit all of it again" in result.stderr) == (2, True)


def test_slurm_asks_the_script_itself_to_end() -> None:
    """Without B: only what srun has started there is told, and there is no such thing."""
    assert "#SBATCH --signal=B:TERM@" in (SCRIPTS / "slurm-array.sh").read_text(encoding="utf-8")


def test_a_task_of_a_slurm_array_runs_its_part(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        make_job(tmp_path / "jobs" / name, edited__png="", box__txt="1,2,3,4")
    of_slurm = {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_MIN": "1"}
    result = subprocess.run(
        ["bash", SCRIPTS / "slurm-array.sh", "jobs", "out", "--frames", "9"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env=os.environ | of_slurm | {
            "SLURM_ARRAY_TASK_COUNT": "2", "MASKORA": str(ROOT), "PYTHON": sys.executable,
        },
    )  # fmt: skip
    assert result.returncode == 1, result.stderr  # there is no video
    assert [path.name for path in (tmp_path / "out").glob("*.log")] == ["b.log"]
