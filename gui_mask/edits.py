"""Edited frames: out to an image editor, back in, and what they changed that they should not."""

import re
import shutil
from dataclasses import dataclass
from math import prod
from pathlib import Path

import cv2
import numpy as np

from gui_mask import words
from maskora.app.edits import find_edits, put_edited_frame, read_edited
from maskora.app.masking import frame_labels
from maskora.app.retouching import forget_steps
from maskora.app.workspace import Source, Workspace, edit_size, original_video
from maskora.errors import Fault, UserError
from maskora.files import remove, replacing, write_text
from maskora.masks import Labels
from maskora.video.differences import VISIBLE, measure_leakage
from maskora.video.images import image_size, picture_header, read_image, read_with_alpha, write_png
from maskora.video.read import read_frames

MOST_BYTES = 200_000_000  # of an uploaded picture
MOST_PIXELS = 50_000_000  # of an uploaded picture that is larger than the clip
MARK = np.array([255, 40, 40], np.float32)  # what changed outside the mask
OUTLINE = (255, 255, 255)
NAMED = re.compile(r"frame[-_ ]?([0-9]{1,9})|^([0-9]{5})$", re.IGNORECASE | re.ASCII)
SIZE = re.compile(r"[0-9]+x[0-9]+")
GAP = 8  # pixels between source and edit


@dataclass(frozen=True)
class EditedEntry:
    """One edited frame, to look at.

    Attributes:
        frame: its number in the workspace.
        path: the file.
        picture: (H, W, 3) uint8, source | edit, with the outline of what is edited; what differs
            outside is red.
        note: what the person should know of it.
    """

    frame: int
    path: Path
    picture: np.ndarray
    note: str


def frame_file(workspace: Workspace, frame: int, original_size: bool, scratch: Path) -> Path:
    """A source frame as a PNG to edit, in `scratch`, under a name that says what it is.

    Args:
        original_size: as the original video has it, instead of as the model sees it.

    Raises:
        UserError: there is no such frame, or the original is gone.
    """
    source = workspace.read_source()
    _check_frame(source, frame)
    width, height = source.original_size if original_size else source.size
    clip = re.sub(r"[^\w-]+", "_", Path(source.origin).stem)[:60] or "clip"
    target = scratch / f"{clip}-frame-{frame:05d}-{width}x{height}.png"
    if original_size:
        number = source.start + frame * source.every
        (image_HWC,) = read_frames(original_video(source), number, 1)
        write_png(target, image_HWC)
        return target
    path = workspace.source_frame(frame)
    if not path.is_file():
        raise UserError(f"{path} is missing: run maskora prepare again, with --overwrite")
    with replacing(target) as part:
        shutil.copyfile(path, part)
    return target


def take_upload(workspace: Workspace, edit: str | None, frame: int, file: Path) -> Path:
    """Make a picture the edited frame; an earlier one goes, all but its caption, once it is there.

    Raises:
        UserError: it is no PNG, JPEG or WebP, is damaged, or has another size than the clip.
        Fault: it could not be written; then the earlier one is untouched.
    """
    source = workspace.read_source()
    _check_frame(source, frame)
    suffix = _check_fits(file, source)
    try:
        return put_edited_frame(
            workspace, edit, frame, suffix, lambda part: shutil.copyfile(file, part)
        )
    except OSError as error:
        target = workspace.edited_frame(edit, frame, suffix)
        raise Fault(f"{target} could not be written: {error.strerror}") from None


def take_uploads(
    workspace: Workspace, edit: str | None, shown: int, files: list[Path]
) -> list[int]:
    """Make pictures the edited frames that their names say; the frames, in order.

    Args:
        shown: the frame that a single picture is of, whose name does not say.

    Raises:
        UserError: a name does not say, or as `take_upload`; then none was taken.
    """
    source = workspace.read_source()
    numbers = frames_of_names([file.name for file in files], shown)
    for file, frame in zip(files, numbers, strict=True):
        if not 0 <= frame < source.frames:
            raise UserError(words.other_clips_frame(file.name, frame, source.frames))
        _check_fits(file, source)
    for frame, file in sorted(zip(numbers, files, strict=True)):
        take_upload(workspace, edit, frame, file)
    return sorted(numbers)


def frames_of_names(names: list[str], shown: int) -> list[int]:
    """The frame that each picture is of, by its name: clip-frame-00012-832x480.png, 00012.png.

    Of several pictures, any last number counts (look_12.png). Raises UserError: one has none, or
    two have the same.
    """
    numbers = [NAMED.search(Path(name).stem) for name in names]
    if len(names) == 1:
        return [int(numbers[0][1] or numbers[0][2]) if numbers[0] else shown]
    found: dict[int, str] = {}
    for name, number in zip(names, numbers, strict=True):
        last = [int(number[1] or number[2])] if number else _last_number(Path(name).stem)
        if not last:
            raise UserError(words.which_frame(name))
        if last[0] in found:
            raise UserError(words.both_frame(found[last[0]], name, last[0]))
        found[last[0]] = name
    return list(found)


def _last_number(stem: str) -> list[int]:
    """The last number in a name, but for a size such as 832x480."""
    return [int(digits) for digits in re.findall(r"[0-9]{1,9}", SIZE.sub("", stem))][-1:]


def _check_fits(file: Path, source: Source) -> str:
    """The suffix of a picture that fits the clip. Raises UserError: it is none, or does not fit."""
    suffix = _check_upload(file, max(MOST_PIXELS, prod(source.original_size)))
    edit_size(file, image_size(file), source)  # before anything is unpacked
    read_image(file)
    return suffix


def read_upload(file: Path) -> np.ndarray:
    """A picture to be laid on a frame, (H, W, 3), or (H, W, 4) with transparency.

    Raises:
        UserError: it is no PNG, JPEG or WebP, is damaged, or too large.
    """
    _check_upload(file, MOST_PIXELS)
    return read_with_alpha(file)


def _check_upload(file: Path, most: int) -> str:
    """The suffix that a picture's content deserves. Raises UserError: it is none, or too large.

    Args:
        most: pixels.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such file")
    if file.stat().st_size > MOST_BYTES:
        raise UserError(f"{file} is larger than {MOST_BYTES / 1e6:g} MB, the most that is taken")
    suffix, stored = picture_header(file)
    if prod(stored) > most:
        raise UserError(
            f"{file} has {prod(stored) / 1e6:.0f} megapixels, and at most {MOST_PIXELS / 1e6:g} "
            f"are taken"
        )
    return suffix


def remove_edit(workspace: Workspace, edit: str | None, frame: int) -> None:
    """Remove an edited frame and its caption. Raises UserError where there is none."""
    if not (files := workspace.edited_files(edit, frame)):
        raise UserError(words.no_edited_frame(workspace.edit_dir(edit), frame))
    for file in files:
        remove(file.with_suffix(".txt"))
        remove(file)
    forget_steps(workspace, edit, frame)


def set_caption(workspace: Workspace, image: Path, text: str) -> None:
    """Write what an image shows into the .txt beside it; an empty text removes that."""
    place, folders = image.resolve(), (workspace.edits_dir, workspace.source_dir)
    if not place.is_file() or not any(place.is_relative_to(f.resolve()) for f in folders):
        raise UserError(words.no_image(image, workspace.root))
    beside, line = image.with_suffix(".txt"), " ".join(text.split())
    if line:
        write_text(beside, line.encode("utf-8", "replace").decode() + "\n")
    else:
        remove(beside)


def listing(workspace: Workspace, edit: str | None) -> list[EditedEntry]:
    """Every edited frame, in order; a picture that cannot be used says why.

    Raises:
        UserError: a file there is no frame, or two are the same one.
    """
    source = workspace.read_source()
    if not workspace.edit_dir(edit).is_dir():
        return []
    images = find_edits(workspace, edit, source.frames).images
    return [_entry(workspace, source, frame, images[frame]) for frame in sorted(images)]


def _entry(workspace: Workspace, source: Source, frame: int, path: Path) -> EditedEntry:
    source_HWC = read_image(workspace.source_frame(frame))
    try:
        _, edited_HWC, notes = read_edited(path, source, source_HWC)
        labels_HW = frame_labels(workspace, source, frame)
    except UserError as error:
        alone = side_by_side(source_HWC, np.zeros_like(source_HWC), None)
        return EditedEntry(frame, path, alone, str(error))
    picture = side_by_side(source_HWC, edited_HWC, labels_HW)
    note = _note(frame, source_HWC, edited_HWC, labels_HW)
    return EditedEntry(frame, path, picture, ". ".join([*notes, note]))


def _note(
    frame: int, source_HWC: np.ndarray, edited_HWC: np.ndarray, labels_HW: Labels | None
) -> str:
    if labels_HW is None:
        return words.NO_MASKS_YET
    inside_HW = labels_HW > 0
    if not inside_HW.any():
        return words.no_mask_in(frame)
    is_same = np.array_equal(edited_HWC[inside_HW], source_HWC[inside_HW])
    first = f"{words.SAME_INSIDE} " if is_same else ""
    spill = measure_leakage(edited_HWC, source_HWC, labels_HW)
    if spill.share > 0.01:
        return first + words.differs_outside(spill.share, spill.mean)
    return first + words.SAME_OUTSIDE


def side_by_side(
    source_HWC: np.ndarray, edited_HWC: np.ndarray, labels_HW: np.ndarray | None
) -> np.ndarray:
    """source | edit; with masks, their outline, and in red what differs outside of them."""
    left, right = source_HWC.copy(), edited_HWC.copy()
    if labels_HW is not None:
        spill = measure_leakage(edited_HWC, source_HWC, labels_HW).difference_HW > VISIBLE
        right[spill] = (0.35 * right[spill] + 0.65 * MARK).astype(np.uint8)
        inside = (labels_HW > 0).astype(np.uint8)
        outlines, _ = cv2.findContours(inside, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
        for half in (left, right):
            cv2.drawContours(half, outlines, -1, OUTLINE, 1)
    gap = np.zeros((left.shape[0], GAP, 3), np.uint8)
    return np.concatenate([left, gap, right], axis=1)


def _check_frame(source: Source, frame: int) -> None:
    if not 0 <= frame < source.frames:
        raise UserError(words.no_frame(frame, source.frames))
