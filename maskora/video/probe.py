"""Probing a clip: its size, length, rate, colours and sound, before its frames are read."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from maskora.errors import UserError
from maskora.files import IMAGE_SUFFIXES, IMAGES, is_hidden
from maskora.video.clock import (
    MOST_FRAMES,
    Clock,
    choose_rate,
    constant_rate_picks,
    is_constant,
    read_clock,
)
from maskora.video.ffmpeg import (
    CONTAINER_NAMES,
    CONTAINERS,
    DECODING,
    file_url,
    has_filter,
    open_file,
    refuse_fault,
)
from maskora.video.images import (
    has_transparency,
    image_size,
    natural_key,
    read_with_alpha,
)
from maskora.video.sound import find_track

if TYPE_CHECKING:
    from maskora.video.untrusted import Limits

IMAGES_FPS = Fraction(16)
_LOOKED_AT = 1000  # packets, to find the stream that moves
_ALPHA_NOTE = "transparent parts become black"
_WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # the decoders that read it
_PRIMARIES = {
    1: "bt709", 4: "bt470m", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 8: "film",
    9: "bt2020", 10: "smpte428", 11: "smpte431", 12: "smpte432", 22: "jedec-p22",
}  # fmt: skip
_TRANSFER = {
    1: "bt709", 4: "bt470m", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 8: "linear",
    9: "log100", 10: "log316", 11: "iec61966-2-4", 12: "bt1361e", 13: "iec61966-2-1",
    14: "bt2020-10", 15: "bt2020-12", 16: "smpte2084", 17: "smpte428", 18: "arib-std-b67",
}  # fmt: skip
_MATRIX = {
    0: "gbr", 1: "bt709", 4: "fcc", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m",
    8: "ycgco", 9: "bt2020nc", 10: "bt2020c",
}  # fmt: skip
_RANGE = {1: "tv", 2: "pc"}
_HDR_TRANSFER: dict[str, Literal["pq", "hlg"]] = {"smpte2084": "pq", "arib-std-b67": "hlg"}
_SCALE_MATRIX = {  # tag -> the name that ffmpeg's scale filter has known in all versions
    "bt709": "bt709", "fcc": "fcc", "bt470bg": "bt601", "smpte170m": "bt601",
    "smpte240m": "smpte240m", "bt2020nc": "bt2020", "bt2020c": "bt2020",
}  # fmt: skip


@dataclass(frozen=True)
class ColorTags:
    """A file's colour tags, in ffmpeg's names; None where it has none."""

    primaries: str | None = None
    transfer: str | None = None
    matrix: str | None = None
    range: str | None = None

    @property
    def hdr(self) -> Literal["pq", "hlg"] | None:
        """ "pq", "hlg", or None for ordinary (SDR) video."""
        return _HDR_TRANSFER.get(self.transfer or "")


UNTAGGED = ColorTags()
BT709 = ColorTags("bt709", "bt709", "bt709", "tv")


@dataclass(frozen=True)
class VideoInfo:
    """A clip as `read_frames` yields it.

    Attributes:
        path: the file, or the folder of images.
        width, height: displayed size in pixels: rotated, and made of square pixels.
        frames: how many frames there are, at the constant rate ``fps``.
        fps: frames per second.
        variable_rate: the file's own rate varies (frames are repeated or left out for ``fps``).
        rotation: degrees counter-clockwise that are applied: 0, 90, 180 or 270.
        bit_depth: bits per channel in the file; frames are always read with 8.
        color: the file's own tags; frames of an HDR file are mapped to SDR.
        audio_track: the sound track that results are given, from 0; None: none can be.
        notes: sentences for the person: what was found, what is converted.
        start_seconds: when the first frame is shown, on the file's own clock; where that begins
            anew on the way (`joined`), from the start of the sound track.
        joined: the file is of parts, each with a clock of its own.
        stream: index of the video stream in the file.
        container: ffmpeg's name of the file's format.
        picks: the decoded frame shown at each of ``frames``, or None when it is each in turn.
        images: the files of an image folder, in order; empty for a video file.
        has_alpha: the file has transparency.
        decoder: the decoder that it needs; empty: the usual one.
        times: when each decoded frame is shown, on the file's own clock, where it can be found by
            that; else empty.
    """

    path: Path
    width: int
    height: int
    frames: int
    fps: Fraction
    variable_rate: bool = False
    rotation: int = 0
    bit_depth: int = 8
    color: ColorTags = UNTAGGED
    audio_track: int | None = None
    notes: tuple[str, ...] = ()
    start_seconds: float = 0.0
    stream: int = 0
    container: str = ""
    picks: tuple[int, ...] | None = None
    images: tuple[Path, ...] = ()
    has_alpha: bool = False
    decoder: str = ""
    times: tuple[float, ...] = ()
    joined: bool = False

    @property
    def has_audio(self) -> bool:
        """Results have sound."""
        return self.audio_track is not None


def probe(path: Path, fps: Fraction | None = None, limits: "Limits | None" = None) -> VideoInfo:
    """Examine a video file, or a folder of images.

    Args:
        path: a video file, or a folder whose images are the frames, in natural order.
        fps: the rate to read it at; by default a file's own, and 16 for a folder.
        limits: for a file from elsewhere: single video files only, and no more than this of it
            (`check_untrusted` does that in a process of its own).

    Raises:
        UserError: it is missing, not a video, damaged, has no frames, or goes beyond a limit.
        Fault: the machine cannot read it now: too little memory, say.
    """
    if fps is not None and fps <= 0:
        raise UserError(f"{path}: the frame rate must be positive, not {fps}")
    if path.is_dir():
        return _probe_images(path, fps, limits)
    if not path.is_file():
        raise UserError(f"{path}: no such video file or folder")
    if limits is not None:
        limits.check_bytes(path, path.stat().st_size)
    try:
        with DECODING, _opened(path, limits) as container:
            return _probe_file(path, container, fps, limits)
    except av.FFmpegError as error:
        refuse_fault(path, error)
        on_opening = error.filename == file_url(path)
        if on_opening and isinstance(error, av.ArgumentError):  # not one of the formats
            names = limits.container_names if limits is not None else CONTAINER_NAMES
            raise UserError(
                f"{path}: not one of the video files that are taken ({names}), or damaged; "
                f"convert it to one of them"
            ) from None
        raise UserError(
            f"{path}: cannot be read as a video: it is something else, or cut short, or damaged"
            f" ({error.strerror})"
        ) from None


def sound_note(path: Path) -> str:
    """What is to be known of a video's sound before a result is given it; often nothing.

    Raises:
        Fault: the machine cannot read it now.
    """
    try:
        with _opened(path, None) as container:
            return find_track(path, container.format.name, len(container.streams.audio))[1]
    except av.FFmpegError as error:
        refuse_fault(path, error)
        return ""  # reading its frames says more


def _opened(path: Path, limits: "Limits | None") -> InputContainer:
    return open_file(path, limits.containers if limits is not None else CONTAINERS)


def _probe_images(folder: Path, fps: Fraction | None, limits: "Limits | None") -> VideoInfo:
    shown = (p for p in folder.iterdir() if not is_hidden(p))
    entries = sorted(shown, key=natural_key)
    images = tuple(p for p in entries if p.is_file() and p.suffix.lower() in IMAGE_SUFFIXES)
    if not images:
        raise UserError(f"{folder}: no images in this folder ({IMAGES})")
    by_stem: dict[str, Path] = {}
    for path in images:
        twin = by_stem.setdefault(path.stem, path)
        if twin != path:
            raise UserError(
                f"{folder}: {twin.name} and {path.name} are the same frame twice; keep one of them"
            )
    width, height = image_size(images[0])
    if limits is not None:
        limits.check_pixels(folder, width, height)
        limits.check_length(folder, len(images), 0)
        limits.check_bytes(folder, sum(path.stat().st_size for path in images))
    for path in images[1:]:
        found = image_size(path)
        if found != (width, height):
            raise UserError(
                f"{path}: {found[0]}x{found[1]}, but {images[0].name} is {width}x{height}; "
                "all frames of a folder must have one size"
            )
    notes = [f"{len(images)} images read as frames, {images[0].name} to {images[-1].name}"]
    if fps is None:
        notes.append(f"images carry no frame rate: {IMAGES_FPS} per second assumed (--fps)")
    notes += _gaps(images)
    if has_transparency(images[0]) and read_with_alpha(images[0])[..., 3].min() < 255:
        notes.append(_ALPHA_NOTE)
    others = [p.name for p in entries if p not in set(images)]
    if others:
        notes.append(f"not images, left out: {', '.join(others)}")
    rate = fps or IMAGES_FPS
    return VideoInfo(folder, width, height, len(images), rate, notes=tuple(notes), images=images)


def _gaps(images: Sequence[Path]) -> list[str]:
    """A note where numbers are missing among the names of frames."""
    numbers = [[int(part) for part in re.findall(r"\d+", path.stem)[-1:]] for path in images]
    if len(images) < 2 or not all(numbers):
        return []
    steps = [after - before for (before,), (after,) in pairwise(numbers)]
    step = min(steps)
    if step < 1:
        return []
    gaps = [index for index, one in enumerate(steps) if one > step]
    if not gaps:
        return []
    named = [f"{images[gap].name} is followed by {images[gap + 1].name}" for gap in gaps[:3]]
    more = f" and {len(gaps) - 3} more" if len(gaps) > 3 else ""
    return [f"frames are missing: {', '.join(named)}{more}; time does not stop there"]


def _probe_file(
    path: Path, container: InputContainer, fps: Fraction | None, limits: "Limits | None"
) -> VideoInfo:
    stream, passed_over = _choose_stream(path, container, limits)
    check = partial(limits.check_length, path) if limits else None
    first, clock = read_clock(container, stream, check)
    if first is None:
        raise UserError(f"{path}: the video stream has no frames")
    if limits is not None and clock.rejected:
        _refuse_larger(path, stream.index, limits)
    named = [rate for rate in (stream.guessed_rate, stream.average_rate) if rate]
    rate, variable = choose_rate(clock.times, named)
    width, height = _displayed_size(stream, first)
    if limits is not None:
        seconds = clock.end - clock.times[0]
        limits.check_pixels(path, width, height)
        limits.check_length(path, seconds * float(fps or rate), seconds)
    picks = None
    if not is_constant(clock.times, fps or rate):
        _refuse_leaps(path, clock, fps or rate)
        picks = constant_rate_picks(clock.times, clock.end, fps or rate)
    track, sound_note = find_track(path, container.format.name, len(container.streams.audio))
    has_alpha, decoder, alpha_note = _transparency(stream, first)
    zero = _start(container.streams.audio[track]) if clock.joined and track is not None else 0.0
    info = VideoInfo(
        path=path, width=width, height=height,
        frames=len(clock.times) if picks is None else len(picks),
        fps=fps or rate, variable_rate=variable, rotation=_rotation(first),
        bit_depth=first.format.components[0].bits, color=_color(first), audio_track=track,
        start_seconds=clock.times[0] - zero, stream=stream.index, container=container.format.name,
        picks=picks, has_alpha=has_alpha, decoder=decoder,
        times=clock.times if clock.stamped else (),
        joined=bool(clock.joined),
    )  # fmt: skip
    notes = (
        *_stream_notes(passed_over, stream, first, clock),
        *_conversion_notes(info, rate),
        *filter(None, (alpha_note, sound_note)),
    )
    return replace(info, notes=notes)


def _choose_stream(
    path: Path, container: InputContainer, limits: "Limits | None"
) -> tuple[VideoStream, int]:
    """The first stream of moving pictures, and how many others there are (covers not counted)."""
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        raise UserError(f"{path}: no video stream in this file")
    streams = [stream for stream in streams if stream.codec_context is not None]
    if not streams:
        raise UserError(f"{path}: its pictures are in a format that is not known here: convert it")
    stream = streams[_first_that_moves(path, [s.index for s in streams], limits)]
    stream.thread_type = "AUTO"
    if limits is not None:
        limits.check_header(path, container, stream)
        stream.codec_context.options = limits.decoder_options
    return stream, len(streams) - 1


def _refuse_larger(path: Path, index: int, limits: "Limits") -> None:
    """Raises av.FFmpegError where a picture that is not decoded may be too large for that."""
    with _opened(path, limits) as container:
        stream = container.streams.get(index)[0]
        assert isinstance(stream, VideoStream)
        stream.thread_type, stream.codec_context.options = "NONE", limits.decoder_options
        for packet in container.demux(stream):
            try:
                packet.decode()
            except av.FFmpegError:
                if not 0 < stream.width * stream.height <= limits.max_pixels:
                    raise


def _first_that_moves(path: Path, streams: list[int], limits: "Limits | None") -> int:
    """The place in a list of a file's streams of the first that has more than one picture."""
    if len(streams) == 1:
        return 0
    packets = dict.fromkeys(streams, 0)
    with _opened(path, limits) as container:
        for packet in container.demux([container.streams[index] for index in streams]):
            packets[packet.stream_index] += packet.size > 0
            if packets[streams[0]] > 1 or sum(packets.values()) >= _LOOKED_AT:
                break
    counts = list(packets.values())
    return next((place for place, count in enumerate(counts) if count > 1), 0)


def _start(stream: AudioStream) -> float:
    return float((stream.start_time or 0) * (stream.time_base or 0))


def _transparency(stream: VideoStream, first: VideoFrame) -> tuple[bool, str, str]:
    """Whether there is any, the decoder that reads it, and a note."""
    codec = stream.codec_context.name
    if codec in _WITH_ALPHA and stream.metadata.get("alpha_mode") == "1":
        return True, _WITH_ALPHA[codec], _ALPHA_NOTE
    if not any(component.is_alpha for component in first.format.components):
        return False, "", ""
    alpha_HW = first.reformat(format="rgba").to_ndarray()[..., 3]
    if codec == "rawvideo" and not alpha_HW.any():
        return False, "", ""  # a fourth byte that nobody has filled
    return True, "", _ALPHA_NOTE if alpha_HW.min() < 255 else ""


def _refuse_leaps(path: Path, clock: Clock, rate: Fraction) -> None:
    """Raises UserError where a jump in time would be millions of repeated frames."""
    frames = (clock.end - clock.times[0]) * float(rate)
    if frames > MOST_FRAMES:
        pauses = np.diff(clock.times)
        longest = int(pauses.argmax()) if len(pauses) else 0
        raise UserError(
            f"{path}: at {_rate_text(rate)} frames per second it would be {frames:.0f} frames: "
            f"after frame {longest} its times jump by {pauses[longest]:.0f} seconds. Write it anew "
            f"with times that are right, say: ffmpeg -i VIDEO -vf setpts=N/25/TB -r 25 NEW.mp4"
        )


def _color(frame: VideoFrame) -> ColorTags:
    return ColorTags(
        _PRIMARIES.get(int(frame.color_primaries)),
        _TRANSFER.get(int(frame.color_trc)),
        _MATRIX.get(int(frame.colorspace)),
        _RANGE.get(int(frame.color_range)),
    )


def _rotation(frame: VideoFrame) -> int:
    return round(frame.rotation / 90) * 90 % 360


def _displayed_size(stream: VideoStream, frame: VideoFrame) -> tuple[int, int]:
    """(width, height) with square pixels (the width gives way), then rotated."""
    width = max(1, round(frame.width * (stream.sample_aspect_ratio or 1)))
    return (frame.height, width) if _rotation(frame) in (90, 270) else (width, frame.height)


def _stream_notes(
    passed_over: int, stream: VideoStream, first: VideoFrame, clock: Clock
) -> tuple[str, ...]:
    notes = []
    if clock.missing:
        there = len(clock.times) - clock.missing
        notes.append(
            f"the file is cut short: it promises {len(clock.times)} frames, {there} are there"
        )
    if clock.rejected:
        count, before = len(clock.rejected), clock.rejected[0]
        notes.append(
            f"damaged: {count} {'frame' if count == 1 else 'frames'} cannot be decoded, the first "
            f"near frame {before}"
        )
    if passed_over:
        number = [s.index for s in stream.container.streams.video].index(stream.index) + 1
        notes.append(f"{passed_over + 1} video streams: number {number} is used")
    if clock.joined:
        frames = ", ".join(map(str, clock.joined[:5]))
        notes.append(
            f"times begin anew at frame {frames}, as in files that were joined: they are put one "
            f"after another"
        )
    if (stream.sample_aspect_ratio or 1) != 1:
        notes.append(
            f"pixels of {stream.sample_aspect_ratio} made square: "
            f"{first.width}x{first.height} stretched in width"
        )
    if first.interlaced_frame:
        notes.append("interlaced: used as it is, so moving edges may show comb lines")
    return tuple(notes)


def _conversion_notes(info: VideoInfo, own_rate: Fraction) -> tuple[str, ...]:
    notes = []
    if info.rotation:
        notes.append(
            f"rotated by {info.rotation} degrees as tagged: {info.width}x{info.height} shown"
        )
    if info.variable_rate:
        notes.append(
            f"variable frame rate: read at a constant {_rate_text(info.fps)} per second, "
            f"{info.frames} frames"
        )
    elif info.picks is not None:
        notes.append(
            f"{_rate_text(own_rate)} frames per second read at {_rate_text(info.fps)}, "
            f"{info.frames} frames"
        )
    if info.bit_depth > 8:
        notes.append(f"{info.bit_depth} bits per channel reduced to 8")
    if hdr := info.color.hdr:
        notes.append(
            f"HDR ({hdr.upper()}) tone-mapped to SDR, BT.709"
            if has_filter("zscale")
            else f"HDR ({hdr.upper()}) read without tone mapping: this ffmpeg has no zscale "
            "filter, colours will look flat"
        )
    return tuple(notes)


def _rate_text(rate: Fraction) -> str:
    return str(rate) if rate.denominator == 1 else f"{float(rate):.3f}"


def scale_matrix(tags: ColorTags, height: int) -> str:
    """The matrix for ffmpeg's scale filter. Untagged: BT.709 from 720 lines up, else BT.601,
    as players guess (swscale itself would take BT.601 at every size)."""
    guess = "bt709" if height >= 720 else "bt601"
    return _SCALE_MATRIX.get(tags.matrix or "", guess)


def sdr_tags(tags: ColorTags) -> ColorTags:
    """The tags for writing 8-bit YCbCr: HDR pictures were mapped to BT.709 when they were read,
    and a matrix that the conversion does not know (RGB, YCgCo) becomes BT.709."""
    if tags.hdr:
        return BT709
    if tags.matrix is not None and tags.matrix not in _SCALE_MATRIX:
        return replace(tags, matrix="bt709", range="tv")
    return tags
