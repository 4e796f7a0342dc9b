"""Masks of a workspace: made of what the person gave, clicked or tracked, and read again.

masks/raw/ holds silhouettes (as given or tracked), masks/ the final masks that [mask] makes of
them, tracking/ the clicks and what a tracker made of them so far.
"""

import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import replace
from math import prod
from pathlib import Path

import cv2
import numpy as np

from maskora.app.exchange import exchange
from maskora.app.first_frame import make_first_frame
from maskora.app.workspace import (
    SAME_SHAPE,
    FrameRecord,
    MaskRecord,
    Source,
    TrackingRecord,
    Workspace,
    read_record,
    working,
    workspace_lock,
)
from maskora.config import Config
from maskora.config.tables import Mask
from maskora.config.tables import Tracker as TrackerSettings
from maskora.errors import UserError
from maskora.files import IMAGE_SUFFIXES, digest, digest_file, digest_files, remove
from maskora.frames import Frames, LazyFrames, PackedLabels, frames_of_files, read_sized
from maskora.masks.files import (
    check_not_empty,
    match_length,
    read_labels,
    read_mask_folder,
    read_mask_frames,
    write_labels,
)
from maskora.masks.markup import Markup
from maskora.masks.prompts import (
    Box,
    Click,
    Mark,
    Painting,
    Prompt,
    check_inside,
    parse_box,
    parse_click,
    parse_paint,
)
from maskora.masks.shapes import final_masks, frame_ranges, static_box_labels
from maskora.masks.trackers import open_tracker
from maskora.masks.tracking import split
from maskora.progress import track
from maskora.system import quoted
from maskora.video.composite import contact_sheet
from maskora.video.fit import FramePlacement, fit_labels
from maskora.video.images import read_image, write_png
from maskora.video.probe import VideoInfo, probe
from maskora.video.read import read_frames

log = logging.getLogger("maskora")
OVERVIEW_FRAMES = 12
PAINTED = re.compile(r"([0-9]{1,9}),([0-9]{1,3})")  # a record may be anybody's


def given_silhouettes(
    mask: Path | None, box: str | None, info: VideoInfo, config: Config, placement: FramePlacement
) -> Frames | None:
    """The masks that the person gave: labels (T, H, W) uint8 on the workspace's frames, or None.

    Raises:
        UserError: what was given is empty, of the wrong length or outside.
    """
    if mask is not None and box is not None:
        raise UserError("give --mask or --box, not both")
    width, height = placement.size
    if mask is not None:
        given = _read_mask(mask, info, config)
        check_not_empty(given, str(mask))
        fitted: Frames = PackedLabels(_fit_mask(one_HW, placement, mask) for one_HW in given)
    elif box is not None:
        labels = static_box_labels(_parse_box(box), 1, info.height, info.width)[0]
        fitted = _in_every_frame(fit_labels(labels, placement), config.video.count)
    elif config.mask.shape == "full":
        fitted = _in_every_frame(np.ones((height, width), np.uint8), config.video.count)
    else:
        return None
    if not any(labels.any() for labels in fitted):
        raise UserError(
            "the mask lies wholly in the part that is cropped away; try --set video.fit=pad"
        )
    return fitted


def _in_every_frame(labels_HW: np.ndarray, frames: int) -> Frames:
    return LazyFrames(lambda _: labels_HW, (frames, *labels_HW.shape))


def build_masks(
    workspace: Workspace, silhouettes_THW: Frames, settings: Mask, source: Source
) -> tuple[Frames, tuple[str, ...]]:
    """Write masks/ as a whole or not at all (silhouettes and final masks), and the overview.

    Whoever calls this holds the workspace.

    Returns:
        the final labels, (T, H, W), and notes for the person.
    """
    labels_THW, notes = final_masks(silhouettes_THW, settings, source.cell)
    check_not_empty(labels_THW, "the mask, after specks under [mask] min_area are dropped,")
    notes = (*notes, *_first_frame_notes(labels_THW, source))
    count = range(source.frames)
    with exchange(workspace.root) as scratch:
        built = Workspace(scratch)
        for number, (silhouette_HW, labels_HW) in enumerate(
            zip(silhouettes_THW, labels_THW, strict=True)
        ):
            write_labels(built.silhouette(number), silhouette_HW)
            write_labels(built.mask(number), labels_HW)
        record = MaskRecord(
            settings=_settings_digest(settings, source),
            silhouettes=digest_files([built.silhouette(n) for n in count]),
            masks=digest_files([built.mask(n) for n in count]),
        )
        record.write(built.mask_record)
    draw_overview(workspace, labels_THW)
    return labels_THW, notes


def _first_frame_notes(labels_THW: Frames, source: Source) -> list[str]:
    """A sentence where the edit of the first frame would be lost."""
    first = next(frame for frame, labels_HW in enumerate(labels_THW) if labels_HW.any())
    if first == 0:
        return []
    return [
        f"frame 0 lies outside the mask, which begins in frame {first}: an edit of frame 0 would "
        f"be lost. Prepare again from there, with --start {source.start + first * source.every}"
    ]


def load_masks(workspace: Workspace, settings: Mask, source: Source) -> Frames:
    """The final labels (T, H, W), made anew where [mask] or a silhouette has changed since.

    Masks that the person has changed by hand are taken as they are. Raises UserError where there
    are none, or one is missing, damaged or of another size.
    """
    finals = [workspace.mask(n) for n in range(source.frames)]
    raws = [workspace.silhouette(n) for n in range(source.frames)]
    if not workspace.mask_record.is_file():
        root = quoted(workspace.root)
        raise UserError(
            f"{workspace.masks_dir} is not there yet: where is the edit? Click it in maskora gui "
            f"{root}, or say so: maskora track {root} --click {quoted('FRAME,X,Y,+')}"
        )
    _refuse_missing(finals)
    record = workspace.read_mask_record()
    changed = ["[mask]"] if _settings_digest(settings, source) != record.settings else []
    if all(path.is_file() for path in raws) and digest_files(raws) != record.silhouettes:
        changed.append("masks/raw")
    by_hand = masks_are_by_hand(workspace, source)
    if changed and by_hand:
        log.warning(
            "note: masks/ were changed by hand, so the change of %s has no effect",
            " and ".join(changed),
        )
    if not changed or by_hand:
        # Kept in memory: a person may paint in them while a run goes on.
        labels_THW: Frames = _read_labels(finals, source)
        check_not_empty(labels_THW, str(workspace.masks_dir))
        return labels_THW
    log.info("masks: made anew from masks/raw, because %s changed", " and ".join(changed))
    with working(workspace):
        labels_THW, notes = build_masks(workspace, _read_labels(raws, source), settings, source)
    for note in notes:
        log.info("note: %s", note)
    return labels_THW


def frame_labels(workspace: Workspace, source: Source, frame: int) -> np.ndarray | None:
    """The final mask of one frame as it lies there, (H, W); None where there is none yet."""
    path = workspace.mask(frame)
    return read_sized(path, read_labels, source.size) if path.is_file() else None


def load_silhouettes(workspace: Workspace, source: Source) -> Frames | None:
    """The silhouettes that the masks were made of, read when needed; None where one is missing."""
    raws = [workspace.silhouette(n) for n in range(source.frames)]
    if not all(path.is_file() for path in raws):
        return None
    shape = (source.frames, *source.size[::-1])
    return LazyFrames(lambda n: read_sized(raws[n], read_labels, source.size), shape)


def masks_are_by_hand(workspace: Workspace, source: Source) -> bool:
    """True where the person has painted in masks/ since they were made."""
    finals = [workspace.mask(n) for n in range(source.frames)]
    if not workspace.mask_record.is_file() or not all(path.is_file() for path in finals):
        return False
    return digest_files(finals) != workspace.read_mask_record().masks


def share_inside(labels_THW: Frames) -> float:
    """The share of the picture that masks cover, over all frames."""
    return sum(map(np.count_nonzero, labels_THW)) / prod(labels_THW.shape)


def draw_overview(workspace: Workspace, labels_THW: Frames) -> None:
    """Draw source/overview.png: frames spread over the clip, with the masks."""
    count = min(OVERVIEW_FRAMES, len(labels_THW))
    numbers = [int(n) for n in np.linspace(0, len(labels_THW) - 1, count).round()]
    frames = [read_image(workspace.source_frame(n)) for n in numbers]
    sheet = contact_sheet(frames, [labels_THW[n] for n in numbers], captions=numbers)
    write_png(workspace.overview, sheet)


def track_workspace(
    config: Config, workspace: Workspace, overwrite: bool, say: Callable[[str], None]
) -> None:
    """Follow what [tracker] points at through the clip, and write masks/.

    Args:
        overwrite: masks that were painted by hand may be replaced.
        say: takes a line for the person at a time.

    Raises:
        UserError: nothing is pointed at, or a point lies outside, or the tracker cannot be had.
    """
    source = workspace.read_source()
    with workspace_lock(workspace):
        if not overwrite:
            _refuse_painted(workspace, source)
        earlier, settings = workspace.read_tracking(), config.tracker
        given = len(settings.clicks) + len(settings.boxes) + len(settings.paintings)
        if given and earlier and earlier.prompts:
            say(f"note: {len(earlier.prompts)} earlier clicks and boxes are replaced by {given}")
        prompts = _prompts_to_follow(config, workspace, source)
        frames_THWC = load_frames(workspace, source)
        nothing = _in_every_frame(np.zeros(source.size[::-1], np.uint8), source.frames)
        markup = Markup(PackedLabels(nothing), PackedLabels(nothing))
        with closing(open_tracker(settings, frames_THWC, workspace.root)) as tracker:
            say(f"tracker: {tracker.label}")
            if settings.type == "simple" and settings.checkpoint != TrackerSettings().checkpoint:
                say('note: tracker.checkpoint has no effect here: tracker.type is "simple"')
            markup.point(tracker, prompts)
            for _ in track(markup.follow(tracker), "track", markup.steps()):
                pass
        labels_THW, notes = save_masks(workspace, source, markup, config.mask, overwrite)
        store_markup(workspace, source, markup)
        if config.motion.task == "remove":
            notes += filter(None, [make_first_frame(workspace, None, markup.shown_THW)])
    for note in notes:
        say(f"note: {note}")
    objects = len({number for labels_HW in labels_THW for number in split(labels_HW)})
    say(
        f"{workspace.masks_dir}: {objects} object{'s' if objects > 1 else ''}, "
        f"{share_inside(labels_THW):.0%} of the picture inside the mask"
    )
    say(f"look at  {workspace.overview}")


def load_frames(workspace: Workspace, source: Source) -> Frames:
    """The clip, (T, H, W, 3) uint8. Raises UserError: a frame is not as prepare wrote it."""
    paths = [workspace.source_frame(n) for n in range(source.frames)]
    _refuse_missing(paths)
    frames_THWC = frames_of_files(paths, read_image, source.size)
    check_frames(workspace, source)
    return frames_THWC


def check_frames(workspace: Workspace, source: Source) -> None:
    """Source frames are what prepare wrote; versions before have not recorded it.

    Raises:
        UserError: one is not.
    """
    if not workspace.frame_record.exists():
        return
    recorded = dict(enumerate(read_record(FrameRecord, workspace.frame_record).digests))
    for number in range(source.frames):
        path = workspace.source_frame(number)
        if digest_file(path) != recorded.get(number):
            raise UserError(
                f"{path} is not what prepare wrote: it was damaged, or an edit was saved over it "
                f"(edited frames go into {workspace.edits_dir}: move yours there). Then run "
                f"maskora prepare again, with --overwrite (edits/ stay)"
            )


def load_markup(workspace: Workspace, source: Source) -> Markup:
    """Clicks and what was tracked so far; else the silhouettes that the masks came from."""
    record = workspace.read_tracking()
    if record is None:
        shown_THW = stored_silhouettes(workspace, source)
        markup = Markup(PackedLabels(shown_THW), shown_THW)
        marked = (frame for frame, labels_HW in enumerate(shown_THW) if labels_HW.any())
        markup.changed.update(marked)  # not in tracking/ yet
        return markup
    prompts = _stored_prompts(record, workspace, source)
    shown_THW = _stored_labels(source, workspace.tracked)
    before_THW = PackedLabels(shown_THW)
    for frame in {prompt.frame for prompt in prompts}:
        before_THW[frame] = _stored_label(source, workspace.tracked_before(frame))
    return Markup(before_THW, shown_THW, prompts)


def stored_silhouettes(workspace: Workspace, source: Source) -> PackedLabels:
    """The silhouettes that masks/ were made from, (T, H, W); empty where there are none."""
    return _stored_labels(source, workspace.silhouette)


def store_markup(workspace: Workspace, source: Source, markup: Markup) -> None:
    """Write what has changed; on a full disk nothing is forgotten, and the next call tries again.

    Raises:
        OSError: the disk is full, or may not be written.
    """
    pointed = {prompt.frame for prompt in markup.prompts}
    paintings = {
        workspace.painted(prompt.frame, prompt.object_id): prompt
        for prompt in markup.prompts
        if isinstance(prompt, Painting)
    }
    for frame in sorted(markup.changed):
        write_labels(workspace.tracked(frame), markup.shown_THW[frame])
        if frame in pointed:
            write_labels(workspace.tracked_before(frame), markup.before_THW[frame])
    for path, painting in paintings.items():
        if painting.frame in markup.changed:
            write_labels(path, painting.silhouette_HW.astype(np.uint8))
    stored = [_as_stored(prompt, source) for prompt in markup.prompts]
    TrackingRecord.model_validate({"prompts": stored}).write(workspace.tracking_record)
    for path in workspace.painted_dir.glob("[!.]*.png"):
        if path not in paintings:
            remove(path)
    markup.changed.clear()


def _as_stored(prompt: Mark, source: Source) -> dict[str, str]:
    """A prompt in clicks.json: its kind, and what it says."""
    if isinstance(prompt, Painting):
        return {"painting": f"{prompt.frame},{prompt.object_id}"}
    kind = "box" if isinstance(prompt, Box) else "click"
    return {kind: str(to_original(prompt, source.placement))}


def save_masks(
    workspace: Workspace, source: Source, markup: Markup, settings: Mask, replace_by_hand: bool
) -> tuple[Frames, list[str]]:
    """Make masks/ of what is marked.

    Args:
        replace_by_hand: also where the person has painted in masks/ since they were made.

    Returns:
        the final labels, (T, H, W), and notes for the person.

    Raises:
        UserError: nothing is marked, or masks/ were painted by hand.
    """
    silhouettes_THW: Frames = markup.shown_THW
    if settings.shape == "full":
        full_HW = np.ones(silhouettes_THW.shape[1:], np.uint8)
        silhouettes_THW = _in_every_frame(full_HW, source.frames)
    if not any(labels_HW.any() for labels_HW in silhouettes_THW):
        raise UserError("nothing is marked yet: click the object, or draw a box around it")
    if not replace_by_hand:
        _refuse_painted(workspace, source)
    labels_THW, notes = build_masks(workspace, silhouettes_THW, settings, source)
    return labels_THW, [*absence_notes(markup, workspace.read_names()), *notes]


def absence_notes(markup: Markup, names: Mapping[int, str]) -> list[str]:
    """A sentence for each object that is not seen in some frames, by its name if it has one."""
    return [
        f"{names.get(number, f'object {number}')} is not seen in frames {frame_ranges(frames)}: "
        f"click it there if it is"
        for number, frames in markup.absences().items()
    ]


def read_painted(text: str, relative_to: Path, source: Source) -> Painting:
    """What ``FRAME,PNG[,OBJECT]`` names: everything that the picture marks is the object.

    Raises:
        UserError: there is no such picture, or it has another shape than the video.
    """
    frame, name, object_id = parse_paint(text)
    file = relative_to / os.path.expanduser(name)
    if file.is_dir():
        raise UserError(f"paint {text!r}: {file} is a folder; name the picture of frame {frame}")
    labels_HW = _fit_mask(read_mask_folder(file)[0], source.placement, file)
    return Painting.of(frame, labels_HW > 0, object_id)


def to_workspace(prompt: Prompt, placement: FramePlacement) -> Prompt:
    """A prompt in pixels of the original as one in pixels of the workspace's frames."""
    left, top, width, height = placement.region
    across, down = placement.size[0] / width, placement.size[1] / height
    return _moved(prompt, across, down, -left * across, -top * down)


def to_original(prompt: Prompt, placement: FramePlacement) -> Prompt:
    """The way back, to a tenth of a pixel."""
    left, top, width, height = placement.region
    moved = _moved(prompt, width / placement.size[0], height / placement.size[1], left, top)
    x, y = round(moved.x, 1), round(moved.y, 1)
    if isinstance(moved, Click):
        return replace(moved, x=x, y=y)
    return replace(moved, x=x, y=y, width=round(moved.width, 1), height=round(moved.height, 1))


def _moved(prompt: Prompt, across: float, down: float, left: float, top: float) -> Prompt:
    """Scaled, then shifted. A click is about a pixel's middle, a box about pixels' edges."""
    if isinstance(prompt, Box):
        x, y = prompt.x * across + left, prompt.y * down + top
        return replace(prompt, x=x, y=y, width=prompt.width * across, height=prompt.height * down)
    x, y = (prompt.x + 0.5) * across + left - 0.5, (prompt.y + 0.5) * down + top - 0.5
    return replace(prompt, x=x, y=y)


def _prompts_to_follow(config: Config, workspace: Workspace, source: Source) -> list[Mark]:
    """Those of [tracker], in pixels of the frames; else those that were made in the window."""
    given: list[Prompt] = [
        *map(parse_box, config.tracker.boxes),
        *map(parse_click, config.tracker.clicks),
    ]
    check_inside(given, source.frames, *source.original_size)
    fitted = [to_workspace(prompt, source.placement) for prompt in given]
    for prompt, moved in zip(given, fitted, strict=True):
        try:
            check_inside([moved], source.frames, *source.size)
        except UserError:
            raise UserError(f"{prompt}: it lies in the part that is cropped away") from None
    painted = [read_painted(one, workspace.root, source) for one in config.tracker.paintings]
    check_inside(painted, source.frames, *source.size)
    if twice := [one for n, one in enumerate(painted) if str(one) in map(str, painted[:n])]:
        raise UserError(f"{twice[0]} is given twice: give it once")
    prompts = [*painted, *fitted] or list(load_markup(workspace, source).prompts)
    if not prompts:
        raise UserError(
            f"what is to be followed? Give --click FRAME,X,Y,+ (a point of the object, in pixels "
            f"of the original video), --box FRAME,X,Y,W,H or --paint FRAME,PNG, or click it: "
            f"maskora gui {quoted(workspace.root)}"
        )
    return prompts


def _stored_prompts(record: TrackingRecord, workspace: Workspace, source: Source) -> list[Mark]:
    """Prompts as they were stored: to a tenth of a pixel, so they may lie a little outside."""
    width, height = source.size
    prompts: list[Mark] = []
    for item in record.prompts:
        for kind, text in item.items():
            if kind == "painting":
                prompts.append(_stored_painting(text, workspace, source))
                continue
            given = parse_box(text) if kind == "box" else parse_click(text)
            prompt = to_workspace(given, source.placement)
            if isinstance(prompt, Click):
                x, y = min(max(prompt.x, 0.0), width - 1.0), min(max(prompt.y, 0.0), height - 1.0)
                prompt = replace(prompt, x=x, y=y)
            prompts.append(prompt)
    check_inside(prompts, source.frames, width, height)
    return prompts


def _stored_painting(text: str, workspace: Workspace, source: Source) -> Painting:
    """The painting that clicks.json names as FRAME,OBJECT. Raises UserError: it is not there."""
    if (named := PAINTED.fullmatch(text)) is None:
        raise UserError(f"{workspace.tracking_record} is damaged: remove the folder, click again")
    frame, number = int(named[1]), int(named[2])
    path = workspace.painted(frame, number)
    if not path.is_file():
        raise UserError(f"{path}, painted by hand, is missing: put it back, or remove its line")
    silhouette_HW = read_sized(path, read_labels, source.size) > 0
    return Painting.of(frame, silhouette_HW, number)


def _stored_labels(source: Source, path_of: Callable[[int], Path]) -> PackedLabels:
    return PackedLabels(_stored_label(source, path_of(frame)) for frame in range(source.frames))


def _stored_label(source: Source, path: Path) -> np.ndarray:
    """Stored labels; nothing where there are none, or they are of another clip's size."""
    width, height = source.size
    empty_HW = np.zeros((height, width), np.uint8)
    if not path.is_file():
        return empty_HW
    labels_HW = read_labels(path)
    return labels_HW if labels_HW.shape == empty_HW.shape else empty_HW


def _refuse_painted(workspace: Workspace, source: Source) -> None:
    """Raises UserError where the person has painted in masks/ since they were made."""
    if masks_are_by_hand(workspace, source):
        raise UserError(
            f"{workspace.masks_dir} was changed by hand since it was made, and would be replaced: "
            f"move it elsewhere, or say that it may go (--overwrite)"
        )


def _settings_digest(settings: Mask, source: Source) -> str:
    return digest(json.dumps(settings.model_dump(), sort_keys=True), str(source.cell))


def _refuse_missing(paths: Iterable[Path]) -> None:
    if missing := [path for path in paths if not path.is_file()]:
        raise UserError(f"{missing[0]} is missing: run maskora prepare again, with --overwrite")


def _read_labels(paths: Iterable[Path], source: Source) -> PackedLabels:
    """Label files of all frames. Raises UserError where one has not the frames' size."""
    return PackedLabels(read_sized(path, read_labels, source.size) for path in paths)


def _read_mask(mask: Path, info: VideoInfo, config: Config) -> Frames:
    """One mask per chosen frame; of a mask video only those frames are read."""
    video = config.video
    chosen = (info.frames, video.start, video.count, video.every, str(mask))
    if mask.is_dir() or mask.suffix.lower() in IMAGE_SUFFIXES:
        given = read_mask_folder(mask)
        picked = match_length(range(len(given)), *chosen)
        if len(given) == 1:
            return _in_every_frame(given[0], len(picked))
        return LazyFrames(lambda n: given[picked[n]], (len(picked), *given.shape[1:]))
    masks = probe(mask, video.rate)
    numbers = match_length(range(masks.frames), *chosen)
    if len(set(numbers)) == 1:  # a video of one frame, for all
        only = read_mask_frames(read_frames(masks, 0, 1, alpha=True))
        return _in_every_frame(only[0], len(numbers))
    every = numbers[1] - numbers[0]
    return read_mask_frames(read_frames(masks, numbers[0], len(numbers), every, True))


def _fit_mask(labels_HW: np.ndarray, placement: FramePlacement, where: Path) -> np.ndarray:
    """A mask on the workspace's frame, given at its size, or at the original's in any scale."""
    size, original = labels_HW.shape[::-1], placement.original_size
    if size == placement.size != original:
        return labels_HW
    if abs(size[0] / size[1] / (original[0] / original[1]) - 1) > SAME_SHAPE:
        raise UserError(
            f"{where}: a mask is {size[0]}x{size[1]}, the video {original[0]}x{original[1]}; it "
            f"must have the same shape, at any size, or the workspace's size "
            f"{placement.size[0]}x{placement.size[1]}"
        )
    if size != original:
        nearest = cv2.INTER_NEAREST_EXACT
        labels_HW = np.asarray(cv2.resize(labels_HW, original, interpolation=nearest))
    return fit_labels(labels_HW, placement)


def _parse_box(text: str) -> tuple[float, float, float, float]:
    try:
        x, y, width, height = (float(part) for part in text.split(","))
    except ValueError:
        x = y = width = height = float("nan")
    if not np.isfinite([x, y, width, height]).all():
        raise UserError(
            f"--box {text}: write four numbers X,Y,W,H: left, top, width, height in pixels"
        )
    return x, y, width, height
