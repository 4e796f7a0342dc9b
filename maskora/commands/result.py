"""A finished result in a workspace, and whether it still belongs to what lies there."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from maskora.errors import UserError
from maskora.files import digest, sha256_file
from maskora.video.info import VideoInfo
from maskora.video.probe import probe
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


class _Inputs(_Part):
    source: Source
    masks: str
    edited: dict[str, str]


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
    """

    folder: Path
    video: VideoInfo
    record: RunRecord

    @property
    def exact(self) -> bool:
        """Whether its pixels are stored without a loss."""
        return self.video.path.suffix == ".mkv"


def find_result(workspace: Workspace, source: Source, edit: str | None, seed: int | None) -> Result:
    """The result of an edit and a seed (by default that of the run's first seed).

    Raises:
        UserError: there is none, or it was made of another clip.
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
    video = probe(present[0])
    size = source.size if present[0] == files[0] else source.original_size
    found, wanted = (video.frames, video.width, video.height), (source.frames, *size)
    if found != wanted:
        raise UserError(
            f"{present[0]} has {found[0]} frames of {found[1]}x{found[2]}, but this clip's result "
            f"has {wanted[0]} of {wanted[1]}x{wanted[2]}: {remedy}"
        )
    return Result(folder, video, record)


def check_still_belongs(result: Result, labels_THW: np.ndarray, edits: EditFiles) -> None:
    """A result is judged by the masks and edited frames that it was made from.

    Raises:
        UserError: they have changed since.
    """
    inputs = result.record.inputs
    if digest(labels_THW.tobytes()) != inputs.masks:
        raise UserError(
            f"the masks have changed since {result.folder} was made: run infer.py again"
        )
    for path in edits.images.values():
        if sha256_file(path) not in inputs.edited.values():
            raise UserError(
                f"{path} has changed since {result.folder} was made: run infer.py again"
            )


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
