"""When each frame of an open file is shown, found without decoding wherever that is safe."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from statistics import median

from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

_ONE_PICTURE_PER_PACKET = {"h264", "hevc", "vp9", "av1", "prores", "ffv1", "mjpeg", "dnxhd", "png"}
_TIMED_CONTAINERS = ("mov", "matroska")  # packets come one by one with their times
CheckLength = Callable[[float, float], None]  # (frames, seconds)
_FALLBACK_RATE = Fraction(25)  # for a file that names no rate and no times, as ffmpeg assumes


@dataclass(frozen=True)
class Clock:
    """The times of a clip's frames, in seconds on the file's clock.

    Attributes:
        times: when each frame is shown, sorted; frames the file promises but lacks included.
        end: when the last one stops being shown.
        missing: how many frames the file's own index promises beyond those that are there.
    """

    times: tuple[float, ...]
    end: float
    missing: int


def read_clock(
    container: InputContainer, stream: VideoStream, check_length: CheckLength | None = None
) -> tuple[VideoFrame | None, Clock]:
    """The first decoded frame (None: the stream has none) and the times of all frames.

    A frame's time is its packet's where every packet is one frame; elsewhere all is decoded.

    Args:
        check_length: is told frames and seconds on the way, and stops what is too long.
    """
    decode_all = (
        stream.codec_context.codec.canonical_name not in _ONE_PICTURE_PER_PACKET
        or not container.format.name.startswith(_TIMED_CONTAINERS)
        or stream.codec_context.field_order > 1  # interlaced: a packet may be half a frame
    )
    first: VideoFrame | None = None
    shown: list[tuple[float | None, float]] = []
    for packet in container.demux(stream):
        if not decode_all and packet.size and not packet.is_discard:
            shown.append(_span(packet))
        if decode_all or first is None:
            decoded = packet.decode()
            if decoded and first is None:
                first = decoded[0]
            shown.extend(_span(frame) for frame in decoded if decode_all)
        if check_length is not None and shown:
            check_length(len(shown), (shown[-1][0] or 0) - (shown[0][0] or 0))
    return first, _clock(container, stream, shown, check_length)


def _span(item: "Packet[VideoStream] | VideoFrame") -> tuple[float | None, float]:
    """(when it is shown, for how long) in seconds; None and 0 where the file does not say."""
    base = float(item.time_base or 0)
    return (None if item.pts is None else item.pts * base), (item.duration or 0) * base


def _clock(
    container: InputContainer,
    stream: VideoStream,
    shown: list[tuple[float | None, float]],
    check_length: CheckLength | None,
) -> Clock:
    rate = float(stream.guessed_rate or stream.average_rate or _FALLBACK_RATE)
    times = sorted(time for time, _ in shown if time is not None)
    if container.format.name == "avi" or len(times) < len(shown):
        # an AVI is constant by nature (and its times wrong with B-frames); raw streams have none
        times = [i / rate for i in range(len(shown))]
    spacing = median(b - a for a, b in pairwise(times)) if times[1:] else 0
    spacing = spacing or 1 / rate
    end = times[-1] + (shown[-1][1] or spacing) if times else 0.0
    missing = _missing(container, stream, len(times), end, spacing)
    if check_length is not None:
        check_length(len(times) + missing, missing * spacing)
    lost = [times[-1] + (i + 1) * spacing for i in range(missing)] if times else []
    return Clock((*times, *lost), end + missing * spacing, missing)


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
