"""Damaged frames are found where they show: in B-frames, before key frames, late in a long file."""

import errno
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest

from maskora.errors import Fault, UserError
from maskora.video import damage
from maskora.video.damage import damaged_frames
from maskora.video.ffmpeg import DECODING
from maskora.video.probe import probe
from maskora.video.read import read_frames

Pattern = Callable[..., Path]
GOP = ("-c:v", "libx264", "-g", "20", "-keyint_min", "20", "-sc_threshold", "0", "-bf", "3")
CODECS = {
    "closed": (*GOP, "-x264-params", "open-gop=0:b-adapt=0"),
    "open": (*GOP, "-x264-params", "open-gop=1:b-adapt=0"),
    "none": ("-c:v", "libx264", "-g", "20", "-bf", "0"),
    "mpeg4": ("-c:v", "mpeg4", "-g", "20", "-bf", "2", "-q:v", "2"),
}


def torn(path: Path, number: int) -> tuple[Path, int]:
    """The file with most of one frame's packet overwritten; the next key frame from there on."""
    with av.open(path) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    times = sorted(packet.pts for packet in packets)
    (one,) = (bytes(p) for p in packets if p.pts == times[number])
    content = path.read_bytes()
    assert content.count(one) == 1
    cut = len(one) // 3
    path.write_bytes(content.replace(one, one[:cut] + bytes(len(one) - cut)))
    keys = [times.index(packet.pts) for packet in packets if packet.is_keyframe]
    return path, min(key for key in keys if key >= number)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("number", [16, 19])
def test_what_builds_on_damage_before_a_key_frame_is_refused(
    pattern: Pattern, codec: str, number: int
) -> None:
    """Decoders give frames late, and B-frames before a frame that they build on."""
    path = pattern("clip.mkv", 60, "25", *CODECS[codec])
    intact = list(read_frames(probe(path)))
    path, key = torn(path, number)
    info, refused = probe(path), set()
    for start in range(13, 23):
        try:
            for index, frame in enumerate(read_frames(info, start, 4), start):
                assert (frame == intact[index]).all(), f"{index}, from {start} on, is guessed"
        except UserError:
            refused.add(start)
    assert number in refused
    assert not refused & set(range(key, 23)), "the key frame builds on none of it"


def test_the_same_damage_is_found_as_often_as_it_is_looked_for(pattern: Pattern) -> None:
    """PyAV passes on only once what a decoder says several times."""
    path, _ = torn(pattern("clip.mkv", 60, "25", *CODECS["none"]), 19)
    info = probe(path)
    found = damaged_frames(info, 10, 30)
    assert list(found) == [19]
    assert damaged_frames(info, 10, 30) == found


def test_damage_late_in_a_long_file_is_looked_for_nearby(
    pattern: Pattern, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path, _ = torn(pattern("clip.mkv", 500, "25", *CODECS["open"]), 455)
    info, decoded = probe(path), list[float]()
    decode = damage._decode

    def counted(path: Path, packet: Any, *rest: Any) -> str:
        decoded.append(packet.pts)
        return decode(path, packet, *rest)

    monkeypatch.setattr(damage, "_decode", counted)
    caplog.set_level(logging.INFO, "maskora")
    near = {first: damaged_frames(info, first, 470) for first in (440, 450, 458, 460)}
    assert len(decoded) < 4 * 120
    assert "looking for damaged frames" in caplog.text
    monkeypatch.setattr(damage, "seek_target", lambda *_: None)
    assert near == {first: damaged_frames(info, first, 470) for first in near}
    assert near[440]
    assert min(near[440]) in range(450, 456)
    assert near[460] == {}


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (av.MemoryError(errno.ENOMEM, "Cannot allocate memory"), ""),
        (av.BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), ""),
        (None, "get_buffer() failed"),
    ],
)
def test_too_little_memory_is_no_damage(error: Exception | None, said: str) -> None:
    class Packet:
        def decode(self) -> list[Any]:
            if error is not None:
                raise error
            return []

    with pytest.raises(Fault, match="too little memory"):
        damage._decode(Path("clip.mp4"), Packet(), [], [(16, "h264", said)])  # type: ignore[arg-type]


def test_while_decoders_are_listened_to_nothing_else_decodes(pattern: Pattern) -> None:
    """Else a thread of one decoder may wait for the log for ever."""
    info = probe(pattern("clip.mkv", 10, "25", *CODECS["none"]))
    for work in (lambda: damaged_frames(info, 0, 5), lambda: probe(info.path)):
        worker = threading.Thread(target=work)
        with DECODING:
            worker.start()
            worker.join(0.5)
            assert worker.is_alive()
        worker.join(30)
        assert not worker.is_alive()
