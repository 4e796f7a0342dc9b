"""A clip's clock: when each of its frames is shown, and the constant rate that this makes."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from statistics import median
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from maskora.video.ffmpeg import is_fault

TIMED_CONTAINERS = ("mov", "matroska")  # packets come one by one with their times
MOST_FRAMES = 2_000_000  # of a clip at a constant rate: 18 hours at 30 per second
_ONE_PICTURE_PER_PACKET = {"h264", "hevc", "vp9", "av1", "prores", "ffv1", "mjpeg", "dnxhd", "png"}
_PARTS_MAY_FOLLOW = ("mpegts", "mpeg", "ogg")  # files that are joined by copying one after another
_LONGEST_PAUSE = 10.0  # seconds between two frames of one part
_SAME_PART = 1.0  # seconds by which times may go back within one part
_SUSTAINED = 0.2  # seconds over which a rate must hold
_MOST_RATE = 1000  # frames per second that are believed
_FALLBACK_RATE = Fraction(25)  # for a file that names no rate and no times, as ffmpeg assumes
_USUAL_RATES = tuple(
    [Fraction(n * 1000, 1001) for n in (24, 30, 48, 60, 120)]
    + [Fraction(n) for n in (8, 10, 12, 15, 16, 20, 24, 25, 30, 48, 50, 60, 100, 120, 240)]
)
CheckLength = Callable[[float, float], None]  # (frames, seconds)


@dataclass(frozen=True)
class Clock:
    """The times of a clip's frames, in seconds on the file's clock.

    Attributes:
        times: when each frame is shown, sorted; frames the file promises but lacks included.
        end: when the last one stops being shown.
        missing: how many frames the file's own index promises beyond those that are there.
        stamped: each is the file's own, and ffmpeg finds the frame by it.
        joined: frames from which on times begin anew, as in files that were joined.
        rejected: before which frames the decoder could make nothing of what is there.
    """

    times: tuple[float, ...]
    end: float
    missing: int
    stamped: bool = False
    joined: tuple[int, ...] = ()
    rejected: tuple[int, ...] = ()


@dataclass
class _Walk:
    """What going through a stream has found; times are in seconds.

    Attributes:
        first: the first decoded frame.
        shown: (when, for how long) of each frame; None and 0 where the file does not say.
        ticks: when each packet is to be decoded.
        sound: when each packet of the first sound track is heard, where parts may follow.
        rejected: before which frames the decoder has refused a packet, and its last error.
    """

    first: VideoFrame | None = None
    shown: list[tuple[float | None, float]] = field(default_factory=list)
    ticks: list[float] = field(default_factory=list)
    sound: list[float] = field(default_factory=list)
    rejected: list[int] = field(default_factory=list)
    error: av.FFmpegError | None = None


def read_clock(
    container: InputContainer, stream: VideoStream, check_length: CheckLength | None = None
) -> tuple[VideoFrame | None, Clock]:
    """The first decoded frame (None: the stream has none) and the times of all frames.

    A frame's time is its packet's where every packet is one frame; elsewhere all is decoded.

    Args:
        check_length: called with frames and seconds on the way; raises where it is too much.

    Raises:
        av.FFmpegError: the file cannot be read, or nothing of the stream be decoded.
    """
    decode_all = (
        stream.codec_context.codec.canonical_name not in _ONE_PICTURE_PER_PACKET
        or not container.format.name.startswith(TIMED_CONTAINERS)
        or stream.codec_context.field_order > 1  # interlaced: a packet may be half a frame
    )
    walk = _walk(container, stream, decode_all, check_length)
    if not decode_all and any(time is None for time, _ in walk.shown):
        container.seek(0)  # some packets may be no frame at all
        walk = _walk(container, stream, True, check_length)
    if walk.first is None and walk.error is not None:
        raise walk.error
    return walk.first, _clock(container, stream, walk, check_length)


def _walk(
    container: InputContainer,
    stream: VideoStream,
    decode_all: bool,
    check_length: CheckLength | None,
) -> _Walk:
    walk = _Walk()
    parts = container.format.name.startswith(_PARTS_MAY_FOLLOW)
    sound = container.streams.audio[:1] if parts else ()
    for packet in container.demux(stream, *sound):
        if packet.stream_index != stream.index:
            if packet.pts is not None:
                walk.sound.append(packet.pts * float(packet.time_base or 0))
            continue
        if packet.dts is not None:
            if not packet.size:
                continue  # the frame before is held
            walk.ticks.append(packet.dts * float(packet.time_base or 0))
        if not decode_all and packet.size and not packet.is_discard:
            walk.shown.append(_span(packet))
        decoded = _decode(packet, walk) if decode_all or walk.first is None else []
        if decoded and walk.first is None:
            walk.first = decoded[0]
        walk.shown.extend(_span(frame) for frame in decoded if decode_all)
        if check_length is not None and (shown := walk.shown):
            check_length(len(shown), (shown[-1][0] or 0) - (shown[0][0] or 0))
    return walk


def _decode(packet: "Packet[Any]", walk: _Walk) -> list[VideoFrame]:
    """The frames that a packet brings; none, with a note in `walk`, where it is damaged."""
    try:
        return list(packet.decode())
    except av.FFmpegError as error:
        if is_fault(error):
            raise
        if packet.dts is not None:
            walk.ticks.pop()
        walk.rejected.append(len(walk.shown))
        walk.error = error
        return []


def _span(item: "Packet[Any] | VideoFrame") -> tuple[float | None, float]:
    """(when it is shown, for how long) in seconds; None and 0 where the file does not say."""
    base = float(item.time_base or 0)
    return (None if item.pts is None else item.pts * base), (item.duration or 0) * base


def _clock(
    container: InputContainer,
    stream: VideoStream,
    walk: _Walk,
    check_length: CheckLength | None,
) -> Clock:
    shown, ticks = walk.shown, walk.ticks
    rate = float(stream.guessed_rate or stream.average_rate or _FALLBACK_RATE)
    stamps: list[float | None] = [time for time, _ in shown]
    joined: tuple[int, ...] = ()
    if container.format.name == "avi":
        # Its times are wrong with B-frames, but its ticks tell where it holds a frame.
        stamps = list[float | None](sorted(ticks)) if len(ticks) == len(shown) else [None]
    elif container.format.name.startswith(_PARTS_MAY_FOLLOW):
        stamps, joined = _continued(stamps, walk.sound, 1 / rate)
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
    missing = _missing(container, stream, len(times) + len(walk.rejected), end, spacing)
    if check_length is not None:
        check_length(len(times) + missing, missing * spacing)
    missing = missing if missing <= MOST_FRAMES else 0  # nobody has filmed for so long
    lost = [times[-1] + (i + 1) * spacing for i in range(missing)] if times else []
    return Clock(
        (*times, *lost), end + missing * spacing, missing, stamped, joined, tuple(walk.rejected)
    )


def _continued(
    stamps: Sequence[float | None], sound: Sequence[float], spacing: float
) -> tuple[list[float | None], tuple[int, ...]]:
    """Times of parts that follow each other, each begun where the one before ends; and where.

    Args:
        sound: times of the sound; where it does not leap ahead as well, the picture only pauses.
    """
    leaps = [(a, b) for a, b in pairwise(sound) if b - a >= _LONGEST_PAUSE]
    moved: list[float | None] = []
    joined: list[int] = []
    before: float | None = None
    shift = 0.0
    for index, stamp in enumerate(stamps):
        time = None if stamp is None else stamp + shift
        leap = 0.0 if time is None or before is None else time - before
        ahead = leap >= _LONGEST_PAUSE and any(
            a < (stamp or 0.0) and b > (stamp or 0.0) - leap for a, b in leaps
        )
        if leap <= -_SAME_PART or ahead:
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
