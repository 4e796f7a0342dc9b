"""evaluate: how good a result is, in numbers, curves and pictures. Loads torch for CLIP alone."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from maskora import __version__
from maskora.app.workspace import EditFiles, Source, Workspace, check_edit_size, read_record
from maskora.errors import UserError
from maskora.evaluation.clip import PROMPTS, Rater, encode_texts, find_clip, open_pictures
from maskora.evaluation.judge import Moment, Sight, Truth, judge
from maskora.evaluation.measures import Row, gather
from maskora.evaluation.metrics import EditColours, differs, edit_colours
from maskora.evaluation.report import Picture, as_json, as_page, pictures, report_on, summary
from maskora.files import digest, digest_stream, sha256_file, write_text
from maskora.masks.files import read_labels
from maskora.progress import track
from maskora.video.fit import fit_image, fit_labels
from maskora.video.images import read_image
from maskora.video.probe import VideoInfo, probe
from maskora.video.read import read_frames


class _Part(BaseModel):
    """What is needed of a part of run.json."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class _Appearance(_Part):
    spill: Literal["source", "keep"]


class _Inference(_Part):
    lock: Literal["pixel", "model", "latent"]


class _Config(_Part):
    appearance: _Appearance
    inference: _Inference


class _Edited(_Part):
    sha256: str


class _Inputs(_Part):
    source: Source
    frames: str
    masks: str
    edited: dict[int, _Edited]  # by frame


class RunRecord(_Part):
    """What is needed of run.json."""

    seed: int
    config: _Config
    inputs: _Inputs


@dataclass(frozen=True)
class Result:
    """A result of `infer`.

    Attributes:
        folder: where it lies.
        video: edited.mkv, of the workspace's size, or else edited.mp4, of the original's.
        record: how it was made.
        remedy: what makes it anew.
    """

    folder: Path
    video: VideoInfo
    record: RunRecord
    remedy: str

    @property
    def exact(self) -> bool:
        """Whether its pixels are stored without a loss."""
        return self.video.path.suffix == ".mkv"

    def frames(self) -> Iterator[np.ndarray]:
        """Its frames (H, W, 3), uint8 RGB. Raises UserError where the file is damaged."""
        try:
            yield from read_frames(self.video)
        except UserError:
            raise _damaged(self.video.path, self.remedy) from None


def find_result(workspace: Workspace, source: Source, edit: str | None, seed: int | None) -> Result:
    """The result of an edit and a seed (by default that of the run's first seed).

    Raises:
        UserError: there is none, it was made of another clip, or its file is damaged.
    """
    remedy = f"run python infer.py --config {workspace.config}{f' --edit {edit}' if edit else ''}"
    folder = _folder(workspace, edit, seed, remedy)
    record = read_record(RunRecord, folder / "run.json", remedy)
    if record.inputs.source != source:
        raise UserError(f"{folder} was made before the workspace was prepared anew: {remedy}")
    files = [folder / name for name in ("edited.mkv", "edited.mp4")]
    present = [path for path in files if path.is_file()]
    if not present:
        raise UserError(f"{files[1]} is missing: {remedy}")
    try:
        video = probe(present[0])
    except UserError:
        raise _damaged(present[0], remedy) from None
    size = source.size if present[0] == files[0] else source.original_size
    found, wanted = (video.frames, video.width, video.height), (source.frames, *size)
    if found != wanted:
        raise UserError(
            f"{present[0]} has {found[0]} frames of {found[1]}x{found[2]}, but this clip's result "
            f"has {wanted[0]} of {wanted[1]}x{wanted[2]}: {remedy}"
        )
    return Result(folder, video, record, remedy)


def check_still_belongs(
    result: Result, frames: Iterable[np.ndarray], labels_THW: np.ndarray, edits: EditFiles
) -> None:
    """A result is judged by the clip, the masks and the edited frames that it was made from.

    Args:
        frames: the source frames, (H, W, 3) uint8 each; one at a time is held.

    Raises:
        UserError: something of it has changed since.
    """
    inputs, made = result.record.inputs, f"since {result.folder} was made"
    if digest(labels_THW.tobytes()) != inputs.masks:
        raise UserError(f"the masks have changed {made}: {result.remedy}")
    _check_edits(result, edits)
    width, height = inputs.source.size
    length = inputs.source.frames * height * width * 3
    if digest_stream(length, (frame.tobytes() for frame in frames)) != inputs.frames:
        raise UserError(f"the source frames have changed {made}: put them back, or {result.remedy}")


def _check_edits(result: Result, edits: EditFiles) -> None:
    """Every edited frame is what it was, none has come and none has gone."""
    then, made = result.record.inputs.edited, f"when {result.folder} was made"
    for frame in sorted(then.keys() | edits.images.keys()):
        path = edits.images.get(frame)
        if path is None:
            raise UserError(
                f"{edits.folder} had an edited frame {frame} {made}, which is gone: put it back, "
                f"or {result.remedy}"
            )
        if frame not in then:
            raise UserError(f"{path} was not there {made}: take it away, or {result.remedy}")
        if sha256_file(path) != then[frame].sha256:
            raise UserError(
                f"{path} has changed since {result.folder} was made: put it back, or "
                f"{result.remedy}"
            )


def final_mask(workspace: Workspace, frame: int, source: Source) -> np.ndarray:
    """A final mask, (H, W) uint8, 0 keep. Raises UserError where it is not as it should be."""
    return _of_the_clip(workspace.mask(frame), read_labels, source)


def source_frame(workspace: Workspace, frame: int, source: Source) -> np.ndarray:
    """A source frame, (H, W, 3) uint8. Raises UserError where it is not as it should be."""
    return _of_the_clip(workspace.source_frame(frame), read_image, source)


def _of_the_clip(path: Path, read: Callable[[Path], np.ndarray], source: Source) -> np.ndarray:
    lost = UserError(
        f"{path} is missing, damaged or of another size: put it back, or run maskora prepare "
        f"again, with --overwrite"
    )
    try:
        picture = read(path)
    except UserError:
        raise lost from None
    if picture.shape[1::-1] != source.size:
        raise lost
    return picture


def _damaged(path: Path, remedy: str) -> UserError:
    return UserError(f"{path} is damaged or cut short: {remedy}")


def _folder(workspace: Workspace, edit: str | None, seed: int | None, remedy: str) -> Path:
    first = workspace.output_dir(edit, None)
    if not (first / "run.json").is_file():
        raise UserError(f"{first} holds no finished result: {remedy}")
    own = read_record(RunRecord, first / "run.json", remedy).seed
    if seed in (None, own):
        return first
    folder = workspace.output_dir(edit, seed)
    if not (folder / "run.json").is_file():
        others = [path.parent.name for path in first.glob("seed-*/run.json")]
        seeds = [own, *sorted(int(name.removeprefix("seed-")) for name in others)]
        raise UserError(
            f"{first} holds no result of seed {seed} (but of {', '.join(map(str, seeds))}): "
            f"{remedy} --seed {seed}"
        )
    return folder


@dataclass(frozen=True)
class TruthFiles:
    """The pictures of a folder of truth.

    Attributes:
        folder: holds 00000.png, 00001.png, …; masks/ and background/ hold the same names.
        source: the clip that it belongs to.
        masks: whether masks/ is there: where the edited object is.
        background: whether background/ is there: the scene without the object.
    """

    folder: Path
    source: Source
    masks: bool
    background: bool

    def frame(self, number: int, source_HWC: np.ndarray, inside_HW: np.ndarray) -> Truth:
        """The truth of a frame, at the workspace's size.

        Without masks/ the object is where the truth differs visibly from the source in the mask.

        Raises:
            UserError: a picture is damaged or of another size.
        """
        name = f"{number:05d}.png"
        edited_HWC = self._picture(self.folder / name)
        return Truth(
            edited_HWC=edited_HWC,
            object_HW=(
                self._labels(self.folder / "masks" / name) > 0
                if self.masks
                else inside_HW & differs(edited_HWC, source_HWC)
            ),
            background_HWC=(
                self._picture(self.folder / "background" / name) if self.background else None
            ),
        )

    def _picture(self, path: Path) -> np.ndarray:
        picture = _read_picture(path)
        return (
            fit_image(picture, self.source.placement) if self._is_large(path, picture) else picture
        )

    def _labels(self, path: Path) -> np.ndarray:
        _read_picture(path)  # what read_labels says of a damaged file is about masks of a clip
        labels = read_labels(path)
        return fit_labels(labels, self.source.placement) if self._is_large(path, labels) else labels

    def _is_large(self, path: Path, picture: np.ndarray) -> bool:
        """Whether a picture has the original's size rather than the workspace's."""
        size = (picture.shape[1], picture.shape[0])
        wanted = (self.source.size, self.source.original_size)
        if size not in wanted:
            own, original = (f"{width}x{height}" for width, height in wanted)
            raise UserError(
                f"--truth: {path} is {size[0]}x{size[1]}: write it in the workspace's size {own} "
                f"or the original's {original}"
            )
        return size != self.source.size


def _read_picture(path: Path) -> np.ndarray:
    try:
        return read_image(path)
    except UserError as error:
        raise UserError(f"--truth: {error}: write this picture of the truth again") from None


def find_truth(folder: Path, source: Source) -> TruthFiles:
    """Look whether a folder holds the truth of every frame.

    Raises:
        UserError: it does not.
    """
    parts = {part: (folder / part).is_dir() for part in ("masks", "background")}
    wanted = [folder, *(folder / part for part, there in parts.items() if there)]
    for place in wanted:
        for number in range(source.frames):
            path = place / f"{number:05d}.png"
            if not path.is_file():
                raise UserError(
                    f"--truth: {path} is missing: {place} needs a picture of every frame, "
                    f"00000.png to {source.frames - 1:05d}.png"
                )
    return TruthFiles(folder, source, **parts)


CLIP, QUALITY = "--clip", "--quality"
PAGE, NUMBERS = "report.html", "report.json"


@dataclass(frozen=True)
class Judged:
    """A result, and what it is held against.

    Attributes:
        labels_THW: masks, 0 keep.
        edited: edited frames at the workspace's size, by number.
        truth: where there is one.
    """

    workspace: Workspace
    source: Source
    result: Result
    labels_THW: np.ndarray
    edited: dict[int, np.ndarray]
    truth: TruthFiles | None


def evaluate_result(
    root: Path,
    edit: str | None,
    seed: int | None,
    truth: Path | None,
    clip: str | None,
    quality: str | None,
) -> None:
    """Judge a workspace's result; report.html and report.json are written beside it.

    Args:
        truth: a folder with the truth, where it is known.
        clip: a CLIP by its hub id or folder, for similarities; None: they are left out.
        quality: a CLIP with a text side, for the quality; None: it is left out.

    Raises:
        UserError: there is no such result, or something of it is missing or of another clip.
    """
    _check_names(clip, quality)
    judged = _open(Workspace(root), edit, seed, truth)
    album: list[list[Picture]] = []
    colours = _edit_colours(judged)
    rows = _judge(judged, colours, clip, quality, album)
    title = root.resolve().name if edit is None else f"{root.resolve().name}: {edit}"
    facts = _facts(judged, edit, clip, quality)
    report = report_on(title, facts, _notes(judged, colours, clip), gather(rows))
    folder = judged.result.folder
    write_text(folder / PAGE, as_page(report, album))
    write_text(folder / NUMBERS, json.dumps(as_json(report), indent=2) + "\n")
    print("\n".join([*summary(report), str(folder / PAGE)]))


def _check_names(clip: str | None, quality: str | None) -> None:
    for key, name in ((CLIP, clip), (QUALITY, quality)):
        if name is not None and not name.strip():
            raise UserError(f"{key} names nothing: give a folder or a hub id, or leave {key} out")


def _open(workspace: Workspace, edit: str | None, seed: int | None, truth: Path | None) -> Judged:
    source = workspace.read_source()
    result = find_result(workspace, source, edit, seed)
    for path in (result.folder / PAGE, result.folder / NUMBERS):
        if path.is_dir():
            raise UserError(f"{path} is a folder, but the report goes there: move it away")
    labels_THW = np.stack([final_mask(workspace, n, source) for n in range(source.frames)])
    edits = workspace.find_edits(edit, source.frames)
    frames = (source_frame(workspace, n, source) for n in range(source.frames))
    check_still_belongs(result, frames, labels_THW, edits)
    return Judged(
        workspace,
        source,
        result,
        labels_THW,
        {frame: _edited(path, source) for frame, path in {0: edits.first, **edits.images}.items()},
        None if truth is None else find_truth(truth, source),
    )


def _edited(path: Path, source: Source) -> np.ndarray:
    picture = read_image(path)
    size = (picture.shape[1], picture.shape[0])
    check_edit_size(path, size, source)
    return picture if size == source.size else fit_image(picture, source.placement)


def _edit_colours(judged: Judged) -> EditColours:
    return edit_colours(
        (
            edited,
            source_frame(judged.workspace, frame, judged.source),
            judged.labels_THW[frame] > 0,
        )
        for frame, edited in judged.edited.items()
    )


def _judge(
    judged: Judged,
    colours: EditColours,
    clip: str | None,
    quality: str | None,
    album: list[list[Picture]],
) -> list[Row]:
    """Every frame's numbers; its pictures go into the album."""
    folders = {
        key: find_clip(name, key)
        for key, name in ((CLIP, clip), (QUALITY, quality))
        if name is not None
    }
    with ExitStack() as models:
        encoders = {
            folder: models.enter_context(open_pictures(folder, key))
            for key, folder in folders.items()
        }
        rater = None
        if where := folders.get(QUALITY):
            rater = Rater(encoders[where], encode_texts(where, PROMPTS, QUALITY))
        looks = encoders[folders[CLIP]] if CLIP in folders else None
        sight = Sight(_first(judged), looks, rater)
        return list(judge(_shown(_moments(judged), album), colours, sight))


def _first(judged: Judged) -> np.ndarray:
    """The edited first frame as the model was told: the outside is the source's, unless kept."""
    first_HWC = judged.edited[0]
    if judged.result.record.config.appearance.spill == "keep":
        return first_HWC
    source_HWC = source_frame(judged.workspace, 0, judged.source)
    return np.where((judged.labels_THW[0] > 0)[..., None], first_HWC, source_HWC)


def _moments(judged: Judged) -> Iterator[Moment]:
    """Frame by frame everything that is compared, at the workspace's size."""
    source, truth = judged.source, judged.truth
    frames = track(judged.result.frames(), "evaluate", source.frames, "frame")
    for number, frame_HWC in enumerate(frames):
        source_HWC = source_frame(judged.workspace, number, source)
        inside_HW = judged.labels_THW[number] > 0
        if not judged.result.exact:
            frame_HWC = fit_image(frame_HWC, source.placement)
        yield Moment(
            result_HWC=frame_HWC,
            source_HWC=source_HWC,
            inside_HW=inside_HW,
            keyframe_HWC=judged.edited.get(number) if number else None,
            truth=None if truth is None else truth.frame(number, source_HWC, inside_HW),
        )


def _shown(moments: Iterator[Moment], album: list[list[Picture]]) -> Iterator[Moment]:
    for moment in moments:
        album.append(pictures(moment))
        yield moment


def _facts(
    judged: Judged, edit: str | None, clip: str | None, quality: str | None
) -> dict[str, Any]:
    source, record = judged.source, judged.result.record
    return {
        "file": str(judged.result.video.path),
        "edit": edit,
        "seed": record.seed,
        "frames": source.frames,
        "size": "x".join(map(str, source.size)),
        "lock": record.config.inference.lock,
        "truth": None if judged.truth is None else str(judged.truth.folder),
        "clip": clip,
        "quality": quality,
        "program": f"maskora {__version__}",
    }


def _notes(judged: Judged, colours: EditColours, clip: str | None) -> list[str]:
    notes = []
    if not judged.result.exact:
        notes.append(
            "Judged from edited.mp4: what H.264 loses is part of every number, outside the mask "
            "too. With inference.lossless = true there is an exact file to judge."
        )
    if not colours.change:
        notes.append("The edited first frame is its source inside the mask: nothing was edited.")
    elif not colours.telling:
        notes.append(
            "The edit has much the same colours as the source, so whether they are kept cannot be "
            "told."
        )
    if clip is None:
        notes.append("Similarities by CLIP were not taken: name one with --clip.")
    return notes
