"""What is known of a clip once it was probed."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

from maskora.video.color import UNTAGGED, ColorTags


@dataclass(frozen=True)
class VideoInfo:
    """A clip as `read_frames` yields it.

    Attributes:
        path: the file, or the folder of images.
        kind: "video" or "images".
        width, height: displayed size in pixels: rotated, and made of square pixels.
        frames: how many frames there are, at the constant rate ``fps``.
        fps: frames per second.
        variable_rate: the file's own rate varies (frames are repeated or left out for ``fps``).
        rotation: degrees counter-clockwise that are applied: 0, 90, 180 or 270.
        bit_depth: bits per channel in the file; frames are always read with 8.
        hdr: "pq" or "hlg" when frames are mapped to SDR, else None.
        color: the file's own tags.
        has_audio: there is a sound track.
        notes: sentences for the person: what was found, what is converted.
        start_seconds: when the first frame is shown, from the start of the file.
        stream: index of the video stream in the file.
        container: ffmpeg's name of the file's format.
        picks: the decoded frame shown at each of ``frames``, or None when it is each in turn.
        images: the files of an image folder, in order.
    """

    path: Path
    kind: Literal["video", "images"]
    width: int
    height: int
    frames: int
    fps: Fraction
    variable_rate: bool = False
    rotation: int = 0
    bit_depth: int = 8
    hdr: Literal["pq", "hlg"] | None = None
    color: ColorTags = UNTAGGED
    has_audio: bool = False
    notes: tuple[str, ...] = ()
    start_seconds: float = 0.0
    stream: int = 0
    container: str = ""
    picks: tuple[int, ...] | None = None
    images: tuple[Path, ...] = ()
