"""Damaged pictures: decoders fill in what they cannot read, and say so nowhere but in their log."""

import re
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import av.logging
from av.packet import Packet
from av.video.stream import VideoStream

from maskora.video.ffmpeg import file_url

# What decoders say of pictures that are whole.
_HARMLESS = re.compile(
    r"mmco: unref short failure|unable to decode APP fields|EOI missing|overread|SEI type|"
    r"number of reference frames|Application has requested"
)


def is_complaint(line: str) -> bool:
    """True for a line of a log that may mean a damaged picture."""
    return not _HARMLESS.search(line)


def damaged_frames(path: Path, stream: int, first: int, last: int) -> dict[int, str]:
    """Which of the decoded frames first..last are damaged, with the decoder's words.

    All are decoded one by one up to the last. Damage before `first` counts where `first` builds on
    it: after the key frame before.
    """
    shown: list[float] = []  # when each frame is, in the order in which they come
    found: list[tuple[float | None, int, str]] = []  # (when, frames before, words)
    with _listening(), av.open(file_url(path), metadata_errors="replace") as container:
        video = container.streams[stream]
        assert isinstance(video, VideoStream)
        video.thread_type, video.codec_context.thread_count = "NONE", 1
        for packet in container.demux(video):
            if packet.is_keyframe and len(shown) <= first:
                found.clear()
            if not packet.size and packet.dts is not None:
                continue  # the frame before is held
            words = _decode(packet, shown)
            if words:
                found.append((packet.pts, len(shown), words))
            if len(shown) > last + video.codec_context.delay:
                break
    frames: dict[int, str] = {}
    for when, before, words in found:
        index = bisect_left(shown, when) if when is not None else max(0, before - 1)
        if index <= last:
            frames.setdefault(max(index, first), words)
    return frames


def _decode(packet: "Packet[VideoStream]", shown: list[float]) -> str:
    """Decode a packet into `shown`: what the decoder complains about, or nothing."""
    with av.logging.Capture() as lines:
        try:
            frames = packet.decode()
        except av.FFmpegError as error:
            return str(error.strerror)
    shown.extend(len(shown) if frame.pts is None else frame.pts for frame in frames)
    words = [text.strip() for level, _, text in lines if level <= av.logging.ERROR]
    words = [text for text in words if is_complaint(text)]
    words += ["a picture is marked as corrupt"] * any(frame.is_corrupt for frame in frames)
    return words[0] if words else ""


@contextmanager
def _listening() -> Iterator[None]:
    """Let errors reach `av.logging.Capture`."""
    before = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        yield
    finally:
        av.logging.set_level(before)
