"""Damaged pictures: decoders fill in what they cannot read, and say so nowhere but in their log."""

import logging
import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import av
import av.logging
from av.packet import Packet
from av.video.stream import VideoStream

from maskora.errors import Fault
from maskora.progress import track
from maskora.video.ffmpeg import DECODING, machine_failure, refuse_fault
from maskora.video.probe import VideoInfo
from maskora.video.seek import open_stream, seek, seek_target

log = logging.getLogger("maskora")
_REORDERED = 64  # packets, within which one may hold a picture that is shown before the first's
# What decoders say of pictures that are whole.
_HARMLESS = re.compile(
    r"mmco: unref short failure|unable to decode APP fields|EOI missing|overread|SEI type|"
    r"number of reference frames|Application has requested"
)
_Said = list[tuple[int, str, str]]  # (level, part, words)


@dataclass(frozen=True)
class _Coded:
    """A packet.

    Attributes:
        when: its picture is shown, in seconds; None where the file does not say.
        before: how many frames had come when it was decoded.
        words: what the decoder complains of, if anything.
    """

    when: float | None
    before: int
    words: str


@dataclass(frozen=True)
class _Shown:
    """A decoded frame: when it is shown, in seconds or counted, and its marks."""

    when: float
    key: bool
    corrupt: bool


def is_complaint(line: str) -> bool:
    """True for a line of a log that may mean a damaged picture."""
    return not _HARMLESS.search(line)


def damaged_frames(info: VideoInfo, first: int, last: int) -> dict[int, str]:
    """Which of the decoded frames first..last are damaged, with the decoder's words.

    They are decoded one by one. Damage before `first` counts where `first` builds on it: from the
    last key frame on that is not shown after it.

    Raises:
        Fault: the machine cannot decode them now.
    """
    log.info("%s: ffmpeg complains of it; looking for damaged frames", info.path)
    coded, shown = list[_Coded](), list[_Shown]()
    with DECODING, _listening() as said, open_stream(info) as (container, video):
        begin = 0
        if (target := seek_target(info, first)) is not None:
            seek(container, video, target)
            begin = bisect_left(info.times, target)
        packets, count = container.demux(video), last + 1 - begin
        for packet in track(packets, "look for damage", count, "frame", brief=True):
            if not packet.size and packet.dts is not None:
                continue  # the frame before is held
            said.clear()
            when = None if packet.pts is None else packet.pts * float(packet.time_base or 0)
            coded.append(_Coded(when, len(shown), _decode(info.path, packet, shown, said)))
            if shown and _numbers(info, shown[-1:], len(shown) - 1)[0] > last + _delay(video):
                break
        slack = 2 * _delay(video)
    return _damaged(_Order(info, shown), coded, slack, first, last)


def _delay(video: VideoStream) -> int:
    """By how many frames what is decoded may come late."""
    return int(video.codec_context.delay)


def _numbers(info: VideoInfo, shown: Sequence[_Shown], counted: int = 0) -> list[int]:
    """The numbers of decoded frames in the file, of which so many were before them."""
    if info.times:
        return [bisect_left(info.times, frame.when) for frame in shown]
    return [counted + index for index in range(len(shown))]


class _Order:
    """Which frame is shown when: places are numbers of frames in the file."""

    def __init__(self, info: VideoInfo, shown: Sequence[_Shown]) -> None:
        self.shown, self.numbers = shown, _numbers(info, shown)
        self.times = info.times or tuple(frame.when for frame in shown)
        self.rising = all(a <= b for a, b in pairwise(self.times))
        self.at = defaultdict[float, list[int]](list)
        for index, time in enumerate(self.times):
            self.at[time].append(index)

    def place(self, one: _Coded) -> int:
        """That of a packet's picture; of several at one time, as in joined files, the nearest."""
        if one.when is not None and self.rising:
            return bisect_left(self.times, one.when)
        if one.when is not None and (places := self.at.get(one.when)):
            return min(places, key=lambda index: abs(index - one.before))
        if one.before < len(self.numbers):
            return self.numbers[one.before]
        return self.numbers[-1] + 1 if self.numbers else one.before


def _damaged(
    order: _Order, coded: Sequence[_Coded], slack: int, first: int, last: int
) -> dict[int, str]:
    """The words by frame, first..last, from which on damage shows.

    Args:
        slack: by how many places a picture may be later than one without a time seems.
    """
    keys = [n for n, one in zip(order.numbers, order.shown, strict=True) if one.key and n <= first]
    whole = max(keys, default=0)  # what is shown from here on builds on nothing that is before
    found = []
    for index, one in enumerate(coded):
        if one.words and order.place(one) + (slack if one.when is None else 0) >= whole:
            # Pictures that are shown before it, but decoded after it, build on it.
            begin = min(map(order.place, coded[index : index + _REORDERED]))
            found.append((begin, one.words))
    for number, frame in zip(order.numbers, order.shown, strict=True):
        if frame.corrupt and number >= whole:
            found.append((number, "a picture is marked as corrupt"))
    frames: dict[int, str] = {}
    for begin, words in found:
        if begin <= last:
            frames.setdefault(max(begin, first), words)
    return frames


def _decode(path: Path, packet: "Packet[VideoStream]", shown: list[_Shown], said: _Said) -> str:
    """Decode a packet into `shown`: what the decoder complains of, or nothing. Raises Fault."""
    try:
        frames = packet.decode()
    except av.FFmpegError as error:
        refuse_fault(path, error)
        return str(error.strerror)
    for frame in frames:
        when = len(shown) if frame.pts is None else frame.pts * float(frame.time_base or 0)
        shown.append(_Shown(when, frame.key_frame, frame.is_corrupt))
    words = [text.strip() for level, _, text in said if level <= av.logging.ERROR]
    words = [text.splitlines()[0] for text in words if text and is_complaint(text)]
    if failure := machine_failure(0, words):
        raise Fault(f"{path} cannot be decoded now: too little memory, say ({failure})")
    return words[0] if words else ""


@contextmanager
def _listening() -> Iterator[_Said]:
    """Collect what decoders say, as often as they say it."""
    level, skipping = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)
    try:
        with av.logging.Capture() as said:
            yield said
    finally:
        av.logging.set_level(level)
        av.logging.set_skip_repeated(skipping)
