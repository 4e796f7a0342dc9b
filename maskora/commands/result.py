"""A finished result in a workspace, and whether it still belongs to what lies there."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from maskora.errors import UserError
from maskora.files import digest, digest_stream, sha256_file
from maskora.masks.files import read_labels
from maskora.video.images import read_image
from maskora.video.info import VideoInfo
from maskora.video.probe import probe
from maskora.video.read import read_frames
from maskora.workspace import EditFiles, Source, Workspace
from maskora.workspace.records import read_record


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
