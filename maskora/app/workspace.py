"""The workspace: the folder of one edit, the records in it, and the original video behind it.

Importing this needs no library of pictures or videos: the doctor tells which of them are broken.
"""

import json
import logging
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from maskora.app.exchange import begun_exchanges, settle
from maskora.app.locks import held_alone, read_holder
from maskora.app.remembered import known_sha256
from maskora.config import Config
from maskora.config.tables import Stage
from maskora.errors import UserError
from maskora.files import (
    IMAGE_SUFFIXES,
    check_links,
    is_hidden,
    read_small,
    read_text,
    write_text,
)
from maskora.system import WINDOWS

if TYPE_CHECKING:
    from maskora.video.fit import FramePlacement
    from maskora.video.probe import VideoInfo

log = logging.getLogger("maskora")
EDIT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
PREVIEW = "preview.mp4"  # in the folder of a result
PREVIEW_NAME = re.compile(r"(motion|appearance)-([0-9]{5,})\.mp4")  # while training, after a step
SAME_SHAPE = 0.02  # by which the aspect of a mask or an edited frame may differ from the clip's
PATIENCE = 10.0  # seconds that one thread of a program waits for another: saving masks takes few
LONGEST_NAME = 40  # letters, of an object
RESERVED = ("seed-", "step-", "tensorboard")  # names that runs and outputs use themselves
_WORKERS: dict[Path, threading.Thread] = {}  # who works in a workspace, of this program
_TURNS = threading.Condition()
DEVICE = re.compile(r"con|prn|aux|nul|com\d|lpt\d", re.IGNORECASE)  # to Windows, in every folder


class Record(BaseModel):
    """A JSON file of the workspace."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def write(self, path: Path) -> None:
        """Write it as a whole or not at all."""
        write_text(path, json.dumps(self.model_dump(), indent=2, ensure_ascii=False) + "\n")


# A record may be anybody's: what is made of its numbers must stay a number, and fit into memory.
Whole = Annotated[int, Field(ge=0, le=1_000_000_000)]
Pixels = Annotated[int, Field(ge=1, le=1_000_000)]
Offset = Annotated[int, Field(ge=-1_000_000, le=1_000_000)]


class ShotRecord(Record):
    """Where a new shot begins, as `maskora.video.shots.ShotChange` says it."""

    kind: Literal["cut", "fade"]
    frame: Whole = Field(ge=1)
    first: Whole
    last: Whole

    @property
    def begins(self) -> int:
        """The first frame of which all is the new shot."""
        return self.frame if self.kind == "cut" else self.last + 1


class Source(Record):
    """source.json: where the frames come from and how they lie in the original.

    Attributes:
        origin_sha256, origin_frames: the original's `video_sha256`, and how many frames it was read
            as; None in workspaces of versions before.
        shots: the second shot and those after it, in order; none in workspaces of versions before.
    """

    origin: str
    origin_sha256: str | None = None
    origin_frames: int | None = None
    start: Whole
    every: Whole = Field(ge=1)
    frames: int = Field(ge=1, le=100_000)
    fps: str
    original_size: tuple[Pixels, Pixels]
    size: tuple[Pixels, Pixels]
    cell: Pixels
    fit: str
    region: tuple[Offset, Offset, Pixels, Pixels]
    shots: tuple[ShotRecord, ...] = ()

    @field_validator("fps")
    @classmethod
    def _is_a_rate(cls, fps: str) -> str:
        if not re.fullmatch(r"[0-9]{1,18}(/(?=0*[1-9])[0-9]{1,18})?", fps) or Fraction(fps) <= 0:
            raise ValueError(f"{fps!r} is no frame rate")
        return fps

    @model_validator(mode="after")
    def _shots_are_in_the_clip(self) -> Self:
        begins = [0, *(shot.frame for shot in self.shots), self.frames]
        if any(later <= earlier for earlier, later in pairwise(begins)):
            raise ValueError(f"shots do not begin at frames {begins[1:-1]} of {self.frames}")
        return self

    @property
    def rate(self) -> Fraction:
        """Frames per second of the chosen frames."""
        return Fraction(self.fps)

    @property
    def shot_starts(self) -> list[int]:
        """The numbers of the frames at which the second shot and those after it begin."""
        return [shot.begins for shot in self.shots if shot.begins < self.frames]

    @property
    def placement(self) -> "FramePlacement":
        """The placement of the workspace's frames in the original."""
        from maskora.video.fit import FramePlacement

        return FramePlacement(self.original_size, self.size, self.region)


class FrameRecord(Record):
    """frames.json beside it: content names of the frames' files, in order."""

    digests: tuple[str, ...]


class TrackingRecord(Record):
    """tracking/clicks.json: what was marked, in order; clicks and boxes in original pixels.

    Of a painted mask it has the frame and the object: FRAME,OBJECT.
    """

    prompts: tuple[dict[Literal["click", "box", "painting"], str], ...]


class ObjectRecord(Record):
    """tracking/objects.json: what the person calls the objects, by their numbers."""

    names: dict[
        Annotated[int, Field(ge=1, le=254)], Annotated[str, Field(max_length=LONGEST_NAME)]
    ] = {}


class LineRecord(Record):
    """source/line.json: what the line of `edit` that has prepared the workspace said of that.

    Attributes:
        said: by option; of a file or a folder what is in it.
    """

    said: dict[str, str]


class MaskRecord(Record):
    """masks/masks.json: digests of what the final masks were made from, and of themselves."""

    settings: str
    silhouettes: str
    masks: str


Kind = TypeVar("Kind", bound=BaseModel)


def read_record(
    kind: type[Kind],
    path: Path,
    remedy: str = "run maskora prepare again, with --overwrite (edits/ stay)",
) -> Kind:
    """Read a JSON record. Raises UserError, with the remedy, where it is missing or damaged."""
    try:
        return kind.model_validate_json(read_small(path))
    except (FileNotFoundError, IsADirectoryError, ValidationError) as error:
        what = "is missing" if isinstance(error, FileNotFoundError) else "is damaged"
        raise UserError(f"{path} {what}: {remedy}") from None


class Workspace:
    """Paths of one edit's folder, and what is read from it. Building one touches no file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "edit.toml"
        self.lock = root / ".lock"
        self.lock_holder = root / ".lock-holder"
        self.work_lock = root / ".work-lock"
        self.work_holder = root / ".work-holder"
        self.source_dir = root / "source"
        self.source_record = self.source_dir / "source.json"
        self.frame_record = self.source_dir / "frames.json"
        self.line_record = self.source_dir / "line.json"
        self.overview = self.source_dir / "overview.png"
        self.masks_dir = root / "masks"
        self.mask_record = self.masks_dir / "masks.json"
        self.tracking_dir = root / "tracking"
        self.tracking_record = self.tracking_dir / "clicks.json"
        self.object_record = self.tracking_dir / "objects.json"
        self.painted_dir = self.tracking_dir / "painted"
        self.edits_dir = root / "edits"
        self.candidates_dir = root / "candidates"  # a model's pictures for a frame, to choose from
        self.original_dir = root / "original"  # an uploaded video, which has no other home
        self.cache_dir = root / "cache"
        self.captions_dir = self.cache_dir / "captions"
        self.results_dir = root / "output"
        self.runs_dir = root / "runs"
        self.job_record = self.runs_dir / "job.json"
        self.job_log = self.runs_dir / "job.log"
        self.job_progress = self.runs_dir / "progress.jsonl"
        self.job_lock = self.runs_dir / ".lock"
        self.stops_dir = self.runs_dir / ".stops"  # a file for each time that a stop was asked for

    @classmethod
    def open(cls, root: Path) -> "Workspace":
        """The workspace in a folder that anybody may have made; `root` itself may be a link.

        Raises:
            UserError: a link in it leads out of it, or something in it is no ordinary file.
        """
        workspace = cls(root)
        paths = (path.relative_to(root).parts for path in vars(workspace).values())
        named = {root / parts[0] for parts in paths if parts}
        check_links({*named, *begun_exchanges(root)}, root)
        recover(workspace)
        return workspace

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
        """Silhouettes of a frame on the mask page, which are not masks yet."""
        return self.tracking_dir / f"{frame:05d}.png"

    def tracked_before(self, frame: int) -> Path:
        """Those silhouettes before this frame's own clicks, which may be taken back."""
        return self.tracking_dir / "before" / f"{frame:05d}.png"

    def painted(self, frame: int, object_id: int) -> Path:
        """An object as it was painted by hand in a frame."""
        return self.painted_dir / f"{frame:05d}-{object_id}.png"

    def edit_dir(self, edit: str | None) -> Path:
        """The folder of an edit's images; further edits have a name."""
        return self.edits_dir if edit is None else self.edits_dir / _checked_name(edit)

    def edited_frame(self, edit: str | None, frame: int, suffix: str) -> Path:
        """An edited image as it is named here; a person may have named it otherwise."""
        return self.edit_dir(edit) / f"{frame:05d}{suffix}"

    def steps_dir(self, edit: str | None) -> Path:
        """How edited frames were made by hand: a record each, and the pictures that they name."""
        return self.edit_dir(edit) / ".steps"

    def candidates(self, edit: str | None, frame: int) -> Path:
        """The folder of a model's pictures for a frame."""
        base = self.candidates_dir
        return (base if edit is None else base / _checked_name(edit)) / f"{frame:05d}"

    def edited_files(self, edit: str | None, frame: int) -> list[Path]:
        """The images of a frame's edit, however a person has numbered them (0.jpg, 00000.png)."""
        images = (p for p in self.edit_dir(edit).glob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        numbered = (path for path in images if re.fullmatch(r"[0-9]+", path.stem))
        return sorted(path for path in numbered if int(path.stem) == frame and path.is_file())

    def named_edits(self) -> list[str]:
        """The names of further edits, in order."""
        folders = (path for path in self.edits_dir.glob("*/") if EDIT_NAME.fullmatch(path.name))
        return sorted(path.name for path in folders)

    def run_dir(self, stage: Stage, edit: str | None = None, expert: str = "") -> Path:
        """The folder of a stage's training. The motion stage belongs to the clip, to no edit.

        Args:
            expert: which of a base's transformers, where it has several.
        """
        base = self.runs_dir / (f"{stage}-{expert}" if expert else stage)
        return base if edit is None or stage == "motion" else base / _checked_name(edit)

    def previews_dir(self, edit: str | None) -> Path:
        """The folder of the clips that show an edit while it is trained."""
        base = self.runs_dir / "previews"
        return base if edit is None else base / _checked_name(edit)

    def previews(self, edit: str | None) -> list[Path]:
        """Those clips, named STAGE-STEP.mp4, the earliest first."""
        found = [*self.previews_dir(edit).glob("*.mp4")]
        named = [path for path in found if PREVIEW_NAME.fullmatch(path.name)]
        return sorted(named, key=lambda path: (path.name.startswith("appearance"), path.name))

    def training_preview(self, edit: str | None, stage: Stage, step: int) -> Path:
        """What an edit looked like after a step of training."""
        return self.previews_dir(edit) / f"{stage}-{step:05d}.mp4"

    def metrics(self, stage: Stage, edit: str | None = None) -> dict[str, Path]:
        """A stage's loss, step by step, by the title of its run: one per transformer."""
        experts = {p.name: p.name[len(stage) + 1 :] for p in self.runs_dir.glob(f"{stage}-*")}
        return {
            title: self.run_dir(stage, edit, expert) / "metrics.jsonl"
            for title, expert in sorted({str(stage): "", **experts}.items())
        }

    def output_dir(self, edit: str | None, seed: int | None) -> Path:
        """The folder of a result; `seed` only for the second and further seeds of a run."""
        base = self.results_dir
        folder = base if edit is None else base / _checked_name(edit)
        return folder if seed is None else folder / f"seed-{seed}"

    def read_source(self) -> Source:
        """Read source.json. Raises UserError where the folder is not a prepared workspace."""
        recover(self)
        if not self.source_record.is_file():
            raise UserError(
                f"{self.root} is not a prepared workspace ({self.source_record} is missing): "
                f"run maskora prepare VIDEO {self.root}"
            )
        return read_record(Source, self.source_record)

    def write_source(self, source: Source) -> None:
        """Write source.json."""
        source.write(self.source_record)

    @property
    def own_folders(self) -> list[Path]:
        """Folders in which nothing but their own files may be written."""
        return [
            self.source_dir, self.masks_dir, self.tracking_dir, self.edits_dir, self.cache_dir,
            self.runs_dir, self.original_dir, self.candidates_dir,
        ]  # fmt: skip

    def written_folders(self) -> Iterator[Path]:
        """Every folder in which commands write.

        What else lies in the workspace is not theirs; nor is another workspace in such a folder.
        """
        yield self.root
        for top in (*self.own_folders, self.results_dir):
            if top.is_symlink() or Workspace(top).is_begun:
                continue
            for folder, names, _ in os.walk(top):
                yield Path(folder)
                shown = (name for name in names if not name.startswith("."))
                names[:] = [name for name in shown if not Workspace(Path(folder, name)).is_begun]

    @property
    def is_begun(self) -> bool:
        """Whether the folder is a workspace, or is becoming one."""
        return any(path.exists() for path in (self.config, self.source_record, self.work_lock))

    def given_files(self, origin: str) -> Iterator[Path]:
        """Every file that is there before a run: the original, frames, masks, edits, settings."""
        video = Path(origin)
        yield from video.iterdir() if video.is_dir() else [video]
        yield self.config
        for folder in (self.source_dir, self.masks_dir, self.edits_dir, self.original_dir):
            yield from (path for path in folder.rglob("*") if path.is_file())

    def read_mask_record(self) -> MaskRecord:
        """Read masks.json. Raises UserError where it is missing or damaged."""
        return read_record(MaskRecord, self.mask_record)

    def read_line(self) -> LineRecord | None:
        """Read line.json; None where something else has prepared it. Raises UserError: damaged."""
        if not self.line_record.is_file():
            return None
        return read_record(LineRecord, self.line_record, "remove it")

    def rank_log(self, rank: int) -> Path:
        """The messages of one of the processes that train or infer together."""
        return self.runs_dir / f"rank-{rank}.log"

    def read_tracking(self) -> TrackingRecord | None:
        """Read clicks.json; None where there is none yet. Raises UserError where it is damaged."""
        if not self.tracking_record.is_file():
            return None
        return read_record(TrackingRecord, self.tracking_record, "remove the folder, click again")

    def read_names(self) -> dict[int, str]:
        """What the objects are called. Raises UserError where objects.json is damaged."""
        if not self.object_record.is_file():
            return {}
        return dict(
            read_record(ObjectRecord, self.object_record, "remove it, name them again").names
        )


def _checked_name(edit: str) -> str:
    if not EDIT_NAME.fullmatch(edit) or edit.startswith(RESERVED):
        raise UserError(
            f"edit {edit!r}: a name starts with a letter and holds letters, digits, "
            f"'-' and '_'; not {', '.join(RESERVED)}"
        )
    if WINDOWS and DEVICE.fullmatch(edit):
        raise UserError(f"edit {edit!r}: Windows has a device of this name; choose another")
    return edit


def caption_beside(image: Path) -> str | None:
    """The text of the .txt beside an image, or None where there is none (or it is empty)."""
    try:
        return " ".join(read_text(image.with_suffix(".txt")).split()) or None
    except FileNotFoundError:
        return None


@contextmanager
def workspace_lock(workspace: Workspace) -> Iterator[None]:
    """Hold all of a workspace: its frames, masks and clicks, and what is made of them.

    Raises:
        UserError: another program has it open, or works in it.
    """
    with opened(workspace), working(workspace):
        yield


@contextmanager
def opened(workspace: Workspace) -> Iterator[None]:
    """Hold a workspace's frames and clicks alone, as the window does while commands work.

    Raises:
        UserError: another program holds them.
    """
    busy = f"{workspace.root} is open in another maskora{{}}: close it there first"
    with held_alone(workspace.lock, workspace.lock_holder, busy):
        yield


@contextmanager
def working(workspace: Workspace) -> Iterator[None]:
    """Hold what commands write; what killed programs have left half-done is settled first.

    The thread that holds it may take it again. Another one of this program waits for a while.

    Raises:
        UserError: another program works in the workspace, or still another thread of this one.
    """
    root, me = workspace.root.resolve(), threading.current_thread()
    busy = (
        f"another maskora works in {workspace.root}{{}}: wait until it has ended, or stop it there"
    )
    with _TURNS:
        if not _TURNS.wait_for(lambda: _WORKERS.get(root, me) is me, PATIENCE):
            raise UserError(busy.format(read_holder(workspace.work_holder)))
        again = root in _WORKERS
        _WORKERS[root] = me
    if again:
        yield
        return
    try:
        with held_alone(workspace.work_lock, workspace.work_holder, busy):
            settle(workspace.written_folders())
            yield
    finally:
        with _TURNS:
            del _WORKERS[root]
            _TURNS.notify_all()


def recover(workspace: Workspace) -> None:
    """Finish an exchange of files that a killed program has begun; one that works is let be."""
    if begun_exchanges(workspace.root):
        with suppress(UserError), working(workspace):
            pass


def video_sha256(video: Path) -> str:
    """The SHA-256 of a video file, or of a folder's images in the order of their names."""
    if not video.is_dir():
        return known_sha256(video)
    shown = (path for path in video.iterdir() if not is_hidden(path))
    images = (path for path in shown if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    return known_sha256(video, sorted(images))


def original_video(source: Source) -> "VideoInfo":
    """The original video, over whose frames edited.mp4 is made.

    Raises:
        UserError: it is gone, damaged, or another than the one that was prepared.
    """
    from maskora.video.probe import probe

    origin = Path(source.origin)
    if not origin.exists():
        raise UserError(
            f"the original video is no longer at {origin}; the result is pasted over its frames. "
            f'Put it back, or change "origin" in source/source.json'
        )
    check_origin(source)
    info = probe(origin, source.rate * source.every)
    if (info.width, info.height) != source.original_size:
        raise _another(
            origin,
            f"is now {info.width}x{info.height}, but was prepared as "
            f"{source.original_size[0]}x{source.original_size[1]}",
        )
    needed, known = source.start + (source.frames - 1) * source.every + 1, source.origin_frames
    if info.frames < needed or known not in (None, info.frames):
        wanted = f"{needed} are needed" if known is None else f"it had {known} when it was prepared"
        raise _another(origin, f"has {info.frames} frames now, and {wanted}")
    return info


def check_origin(source: Source) -> None:
    """The original, where it is still there, is what was prepared, if that was recorded.

    Raises:
        UserError: it is another video.
    """
    if source.origin_sha256 is not None:
        check_content(Path(source.origin), source.origin_sha256)


def check_content(origin: Path, sha256: str) -> None:
    """An original that is still there is the one of this `video_sha256`. Raises UserError."""
    if origin.exists() and video_sha256(origin) != sha256:
        raise _another(origin, "does not have the content any more that was prepared")


def _another(origin: Path, difference: str) -> UserError:
    return UserError(
        f"{origin} {difference}: it is another video. Put the one back that was prepared, or run "
        f"maskora prepare again, with --overwrite (edits/ stay), to edit this one"
    )


def check_video_settings(workspace: Workspace, config: Config, source: Source) -> None:
    """[video] must say what `prepare` did: the frames on disk are its result. Raises UserError."""
    width, height = source.size
    rate = source.rate * source.every
    prepared = {
        "frames": source.frames,
        "size": f"{width}x{height}",
        "fps": config.video.fps if config.video.rate in (None, rate) else str(rate),
        "start": source.start,
        "every": source.every,
        "fit": source.fit,
    }
    for key, value in prepared.items():
        wanted = getattr(config.video, key)
        if wanted != value and not (key == "size" and config.video.is_auto):
            raise UserError(
                f"[video] {key} is {wanted}, but {workspace.source_dir} was prepared with {value}: "
                f"set it back, or run maskora prepare again with --overwrite"
            )


def edit_size(path: Path, size: tuple[int, int], source: Source) -> tuple[int, int]:
    """The (width, height) at which an edited frame of some size is used.

    That is the workspace's or the original's size: its own where it has one of them, else the one
    of its shape. Raises UserError where it has neither shape.
    """
    sizes = source.size, source.original_size
    if size in sizes:
        return size

    def strain(other: tuple[int, int]) -> float:
        ratio = size[0] * other[1] / (size[1] * other[0])
        return max(ratio, 1 / ratio) - 1

    nearest = min(sizes, key=strain)
    if strain(nearest) <= SAME_SHAPE:
        return nearest
    raise UserError(
        f"{path} is {size[0]}x{size[1]}; an edited frame has the shape of the workspace's "
        f"{source.size[0]}x{source.size[1]} or of the original's "
        f"{source.original_size[0]}x{source.original_size[1]}"
    )
