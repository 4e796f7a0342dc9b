"""Files made to do harm: refused with a reason, and nothing else is opened for them."""

import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import psutil
import pytest
from PIL import Image

from maskora.errors import UserError
from maskora.video import seek, untrusted
from maskora.video.clock import read_clock
from maskora.video.probe import probe
from maskora.video.read import read_frames
from maskora.video.untrusted import Limits, check_untrusted

Make = Callable[..., Path]
LIMITS = Limits(max_bytes=20_000_000, max_seconds=5, max_pixels=100_000, max_frames=200)


def refusal(path: Path, limits: Limits = LIMITS, apart: bool = False) -> str:
    """The message of a refusal; `apart`: the small process gives the same."""
    with pytest.raises(UserError) as here:
        probe(path, limits=limits)
    if apart:
        with pytest.raises(UserError) as there:
            check_untrusted(path, limits)
        assert str(here.value) == str(there.value)
    return str(here.value)


def patched(path: Path, box: bytes, offset: int, value: bytes) -> Path:
    """Overwrite bytes of every box of a kind in an mp4, counted from the end of its name."""
    data = bytearray(path.read_bytes())
    start = data.find(box)
    assert start > 0
    while start > 0:
        begin = start + len(box) + offset
        data[begin : begin + len(value)] = value
        start = data.find(box, begin)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("clip.mp4", ()),
        ("clip.mov", ()),
        ("clip.mkv", ()),
        ("clip.ts", ()),
        ("clip.avi", ("-c:v", "mpeg4")),
        ("clip.webm", ("-c:v", "libvpx")),
        ("clip.gif", ("-pix_fmt", "rgb8")),
        ("clip.png", ("-f", "apng", "-pix_fmt", "rgb24")),
    ],
)
def test_ordinary_clips_within_the_limits_pass(
    pattern: Make, name: str, options: tuple[str, ...]
) -> None:
    path = pattern(name, 20, "25", *options)
    memory = 10**9 if name == "clip.mp4" else untrusted.BASE_MEMORY  # enough for an ordinary clip
    check_untrusted(path, LIMITS, memory=memory)
    assert probe(path, limits=LIMITS) == probe(path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n"),
        ("list.mp4", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n"),
        ("list.mp4", "ffconcat version 1.0\nfile '{}'\n"),
        ("list.mkv", "ffconcat version 1.0\nfile 'http://127.0.0.1:9/{}'\n"),
        ("list.sdp", "v=0\no=- 0 0 IN IP4 127.0.0.1\ns={}\nm=video 9 RTP/AVP 96\n"),
        ("list.mpd", '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011">{}</MPD>'),
    ],
)
def test_a_playlist_is_refused_and_what_it_names_is_not_opened(
    tmp_path: Path, name: str, text: str
) -> None:
    """Opening a pipe that nobody writes to would wait for ever."""
    target = tmp_path / "secret.mp4"
    getattr(os, "mkfifo", Path.touch)(target)
    path = tmp_path / name
    path.write_text(text.format(target))
    refusal(path, apart=True)


def test_a_name_with_a_number_pattern_is_no_sequence_of_images(tmp_path: Path) -> None:
    for number in range(3):
        Image.new("RGB", (64, 48)).save(tmp_path / f"frame-{number:03d}.png")
    path = tmp_path / "frame-%03d.png"
    path.write_bytes(b"")
    refusal(path)
    with pytest.raises(UserError, match="not one of the video files that are taken"):
        probe(path)


def test_another_file_than_the_one_probed_is_not_read(pattern: Make, tmp_path: Path) -> None:
    path = pattern("clip.mp4", 10, "25")
    info = probe(path)
    (tmp_path / "other.ts").write_bytes(pattern("other.ts", 10, "25").read_bytes())
    (tmp_path / "other.ts").replace(path)
    with pytest.raises(UserError, match="damaged or cut short"):
        list(read_frames(info))


def test_a_large_file_is_refused_by_its_bytes(pattern: Make) -> None:
    limits = replace(LIMITS, max_bytes=1000)
    assert "--max-upload-mb" in refusal(pattern("clip.mp4", 10, "25"), limits)


def test_large_pictures_are_refused_before_one_is_decoded(make: Make) -> None:
    path = make(
        "large.mp4", "-f", "lavfi", "-i", "color=s=640x480:r=25", "-frames:v", "5",
        "-movflags", "+faststart",
    )  # fmt: skip
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(b"mdat") + 4])
    assert "640x480, 0.3 megapixels, and at most 0.1 are taken (--max-megapixels)" in refusal(path)


def test_a_stream_that_grows_on_the_way_is_stopped(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [
        make(
            f"{size}.h264", "-f", "lavfi", "-i", f"testsrc2=s={size}:r=25,format=yuv420p",
            "-frames:v", "10", "-bf", "0",
        ).read_bytes()
        for size in ("64x48", "1280x720")
    ]  # fmt: skip
    joined = tmp_path / "all.h264"
    joined.write_bytes(b"".join(parts))
    path = make("grows.ts", "-fflags", "+genpts", "-r", "25", "-i", joined, "-c", "copy")
    assert "cannot be read as a video" in refusal(path, apart=True)
    info = probe(path)
    assert len(list(read_frames(info))) == 20, "within the bound for everyone it is scaled"
    monkeypatch.setattr(seek, "LEAST_PIXEL_BOUND", 0)
    with pytest.raises(UserError, match=r"stops at frame 10 .* exceeds specified max pixel"):
        list(read_frames(info))


def test_a_damaged_frame_is_no_reason_to_refuse_a_file(pattern: Make) -> None:
    path = pattern("clip.avi", 20, "25", "-c:v", "mpeg4", "-g", "5")
    with av.open(path) as container:
        one = [bytes(packet) for packet in container.demux(video=0)][12]
    path.write_bytes(path.read_bytes().replace(one, bytes(len(one))))
    check_untrusted(path, LIMITS)
    info = probe(path, limits=LIMITS)
    assert info == probe(path)
    assert any("1 frame cannot be decoded" in note for note in info.notes)


def test_a_long_clip_is_refused_by_its_header(pattern: Make) -> None:
    path = pattern("long.mp4", 60, "10", "-movflags", "+faststart")
    path.write_bytes(path.read_bytes()[:-2000])
    assert "lasts more than 5 seconds, the most that is taken (--max-seconds)" in refusal(path)


def test_a_header_that_lies_about_the_length_does_not_help(pattern: Make) -> None:
    path = pattern("lie.mp4", 100, "10")
    for box, offset in ((b"mvhd", 16), (b"mdhd", 16), (b"tkhd", 20)):
        patched(path, box, offset, struct.pack(">I", 1))
    assert "lasts more than 5 seconds" in refusal(path, apart=True)


@pytest.mark.parametrize(
    ("clip", "filters", "words"),
    [
        (("many.mp4", 250, "1000"), "", "has more than 200 frames"),
        # headers without a length
        (("a.mp4", 100, "10", "-movflags", "frag_keyframe+empty_moov"), "", "more than 5 seconds"),
        (("live.mkv", 100, "10", "-live", "1"), "", "more than 5 seconds"),
        # a gap that would be millions of repeated frames at a constant rate
        (("leap.mp4", 10, "25", "-fps_mode", "vfr"),
         r"setpts=if(eq(N\,9)\,100000\,N/25)/TB,", "lasts more than 5 seconds"),
        # flat pixels are counted as they are shown
        (("wide.mp4", 5, "25"), "setsar=40,", "2560x48"),
    ],
)  # fmt: skip
def test_what_turns_out_too_large_is_refused(
    pattern: Make, clip: tuple[Any, ...], filters: str, words: str
) -> None:
    assert words in refusal(pattern(*clip, filters=f"{filters}format=yuv420p"))


@pytest.mark.parametrize(
    "length", [b"99999:59:59.000000", b"one:two:three.0000", b"1:1:1e99999.000000"]
)
def test_a_track_length_made_up_is_refused_or_left_alone(pattern: Make, length: bytes) -> None:
    path = pattern("clip.mkv", 10, "25")
    data = path.read_bytes()
    assert data.count(b"00:00:00.400000000") == 1
    path.write_bytes(data.replace(b"00:00:00.400000000", length))
    if length.startswith(b"99999"):
        assert "lasts more than 5 seconds" in refusal(path)
    else:
        assert probe(path, limits=LIMITS).frames == 10


def test_an_index_of_too_many_samples_fills_the_small_process_alone(pattern: Make) -> None:
    """One chunk that is said to hold 34 million samples of a byte: 1.3 GB of index."""
    path = pattern("index.mp4", 10, "25")
    patched(path, b"stsz", 4, struct.pack(">II", 1, 0x01FFFFFF))
    patched(path, b"stsc", 8, struct.pack(">III", 1, 0x01FFFFFF, 1))
    with pytest.raises(UserError, match="has more than 200 frames"):
        check_untrusted(path, LIMITS)
    with pytest.raises(UserError) as refused:
        check_untrusted(path, LIMITS, memory=10**9)
    assert "has more than 200 frames" not in str(refused.value)


def test_what_is_too_long_is_not_walked_to_its_end(pattern: Make) -> None:
    counts: list[float] = []

    def stop_at_five(frames: float, seconds: float) -> None:
        counts.append(frames)
        if frames == 5:
            raise UserError("enough")

    path = str(pattern("clip.mp4", 50, "25"))
    with av.open(path) as container, pytest.raises(UserError, match="enough"):
        read_clock(container, container.streams.video[0], stop_at_five)
    assert counts == [1, 2, 3, 4, 5]


def test_a_folder_of_images_has_limits_too(tmp_path: Path) -> None:
    for number in range(3):
        Image.new("RGB", (64, 48)).save(tmp_path / f"{number}.png")
    check_untrusted(tmp_path, LIMITS)
    few, small = replace(LIMITS, max_frames=2), replace(LIMITS, max_pixels=1000)
    assert "has more than 2 frames" in refusal(tmp_path, few, apart=True)
    assert "64x48" in refusal(tmp_path, small)


def test_limits_from_the_options_of_the_command() -> None:
    limits = Limits.of(upload_mb=1.5, seconds=10, megapixels=2)
    assert limits == Limits(1_500_000, 10, 2_000_000, 1200)


def test_memory_is_watched_where_no_system_limits_it(tmp_path: Path) -> None:
    """As on Windows, and on macOS: here, a process that has asked for no limit, and its child."""
    hungry = "held = b'x' * 400_000_000; import time; time.sleep(60)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hungry!r}])"
    for code in (hungry, parent):
        command = [sys.executable, "-c", code]
        with subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1) as looking:
            begun = time.monotonic()
            with pytest.raises(MemoryError):
                untrusted._watched(looking, b"", begun + 50, memory=200_000_000)
            family = untrusted._family(looking.pid)
            untrusted._end(looking)
            looking.wait(20)
        assert time.monotonic() - begun < 40
        assert psutil.wait_procs(family, timeout=20)[1] == []


def test_what_takes_too_long_or_too_much_memory_is_refused(
    pattern: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pattern("clip.mp4", 10, "25")
    with pytest.raises(UserError, match=r"could not be looked through in 0\.01 seconds"):
        check_untrusted(path, LIMITS, patience=0.01)
    monkeypatch.setattr(untrusted, "LOOK_EVERY", 0.001)
    monkeypatch.setattr(untrusted, "_memory_of", lambda _: 10**10)
    with pytest.raises(UserError, match=r"clip\.mp4 took more than 1\.0 GB of memory to look at"):
        check_untrusted(path, LIMITS, memory=10**9)


def test_a_refusal_in_any_letters(tmp_path: Path) -> None:
    """Whatever character set the small process has."""
    path = tmp_path / "編集 é.mp4"
    path.write_bytes(b"\0\0\0\x18ftypmp42" + b"garbage" * 100)
    assert "編集 é.mp4: cannot be read as a video" in refusal(path, apart=True)
