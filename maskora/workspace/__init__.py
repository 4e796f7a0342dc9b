"""The folder of one edit: every path inside it is named and found here, and nowhere else."""

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from maskora.errors import UserError
from maskora.files import is_hidden, write_text
from maskora.system import WINDOWS
from maskora.workspace.records import MaskRecord, Source, TrackingRecord, read_record

__all__ = [
    "EditFiles",
    "MaskRecord",
    "Source",
    "Stage",
    "TrackingRecord",
    "Workspace",
    "caption_beside",
]

log = logging.getLogger("maskora")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
RESERVED = ("seed-", "step-", "tensorboard")  # names that runs and outputs use themselves
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
DEVICE = re.compile(r"con|prn|aux|nul|com\d|lpt\d", re.IGNORECASE)  # to Windows, in every folder
Stage = Literal["motion", "appearance"]


@dataclass(frozen=True)
class EditFiles:
    """The edited images of one edit: frame number -> file. Frame 0 may still be missing."""

    folder: Path
    images: dict[int, Path]

    @property
    def first(self) -> Path:
        """The edited first frame. Raises UserError where it is missing."""
        if 0 not in self.images:
            raise UserError(
                f"{self.folder / '00000.png'} is missing: open source/00000.png in an image "
                f"editor, change what lies inside the mask, and save the result there"
            )
        return self.images[0]

    @property
    def keyframes(self) -> dict[int, Path]:
        """Edited frames after the first, in order."""
        return {frame: path for frame, path in sorted(self.images.items()) if frame > 0}


class Workspace:
    """Paths of one edit's folder. Building one touches nothing on disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "edit.toml"
        self.lock = root / ".lock"
        self.lock_holder = root / ".lock-holder"
        self.source_dir = root / "source"
        self.source_record = self.source_dir / "source.json"
        self.overview = self.source_dir / "overview.png"
        self.masks_dir = root / "masks"
        self.mask_record = self.masks_dir / "masks.json"
        self.tracking_dir = root / "tracking"
        self.tracking_record = self.tracking_dir / "clicks.json"
        self.edits_dir = root / "edits"
        self.original_dir = root / "original"  # an uploaded video, which has no other home
        self.cache_dir = root / "cache"
        self.captions_dir = self.cache_dir / "captions"
        self.job_record = root / "runs" / "job.json"
        self.job_log = root / "runs" / "job.log"
        self.job_lock = root / "runs" / ".lock"
        self.stops_dir = root / "runs" / ".stops"  # a file for each time that a stop was asked for

    def source_frame(self, frame: int) -> Path:
        """A frame as the model sees it."""
        return self.source_dir / f"{frame:05d}.png"

    def mask(self, frame: int) -> Path:
        """A final mask: 0 keep, 1..n objects."""
        return self.masks_dir / f"{frame:05d}.png"

    def silhouette(self, frame: int) -> Path:
        """A mask as it was given or tracked, before it became a box."""
        return self.masks_dir / "raw" / f"{frame:05d}.png"

    def tracked(self, frame: int) -> Path:
        """What is shown of a frame on the mask page: silhouettes that are not masks yet."""
        return self.tracking_dir / f"{frame:05d}.png"

    def tracked_before(self, frame: int) -> Path:
        """The same before this frame's own clicks, which may be taken back."""
        return self.tracking_dir / "before" / f"{frame:05d}.png"

    def edit_dir(self, edit: str | None) -> Path:
        """Where an edit's images lie; further edits have a name."""
        return self.edits_dir if edit is None else self.edits_dir / _checked_name(edit)

    def edited_frame(self, edit: str | None, frame: int, suffix: str) -> Path:
        """An edited image as it is named here; a person may have named it otherwise."""
        return self.edit_dir(edit) / f"{frame:05d}{suffix}"

    def named_edits(self) -> list[str]:
        """The names of further edits, in order."""
        folders = (path for path in self.edits_dir.glob("*/") if NAME.fullmatch(path.name))
        return sorted(path.name for path in folders)

    def run_dir(self, stage: Stage, edit: str | None = None, expert: str = "") -> Path:
        """Where a stage trains. The motion stage belongs to the clip, so it has no edit.

        Args:
            expert: which of a base's transformers, where it has several.
        """
        base = self.root / "runs" / (f"{stage}-{expert}" if expert else stage)
        return base if edit is None or stage == "motion" else base / _checked_name(edit)

    def metrics(self, stage: Stage, edit: str | None = None) -> dict[str, Path]:
        """A stage's loss, step by step, by the title of its run: one per transformer."""
        folders = [self.run_dir(stage, edit)]
        for base in sorted((self.root / "runs").glob(f"{stage}-*")):
            folders.append(self.run_dir(stage, edit, base.name.removeprefix(f"{stage}-")))
        root = self.root / "runs"
        return {f.relative_to(root).parts[0]: f / "metrics.jsonl" for f in folders}

    def output_dir(self, edit: str | None, seed: int | None) -> Path:
        """Where a result goes; `seed` only for the second and further seeds of a run."""
        folder = self.root / "output"
        folder = folder if edit is None else folder / _checked_name(edit)
        return folder if seed is None else folder / f"seed-{seed}"

    def read_source(self) -> Source:
        """Read source.json. Raises UserError where the folder is not a prepared workspace."""
        if not self.source_record.is_file():
            raise UserError(
                f"{self.root} is not a prepared workspace ({self.source_record} is missing): "
                f"run maskora prepare VIDEO {self.root}"
            )
        return read_record(Source, self.source_record)

    def read_mask_record(self) -> MaskRecord:
        """Read masks.json. Raises UserError where it is missing or damaged."""
        return read_record(MaskRecord, self.mask_record)

    def read_tracking(self) -> TrackingRecord | None:
        """Read clicks.json; None where nothing was pointed at yet. Raises UserError."""
        if not self.tracking_record.is_file():
            return None
        return read_record(TrackingRecord, self.tracking_record, "remove the folder, click again")

    def write_source(self, source: Source) -> None:
        """Write source.json."""
        write_text(self.source_record, source.model_dump_json(indent=2) + "\n")

    def find_edits(self, edit: str | None, frames: int) -> EditFiles:
        """The edited images of an edit; a file that is no frame is an error, never ignored.

        Args:
            edit: the edit's name, or None for the unnamed one.
            frames: how many frames the clip has.
        """
        folder = self.edit_dir(edit)
        if not folder.is_dir():
            names = ", ".join(self.named_edits()) or "none"
            raise UserError(f"{folder}: no such folder (named edits here: {names})")
        images: dict[int, Path] = {}
        for path in sorted(folder.iterdir()):
            is_named_edit = path.is_dir() and edit is None and NAME.fullmatch(path.name)
            if is_named_edit or is_hidden(path):
                continue
            frame = _frame_number(path, frames)
            if path.suffix.lower() == ".txt":
                continue
            if frame in images:
                raise UserError(f"{path} and {images[frame].name} are both frame {frame}: keep one")
            images[frame] = path
        known = {path.stem for path in images.values()}
        for caption in sorted(folder.glob("*.txt")):
            if caption.stem not in known:
                log.warning("note: %s has no edited frame beside it", caption)
        return EditFiles(folder, images)


def caption_beside(image: Path) -> str | None:
    """The text of the .txt beside an image, or None where there is none (or it is empty)."""
    path = image.with_suffix(".txt")
    try:
        return " ".join(path.read_text(encoding="utf-8-sig").split()) or None
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no UTF-8 text: {error.reason} at byte {error.start}") from None


def _frame_number(path: Path, frames: int) -> int:
    suffix = path.suffix.lower()
    is_frame = re.fullmatch(r"[0-9]+", path.stem) and not path.is_dir()
    if suffix not in (*IMAGE_SUFFIXES, ".txt") or not is_frame:
        raise UserError(
            f"{path} is not a frame: edited frames are named by their number, as 00000.png "
            f"(or .jpg, .webp), with a caption in a .txt beside"
        )
    if int(path.stem) >= frames:
        raise UserError(f"{path}: the clip has frames 0 to {frames - 1} only")
    return int(path.stem)


def _checked_name(edit: str) -> str:
    if not NAME.fullmatch(edit) or edit.startswith(RESERVED):
        raise UserError(
            f"--edit {edit}: a name starts with a letter and holds letters, digits, "
            f"'-' and '_'; not {', '.join(RESERVED)}"
        )
    if WINDOWS and DEVICE.fullmatch(edit):
        raise UserError(f"--edit {edit}: Windows has a device of this name; choose another")
    return edit
