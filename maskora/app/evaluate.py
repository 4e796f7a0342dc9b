"""evaluate: a result judged in numbers, curves and pictures. Loads torch for CLIP alone."""

import json
import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import AliasPath, BaseModel, ConfigDict, Field

from maskora import __version__
from maskora.app.edits import EditFiles, find_edits, read_edited
from maskora.app.workspace import Source, Workspace, check_origin, read_record, working
from maskora.errors import UserError
from maskora.evaluation.clip import (
    PROMPTS,
    PictureEncoder,
    Rater,
    encode_texts,
    find_clip,
    open_pictures,
    reads_words,
)
from maskora.evaluation.judge import (
    FrameSet,
    Numbers,
    Row,
    Scorers,
    Truth,
    gather,
    gather_segments,
    judge,
)
from maskora.evaluation.metrics import EditColours, crop_region, edit_colours
from maskora.evaluation.report import (
    Picture,
    as_json,
    as_page,
    pictures,
    report_on,
    shown_frames,
    summary,
)
from maskora.files import refuse_inputs, sha256_file, write_text
from maskora.frames import Frames, LazyFrames, PackedLabels, digest_frames
from maskora.masks.files import read_labels
from maskora.method.segments import Segment
from maskora.progress import track
from maskora.video.differences import differs
from maskora.video.fit import fit_image, fit_labels
from maskora.video.images import read_image
from maskora.video.probe import VideoInfo, probe
from maskora.video.read import read_frames

log = logging.getLogger("maskora")
CLIP, QUALITY = "--clip", "--quality"
PAGE, NUMBERS = "report.html", "report.json"


class EditedRecord(BaseModel):
    """The part of an edited frame's record in run.json that is needed here."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    sha256: str


class ResultRecord(BaseModel):
    """The part of run.json, which `infer` leaves beside a result, that is needed here."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    seed: int
    spill: Literal["source", "keep"] = Field(
        validation_alias=AliasPath("config", "appearance", "spill")
    )
    lock: Literal["pixel", "model", "latent"] = Field(
        validation_alias=AliasPath("config", "inference", "lock")
    )
    source: Source = Field(validation_alias=AliasPath("inputs", "source"))
    frames: str = Field(validation_alias=AliasPath("inputs", "frames"))
    masks: str = Field(validation_alias=AliasPath("inputs", "masks"))
    edited: dict[int, EditedRecord] = Field(validation_alias=AliasPath("inputs", "edited"))
    segments: tuple[Segment, ...] = ()  # only where the clip was generated in several
    outputs: dict[str, str] = {}  # file -> SHA-256; versions before recorded none
    prompt: str = ""  # the token and the edit's caption
    token: str = Field("", validation_alias=AliasPath("config", "prompt", "token"))

    @property
    def caption(self) -> str:
        """What the edit shows, in the words that it was made with; empty where none are known."""
        return self.prompt.removeprefix(self.token).strip()


@dataclass(frozen=True)
class FinishedResult:
    """A result of `infer`.

    Attributes:
        video: edited.mkv, of the workspace's size, or else edited.mp4, of the original's.
        record: how it was made.
        remedy: what makes it anew.
    """

    folder: Path
    video: VideoInfo
    record: ResultRecord
    remedy: str

    @property
    def exact(self) -> bool:
        """True where its pixels are stored without a loss."""
        return self.video.path.suffix == ".mkv"

    def frames(self) -> Iterator[np.ndarray]:
        """Its frames (H, W, 3), uint8 RGB. Raises UserError where the file is damaged."""
        try:
            yield from read_frames(self.video)
        except UserError:
            raise _damaged(self.video.path, self.remedy) from None


@dataclass(frozen=True)
class TruthFiles:
    """The pictures of a folder of truth.

    Attributes:
        folder: holds 00000.png, 00001.png, …; masks/ and background/ hold the same names.
        source: the clip that it belongs to.
        masks: masks/ is there: where the edited object is.
        background: background/ is there: the scene without the object.
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
        edited_HWC = self._read(self.folder / name)
        if self.masks:
            object_HW = self._read(self.folder / "masks" / name, labels=True) > 0
        else:
            object_HW = inside_HW & differs(edited_HWC, source_HWC)
        background_HWC = None
        if self.background:
            background_HWC = self._read(self.folder / "background" / name)
        return Truth(edited_HWC, object_HW, background_HWC)

    def _read(self, path: Path, *, labels: bool = False) -> np.ndarray:
        """A picture or labels, fitted where they have the original's size."""
        try:
            picture = read_image(path)
        except UserError as error:
            raise UserError(f"--truth: {error}: write this picture of the truth again") from None
        if labels:
            picture = read_labels(path)
        size, source = picture.shape[1::-1], self.source
        if size not in (source.size, source.original_size):
            own, original = (f"{w}x{h}" for w, h in (source.size, source.original_size))
            raise UserError(
                f"--truth: {path} is {size[0]}x{size[1]}: write it in the workspace's size {own} "
                f"or the original's {original}"
            )
        if size == source.size:
            return picture
        return (fit_labels if labels else fit_image)(picture, source.placement)


@dataclass(frozen=True)
class Judged:
    """A result, and what it is compared with.

    Attributes:
        frames_THWC: the source's.
        labels_THW: masks, 0 keep.
        edited: edited frames at the workspace's size, by number.
        truth: where there is one.
    """

    workspace: Workspace
    source: Source
    result: FinishedResult
    frames_THWC: Frames
    labels_THW: Frames
    edited: dict[int, np.ndarray]
    truth: TruthFiles | None


@dataclass(frozen=True)
class Scoring:
    """The models that score frames, by hub id or folder; None: what they are for is left out.

    Attributes:
        clip: a CLIP, for similarities.
        reference: the picture that the region is compared with by `clip`; None: the edited first
            frame's own region.
        quality: a CLIP with a text side, for the quality.
    """

    clip: str | None
    reference: Path | None
    quality: str | None


def evaluate_result(
    root: Path,
    edit: str | None,
    seed: int | None,
    truth: Path | None,
    clip: str | None,
    reference: Path | None,
    quality: str | None,
) -> list[str]:
    """Judge a workspace's result; report.html and report.json are written beside it.

    Args:
        truth: a folder with the truth, where it is known.
        clip, reference, quality: as of `Scoring`.

    Returns:
        the verdict, a line each, and the report's path.

    Raises:
        UserError: there is no such result, or something of it is missing or of another clip.
    """
    for key, name in ((CLIP, clip), (QUALITY, quality)):
        if name is not None and not name.strip():
            raise UserError(f"{key} names nothing: give a folder or a hub id, or leave {key} out")
    workspace = Workspace.open(root)
    workspace.read_source()  # where there is no workspace, nothing is to be held
    if reference is not None and clip is None:
        log.warning("note: --reference has no effect without --clip")
    with working(workspace):
        return _evaluate(workspace, edit, seed, truth, Scoring(clip, reference, quality))


def _evaluate(
    workspace: Workspace,
    edit: str | None,
    seed: int | None,
    truth: Path | None,
    scoring: Scoring,
) -> list[str]:
    judged = _open(workspace, edit, seed, truth)
    colours = edit_colours(
        (edited, judged.frames_THWC[frame], judged.labels_THW[frame] > 0)
        for frame, edited in judged.edited.items()
    )
    rows = _judge(judged, colours, scoring)
    name = workspace.root.resolve().name
    title = name if edit is None else f"{name}: {edit}"
    facts, numbers = _facts(judged, edit, scoring), gather(rows)
    notes = _notes(judged, colours, scoring, numbers)
    segments = gather_segments(rows, [one.begins for one in judged.result.record.segments])
    report = report_on(title, facts, notes, numbers, segments)
    folder = judged.result.folder
    write_text(folder / PAGE, as_page(report, _album(judged, shown_frames(report))))
    write_text(folder / NUMBERS, json.dumps(as_json(report), indent=2) + "\n")
    return [f"judged: {judged.result.video.path}", *summary(report), str(folder / PAGE)]


def _open(workspace: Workspace, edit: str | None, seed: int | None, truth: Path | None) -> Judged:
    source = workspace.read_source()
    check_origin(source)
    result = find_result(workspace, source, edit, seed)
    for path in (result.folder / PAGE, result.folder / NUMBERS):
        if path.is_dir():
            raise UserError(f"{path} is a folder, but the report goes there: move it away")
        refuse_inputs([path], workspace.given_files(source.origin))
    count = range(source.frames)
    labels_THW = PackedLabels(_of_the_clip(workspace.mask(n), read_labels, source) for n in count)
    edits = find_edits(workspace, edit, source.frames)
    frames_THWC = LazyFrames(
        lambda n: _of_the_clip(workspace.source_frame(n), read_image, source),
        (*labels_THW.shape, 3),
    )
    _check_unchanged(result, frames_THWC, labels_THW, edits)
    edited = {
        frame: read_edited(path, source, frames_THWC[frame])[1]
        for frame, path in {0: edits.first, **edits.images}.items()
    }
    found = None if truth is None else find_truth(truth, source)
    return Judged(workspace, source, result, frames_THWC, labels_THW, edited, found)


def find_result(
    workspace: Workspace, source: Source, edit: str | None, seed: int | None
) -> FinishedResult:
    """The result of an edit and a seed (by default that of the run's first seed).

    Raises:
        UserError: there is none, it was made of another clip, or its file is damaged.
    """
    remedy = f"run python infer.py --config {workspace.config}{f' --edit {edit}' if edit else ''}"
    return read_result(_result_folder(workspace, edit, seed, remedy), source, remedy)


def read_result(folder: Path, source: Source, remedy: str) -> FinishedResult:
    """The result in a folder. Arguments and errors as `find_result`.

    Args:
        remedy: what a person does where it cannot be used.
    """
    record = read_record(ResultRecord, folder / "run.json", remedy)
    if record.source.model_copy(update={"origin": source.origin}) != source:  # it may be moved
        raise UserError(f"{folder} was made before the workspace was prepared anew: {remedy}")
    lossless, mp4 = folder / "edited.mkv", folder / "edited.mp4"
    path, size = (lossless, source.size) if lossless.is_file() else (mp4, source.original_size)
    if not path.is_file():
        raise UserError(f"{mp4} is missing: {remedy}")
    _check_outputs(folder, record.outputs, path, remedy)
    try:
        video = probe(path)
    except UserError:
        raise _damaged(path, remedy) from None
    found, wanted = (video.frames, video.width, video.height), (source.frames, *size)
    if found != wanted:
        raise UserError(
            f"{path} has {found[0]} frames of {found[1]}x{found[2]}, but this clip's result "
            f"has {wanted[0]} of {wanted[1]}x{wanted[2]}: {remedy}"
        )
    return FinishedResult(folder, video, record, remedy)


def _check_outputs(folder: Path, outputs: dict[str, str], judged: Path, remedy: str) -> None:
    """The judged file is the one that infer wrote; of the others it is logged where they are not.

    Raises:
        UserError: the judged file has changed.
    """
    for name, sha256 in outputs.items():
        path = folder / name
        if not path.is_file():
            log.warning("note: %s, which infer wrote, is gone: %s is judged", path, judged.name)
        elif sha256_file(path) != sha256:
            changed = f"{path} is not what infer wrote: it was damaged or exchanged since"
            if path == judged:
                raise UserError(f"{changed}. Put it back, or {remedy}")
            log.warning("note: %s; %s is judged", changed, judged.name)


def _result_folder(workspace: Workspace, edit: str | None, seed: int | None, remedy: str) -> Path:
    first = workspace.output_dir(edit, None)
    if not (first / "run.json").is_file():
        raise UserError(f"{first} holds no finished result: {remedy}")
    own = read_record(ResultRecord, first / "run.json", remedy).seed
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


def _damaged(path: Path, remedy: str) -> UserError:
    return UserError(f"{path} is damaged or cut short: {remedy}")


def _check_unchanged(
    result: FinishedResult, frames_THWC: Frames, labels_THW: Frames, edits: EditFiles
) -> None:
    """Clip, masks and edited frames are those that the result was made from. Raises UserError."""
    record, since = result.record, f"since {result.folder} was made"
    if digest_frames(labels_THW) != record.masks:
        raise UserError(f"the masks have changed {since}: {result.remedy}")
    for frame in sorted(record.edited.keys() | edits.images.keys()):
        path = edits.images.get(frame)
        if path is None:
            raise UserError(
                f"{edits.folder} had an edited frame {frame} when {result.folder} was made, which "
                f"is gone: put it back, or {result.remedy}"
            )
        if frame not in record.edited:
            raise UserError(
                f"{path} was not there when {result.folder} was made: take it away, or "
                f"{result.remedy}"
            )
        if sha256_file(path) != record.edited[frame].sha256:
            raise UserError(f"{path} has changed {since}: put it back, or {result.remedy}")
    if digest_frames(frames_THWC) != record.frames:
        raise UserError(
            f"the source frames have changed {since}: put them back, or {result.remedy}"
        )


def find_truth(folder: Path, source: Source) -> TruthFiles:
    """The truth of every frame. Raises UserError where a folder does not hold it."""
    parts = {part: (folder / part).is_dir() for part in ("masks", "background")}
    for place in (folder, *(folder / part for part, there in parts.items() if there)):
        for number in range(source.frames):
            path = place / f"{number:05d}.png"
            if not path.is_file():
                raise UserError(
                    f"--truth: {path} is missing: {place} needs a picture of every frame, "
                    f"00000.png to {source.frames - 1:05d}.png"
                )
    return TruthFiles(folder, source, **parts)


def _of_the_clip(path: Path, read: Callable[[Path], np.ndarray], source: Source) -> np.ndarray:
    """A source frame or a mask. Raises UserError where it is not as prepare left it."""
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


def _judge(judged: Judged, colours: EditColours, scoring: Scoring) -> list[Row]:
    """Every frame's numbers."""
    first_HWC = _first_as_shown(judged)
    reference_HWC = _reference(judged, first_HWC, scoring)
    folders = _clip_folders(scoring)
    frames = track(judged.result.frames(), "evaluate", judged.source.frames, "frame")
    with ExitStack() as models:
        encoders: dict[Path, PictureEncoder] = {}
        for key, folder in folders.items():
            if folder not in encoders:
                encoders[folder] = models.enter_context(open_pictures(folder, key))
        rater = None
        if QUALITY in folders:
            folder = folders[QUALITY]
            rater = Rater(encoders[folder], encode_texts(folder, QUALITY, PROMPTS))
        encoder = caption_D = None
        if CLIP in folders:
            encoder = encoders[folders[CLIP]]
            caption_D = _caption_features(judged, folders[CLIP])
        scorers = Scorers(first_HWC, encoder, rater, reference_HWC, caption_D)
        return list(judge(_frame_sets(judged, frames), colours, scorers))


def _clip_folders(scoring: Scoring) -> dict[str, Path]:
    """The folders of the models that are named, by the option that names them."""
    named = {CLIP: scoring.clip, QUALITY: scoring.quality}
    return {key: find_clip(name, key) for key, name in named.items() if name is not None}


def _reference(judged: Judged, first_HWC: np.ndarray, scoring: Scoring) -> np.ndarray | None:
    """What the region is compared with by CLIP. Raises UserError where it cannot be read."""
    if scoring.clip is None:
        return None
    if scoring.reference is not None:
        return read_image(scoring.reference)
    return crop_region(first_HWC, judged.labels_THW[0] > 0)


def _caption_features(judged: Judged, folder: Path) -> np.ndarray | None:
    """The features (D,) of the edit's caption; None where none is known, or CLIP reads no words."""
    caption = judged.result.record.caption
    if not caption or not reads_words(folder, CLIP):
        return None
    return np.asarray(encode_texts(folder, CLIP, [caption])[0])


def _first_as_shown(judged: Judged) -> np.ndarray:
    """The edited first frame as the model saw it: the outside is the source's, unless kept."""
    first_HWC = judged.edited[0]
    if judged.result.record.spill == "keep":
        return first_HWC
    inside_HW1 = (judged.labels_THW[0] > 0)[..., None]
    return np.where(inside_HW1, first_HWC, judged.frames_THWC[0])


def _album(judged: Judged, shown: Collection[int]) -> dict[int, list[Picture]]:
    """The pictures of some frames, which are read once more: those of all would fill memory."""
    frames = enumerate(_frame_sets(judged, judged.result.frames()))
    return {number: pictures(frame) for number, frame in frames if number in shown}


def _frame_sets(judged: Judged, frames: Iterable[np.ndarray]) -> Iterator[FrameSet]:
    """Frame by frame everything that is compared, at the workspace's size.

    Args:
        frames: the result's.
    """
    source, truth = judged.source, judged.truth
    for number, frame_HWC in enumerate(frames):
        source_HWC = judged.frames_THWC[number]
        inside_HW = judged.labels_THW[number] > 0
        if not judged.result.exact:
            frame_HWC = fit_image(frame_HWC, source.placement)
        yield FrameSet(
            result_HWC=frame_HWC,
            source_HWC=source_HWC,
            inside_HW=inside_HW,
            keyframe_HWC=judged.edited.get(number) if number else None,
            truth=None if truth is None else truth.frame(number, source_HWC, inside_HW),
        )


def _facts(judged: Judged, edit: str | None, scoring: Scoring) -> dict[str, Any]:
    source, record = judged.source, judged.result.record
    return {
        "file": str(judged.result.video.path),
        "edit": edit,
        "seed": record.seed,
        "frames": source.frames,
        "size": "x".join(map(str, source.size)),
        "lock": record.lock,
        "truth": None if judged.truth is None else str(judged.truth.folder),
        "clip": scoring.clip,
        "reference": None if scoring.reference is None else str(scoring.reference),
        "quality": scoring.quality,
        "program": f"maskora {__version__}",
    }


def _notes(judged: Judged, colours: EditColours, scoring: Scoring, numbers: Numbers) -> list[str]:
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
            "The edit has much the same colours as the source, so nothing can be said of whether "
            "they are kept."
        )
    if scoring.clip is None:
        notes.append("Similarities by CLIP were not taken: name one with --clip.")
    elif "text_alignment" not in numbers.means:
        notes.append(
            "Similarities to the caption were not taken: "
            + ("the CLIP reads no words." if judged.result.record.caption else "none is known.")
        )
    return notes
