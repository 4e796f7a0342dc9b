"""Writing frames to a file: H.264 or lossless, with sound and colour tags; whole or not at all."""

import errno
import logging
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from functools import partial
from itertools import chain
from pathlib import Path
from types import MappingProxyType

import numpy as np

from maskora.errors import Fault, UserError
from maskora.files import replacing
from maskora.video.ffmpeg import ffmpeg_command, file_url, log_lines
from maskora.video.probe import BT709, ColorTags, scale_matrix, sdr_tags
from maskora.video.sound import AAC, FLAC, AudioClip, add_sound

log = logging.getLogger("maskora")
CRF = "14"  # of x264: visually lossless
NO_METADATA: Mapping[str, str] = MappingProxyType({})
CLOSED = (errno.EPIPE, errno.EINVAL)  # of a pipe whose reader has gone; the second is Windows'


def write_mp4(
    path: Path,
    frames: Iterable[np.ndarray],
    fps: Fraction,
    color: ColorTags | None = None,
    audio: AudioClip | None = None,
    metadata: Mapping[str, str] = NO_METADATA,
) -> None:
    """Write H.264 in an .mp4: 4:2:0, or 4:4:4 where the size is odd, which 4:2:0 cannot hold.

    Args:
        frames: at least one, each (H, W, 3) uint8 RGB of one size.
        fps: the exact rate.
        color: tags of the source, written as they are, unknown ones left out; HDR ones become
            BT.709, as its frames were mapped when read. None: BT.709.
        audio: the sound to lay under it, encoded as AAC; where it cannot be read there is none,
            and a note says so.
        metadata: the file's own, by ffmpeg's names.

    Raises:
        Fault: ffmpeg failed (a full disk, say).
    """
    (height, width), frames = _size(frames)
    tags = BT709 if color is None else sdr_tags(color)
    pixels = "yuv444p" if width % 2 or height % 2 else "yuv420p"
    convert = (
        f"scale=in_range=pc:out_color_matrix={scale_matrix(tags, height)}"
        f":out_range={'pc' if tags.range == 'pc' else 'tv'}"
        f":flags=lanczos+accurate_rnd+full_chroma_int+bitexact,format={pixels}"
        f",setparams=color_primaries={tags.primaries or 'unknown'}"
        f":color_trc={tags.transfer or 'unknown'}"
        f":colorspace={tags.matrix or 'unknown'}:range={tags.range or 'unknown'}"
    )
    codec = ["-c:v", "libx264", "-preset", "medium", "-crf", CRF]
    container = ["-movflags", "+faststart", *_named(metadata)]
    with replacing(path) as scratch:
        _encode(path, scratch, frames, fps, [*codec, *container], convert)
        if audio is not None:
            _lay_under(path, scratch, audio, AAC, *container)


def write_lossless(
    path: Path,
    frames: Iterable[np.ndarray],
    fps: Fraction,
    audio: AudioClip | None = None,
    metadata: Mapping[str, str] = NO_METADATA,
) -> None:
    """Write FFV1 in RGB and FLAC sound in an .mkv: every pixel comes back as it was.

    Raises:
        Fault: ffmpeg failed.
    """
    # Else every file has a random number of its own.
    container = ["-fflags", "+bitexact", *_named(metadata)]
    with replacing(path) as scratch:
        codec = ["-c:v", "ffv1", "-level", "3", "-g", "1"]
        _encode(path, scratch, frames, fps, [*codec, *container], "format=bgr0")
        if audio is not None:
            _lay_under(path, scratch, audio, FLAC, *container)


def _named(metadata: Mapping[str, str]) -> list[str]:
    """Metadata as words for ffmpeg."""
    return [word for key, text in metadata.items() for word in ("-metadata", f"{key}={text}")]


def _size(frames: Iterable[np.ndarray]) -> tuple[tuple[int, int], Iterable[np.ndarray]]:
    """(height, width) of the first frame, and all frames."""
    rest = iter(frames)
    first = next(rest, None)
    assert first is not None, "a video needs a frame"
    return first.shape[:2], chain([first], rest)


def _encode(
    path: Path,
    scratch: Path,
    frames: Iterable[np.ndarray],
    fps: Fraction,
    codec: list[str],
    convert: str,
) -> None:
    """Write the picture to `scratch`; `path` is what it will be. Raises Fault."""
    (height, width), frames = _size(frames)
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps)]
    command = ffmpeg_command(*raw, "-i", "pipe:0", "-vf", convert, *codec, file_url(scratch))
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=errors)
        assert process.stdin is not None
        try:
            for frame in frames:
                assert frame.shape == (height, width, 3), (frame.shape, (height, width))
                if not _passed(partial(process.stdin.write, np.ascontiguousarray(frame).data)):
                    break  # ffmpeg gave up; its own words follow
            _passed(process.stdin.close)
            process.wait()
        finally:
            process.kill()
            process.wait()
            _passed(process.stdin.close)  # what was still on its way to ffmpeg
        if process.returncode != 0:
            errors.seek(0)
            said = log_lines(errors.read()) or [f"ffmpeg stopped with status {process.returncode}"]
            raise Fault(f"{path} could not be written: {said[-1]}")


def _lay_under(
    path: Path, picture: Path, audio: AudioClip, codec: tuple[str, ...], *options: str
) -> None:
    """Add the sound; where it cannot be used, a note says so. Raises Fault as `_encode` does."""
    try:
        said = add_sound(picture, audio, codec, *options)
    except UserError as error:
        log.warning("note: %s has no sound: that of %s fails (%s)", path, audio.path, error)
    except Fault as fault:
        raise Fault(f"{path} could not be written: {fault}") from None
    else:
        if said:
            log.warning("note: the sound of %s is damaged in parts (%s)", audio.path, said[0])


def _passed(action: Callable[[], object]) -> bool:
    """Write to, or close, the pipe to ffmpeg. False: ffmpeg has closed its end."""
    try:
        action()
    except OSError as error:
        if error.errno not in CLOSED:
            raise
        return False
    return True
