"""One open workspace: clicks, undo, tracking in the background, saving. No widgets.

Every page on the same workspace shares the one session, so nothing that one does is lost to the
other. What is done is stored in the workspace at once.
"""

import secrets
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2

from gui_mask import words
from maskora.app.masking import (
    absence_notes,
    load_frames,
    load_markup,
    masks_are_by_hand,
    save_masks,
    store_markup,
    stored_silhouettes,
)
from maskora.app.workspace import LONGEST_NAME, ObjectRecord, Workspace, opened, working
from maskora.config import Config, load_config, set_values
from maskora.config.tables import Mask, MaskShape
from maskora.errors import Fault, UserError
from maskora.frames import KEPT, digest_frames
from maskora.masks.markup import Markup
from maskora.masks.prompts import Prompt
from maskora.masks.shapes import Boxes, object_boxes
from maskora.masks.trackers import open_tracker
from maskora.masks.tracking import Direction, ObjectTracker
from maskora.retouch import Paint, stroke

JPEG_QUALITY = 90
STORE_EVERY = 10  # frames that are tracked


@dataclass(frozen=True)
class Region:
    """The settings of [mask] that are chosen by looking."""

    shape: MaskShape
    margin: float
    smooth: int

    @classmethod
    def of(cls, mask: Mask) -> "Region":
        """Those of a configuration."""
        return cls(mask.shape, mask.margin, mask.smooth)

    def within(self, mask: Mask) -> Mask:
        """A configuration's settings with these in their place."""
        return mask.model_copy(update=vars(self))


class TrackingJob:
    """One pass through the clip, in a thread of its own: closing the page does not end it.

    Attributes:
        done, total: how many frames are through, of how many.
    """

    def __init__(
        self,
        steps: Iterator[int],
        total: int,
        on_frame: Callable[[int], None],
        on_end: Callable[[str], None],
    ) -> None:
        """Start.

        Args:
            steps: does the work; yields each frame when it is done.
            on_frame: is given each of them.
            on_end: is given how it ended, in a sentence for the person; empty where all went well.
        """
        self.done, self.total = 0, total
        self._steps, self._on_frame, self._on_end = steps, on_frame, on_end
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tracking", daemon=True)
        self._thread.start()

    @property
    def runs(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        """Stop after the frame in hand, and wait for that."""
        self._enough.set()
        self._thread.join()

    def _run(self) -> None:
        ending = words.BUG
        try:
            ending = self._work()
        except (UserError, Fault) as error:
            ending = str(error)
        except RuntimeError as error:  # torch's out-of-memory error, known without importing torch
            if type(error).__name__ != "OutOfMemoryError":
                raise
            ending = words.NO_ROOM
        finally:
            self._on_end(ending)

    def _work(self) -> str:
        for frame in self._steps:
            self.done += 1
            self._on_frame(frame)
            if self._enough.is_set():
                return words.stopped_after(self.done, self.total)
        return ""


class Session:
    """A workspace that is open in at least one page.

    Attributes:
        workspace: the folder.
        source: its clip.
        token: the session's unguessable name.
        version: rises with every change.
        versions: of each frame's labels and clicks.
        markup: what was pointed at, and what came of it.
        region: how silhouettes become the region that is edited.
        names: what the person calls the objects, by their numbers.
        message: what the person should know of the last thing that ended by itself.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.source = workspace.read_source()
        self.token = secrets.token_urlsafe(16)
        self.version = 1
        self.versions = [1] * self.source.frames
        self.message = ""
        self.region = Region.of(self.config.mask)
        self._lock = threading.RLock()
        self._jpeg = lru_cache(maxsize=KEPT)(self._encode_jpeg)
        self._shown = (0, "")  # a version, and the content of its labels
        self._tracker: ObjectTracker | None = None
        self._tracking: TrackingJob | None = None
        self._boxes: tuple[object, Boxes, tuple[int, ...], tuple[str, ...]] | None = None
        with ExitStack() as holding:
            holding.enter_context(opened(workspace))
            self._frames_THWC = load_frames(workspace, self.source)
            self.markup: Markup = load_markup(workspace, self.source)
            self.names = workspace.read_names()
            self._saved = digest_frames(stored_silhouettes(workspace, self.source))
            self._holding = holding.pop_all()

    @property
    def config(self) -> Config:
        """edit.toml as it is now. Raises UserError."""
        return load_config(self.workspace.config)

    @property
    def origin(self) -> Path:
        return Path(self.source.origin)

    @property
    def tracking(self) -> TrackingJob | None:
        """The pass that is under way, if any."""
        return self._tracking if self._tracking and self._tracking.runs else None

    @property
    def is_saved(self) -> bool:
        """Whether masks/ are what is shown."""
        if self._shown[0] != self.version:
            self._shown = (self.version, digest_frames(self.markup.shown_THW))
        return self._shown[1] == self._saved and self.region == Region.of(self.config.mask)

    @property
    def is_by_hand(self) -> bool:
        """Whether the person has painted in masks/ since they were made."""
        return masks_are_by_hand(self.workspace, self.source)

    @property
    def is_ready(self) -> bool:
        """Whether the tracker is open: the first click waits until it is."""
        return self._tracker is not None

    def frame_jpeg(self, frame: int) -> bytes:
        return self._jpeg(frame)

    def boxes(self, min_area: float) -> tuple[Boxes, tuple[int, ...], tuple[str, ...]]:
        """What `object_boxes` says of what is shown; found once per change of the labels."""
        key = (max(self.versions), min_area)
        if self._boxes is None or self._boxes[0] != key:
            self._boxes = (key, *object_boxes(self.markup.shown_THW, min_area))
        return self._boxes[1:]

    def point(self, prompts: Iterable[Prompt]) -> None:
        """Add clicks and boxes, in pixels of the frames. Raises UserError; nothing changes then."""
        with self._changing():
            self.markup.point(self._open_tracker(), prompts)

    def paint(self, frame: int, object_id: int, drawn: Paint, positive: bool) -> None:
        """Draw a stroke of the brush, or erase with it. Raises UserError; see `Markup.paint`."""
        with self._changing():
            brush_HW = stroke(drawn.points, drawn.radius, self.source.size[::-1]) > 0.5
            self.markup.paint(frame, object_id, brush_HW, positive)

    def undo(self) -> None:
        """Take the last action back. Raises UserError where there is none."""
        with self._changing():
            if self.markup.undo() is None:
                raise UserError(words.NO_UNDO)

    def redo(self) -> None:
        """Do again what was taken back last. Raises UserError where there is nothing."""
        with self._changing():
            if self.markup.redo() is None:
                raise UserError(words.NO_REDO)

    def name(self, number: int, text: str) -> None:
        """Call an object something; an empty text takes its name back. Raises UserError."""
        name = " ".join(text.split())
        if len(name) > LONGEST_NAME:
            raise UserError(words.long_name(LONGEST_NAME))
        with self._lock:
            names = {n: one for n, one in {**self.names, number: name}.items() if one}
            ObjectRecord.model_validate({"names": names}).write(self.workspace.object_record)
            self.names = names
            self.version += 1

    def clear_frame(self, frame: int) -> None:
        """Take a frame's clicks, boxes and paintings back."""
        with self._changing():
            self.markup.clear_frame(frame)

    def clear_object(self, number: int) -> None:
        with self._changing():
            self.markup.clear_object(number)

    def follow(self, start: int | None, direction: Direction) -> None:
        """Begin to follow the objects, in the background. Raises UserError where it cannot."""
        with self._lock:
            self._refuse_while_tracking()
            total = self.markup.steps(start, direction)
            steps = self.markup.follow(self._open_tracker(), start, direction)
            self.message = ""
            self._tracking = TrackingJob(steps, total, self._take_step, self._end_tracking)

    def stop_tracking(self) -> None:
        """Stop after the frame in hand; what is done stays."""
        if self._tracking:
            self._tracking.stop()

    def set_tracker(self, kind: str, checkpoint: str) -> None:
        """Choose who follows; written into edit.toml. Raises UserError."""
        with self._lock:
            self._refuse_while_tracking()
            values = {"tracker.type": kind, "tracker.checkpoint": checkpoint}
            set_values(self.workspace.config, values)
            self.release()

    def set_region(self, region: Region) -> None:
        """Choose the region's settings; they are written when it is saved."""
        with self._lock:
            if region != self.region:
                self.region = region
                self.version += 1

    def save(self, replace_by_hand: bool = False) -> list[str]:
        """Make masks/ of what is shown, and write the region's settings into edit.toml.

        Returns:
            notes for the person.

        Raises:
            UserError: nothing is marked, masks/ were painted by hand and may not be replaced, or a
                command works with them.
        """
        with self._lock, working(self.workspace):
            self._refuse_while_tracking()
            self._store()
            chosen, settings = vars(self.region), self.region.within(self.config.mask)
            # Settings without their masks make these anew later; masks without them would not last.
            set_values(self.workspace.config, {f"mask.{key}": chosen[key] for key in chosen})
            _, notes = save_masks(
                self.workspace, self.source, self.markup, settings, replace_by_hand
            )
            self._saved = digest_frames(self.markup.shown_THW)
            self.version += 1
            return notes

    def release(self) -> None:
        """Free the tracker's memory; it is opened again when it is needed.

        Raises:
            UserError: it is at work.
        """
        with self._lock:
            self._refuse_while_tracking()
            if self._tracker is not None:
                self._tracker.close()
                self._tracker = None

    def close(self) -> None:
        """Stop what is under way, free everything, and let others have the workspace."""
        self.stop_tracking()
        self.release()
        self._holding.close()

    def _encode_jpeg(self, frame: int) -> bytes:
        bgr_HWC = self._frames_THWC[frame][..., ::-1]
        quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        return cv2.imencode(".jpg", bgr_HWC, quality)[1].tobytes()

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Change the markup, then store it; what raises in between has changed nothing."""
        with self._lock:
            self._refuse_while_tracking()
            self.message = ""
            yield
            for frame in self.markup.changed:
                self.versions[frame] = self.version + 1
            self.version += 1
            self._store()

    def _store(self) -> None:
        store_markup(self.workspace, self.source, self.markup)

    def _touch(self, frame: int) -> None:
        self.version += 1
        self.versions[frame] = self.version

    def _take_step(self, frame: int) -> None:
        """A frame was followed; now and then, what is done is stored."""
        self._touch(frame)
        if self.version % STORE_EVERY == 0:
            with suppress(OSError):  # tried again at the end, and reported then
                self._store()

    def _end_tracking(self, ending: str) -> None:
        self.message = ending or "; ".join(absence_notes(self.markup, self.names)) or words.TRACKED
        for frame in self.markup.changed:
            self._touch(frame)
        try:
            self._store()
        except OSError as error:
            self.message = f"{error.strerror}: {words.IN_PAGE}"

    def _open_tracker(self) -> ObjectTracker:
        if self._tracker is None:
            settings, root = self.config.tracker, self.workspace.root
            self._tracker = open_tracker(settings, self._frames_THWC, root)
        return self._tracker

    def _refuse_while_tracking(self) -> None:
        if self.tracking:
            raise UserError(words.TRACKING_NOW)
