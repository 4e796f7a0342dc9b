"""Damaged pictures: decoders fill in what they cannot read, and say so nowhere but in their log."""

import re
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import av
import av.logging
from av.packet import Packet
from av.video.stream import VideoStream

from maskora.video.ffmpeg import open_file

_Log = list[tuple[int, str, str]]  # (level, part, words)
# What decoders say of pictures that are whole.
_HARMLESS = re.compile(
    r"mmco: unref short failure|unable to decode APP fields|EOI missing|overread|SEI type|"
    r"number of reference frames|Application has requested"
)


def is_complaint(line: str) -> bool:
    """True for a line of a log that may mean a damaged picture."""
    return not _HARMLESS.search(line)


def damaged_frames(
    path: Path, stream: int, first: int, last: int, most_pixels: int
) -> dict[int, str]:
    """Which of the decoded frames first..last are damaged, with the decoder's words.

    All are decoded one by one up to the last. Damage before `first` counts where `first` builds on
    it: after the key frame before.

    Args:
        most_pixels: of a coded frame; larger ones are not decoded.
    """
    shown: list[float] = []  # when each frame is, in the order in which they come
    found: list[tuple[float | None, int, str]] = []  # (when, frames before, words)
    with _listening() as log, open_file(path) as container:
        video = container.streams[stream]
        assert isinstance(video, VideoStream)
        video.thread_type, video.codec_context.thread_count = "NONE", 1
        video.codec_context.options = {"max_pixels": str(most_pixels)}
        for packet in container.demux(video):
            if packet.is_keyframe and len(shown) <= first:
                found.clear()
            if not packet.size and packet.dts is not None:
                continue  # the frame before is held
            log.clear()
            before = len(shown)
            if words := _decode(packet, shown, log):
                found.append((packet.pts, before, words))
            if len(shown) > last + video.codec_context.delay:
                break
    frames: dict[int, str] = {}
    for when, before, words in found:
        if (index := _place(shown, when, before)) <= last:
            frames.setdefault(max(index, first), words)
    return frames


def _place(shown: list[float], when: float | None, before: int) -> int:
    """Which frame a packet is; of several at one time, as in joined files, the nearest."""
    if when is None:
        return before
    if all(a <= b for a, b in pairwise(shown)):
        return bisect_left(shown, when)
    places = [index for index, time in enumerate(shown) if time == when]
    return min(places, key=lambda index: abs(index - before), default=before)


def _decode(packet: "Packet[VideoStream]", shown: list[float], log: _Log) -> str:
    """Decode a packet into `shown`: what the decoder complains about, or nothing."""
    try:
        frames = packet.decode()
    except av.FFmpegError as error:
        return str(error.strerror)
    shown.extend(len(shown) if frame.pts is None else frame.pts for frame in frames)
    words = [text.strip() for level, _, text in log if level <= av.logging.ERROR]
    words = [text.splitlines()[0] for text in words if text and is_complaint(text)]
    words += ["a picture is marked as corrupt"] * any(frame.is_corrupt for frame in frames)
    return words[0] if words else ""


@contextmanager
def _listening() -> Iterator[_Log]:
    """Collect what decoders say."""
    before = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture() as log:
            yield log
    finally:
        av.logging.set_level(before)
