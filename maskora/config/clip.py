"""The tables about the clip: its frames, where the edit is, and who follows it there."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from maskora.config.base import Count, Frames, Positive, Table
from maskora.config.size import parse_size


class Video(Table):
    """How `prepare` cut and fitted the clip. Changing it means preparing again."""

    frames: Frames = Field(49, description="how many frames; 4k+1, at least 5")
    size: str = Field(
        "auto",
        description='"WIDTHxHEIGHT" on the model\'s grid; "auto" keeps the clip\'s aspect at about '
        'the area of 832x480, "auto:WIDTHxHEIGHT" at another area',
    )
    start: Count = Field(0, description="first frame, counted in the original from 0")
    every: Annotated[int, Field(ge=1, le=10_000)] = Field(
        1, description="take every n-th frame of the original"
    )
    fit: Literal["crop", "pad", "stretch"] = Field(
        "crop", description="how the picture meets the size: crop, pad or stretch"
    )

    @field_validator("frames")
    @classmethod
    def _is_4k_plus_1(cls, frames: int) -> int:
        if frames % 4 != 1:
            low = (frames - 1) // 4 * 4 + 1
            raise ValueError(
                f"{frames} is not 4k+1 (the models compress time by 4): try {low} or {low + 4}"
            )
        return frames

    @field_validator("size")
    @classmethod
    def _is_a_size(cls, size: str) -> str:
        if size != "auto":
            parse_size(size.removeprefix("auto:"))
        return size

    @property
    def is_auto(self) -> bool:
        """Whether the size follows the clip's aspect."""
        return self.size.startswith("auto")

    @property
    def area(self) -> int:
        """How many pixels an automatic size should have, about."""
        width, height = parse_size(self.size.partition(":")[2] or "832x480")
        return width * height


class Mask(Table):
    """How silhouettes become the region that is generated."""

    shape: Literal["box", "tight", "hull", "noisy", "full"] = Field(
        "box", description="box | tight | hull | noisy | full; loose boxes give the best edits"
    )
    margin: Annotated[float, Field(ge=0.0, le=2.0)] = Field(
        0.1, description="grown by this share of the box on each side"
    )
    smooth: Positive = Field(
        5, description="frames over which the box is steadied; it never uncovers the silhouette"
    )
    min_area: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0005, description="smaller specks than this share of the picture are ignored"
    )


class Tracker(Table):
    """Who follows what is pointed at: `maskora track`, and the clicks of `maskora gui`."""

    type: Literal["simple", "sam2"] = Field(
        "simple",
        description="simple (GrabCut and optical flow: needs no download, loses its way in hard "
        "clips) | sam2",
    )
    checkpoint: Annotated[str, Field(min_length=1)] = Field(
        "facebook/sam2.1-hiera-large",
        description="for sam2: a hub id, a local folder in transformers' layout, or an original "
        ".pt file where the sam2 package is installed (relative to this file)",
    )
    clicks: tuple[str, ...] = Field(
        (),
        strict=False,
        description='points to follow, as --click: ["FRAME,X,Y,+", "FRAME,X,Y,-,OBJECT", …] in '
        "pixels of the original; - is a point that does not belong to the object",
    )
    boxes: tuple[str, ...] = Field(
        (), strict=False, description='the same as rectangles: ["FRAME,X,Y,W,H[,OBJECT]", …]'
    )
