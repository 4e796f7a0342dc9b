"""A video that a workspace may be made of: looked at first, kept with the workspace if uploaded."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

import numpy as np

from gui_mask.errors import plain
from maskora.app.prepare import unmake
from maskora.app.workspace import Workspace
from maskora.config import Config, load_config
from maskora.errors import UserError
from maskora.files import flush, naming
from maskora.video.probe import VideoInfo, probe
from maskora.video.read import read_frames
from maskora.video.untrusted import Limits, check_untrusted

CONFIGS = Path(__file__).parents[1] / "configs"
FEWEST, MOST = 5, 100_000  # frames


def bases() -> dict[str, Path | None]:
    """The configurations that come with the program, by name; the defaults where none does."""
    files = {path.stem: path for path in sorted(CONFIGS.glob("*.toml"))}
    usual = {name: files[name] for name in ("wan2.1-i2v-480p",) if name in files}
    return {**usual, **files} or {"wan2.1-i2v-480p": None}


BASES = bases()


def base_config(name: str) -> Config:
    """What a base's configuration says; the defaults where it has none."""
    path = BASES[name]
    return Config() if path is None else load_config(path)


def is_trial(name: str) -> bool:
    """Whether a base only shows how things go."""
    return name.startswith(("tiny", "miniature"))


@dataclass(frozen=True)
class OpenedVideo:
    """A video that was looked at.

    Attributes:
        info: what it is.
        uploaded: it lies in the program's temporary folder, and is to be kept with the workspace.
    """

    info: VideoInfo
    uploaded: bool

    def description(self) -> str:
        """What was found, as Markdown."""
        info = self.info
        seconds = float(info.frames / info.fps)
        lines = [
            f"{info.width}×{info.height}, {info.frames} frames at {float(info.fps):.3g} per second,"
            f" {seconds:.1f} s{', with sound' if info.has_audio else ''}",
            *map(plain, info.notes),
        ]
        return "\n\n".join(lines)

    def longest(self, start: int, every: int) -> int:
        """The most frames that may be taken. Raises UserError where that is too few."""
        available = len(range(start, self.info.frames, every)) if every > 0 else 0
        if available < FEWEST:
            raise UserError(
                f"from frame {start}, every {every}, the clip has {available} frames: at least "
                f"{FEWEST} are needed, and it has {self.info.frames} in all"
            )
        return min(MOST, available)

    def frame(self, number: int) -> np.ndarray:
        """One frame of the clip, (H, W, 3) uint8. Raises UserError."""
        return next(iter(read_frames(self.info, number, 1)))

    def suggested_root(self, home: Path) -> str:
        """A folder in `home` for its workspace, which is not there yet."""
        names = chain([""], (f"-{number}" for number in count(2)))
        folders = (home / f"{self.info.path.stem}-edit{name}" for name in names)
        return str(next(folder for folder in folders if not folder.exists()))


def look(path: Path, uploaded: bool, limits: Limits) -> OpenedVideo:
    """Find out what a video, or a folder of images, is, within limits. Raises UserError.

    A file is walked through once in a process of its own before this one opens it.
    """
    if not path.is_dir():
        check_untrusted(path, limits)
    return OpenedVideo(probe(path, limits=limits), uploaded)


@contextmanager
def keep_upload(clip: OpenedVideo, root: Path) -> Iterator[Path]:
    """The video to prepare from: an upload is copied into the workspace, unless that fails."""
    if not clip.uploaded:
        yield clip.info.path
        return
    there_before = root.exists()
    if there_before and any(root.iterdir()):
        raise UserError(f"{root} already holds something: name another folder")
    workspace = Workspace(root)
    folder = workspace.original_dir
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / clip.info.path.name
    with ExitStack() as undo:
        undo.callback(unmake, workspace, folder if there_before else root)
        with naming(kept, kept):
            shutil.copyfile(clip.info.path, kept)
            flush(kept)
        yield kept
        undo.pop_all()
