"""The records inside an edit's folder: small JSON files that say where things come from."""

import re
from fractions import Fraction
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    field_validator,
)

from maskora.errors import UserError
from maskora.files import patiently


class Source(BaseModel):
    """source.json: where the frames come from and how they lie in the original."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    origin: str
    start: int = Field(ge=0)
    every: int = Field(ge=1)
    frames: int = Field(ge=1)
    fps: str
    original_size: tuple[PositiveInt, PositiveInt]
    size: tuple[PositiveInt, PositiveInt]
    cell: int = Field(ge=1)
    fit: str
    region: tuple[int, int, PositiveInt, PositiveInt]

    @field_validator("fps")
    @classmethod
    def _is_a_rate(cls, fps: str) -> str:
        if not re.fullmatch(r"[0-9]+(/[0-9]*[1-9][0-9]*)?", fps) or Fraction(fps) <= 0:
            raise ValueError(f"{fps!r} is no frame rate")
        return fps

    @property
    def rate(self) -> Fraction:
        """Frames per second of the chosen frames."""
        return Fraction(self.fps)


class TrackingRecord(BaseModel):
    """tracking/clicks.json: what the person pointed at, in pixels of the original."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompts: tuple[dict[Literal["click", "box"], str], ...]


class MaskRecord(BaseModel):
    """masks/masks.json: what the final masks were made from, so that a change is noticed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    settings: str
    silhouettes: str
    masks: str


Record = TypeVar("Record", bound=BaseModel)


def read_record(
    kind: type[Record],
    path: Path,
    remedy: str = "run maskora prepare again, with --overwrite (edits/ stay)",
) -> Record:
    """Read a record. Raises UserError, with the remedy, where it is missing or damaged."""
    try:
        return kind.model_validate_json(patiently(path.read_bytes, path))
    except (FileNotFoundError, ValidationError) as error:
        what = "is missing" if isinstance(error, FileNotFoundError) else "is damaged"
        raise UserError(f"{path} {what}: {remedy}") from None
