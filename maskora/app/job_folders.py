"""A folder of jobs: each sub-folder as a command line of `maskora edit`."""

import os
from collections.abc import Sequence
from pathlib import Path

from maskora.app.batch_results import ResultsFolder
from maskora.app.edit_line import FOR_PREPARE, files_in, region_words
from maskora.app.jobs import SEE_BATCH, BatchJob
from maskora.errors import UserError
from maskora.files import IMAGE_SUFFIXES, check_links, is_hidden, read_text, refuse_inputs
from maskora.system import explain

# What a job's own options may say: a job may come from a stranger, and names no other places.
OF_A_JOB = ("--device", "--preset", "--set", *FOR_PREPARE)
IMAGE_FOLDER = "video"  # a folder of images in place of the video
VIDEOS = ("video.mp4", "video.mov", "video.mkv", "video.webm", IMAGE_FOLDER)
EDITED = tuple(f"edited{suffix}" for suffix in IMAGE_SUFFIXES)
REGIONS = ("box.txt", "clicks.txt", "mask")


def parse_batch_line(
    words: Sequence[str], scratch: Path | None = None
) -> tuple[list[Path], ResultsFolder, list[str]]:
    """The jobs' folders in the order of their names, the folder of results, options for all.

    Args:
        scratch: as of `ResultsFolder`.

    Raises:
        UserError: a word is too much or missing, or there are no jobs.
    """
    end = list(words).index("--") if "--" in words else len(words)
    folders, common = list(words[:end]), list(words[end + 1 :])
    if options := [word for word in folders if word.startswith("-")]:
        raise UserError(
            f"unknown option {options[0]}: options for every job come after -- ({SEE_BATCH})"
        )
    if len(folders) not in (1, 2):
        raise UserError(f"expected JOBS_DIR [OUT_DIR], got {len(folders)} of them ({SEE_BATCH})")
    if not Path(folders[0]).is_dir():
        raise UserError(f"no such folder: {folders[0]}")
    home = Path(os.path.abspath(folders[0]))
    place = folders[1] if len(folders) == 2 else str(home.with_name(f"{home.name}-out"))
    results = ResultsFolder.at(place, scratch)
    out = results.folder
    jobs = sorted(path for path in home.iterdir() if path.is_dir() and path.name[0] != ".")
    jobs = [job for job in jobs if job.resolve() != out.resolve()]
    if not jobs:
        raise UserError(f"no job (no sub-folder) in {home}")
    if any(path.is_dir() and path.resolve() == out.resolve() for path in home.iterdir()) and (
        any(_named(out, name) for name in REGIONS)
    ):
        raise UserError(f"{out} is a job itself: the results go into another folder")
    written = [out / f"{job.name}{suffix}" for job in jobs for suffix in (".mp4", ".log")]
    refuse_inputs(written, files_in(*map(str, jobs)))
    return jobs, results, common


def folder_job(folder: Path, results: ResultsFolder, common: Sequence[str]) -> BatchJob:
    """The job in a folder; what is wrong with it is in the job, so that it stops no other."""
    output = results.name(f"{folder.name}.mp4")
    try:
        work = results.workspace_words(folder.name)
        return BatchJob(folder.name, output, job_words(folder, output, [*work, *common]))
    except UserError as error:
        return BatchJob(folder.name, output, [], str(error))
    except OSError as error:  # a file that may not be read, say
        return BatchJob(folder.name, output, [], explain(error))


def job_words(job: Path, output: str, common: Sequence[str]) -> list[str]:
    """The words after `maskora edit` for the job in a folder.

    Args:
        common: options for every job.

    Raises:
        UserError: something is missing or wrong, or a link leads out of the folder of all jobs.
    """
    check_links([job], job.parent)
    video = _one_of(job, "video", VIDEOS)
    edited = _one_of(job, "edited frame", EDITED)
    regions = [(name, path) for name in REGIONS for path in _named(job, name)]
    if len(regions) != 1:
        raise UserError("expected one of box.txt, clicks.txt and the folder mask")
    (name, region), options = regions[0], []
    words = [str(video), str(edited), output]
    if name == "box.txt":
        words.insert(1, region_words(["".join(read_text(region).split())], [])[1])
    elif name == "clicks.txt":
        options = [word for line in _lines(region) for word in ("--click", line)]
    else:
        options = ["--mask", str(region)]
    words += [*options, *common]
    for option in ("caption", "edited_caption"):
        for path in _named(job, f"{option}.txt"):
            words += [f"--{option.replace('_', '-')}", read_text(path).strip()]
    for folder in _named(job, "keyframes"):
        for image in sorted(folder.iterdir()):
            if not is_hidden(image):
                words += ["--keyframe", f"{image.stem}={image}"]
    for path in _named(job, "options.txt"):
        words += [word for line in _lines(path) for word in _option(line, path)]
    return words


def _option(line: str, path: Path) -> list[str]:
    """An option of a job as words. Raises UserError where a job may not say it."""
    words = line.split(maxsplit=1)
    name, sign, _ = words[0].partition("=")
    if name not in OF_A_JOB:
        raise UserError(f"{path}: {name} is no option of a job, but {', '.join(OF_A_JOB)} are")
    if sign:  # the value may have spaces
        return [line]
    if len(words) == 1:
        raise UserError(f"{path}: {name} needs a value in the same line")
    return words


def _one_of(job: Path, what: str, names: Sequence[str]) -> Path:
    """The one file there is of these names. Raises UserError where there is none, or several."""
    found = [
        path
        for name in names
        for path in _named(job, name)
        if (path.is_dir() if name == IMAGE_FOLDER else path.is_file())
    ]
    if len(found) != 1:
        raise UserError(f"expected one {what}, found {len(found)} (of {' '.join(names)})")
    return found[0]


def _named(job: Path, name: str) -> list[Path]:
    """Files of this name in whatever case: VIDEO.MP4 is video.mp4 on every system."""
    return sorted(path for path in job.iterdir() if path.name.lower() == name)


def _lines(path: Path) -> list[str]:
    """A text's lines, without empty ones and comments."""
    lines = (line.strip() for line in read_text(path).splitlines())
    return [line for line in lines if line and not line.startswith("#")]
