"""The edits of a workspace: found by their name (--edit), read, checked and fitted to the clip."""

import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from maskora.app.captions import settle_captions
from maskora.app.first_frame import make_first_frame
from maskora.app.masking import load_frames, load_masks, load_silhouettes
from maskora.app.workspace import (
    EDIT_NAME,
    Source,
    Workspace,
    check_video_settings,
    edit_size,
)
from maskora.config import Config
from maskora.errors import UserError
from maskora.files import (
    IMAGE_SUFFIXES,
    IMAGES,
    is_hidden,
    move,
    remove,
    replacing,
    sha256_file,
)
from maskora.frames import Frames
from maskora.video.composite import composite, feather_alpha
from maskora.video.differences import VISIBLE, Leakage, measure_leakage
from maskora.video.fit import fit_image, resize
from maskora.video.images import read_with_alpha

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger("maskora")
# Pixels over which the source outside meets the edit inside, in what the model sees. Not
# inference.feather: that one is about the finished frames, and changing it must not retrain.
SPILL_FEATHER = 8.0
WHOLE = slice(None)
# Pictures that are no edited frames, but that a person may take for some.
PICTURES = (".avif", ".gif", ".heic", ".heif", ".jp2", ".jxl", ".tga")


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


@dataclass(frozen=True)
class Clip:
    """The source as prepared; its pictures are read when they are needed.

    Attributes:
        source: what source.json says.
        frames_THWC: uint8 frames at the workspace's size.
        labels_THW: final masks, 0 keep, 1..n objects.
    """

    source: Source
    frames_THWC: Frames
    labels_THW: Frames

    def video(self, part: slice = WHOLE) -> "Tensor":
        """Pixels of some frames (all of them by default) in [-1, 1], shape (3, T, H, W)."""
        import torch

        from maskora.method.conditioning import to_unit

        return to_unit(torch.from_numpy(self.frames_THWC[part]))

    def keep(self, part: slice = WHOLE) -> "Tensor":
        """The keep mask of some frames, shape (T, H, W): 1 = keep, 0 = generate."""
        import torch

        return torch.from_numpy(self.labels_THW[part] == 0).float()


@dataclass(frozen=True)
class EditedFrame:
    """One edited frame.

    Attributes:
        path: the file.
        given_HWC: as the person gave it, at the workspace's or the original's size; one with
            transparency as it is fitted.
        fitted_HWC: the same at the workspace's size.
        image_HWC: what the model sees: what lies outside the mask taken from the source
            (with spill = "keep", as it is).
        leakage: how it differed outside.
        caption: what it shows.
        sha256: of the file when it was read.
    """

    path: Path
    given_HWC: np.ndarray
    fitted_HWC: np.ndarray
    image_HWC: np.ndarray
    leakage: Leakage
    caption: str
    sha256: str

    def picture(self) -> "Tensor":
        """`image_HWC` as pixels in [-1, 1], shape (3, H, W)."""
        import torch

        from maskora.method.conditioning import to_unit

        return to_unit(torch.from_numpy(self.image_HWC)[None])[:, 0]


@dataclass(frozen=True)
class Edit:
    """An edit: the first frame, and later keyframes by number."""

    first: EditedFrame
    keyframes: dict[int, EditedFrame]

    @property
    def all(self) -> dict[int, EditedFrame]:
        """Every edited frame by number."""
        return {0: self.first, **self.keyframes}


def find_edits(workspace: Workspace, edit: str | None, frames: int) -> EditFiles:
    """The edited images of an edit; a picture that is no frame is an error, never ignored.

    What image editors and file managers leave beside the pictures is left out, with a note.

    Args:
        edit: the name that --edit gives, or None for the unnamed one.
        frames: how many frames the clip has.
    """
    folder = workspace.edit_dir(edit)
    if not folder.is_dir():
        names = ", ".join(workspace.named_edits()) or "none"
        raise UserError(f"{folder}: no such folder (named edits here: {names})")
    images: dict[int, Path] = {}
    others: list[str] = []
    for path in sorted(folder.iterdir()):
        is_named_edit = path.is_dir() and edit is None and EDIT_NAME.fullmatch(path.name)
        if is_named_edit or is_hidden(path):
            continue
        if path.is_file() and path.suffix.lower() not in (*IMAGE_SUFFIXES, *PICTURES, ".txt"):
            others.append(path.name)
            continue
        frame = _frame_number(path, frames)
        if path.suffix.lower() == ".txt":
            continue
        if frame in images:
            raise UserError(f"{path} and {images[frame].name} are both frame {frame}: keep one")
        images[frame] = path
    if others:
        _note_left_out(folder, ", ".join(others))
    known = {path.stem for path in images.values()}
    for caption in sorted(folder.glob("*.txt")):
        if caption.stem not in known:
            log.warning("note: %s has no edited frame beside it", caption)
    return EditFiles(folder, images)


@cache
def _note_left_out(folder: Path, names: str) -> None:
    """Say it once in a run, however often an edit is looked for."""
    log.warning("note: %s: no edited frames, left out: %s", folder, names)


def _frame_number(path: Path, frames: int) -> int:
    suffix = path.suffix.lower()
    is_frame = re.fullmatch(r"[0-9]+", path.stem) and not path.is_dir()
    if suffix not in (*IMAGE_SUFFIXES, ".txt") or not is_frame:
        raise UserError(
            f"{path} is not a frame: edited frames are named by their number, as 00000.png "
            f"({IMAGES}), with a caption in a .txt beside"
        )
    if int(path.stem) >= frames:
        raise UserError(f"{path}: the clip has frames 0 to {frames - 1} only")
    return int(path.stem)


def put_edited_frame(
    workspace: Workspace,
    edit: str | None,
    frame: int,
    suffix: str,
    write: Callable[[Path], object],
) -> Path:
    """Write a frame's edited picture; an earlier one goes, all but its caption, once it is there.

    Args:
        suffix: of the new file.
        write: is given where to write it.
    """
    target = workspace.edited_frame(edit, frame, suffix)
    with replacing(target) as part:
        write(part)
    for old in workspace.edited_files(edit, frame):
        if not old.samefile(target):  # 00000.PNG may be 00000.png
            _hand_over(old, target)
    return target


def _hand_over(old: Path, target: Path) -> None:
    """Remove an earlier file of a frame; its caption goes to the new one."""
    caption, new_caption = old.with_suffix(".txt"), target.with_suffix(".txt")
    if caption != new_caption and caption.is_file():
        if new_caption.exists():
            remove(caption)
        else:
            move(caption, new_caption)
    remove(old)


def load_clip(workspace: Workspace, config: Config) -> Clip:
    """Read the source frames and masks. Raises UserError where they and edit.toml disagree."""
    source = workspace.read_source()
    check_video_settings(workspace, config, source)
    frames_THWC = load_frames(workspace, source)
    return Clip(source, frames_THWC, load_masks(workspace, config.mask, source))


def load_edit(
    workspace: Workspace,
    config: Config,
    clip: Clip,
    edit: str | None,
    captioned: Iterable[Path] = (),
) -> Edit:
    """Read an edit's frames and captions, fit them, and settle what lies outside the mask.

    Where a thing is to be removed and there is no first frame yet, one is made.

    Args:
        captioned: other images whose captions will be asked for: those that are missing are
            written along with the edit's, so that the captioner is loaded once.
    """
    files = find_edits(workspace, edit, clip.source.frames)
    if config.motion.task == "remove":
        shown_THW = load_silhouettes(workspace, clip.source) or clip.labels_THW
        if made := make_first_frame(workspace, edit, shown_THW):
            log.info("%s", made)
        files = find_edits(workspace, edit, clip.source.frames)
    paths = {0: files.first, **files.keyframes}
    pictures, digests = {}, {}
    for frame, path in paths.items():
        pictures[frame] = read_edited(path, clip.source, clip.frames_THWC[frame])
        digests[frame] = sha256_file(path)  # now: the work takes an hour, and people edit meanwhile
    captions = settle_captions(config, workspace, [*paths.values(), *captioned])
    frames = {
        frame: _fit_frame(
            path, frame, pictures[frame], clip, config, captions[path], digests[frame]
        )
        for frame, path in paths.items()
    }
    return Edit(frames.pop(0), frames)


def load_keyframes(
    workspace: Workspace, config: Config, clip: Clip, edit: str | None, required: bool
) -> Edit | None:
    """The edit with its keyframes; None where it has none, so that there is nothing to learn."""
    files = find_edits(workspace, edit, clip.source.frames)
    if not files.keyframes:
        if required:
            raise UserError(
                f"{files.folder} holds no edited keyframe besides frame 0, so there is nothing "
                f"for the appearance stage to learn: save one as {files.folder / '00024.png'}, say"
            )
        log.info("appearance: skipped, there is no edited keyframe besides frame 0")
        return None
    loaded = load_edit(workspace, config, clip, edit, captioned=[workspace.source_frame(0)])
    report_leakage(loaded, config.appearance.spill)
    return loaded


def report_leakage(edit: Edit, rule: str) -> None:
    """Log how much each edited frame differs from its source outside the mask."""
    for frame, edited in edit.all.items():
        if edited.leakage.share > 0.01:
            fate = "taken from the source" if rule == "source" else "kept as edited"
            log.warning(
                "%s differs from source frame %d outside the mask: by more than %d of 255 levels "
                "on %.0f%% of it (mean %.1f); the outside is %s (appearance.spill)",
                edited.path, frame, VISIBLE, 100 * edited.leakage.share, edited.leakage.mean, fate,
            )  # fmt: skip


def read_edited(
    path: Path, source: Source, source_HWC: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """An edited picture at the size at which it is used, the same fitted, and notes.

    Args:
        source_HWC: the source frame, which shows through where the picture is transparent; then
            there is the fitted one alone.

    Raises:
        UserError: it is no image, damaged, or has another shape than the clip.
    """
    picture = read_with_alpha(path)
    given, notes = picture[..., :3], []
    own = given.shape[1], given.shape[0]
    size = edit_size(path, own, source)
    share_HW1 = None
    if picture.shape[2] == 4 and picture[..., 3].min() < 255:
        share_HW1 = picture[..., 3:].astype(np.float32) / 255
        given = given * share_HW1  # what is hidden must not bleed into what is seen
        notes.append(f"{path}: where it is transparent the source shows through")
    if size != own:
        notes.append(f"{path}: {own[0]}x{own[1]} is resized to {size[0]}x{size[1]}")

    def fit(image: np.ndarray) -> np.ndarray:
        return image if size == source.size else fit_image(image, source.placement)

    given = resize(given, size)
    fitted = fit(given)
    if share_HW1 is not None:
        shown_HW1 = np.clip(np.atleast_3d(fit(resize(share_HW1, size))), 0, 1)
        over = fitted + source_HWC * (1 - shown_HW1)
        given = fitted = np.clip(np.rint(over), 0, 255).astype(np.uint8)
    return given, fitted, notes


def _fit_frame(
    path: Path,
    frame: int,
    picture: tuple[np.ndarray, np.ndarray, list[str]],
    clip: Clip,
    config: Config,
    caption: str,
    sha256: str,
) -> EditedFrame:
    source, labels = clip.frames_THWC[frame], clip.labels_THW[frame]
    given, fitted, notes = picture
    for note in notes:
        log.warning("note: %s", note)
    inside, image = labels > 0, fitted
    if config.appearance.spill == "source":
        image = composite(source, fitted, feather_alpha(inside, SPILL_FEATHER))
    if frame and not inside.any():
        raise UserError(f"{path}: frame {frame} has no mask, so nothing of this edit would be used")
    if np.array_equal(fitted[inside], source[inside]):
        log.warning("note: %s is the same as the source inside the mask", path)
    leakage = measure_leakage(fitted, source, labels)
    return EditedFrame(path, given, fitted, image, leakage, caption, sha256)
