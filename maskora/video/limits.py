"""How much of a file that somebody else made is opened, and as what."""

from dataclasses import dataclass
from pathlib import Path

from av.container import InputContainer
from av.video.stream import VideoStream

from maskora.errors import UserError

# Single files only: a playlist (HLS, DASH, ffconcat, numbered images) would open others.
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,gif,apng"
TOLD_CONTAINERS = "mp4, mov, mkv, webm, avi, ts, gif or animated png"
FRAMES_PER_SECOND = 120  # beyond this, a clip's length in frames counts instead of its seconds


@dataclass(frozen=True)
class Limits:
    """The most that is taken of a file from elsewhere.

    Attributes:
        max_bytes: of the file.
        max_seconds: that the clip lasts.
        max_pixels: width times height.
        max_frames: that the clip has.
    """

    max_bytes: int
    max_seconds: float
    max_pixels: int
    max_frames: int

    @classmethod
    def of(cls, upload_mb: float = 2000, seconds: float = 600, megapixels: float = 9) -> "Limits":
        """From the numbers of --max-upload-mb, --max-seconds and --max-megapixels."""
        frames = round(seconds * FRAMES_PER_SECOND)
        return cls(round(upload_mb * 1e6), seconds, round(megapixels * 1e6), frames)

    def check_bytes(self, path: Path, found: int) -> None:
        """Raises UserError where a file is larger."""
        if found > self.max_bytes:
            raise UserError(
                f"{path} has {found / 1e6:.1f} MB, and at most {self.max_bytes / 1e6:g} are taken "
                f"(--max-upload-mb)"
            )

    def check_pixels(self, path: Path, width: int, height: int) -> None:
        """Raises UserError where a picture is larger."""
        if width * height > self.max_pixels:
            raise UserError(
                f"{path} is {width}x{height}, {width * height / 1e6:.1f} megapixels, and at most "
                f"{self.max_pixels / 1e6:g} are taken (--max-megapixels)"
            )

    def check_length(self, path: Path, frames: float, seconds: float) -> None:
        """Raises UserError where a clip is longer, in frames or in seconds."""
        if seconds > self.max_seconds:
            raise UserError(
                f"{path} lasts more than {self.max_seconds:g} seconds, the most that is taken "
                f"(--max-seconds)"
            )
        if frames > self.max_frames:
            raise UserError(
                f"{path} has more than {self.max_frames} frames, the most that is taken "
                f"({self.max_seconds:g} seconds, --max-seconds)"
            )

    def check_header(self, path: Path, container: InputContainer, stream: VideoStream) -> None:
        """What a file says of itself, before anything of it is decoded. Raises UserError."""
        self.check_pixels(path, stream.codec_context.width, stream.codec_context.height)
        own = float((stream.duration or 0) * (stream.time_base or 0))
        whole = (container.duration or 0) / 1e6
        self.check_length(path, max(stream.frames, len(stream.index_entries)), own or whole)

    @property
    def container_options(self) -> dict[str, str]:
        """For av.open: nothing but one of the containers, and no other file or address."""
        return {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}

    @property
    def decoder_options(self) -> dict[str, str]:
        """For the decoder: a stream that grows on the way stops. Twice, for its padded size."""
        return {"max_pixels": str(min(2 * self.max_pixels, 2**31 - 1))}
