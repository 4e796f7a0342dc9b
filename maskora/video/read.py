"""Reading frames of a clip: exactly those that are asked for, upright, in RGB."""

import io
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO

import numpy as np

from maskora.errors import UserError
from maskora.video.ffmpeg import complaints, ffmpeg_command, file_url, has_filter
from maskora.video.images import read_image
from maskora.video.probe import ColorTags, VideoInfo, scale_matrix

LEAST_PIXEL_BOUND = 2**26  # pixels of a coded frame, whatever size it is shown at
_SCALE_FLAGS = "lanczos+accurate_rnd+full_chroma_int+bitexact"


def read_frames(
    info: VideoInfo, start: int = 0, count: int | None = None, every: int = 1
) -> Iterator[np.ndarray]:
    """Yield frames ``start, start + every, ...`` of a clip.

    Args:
        info: the clip, from `probe`.
        start: first frame, counted from 0 at the rate ``info.fps``.
        count: how many frames to yield; by default all up to the clip's end.
        every: step between them.

    Yields:
        Arrays of shape (info.height, info.width, 3), uint8 RGB, each its own memory.

    Raises:
        UserError: the clip has no such frames, or is damaged before the last of them.
    """
    available = len(range(start, info.frames, every)) if every > 0 else 0
    count = available if count is None else count
    if start < 0 or every < 1 or not 0 <= count <= available:
        raise UserError(
            f"{info.path}: {count} frames from frame {start}, every {every}, asked for, "
            f"but the clip has {info.frames} frames, 0 to {info.frames - 1}"
        )
    wanted = range(start, start + count * every, every)
    return _image_frames(info, wanted) if info.images else _file_frames(info, wanted)


def _image_frames(info: VideoInfo, wanted: Sequence[int]) -> Iterator[np.ndarray]:
    for index in wanted:
        frame_HWC = read_image(info.images[index])
        if frame_HWC.shape != (info.height, info.width, 3):
            raise UserError(f"{info.images[index]}: its size changed while it was being read")
        yield frame_HWC


def _file_frames(info: VideoInfo, wanted: Sequence[int]) -> Iterator[np.ndarray]:
    if not wanted:
        return
    shown = Counter(wanted if info.picks is None else (info.picks[i] for i in wanted))
    first, last = min(shown), max(shown)
    with _decoder(info, first, last) as (pipe, log):
        for index in range(first, last + 1):
            frame_HWC = np.empty((info.height, info.width, 3), np.uint8)
            if pipe.readinto(frame_HWC.data.cast("B")) < frame_HWC.nbytes:
                raise _damaged(info, index, last, complaints(log))
            for _ in range(shown[index] - 1):
                yield frame_HWC.copy()
            if shown[index]:
                yield frame_HWC


@contextmanager
def _decoder(
    info: VideoInfo, first: int, last: int
) -> Iterator[tuple[io.BufferedReader, IO[bytes]]]:
    """A running ffmpeg that writes decoded frames first..last, raw, to a pipe; and its error log.
    It stops at the first damaged frame, and is gone when the context is left."""
    # The file must be what probe found, and a stream may not outgrow its first frame without end.
    most_pixels = min(max(4 * info.width * info.height, LEAST_PIXEL_BOUND), 2**31 - 1)
    command = ffmpeg_command(
        "-format_whitelist", info.container, "-max_pixels", str(most_pixels),
        "-xerror", "-i", file_url(info.path), "-map", f"0:{info.stream}",
        "-vf", f"trim=start_frame={first}:end_frame={last + 1},{rgb_filter(info)}",
        "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1",
    )  # fmt: skip
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        assert isinstance(process.stdout, io.BufferedReader)
        try:
            yield process.stdout, log
        finally:
            process.kill()
            process.stdout.close()
            process.wait()


def rgb_filter(info: VideoInfo) -> str:
    """The ffmpeg filters from decoded (and rotated) frames to RGB at the displayed size."""
    size = f"{info.width}:{info.height}"
    if info.color.hdr and has_filter("zscale"):
        return f"{_tone_mapping(info.color)},scale={size}:flags={_SCALE_FLAGS},format=rgb24"
    source_range = "pc" if info.color.range == "pc" else "tv"
    matrix = scale_matrix(info.color, info.height)
    return (
        f"scale={size}:in_color_matrix={matrix}:in_range={source_range}"
        f":flags={_SCALE_FLAGS},format=rgb24"
    )


def _tone_mapping(color: ColorTags) -> str:
    """PQ or HLG to BT.709: to linear light, smaller gamut, highlights rolled off, SDR curve."""
    matrix = "bt2020c" if color.matrix == "bt2020c" else "bt2020nc"
    source_range = "full" if color.range == "pc" else "limited"
    return (
        f"zscale=tin={color.transfer}:min={matrix}:pin=bt2020:rin={source_range}"
        ":t=linear:npl=100,format=gbrpf32le,zscale=p=bt709,tonemap=mobius:desat=0,"
        "zscale=t=bt709:r=full,format=gbrp"
    )


def _damaged(info: VideoInfo, index: int, last: int, errors: list[str]) -> UserError:
    reason = f" ({errors[0]})" if errors else ""
    return UserError(
        f"{info.path}: damaged or cut short: decoding stops at frame {index} of the file, "
        f"frames up to {last} are needed{reason}. Use fewer frames, or another copy of the file"
    )
