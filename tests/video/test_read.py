"""Exact frames, the right colours, and nothing left behind."""

import os
import random
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from maskora.errors import Fault, UserError
from maskora.video import read
from maskora.video.probe import probe
from maskora.video.read import read_frames

Pattern = Make = Callable[..., Path]


NO_THREAD = "pthread_create() failed: Resource temporarily unavailable"


def children() -> set[str]:
    """The processes that this one has started and not yet reaped."""
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def test_a_range_is_the_same_frames_as_in_the_whole(pattern: Pattern) -> None:
    info = probe(pattern("clip.mp4", 40, "25"))
    whole = list(read_frames(info))
    for start, count, every in ((0, 5, 1), (17, None, 1), (3, 6, 5), (39, 1, 7), (40, None, 1)):
        part = list(read_frames(info, start, count, every))
        expected = whole[start::every][:count]
        assert len(part) == len(expected)
        assert all((a == b).all() for a, b in zip(part, expected, strict=True))


@pytest.mark.parametrize(
    ("start", "count", "every"), [(0, 11, 1), (5, 6, 1), (-1, 1, 1), (0, 2, 0), (0, 4, 4)]
)
def test_frames_that_are_not_there(pattern: Pattern, start: int, count: int, every: int) -> None:
    info = probe(pattern("clip.mp4", 10, "25"))
    with pytest.raises(UserError, match="10 frames"):
        read_frames(info, start, count, every)


def test_frames_are_writable_and_apart(pattern: Pattern) -> None:
    first, second = read_frames(probe(pattern("clip.mp4", 2, "25")))
    kept = second.copy()
    first[:] = 0
    np.testing.assert_array_equal(second, kept)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="processes are counted in /proc")
def test_the_decoder_is_gone_when_reading_stops(pattern: Pattern) -> None:
    info = probe(pattern("clip.mp4", 300, "25"))
    before = children()
    frames = read_frames(info)
    next(frames)
    assert children() > before
    frames.close()  # type: ignore[attr-defined]
    assert children() == before


def test_damage_in_the_middle(pattern: Pattern) -> None:
    """What comes before the damage can be read; what comes after is refused, not guessed."""
    path = pattern("clip.mp4", 200, "25", "-bf", "0", "-g", "20")
    intact = list(read_frames(probe(path)))
    content, chance = bytearray(path.read_bytes()), random.Random(1)
    for _ in range(60):
        content[chance.randrange(len(content) * 6 // 10, len(content) * 7 // 10)] ^= 0xFF
    path.write_bytes(content)
    info = probe(path)
    assert len(list(read_frames(info, 0, 60))) == 60
    yielded: list[np.ndarray] = []
    with pytest.raises(UserError, match=r"damaged: frame \d+ of the file"):
        yielded.extend(read_frames(info))
    assert len(yielded) >= 60
    assert all((a == b).all() for a, b in zip(yielded, intact, strict=False)), "none of it guessed"


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("clip.mkv", ("ffv1", "-level", "3", "-g", "1")),
        ("clip.avi", ("ffv1", "-level", "3", "-g", "1")),
        ("clip.mkv", ("libx264", "-bf", "0", "-g", "1")),
        ("clip.mkv", ("mpeg4", "-g", "1", "-q:v", "2")),
        ("clip.mov", ("mjpeg",)),
    ],
)
def test_damage_that_a_decoder_conceals_is_refused_by_its_frame(
    pattern: Pattern, name: str, codec: tuple[str, ...]
) -> None:
    path = pattern(name, 60, "25", "-c:v", *codec)
    intact = list(read_frames(probe(path)))
    content = bytearray(path.read_bytes())
    middle = len(content) * 6 // 10
    for byte in range(middle, middle + 400, 3):
        content[byte] ^= 0x5A
    path.write_bytes(content)
    info = probe(path)
    yielded: list[np.ndarray] = []
    with pytest.raises(UserError, match=r"damaged.* frame \d+ of the file"):
        yielded.extend(read_frames(info))
    assert len(yielded) > 20
    assert all((a == b).all() for a, b in zip(yielded, intact, strict=False)), "none of it guessed"
    before = read_frames(info, 0, len(yielded))
    assert all((a == b).all() for a, b in zip(before, intact, strict=False)), "nor refused too soon"
    after = info.frames - 2
    assert len(list(read_frames(info, after))) == 2, "what comes after builds on none of it"


def overwritten(path: Path, number: int) -> Path:
    """The file with every byte of a packet zero."""
    with av.open(path) as container:
        one = [bytes(packet) for packet in container.demux(video=0) if packet.size][number]
    content = path.read_bytes()
    assert content.count(one) == 1
    path.write_bytes(content.replace(one, bytes(len(one))))
    return path


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("h264.avi", ("libx264", "-bf", "0")),
        ("mpeg4.avi", ("mpeg4",)),
        ("vp8.mkv", ("libvpx",)),
        ("old.flv", ("flv",)),
        ("fields.mp4", ("libx264", "-bf", "0", "-flags", "+ildct+ilme")),
    ],
)
def test_a_frame_that_the_decoder_rejects_costs_no_more_than_what_builds_on_it(
    pattern: Pattern, name: str, codec: tuple[str, ...]
) -> None:
    path = pattern(name, 60, "25", "-c:v", *codec, "-g", "10")
    intact = list(read_frames(probe(path)))
    info = probe(overwritten(path, 33))
    assert any(n.startswith("damaged: 1 frame cannot be decoded, the first") for n in info.notes)
    assert info.frames == 60, "the others keep their times"
    for start, count in ((0, 31), (41, 19)):
        frames = read_frames(info, start, count)
        assert all((a == b).all() for a, b in zip(frames, intact[start:], strict=False)), start
    with pytest.raises(UserError, match=r"damaged: .*frame 3\d of the file"):
        list(read_frames(info, 25, 20))


def test_a_first_frame_that_the_decoder_rejects(pattern: Pattern) -> None:
    path = pattern("clip.mp4", 30, "25", "-bf", "0", "-g", "10")
    intact = list(read_frames(probe(path)))
    info = probe(overwritten(path, 0))
    assert info.frames == 30
    with pytest.raises(UserError, match=r"damaged: .*frame 0 of the file"):
        next(read_frames(info))
    assert (next(read_frames(info, 10, 1)) == intact[10]).all()


def test_a_stream_of_which_nothing_can_be_decoded_is_refused(pattern: Pattern) -> None:
    path = pattern("clip.mp4", 5, "25", "-bf", "0")
    for number in range(5):
        overwritten(path, number)
    with pytest.raises(UserError, match=r"cannot be read as a video: .* damaged"):
        probe(path)


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        ("[h264 @ 0x1] [error] get_buffer() failed", Fault, "too little memory"),
        ("[error] Cannot allocate memory", Fault, "too little memory"),
        (f"[dec:h264 @ 0x1] [error] x\n[vist#0:0 @ 0x1] [fatal] {NO_THREAD}", Fault, NO_THREAD),
        ("[in#0 @ 0x1] [error] /a.mp4: Permission denied", UserError, "(/a.mp4: Permission"),
        ("[vf#0:0 @ 0x1] [error] Error reinitializing filters!", UserError, "reinitializing"),
        ("[in#0 @ 0x1] [error] Invalid data found", UserError, "another copy"),
        ("[info] frame= 10", UserError, "another copy"),
    ],
)
def test_only_damage_is_called_damage(
    pattern: Pattern, tmp_path: Path, said: str, kind: type[Exception], words: str
) -> None:
    info = probe(pattern("clip.mp4", 5, "25"))
    (tmp_path / "log").write_text(f"{said}\n[out#0 @ 0x1] [info] video:0KiB\n")
    with subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE) as ended:
        failure = read._Decoder(info, 0, ended, tmp_path / "log").failure(3, 9)
    assert type(failure) is kind
    assert words in str(failure)
    assert ("damaged" in str(failure)) == (words == "another copy")


@pytest.mark.parametrize("codec", [(), ("-c:v", "libx264", "-pix_fmt", "yuv420p")])
def test_joined_transport_streams_are_read(
    pattern: Pattern, tmp_path: Path, codec: tuple[str, ...]
) -> None:
    parts = [pattern("a.ts", 30, "25", *codec), pattern("b.ts", 40, "25", *codec)]
    whole = tmp_path / "whole.ts"
    whole.write_bytes(b"".join(part.read_bytes() for part in parts))
    info = probe(whole)
    assert (info.frames, info.fps, info.variable_rate) == (70, 25, False)
    assert any("begin anew at frame 30" in note for note in info.notes)
    expected = [frame for part in parts for frame in read_frames(probe(part))]
    for start in (0, 20, 45):
        frames = read_frames(info, start, 20)
        assert all((a == b).all() for a, b in zip(frames, expected[start:], strict=False)), start


def test_damage_in_a_joined_transport_stream_is_found_in_its_part(
    pattern: Pattern, tmp_path: Path
) -> None:
    part = pattern("part.ts", 50, "25", "-c:v", "libx264", "-bf", "2", "-g", "10").read_bytes()
    torn = bytearray(part)
    middle = len(part) // 188 // 2 * 188
    for start in range(middle, middle + 188 * 4, 188):
        torn[start + 40 : start + 180] = bytes(140)
    path = tmp_path / "joined.ts"
    path.write_bytes(part + torn)
    with pytest.raises(UserError, match=r"damaged: frame (6|7|8)\d of the file"):
        list(read_frames(probe(path)))
    assert len(list(read_frames(probe(path), 0, 55))) == 55


@pytest.mark.parametrize("every", [1, 2])
def test_a_picture_that_changes_its_size_on_the_way(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture, every: int
) -> None:
    """Each frame is a grey of its own."""
    parts = []
    for size, levels in (("64x48", "N*4"), ("96x72", "80+N*4")):
        grey = f"color=s={size}:r=25,format=yuv420p,geq=lum='16+{levels}':cb=128:cr=128"
        raw = ("-f", "lavfi", "-i", grey, "-frames:v", "20", "-bf", "0", "-qp", "0")
        parts.append(make(f"{size}.h264", *raw).read_bytes())
    (tmp_path / "all.h264").write_bytes(b"".join(parts))
    path = make("all.mkv", "-r", "25", "-i", tmp_path / "all.h264", "-c", "copy")
    info = probe(path)
    assert info.frames == 40
    whole = [int(frame.mean()) for frame in read_frames(info)]
    assert all(a < b for a, b in pairwise(whole))
    assert "the picture changes within the file" in caplog.text
    for start in (3, 20, 28):
        part = [int(frame.mean()) for frame in read_frames(info, start, 5, every)]
        assert part == whole[start::every][:5]


def test_a_late_start_is_sought_and_exact(pattern: Pattern) -> None:
    for name, codec in (("long.mp4", ()), ("long.mkv", ("-x264-params", "open-gop=1"))):
        path = pattern(name, 300, "25", "-g", "30", "-bf", "3", *codec)
        info = probe(path)
        assert len(info.times) == 300
        whole = list(read_frames(info))
        for start in (1, 60, 120, 121, 149, 150, 151, 152, 299):
            assert (next(read_frames(info, start, 1)) == whole[start]).all(), start


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_key_frames_that_an_index_makes_up_are_not_believed(
    pattern: Pattern, caplog: pytest.LogCaptureFixture, codec: str
) -> None:
    """Without its list of key frames, an mp4 says that every frame is one."""
    path = pattern("long.mp4", 300, "25", "-c:v", codec, "-g", "100", "-bf", "2")
    whole = list(read_frames(probe(path)))
    content = path.read_bytes()
    assert content.count(b"stss") == 1
    path.write_bytes(content.replace(b"stss", b"free"))
    info = probe(path)
    for start in (170, 199, 201, 299):
        assert (next(read_frames(info, start, 1)) == whole[start]).all(), start


@pytest.mark.parametrize("seconds", [2.0, 100.0])
def test_a_seek_that_goes_too_far_is_not_believed(
    pattern: Pattern, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    path = pattern("long.mkv", 300, "25", "-g", "30")
    info = probe(path)
    whole = list(read_frames(info))
    monkeypatch.setattr(read, "seek_target", lambda info, first: info.times[first] + seconds)
    assert (next(read_frames(info, 150, 1)) == whole[150]).all()


def test_a_later_frame_is_not_taken_for_the_first_that_is_asked_for(pattern: Pattern) -> None:
    path = pattern("clip.mkv", 40, "25", "-g", "1")
    info = probe(path)
    hole = "select='not(eq(n,20))',format=yuv420p"
    shorter = pattern("hole.mkv", 39, "25", "-g", "1", "-fps_mode", "passthrough", filters=hole)
    shorter.replace(path)
    with pytest.raises(UserError, match="a later frame comes instead of frame 20 of"):
        next(read_frames(info, 20, 1))
    assert next(read_frames(info, 21, 1)).shape == (48, 64, 3)


@pytest.mark.parametrize(
    ("size", "tag", "written_as"),
    [
        ("64x48", None, "bt601"),  # untagged and small
        ("1280x720", None, "bt709"),  # untagged and large
        ("64x48", "bt709", "bt709"),
        ("1280x720", "smpte170m", "bt601"),
        ("64x48", "bt2020nc", "bt2020"),
    ],
)
@pytest.mark.parametrize("levels", ["tv", "pc"])
def test_colours_by_the_tags(
    make: Pattern, size: str, tag: str | None, written_as: str, levels: str
) -> None:
    path = make(
        "colour.mp4", "-f", "lavfi", "-i",
        f"color=0xC81E3C:s={size}:r=25,format=gbrp,"
        f"scale=out_color_matrix={written_as}:out_range={levels}:flags=accurate_rnd,"
        f"format=yuv444p,setparams=colorspace={tag or 'unknown'}:range={levels}",
        "-frames:v", "1", "-crf", "1",
    )  # fmt: skip
    info = probe(path)
    assert info.color.matrix == tag
    assert (info.color.range or "tv") == levels
    (frame,) = read_frames(info)
    np.testing.assert_allclose(frame.mean((0, 1)), (0xC8, 0x1E, 0x3C), atol=2)


def test_a_path_with_odd_characters(pattern: Pattern, tmp_path: Path) -> None:
    (tmp_path / "50%d: a'b").mkdir()
    path = pattern("clip.mp4", 2, "25").rename(tmp_path / "50%d: a'b" / "-clip 1.mp4")
    assert len(list(read_frames(probe(path)))) == 2
