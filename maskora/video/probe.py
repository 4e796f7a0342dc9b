"""Probing a clip: its size, length, rate, colours and sound, before its frames are read."""

import errno
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Literal

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from maskora.errors import Fault, UserError
from maskora.files import IMAGE_SUFFIXES, IMAGES, is_hidden
from maskora.video.ffmpeg import file_url, has_filter
from maskora.video.images import has_transparency, image_size, natural_key, read_with_alpha
from maskora.video.sound import find_track

if TYPE_CHECKING:
    from maskora.video.untrusted import Limits

IMAGES_FPS = Fraction(16)
_ONE_PICTURE_PER_PACKET = {"h264", "hevc", "vp9", "av1", "prores", "ffv1", "mjpeg", "dnxhd", "png"}
TIMED_CONTAINERS = ("mov", "matroska")  # packets come one by one with their times
_PARTS_MAY_FOLLOW = ("mpegts", "mpeg", "ogg")  # files that are joined by copying one after another
_LONGEST_PAUSE = 10.0  # seconds between two frames of one part
_SAME_PART = 1.0  # seconds by which times may go back within one part
_MOST_FRAMES = 2_000_000  # of a clip at a constant rate: 18 hours at 30 per second
_SUSTAINED = 0.2  # seconds over which a rate must hold
_MOST_RATE = 1000  # frames per second that are believed
_LOOKED_AT = 1000  # packets, to find the stream that moves
_ALPHA_NOTE = "transparent parts become black"
_WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # the decoders that read it
CheckLength = Callable[[float, float], None]  # (frames, seconds)
_FALLBACK_RATE = Fraction(25)  # for a file that names no rate and no times, as ffmpeg assumes
_USUAL_RATES = tuple(
    [Fraction(n * 1000, 1001) for n in (24, 30, 48, 60, 120)]
    + [Fraction(n) for n in (8, 10, 12, 15, 16, 20, 24, 25, 30, 48, 50, 60, 100, 120, 240)]
)
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


@dataclass(frozen=True)
class Clock:
    """The times of a clip's frames, in seconds on the file's clock.

    Attributes:
        times: when each frame is shown, sorted; frames the file promises but lacks included.
        end: when the last one stops being shown.
        missing: how many frames the file's own index promises beyond those that are there.
        stamped: each is the file's own, and ffmpeg finds the frame by it.
        joined: frames from which on times begin anew, as in files that were joined.
    """

    times: tuple[float, ...]
    end: float
    missing: int
    stamped: bool = False
    joined: tuple[int, ...] = ()


def probe(path: Path, fps: Fraction | None = None, limits: "Limits | None" = None) -> VideoInfo:
    """Examine a video file, or a folder of images.

    Args:
        path: a video file, or a folder whose images are the frames, in natural order.
        fps: the rate to read it at; by default a file's own, and 16 for a folder.
        limits: for a file from elsewhere: single video files only, and no more than this of it
            (`check_untrusted` does that in a process of its own).

    Raises:
        UserError: it is missing, not a video, damaged, has no frames, or goes beyond a limit.
        Fault: there is too little memory to read it.
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
        with _opened(path, limits) as container:
            return _probe_file(path, container, fps, limits)
    except av.FFmpegError as error:
        if error.errno == errno.ENOMEM:
            raise Fault(f"{path}: there is too little memory to read it") from None
        on_opening = error.filename == file_url(path)
        if limits is not None and on_opening and isinstance(error, av.ArgumentError):  # whitelist
            raise UserError(
                f"{path}: not one of the video files that are taken ({limits.container_names}), "
                "or damaged"
            ) from None
        raise UserError(
            f"{path}: cannot be read as a video: it is something else, or cut short, or damaged"
            f" ({error.strerror})"
        ) from None


def sound_note(path: Path) -> str:
    """What is to be known of a video's sound before a result is given it; often nothing."""
    try:
        with _opened(path, None) as container:
            return find_track(path, container.format.name, len(container.streams.audio))[1]
    except av.FFmpegError:
        return ""  # reading its frames says more


def _opened(path: Path, limits: "Limits | None") -> InputContainer:
    """The file, with tags in whatever encoding."""
    options = limits.container_options if limits is not None else {}
    return av.open(file_url(path), container_options=options, metadata_errors="replace")


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
    if not streams or container.format.name == "tty":  # tty: a text file taken for ANSI art
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
    if frames > _MOST_FRAMES:
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


def read_clock(
    container: InputContainer, stream: VideoStream, check_length: CheckLength | None = None
) -> tuple[VideoFrame | None, Clock]:
    """The first decoded frame (None: the stream has none) and the times of all frames.

    A frame's time is its packet's where every packet is one frame; elsewhere all is decoded.

    Args:
        check_length: called with frames and seconds on the way; raises where it is too much.
    """
    decode_all = (
        stream.codec_context.codec.canonical_name not in _ONE_PICTURE_PER_PACKET
        or not container.format.name.startswith(TIMED_CONTAINERS)
        or stream.codec_context.field_order > 1  # interlaced: a packet may be half a frame
    )
    first, shown, ticks = _walk(container, stream, decode_all, check_length)
    if not decode_all and any(time is None for time, _ in shown):
        container.seek(0)  # some packets may be no frame at all
        first, shown, ticks = _walk(container, stream, True, check_length)
    return first, _clock(container, stream, shown, ticks, check_length)


_Spans = list[tuple[float | None, float]]


def _walk(
    container: InputContainer,
    stream: VideoStream,
    decode_all: bool,
    check_length: CheckLength | None,
) -> tuple[VideoFrame | None, _Spans, list[float]]:
    """The first frame, the spans of all frames, and the times at which packets are decoded."""
    first: VideoFrame | None = None
    shown: _Spans = []
    ticks: list[float] = []
    for packet in container.demux(stream):
        if packet.dts is not None:
            if not packet.size:
                continue  # the frame before is held
            ticks.append(packet.dts * float(packet.time_base or 0))
        if not decode_all and packet.size and not packet.is_discard:
            shown.append(_span(packet))
        if decode_all or first is None:
            decoded = packet.decode()
            if decoded and first is None:
                first = decoded[0]
            shown.extend(_span(frame) for frame in decoded if decode_all)
        if check_length is not None and shown:
            check_length(len(shown), (shown[-1][0] or 0) - (shown[0][0] or 0))
    return first, shown, ticks


def _span(item: "Packet[VideoStream] | VideoFrame") -> tuple[float | None, float]:
    """(when it is shown, for how long) in seconds; None and 0 where the file does not say."""
    base = float(item.time_base or 0)
    return (None if item.pts is None else item.pts * base), (item.duration or 0) * base


def _clock(
    container: InputContainer,
    stream: VideoStream,
    shown: _Spans,
    ticks: list[float],
    check_length: CheckLength | None,
) -> Clock:
    rate = float(stream.guessed_rate or stream.average_rate or _FALLBACK_RATE)
    stamps: list[float | None] = [time for time, _ in shown]
    joined: tuple[int, ...] = ()
    if container.format.name == "avi":
        # Its times are wrong with B-frames, but its ticks tell where it holds a frame.
        stamps = list[float | None](sorted(ticks)) if len(ticks) == len(shown) else [None]
    elif container.format.name.startswith(_PARTS_MAY_FOLLOW):
        stamps, joined = _continued(stamps, 1 / rate)
    times = _filled(stamps, len(shown), 1 / rate)
    if container.format.name.startswith(TIMED_CONTAINERS):
        times.sort()  # packets come as they are decoded
    rising = all(b > a for a, b in pairwise(times))
    in_place = container.format.name.startswith((*TIMED_CONTAINERS, "mpegts"))
    stamped = in_place and rising and set(times) == set(stamps) and not joined
    times.sort()
    spacing = median(b - a for a, b in pairwise(times)) if times[1:] else 0
    spacing = spacing or 1 / rate
    end = times[-1] + (shown[-1][1] or spacing) if times else 0.0
    missing = _missing(container, stream, len(times), end, spacing)
    if check_length is not None:
        check_length(len(times) + missing, missing * spacing)
    missing = missing if missing <= _MOST_FRAMES else 0  # nobody has filmed for so long
    lost = [times[-1] + (i + 1) * spacing for i in range(missing)] if times else []
    return Clock((*times, *lost), end + missing * spacing, missing, stamped, joined)


def _continued(
    stamps: Sequence[float | None], spacing: float
) -> tuple[list[float | None], tuple[int, ...]]:
    """Times of parts that follow each other, each begun where the one before ends; and where."""
    moved: list[float | None] = []
    joined: list[int] = []
    before: float | None = None
    shift = 0.0
    for index, stamp in enumerate(stamps):
        time = None if stamp is None else stamp + shift
        leap = 0.0 if time is None or before is None else time - before
        if not -_SAME_PART < leap < _LONGEST_PAUSE:
            joined.append(index)
            shift += spacing - leap
            time = (before or 0.0) + spacing
        before = before if time is None else time
        moved.append(time)
    return moved, tuple(joined)


def _filled(stamps: Sequence[float | None], count: int, spacing: float) -> list[float]:
    """Times of all frames: those that have none lie evenly between their neighbours.

    Where most have none (raw streams), or the number is another, all are evenly spaced.
    """
    known = [index for index, time in enumerate(stamps) if time is not None]
    if len(stamps) != count or 2 * len(known) < count:
        return [index * spacing for index in range(count)]
    if len(known) == count:
        return [time for time in stamps if time is not None]
    values = [time for time in stamps if time is not None]
    filled = np.interp(np.arange(count), known, values)
    for index in range(known[0]):
        filled[index] = values[0] - (known[0] - index) * spacing
    for index in range(known[-1] + 1, count):
        filled[index] = values[-1] + (index - known[-1]) * spacing
    return [float(time) for time in filled]


def _missing(
    container: InputContainer, stream: VideoStream, found: int, end: float, spacing: float
) -> int:
    """Frames that the index (mp4, mov) or the track's length (Matroska) promises in vain."""
    if container.format.name.startswith("mov"):
        promised = sum(not entry.is_discard for entry in stream.index_entries)
        return max(0, promised - found)
    length = re.fullmatch(r"(\d{1,9}):(\d\d):(\d\d(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    if length is None:
        return 0
    seconds = float(length[1]) * 3600 + float(length[2]) * 60 + float(length[3])
    short_by = round((seconds - end) / spacing)
    return short_by if short_by > 1 else 0


def choose_rate(times: Sequence[float], named: Sequence[Fraction]) -> tuple[Fraction, bool]:
    """The constant rate for a clip.

    Args:
        times: presentation times in seconds, sorted, of every frame.
        named: the rates the file's header names, best first.

    Returns:
        The rate, and whether the clip is variable. A variable clip gets the rate of its faster
        stretches (the upper quartile over a fifth of a second each: frames may come in bursts),
        so that motion is not dropped.
    """
    named = [rate for rate in named if rate <= _MOST_RATE]
    if len(times) < 2 or (times[-1] - times[0]) * 1.01 * _MOST_RATE < len(times) - 1:
        return (named[0] if named else _FALLBACK_RATE), False
    measured = (len(times) - 1) / (times[-1] - times[0])
    usual = nearest_usual_rate(measured, tolerance=0.002)
    for rate in (*named, usual) if usual in _USUAL_RATES else named:
        if is_constant(times, rate):
            return rate, False
    clock = np.asarray(times)
    later = np.searchsorted(clock, clock + _SUSTAINED - 1e-6)
    begins = np.flatnonzero(later < len(clock))
    sustained = (later[begins] - begins) / (clock[later[begins]] - clock[begins])
    fast = float(np.quantile(sustained, 0.75)) if len(sustained) else measured
    for rate in named:
        if fast <= 1.01 * rate <= 1.8 * fast and _on_grid(clock, rate):
            return rate, True  # frames are held, or some are missing
    if is_constant(times, usual):
        return usual, False
    return nearest_usual_rate(min(fast, _MOST_RATE)), True


def _on_grid(times: np.ndarray, rate: Fraction) -> bool:
    """True if all times are whole frames at a rate from each other."""
    places = (times - times[0]) * float(rate)
    return bool(np.all(np.abs(places - np.round(places)) < 0.1))


def constant_rate_picks(times: Sequence[float], end: float, rate: Fraction) -> tuple[int, ...]:
    """Which frame is shown at each tick of a constant rate.

    Args:
        times: presentation times in seconds, sorted, of every frame.
        end: when the last frame stops being shown, in seconds.
        rate: ticks per second; tick j is at ``times[0] + j / rate``.

    Returns:
        One index into ``times`` per tick: the last frame that begins before the middle of the
        tick. Frames are repeated or left out as needed; the order never changes, and the whole
        lasts as long as before, to half a tick.
    """
    ticks = np.floor((np.asarray(times) - times[0]) * float(rate) + 0.5).astype(np.int64)
    count = max(1, int(np.floor((end - times[0]) * float(rate) + 0.5)))
    return tuple(int(i) for i in np.searchsorted(ticks, np.arange(count), side="right") - 1)


def nearest_usual_rate(rate: float, tolerance: float = 0.03) -> Fraction:
    """The usual frame rate within ``tolerance`` (relative) of ``rate``; else ``rate`` itself."""
    best = min(_USUAL_RATES, key=lambda usual: abs(float(usual) - rate))
    if abs(float(best) - rate) <= tolerance * rate:
        return best
    return Fraction(rate).limit_denominator(1001)


def is_constant(times: Sequence[float], rate: Fraction) -> bool:
    """True if every frame lies within half a frame of its place at a constant ``rate``."""
    drift = np.asarray(times) * float(rate) - np.arange(len(times))
    return bool(np.all(np.abs(drift - np.median(drift)) < 0.5))


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
