"""Edited frames made here: steps on a frame of the clip, each of which can be taken back.

edits/.steps/NNNNN.json lists the steps of frame NNNNN, from which edits/NNNNN.png is made again
exactly; edits/.steps/pictures has what was laid on it.
"""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

import numpy as np
from filelock import FileLock, Timeout
from pydantic import Field, model_validator

from maskora.app.edits import put_edited_frame, read_edited
from maskora.app.masking import frame_labels
from maskora.app.workspace import Record, Source, Whole, Workspace, read_record
from maskora.config import Config
from maskora.errors import UserError
from maskora.files import digest, digest_file, remove, replacing, write_bytes
from maskora.frames import read_sized
from maskora.masks.files import read_labels
from maskora.retouch import AnyStep, Erase, Frame, Image, Lay, Paint, hex_colour, retouched
from maskora.video.images import png_bytes, read_image, read_with_alpha

log = logging.getLogger("maskora")
PATIENCE = 30.0  # seconds that one program waits while another changes edited frames
MOST_STEPS = 10_000
MOST_POINTS = 200_000  # of all strokes of a frame: a record stays as large as records may be
REMEDY = "remove it; the edited frame stays, and steps begin anew from it"


# A record may be anybody's: these become paths.
FileName = Annotated[str, Field(pattern=r"^([0-9]+\.[A-Za-z]+)?$")]
Content = Annotated[str, Field(pattern=r"^([0-9a-f]{20})?$")]


class History(Record):
    """edits/.steps/NNNNN.json: how an edited frame was made.

    Attributes:
        source: content name of the source frame's file.
        base, base_content: name and content name of the edited frame that was there before; empty
            where the steps begin with the source.
        feather: pixels over which the edit fades in, inside the region.
        steps: in order.
        done: how many of them count; the others were taken back.
        made: content name of the edited frame's file after them; empty where there is none.
    """

    source: str
    base: FileName = ""
    base_content: Content = ""
    feather: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    steps: tuple[AnyStep, ...] = ()
    done: Whole = 0
    made: str = ""

    @model_validator(mode="after")
    def _counts_its_own_steps(self) -> Self:
        if self.done > len(self.steps) or bool(self.base) != bool(self.base_content):
            raise ValueError("more steps were done than there are, or half of a base is named")
        return self

    def with_step(self, step: AnyStep) -> "History":
        """One step more; those that were taken back are gone. Raises UserError: too many."""
        steps = (*self.steps[: self.done], step)
        points = sum(len(one.points) for one in steps if isinstance(one, (Paint, Erase)))
        if len(steps) > MOST_STEPS or points > MOST_POINTS:
            raise UserError(
                f"a frame has at most {MOST_STEPS} steps, and {MOST_POINTS} points of strokes: "
                f"take some back"
            )
        return self.model_copy(update={"steps": steps, "done": len(steps)})

    def moved(self, by: int) -> "History":
        """With the last step taken back (-1) or made again (1). Raises UserError: there is none."""
        if not 0 <= self.done + by <= len(self.steps):
            raise UserError(f"there is no step to be {'taken back' if by < 0 else 'made again'}")
        return self.model_copy(update={"done": self.done + by})

    def lines(self) -> list[str]:
        """The steps in words."""
        return [
            f"{number:3} {'' if number <= self.done else '(taken back) '}{describe(step)}"
            for number, step in enumerate(self.steps, 1)
        ]


def describe(step: AnyStep) -> str:
    """A step in words: its tool, and what of it is not as always."""
    if isinstance(step, Lay):
        moved = f", moved by {step.dx},{step.dy}" if step.dx or step.dy else ""
        return step.label + moved
    if isinstance(step, Erase) and not step.points:
        return "erase the object"
    tool = "restore" if isinstance(step, Paint) and step.colour is None else step.tool
    given = step.model_dump(exclude={"tool", "picture", "points"}, exclude_defaults=True)
    words = (
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in given.items()
    )
    return f"{tool} {', '.join(words)}".strip()


@dataclass(frozen=True)
class FrameEdit:
    """A frame of an edit, to be retouched. Making one touches nothing.

    Attributes:
        edit: the edit's name, or None.
        frame: its number.
    """

    workspace: Workspace
    config: Config
    edit: str | None
    frame: int

    def history(self) -> History:
        """The steps as they stand; new where the edited frame is not what they made.

        Raises:
            UserError: there is no such frame, or a record is damaged.
        """
        self._source()
        source, files = digest_file(self.workspace.source_frame(self.frame)), self._files()
        now = digest_file(files[0]) if files else ""
        if self._record.is_file():
            history = read_record(History, self._record, REMEDY)
            if (history.source, history.made) == (source, now):
                return history
        feather = self.config.inference.feather
        base = files[0].name if files else ""
        return History(source=source, base=base, base_content=now, feather=feather, made=now)

    def picture(self, step: AnyStep | None = None) -> Image:
        """The frame as it is, or as it would be after one more step, (H, W, 3)."""
        if step:
            return self._make(self.history().with_step(step))
        source_HWC, files = self._source_picture(), self._files()
        return read_edited(files[0], self._source(), source_HWC)[1] if files else source_HWC

    def add(self, step: AnyStep) -> Path:
        """Do a step, and write the edited frame. Raises UserError; nothing has changed then."""
        self.region()  # refused before anything is written
        with self._alone():
            after = self.history().with_step(step)
            if np.array_equal(self.picture(), self._make(after)):
                raise UserError("this changes nothing inside the region, so it is no step")
            path = self._write(after)
            assert path is not None  # there is a step now
            return path

    def move(self, by: int) -> Path | None:
        """Take the last step back (-1), or make it again (1). None: the frame is not edited now.

        Raises:
            UserError: there is none.
        """
        self.history().moved(by)  # refused before anything is written
        with self._alone():
            return self._write(self.history().moved(by))

    def store(self, picture_HWC: Image) -> str:
        """Keep a picture for a step, with its alpha, if any; its name."""
        self.region()  # refused before anything is written
        data = png_bytes(picture_HWC)
        name = digest(data)
        if not self._is_kept(name):
            write_bytes(self._stored(name), data)
        return name

    def lay(self, picture_HWC: Image, label: str, dx: int = 0, dy: int = 0) -> Path:
        """Lay a whole picture on, of the frame's size."""
        return self.add(Lay(picture=self.store(picture_HWC), label=label, dx=dx, dy=dy))

    def pick(self, x: float, y: float) -> str:
        """The colour at a pixel, as "#rrggbb". Raises UserError: it lies outside."""
        picture_HWC, column, row = self.picture(), round(x), round(y)
        height, width = picture_HWC.shape[:2]
        if not (0 <= column < width and 0 <= row < height):
            raise UserError(f"{x:g},{y:g} lies outside the frame, which is {width}x{height}")
        return hex_colour(picture_HWC[row, column])

    def other(self, frame: int, edited: bool) -> Image:
        """Another frame, as in the video or as edited there."""
        there = FrameEdit(self.workspace, self.config, self.edit, frame)
        if edited and not there._files():
            raise UserError(f"frame {frame} is not edited, so nothing can be copied of its edit")
        return there.picture() if edited else there._source_picture()

    def region(self) -> np.ndarray:
        """Where the edit may be, bool (H, W). Raises UserError: there is no mask here."""
        labels_HW = frame_labels(self.workspace, self._source(), self.frame)
        if labels_HW is None:
            raise UserError("there are no masks yet: say first where the edit is, and save them")
        if not labels_HW.any():
            raise UserError(f"frame {self.frame} has no mask, so nothing can be edited in it")
        return labels_HW > 0

    @property
    def _record(self) -> Path:
        return self.workspace.steps_dir(self.edit) / f"{self.frame:05d}.json"

    @property
    def _remedy(self) -> str:
        return f"put it back, or remove {self._record}: then steps begin anew from the edited frame"

    def _stored(self, name: str, suffix: str = ".png") -> Path:
        return self.workspace.steps_dir(self.edit) / "pictures" / f"{name}{suffix}"

    def _source(self) -> Source:
        source = self.workspace.read_source()
        if not 0 <= self.frame < source.frames:
            raise UserError(f"frame {self.frame}: there are frames 0 to {source.frames - 1} only")
        return source

    def _source_picture(self) -> Image:
        path, source = self.workspace.source_frame(self.frame), self._source()
        return read_sized(path, read_image, source.size)

    def _files(self) -> list[Path]:
        files = self.workspace.edited_files(self.edit, self.frame)
        if len(files) > 1:
            names = " and ".join(path.name for path in files)
            raise UserError(f"{names} are both frame {self.frame}: keep one")
        return files

    def _make(self, history: History) -> Image:
        source, source_HWC, region_HW = self._source(), self._source_picture(), self.region()
        base_HWC = source_HWC
        if history.base:
            _, base_HWC, _ = read_edited(self._base(history), source, source_HWC)
        silhouette, object_HW = self.workspace.silhouette(self.frame), region_HW
        if silhouette.is_file():
            object_HW = read_sized(silhouette, read_labels, source.size) > 0
        frame = Frame(source_HWC, base_HWC, object_HW, region_HW, self._picture)
        return retouched(frame, history.steps[: history.done], history.feather)

    def _picture(self, name: str) -> Image:
        path = self._stored(name)
        if not self._is_kept(name):
            raise UserError(f"{path}, which a step lays on, is gone or damaged: {self._remedy}")
        return read_with_alpha(path)

    def _is_kept(self, name: str) -> bool:
        path = self._stored(name)
        return path.is_file() and digest(path.read_bytes()) == name

    def _base(self, history: History) -> Path:
        """The edited frame with which steps begin: kept, or still in its place."""
        kept = self._stored(history.base_content, Path(history.base).suffix)
        for path in (kept, self.workspace.edit_dir(self.edit) / history.base):
            if path.is_file() and digest_file(path) == history.base_content:
                return path
        raise UserError(
            f"frame {self.frame}: what the steps began with is gone or damaged ({kept}): "
            f"{self._remedy}"
        )

    def _write(self, history: History) -> Path | None:
        """Write the picture, then how it was made."""
        if history.base:
            kept = self._stored(history.base_content, Path(history.base).suffix)
            if (base := self._base(history)) != kept:
                with replacing(kept) as scratch:
                    shutil.copyfile(base, scratch)
        if history.done:
            data, suffix = png_bytes(self._make(history)), ".png"
        elif history.base:
            data, suffix = self._base(history).read_bytes(), Path(history.base).suffix
        else:
            data, suffix = b"", ".png"
        target: Path | None = None
        if data:
            target = put_edited_frame(
                self.workspace, self.edit, self.frame, suffix, lambda part: part.write_bytes(data)
            )
        else:
            for path in self._files():
                remove(path)
        made = digest_file(target) if target else ""
        history.model_copy(update={"made": made}).write(self._record)
        return target

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else changes this edit meanwhile."""
        folder = self.workspace.steps_dir(self.edit)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(folder / ".lock", timeout=PATIENCE):
                yield
        except Timeout:
            raise UserError("this edit is being changed elsewhere just now: try again") from None


def forget_steps(workspace: Workspace, edit: str | None, frame: int) -> None:
    """Of a frame that is no longer edited, forget how it was made."""
    remove(workspace.steps_dir(edit) / f"{frame:05d}.json")
