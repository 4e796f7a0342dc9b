"""A case: a job of `maskora batch`, and beside it the truth and a reference, where there are."""

from collections.abc import Sequence
from pathlib import Path

from maskora.app.edit_line import EditLine, check_files, parse_edit_line
from maskora.app.job_folders import job_words
from maskora.app.workspace import Source
from maskora.errors import UserError
from maskora.files import IMAGE_SUFFIXES, check_links, digest, is_hidden, sha256_file
from maskora.video.images import read_image, write_png
from maskora.video.probe import probe
from maskora.video.read import read_frames
from maskora.video.write import write_mp4

TRUTHS = ("truth", "truth.mp4", "truth.mov", "truth.mkv", "truth.webm")
REFERENCES = tuple(f"reference{suffix}" for suffix in IMAGE_SUFFIXES)
FOR_JUDGING = (*TRUTHS, *REFERENCES)  # all else decides what is made


def find_cases(folder: Path) -> list[Path]:
    """The folders in a folder, by name.

    Raises:
        UserError: there are none, or a link in one leads out of the folder of all.
    """
    if not folder.is_dir():
        raise UserError(f"no such folder: {folder}")
    cases = sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path))
    if not cases:
        raise UserError(f"no case (no sub-folder) in {folder}")
    check_links(cases, folder)
    return cases


def read_case(case: Path, options: Sequence[str], workspace: Path) -> EditLine:
    """What `maskora edit` would do with a case. Raises UserError."""
    output = str(workspace.with_suffix(".mp4"))
    words = job_words(case, output, [*options, "--workspace", str(workspace)])
    line = parse_edit_line(words)
    check_files(line)
    if line.preset:
        raise UserError("--preset is no option of a case: --presets says which are compared")
    return line


def digest_case(case: Path, *, judging: bool) -> str:
    """Content name of a case's files: of those that its results are judged by, or of the others."""
    files = sorted(path for path in case.rglob("*") if path.is_file() and not is_hidden(path))
    names = [path.relative_to(case) for path in files]
    return digest(
        *(
            f"{name.as_posix()} {sha256_file(case / name)}"
            for name in names
            if (name.parts[0].lower() in FOR_JUDGING) == judging
        )
    )


def find_one(case: Path, names: Sequence[str]) -> Path | None:
    """The one file (or folder) there is of these names; None for none. Raises UserError."""
    found = sorted(path for path in case.iterdir() if path.name.lower() in names)
    if len(found) > 1:
        raise UserError(f"{found[0]} and {found[1]}: a case has one of them")
    return found[0] if found else None


def write_truth(truth: Path, source: Source, folder: Path) -> None:
    """The frames of a video of the truth, as `evaluate` reads them.

    Args:
        truth: a video as long as the case's own, of its size or the workspace's.

    Raises:
        UserError: it lacks frames, or is damaged.
    """
    info = probe(truth, source.rate * source.every)
    frames = read_frames(info, source.start, source.frames, source.every)
    for number, frame_HWC in enumerate(frames):
        write_png(folder / f"{number:05d}.png", frame_HWC)


def write_clip(pictures: Path, source: Source, video: Path) -> None:
    """A folder's pictures 00000.png, 00001.png, … as a video at the source's rate."""
    frames = (read_image(pictures / f"{number:05d}.png") for number in range(source.frames))
    write_mp4(video, frames, source.rate)
