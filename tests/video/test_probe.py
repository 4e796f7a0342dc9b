"""Probing ordinary, strange and broken clips, with which read_frames must agree."""

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from maskora.errors import Fault, UserError
from maskora.video import clock
from maskora.video.ffmpeg import has_filter
from maskora.video.images import write_png
from maskora.video.probe import ColorTags, VideoInfo, probe, sound_note
from maskora.video.read import read_frames

Pattern = Make = Callable[..., Path]


def agreed(path: Path) -> VideoInfo:
    """Probe a clip and check that reading it yields just what was said."""
    info = probe(path)
    frames = list(read_frames(info))
    assert len(frames) == info.frames
    assert {frame.shape for frame in frames} == {(info.height, info.width, 3)}
    return info


def test_an_ordinary_clip(pattern: Pattern) -> None:
    info = agreed(pattern("clip.mp4", 10, "30000/1001"))
    assert (info.images, info.width, info.height, info.frames) == ((), 64, 48, 10)
    assert (info.fps, info.variable_rate, info.has_audio) == (Fraction(30000, 1001), False, False)
    assert (info.bit_depth, info.color.hdr, info.rotation, info.notes) == (8, None, 0, ())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("clip.mkv", ()),
        ("clip.ts", ()),
        ("clip.avi", ("-c:v", "mpeg4", "-bf", "2")),
        ("h264.avi", ("-c:v", "libx264")),
        ("clip.webm", ("-c:v", "libvpx", "-auto-alt-ref", "1", "-lag-in-frames", "16")),
        ("fragments.mp4", ("-movflags", "frag_keyframe+empty_moov")),
        ("clip.gif", ("-pix_fmt", "rgb8")),
    ],
)
def test_containers_agree_on_frames_and_rate(
    pattern: Pattern, name: str, options: tuple[str, ...]
) -> None:
    info = agreed(pattern(name, 40, "25", *options))
    assert (info.frames, info.fps, info.variable_rate) == (40, 25, False)


def test_a_clip_trimmed_without_encoding(make: Make, pattern: Pattern) -> None:
    """The packets before the cut are in the file, but not shown."""
    whole = pattern("whole.mp4", 60, "30", "-bf", "0")
    cut = make("cut.mp4", "-ss", "0.5", "-i", whole, "-c", "copy")
    assert agreed(cut).frames == 45
    expected = list(read_frames(probe(whole), 15))
    for frame, same in zip(read_frames(probe(cut)), expected, strict=True):
        np.testing.assert_array_equal(frame, same)


@pytest.mark.parametrize(("degrees", "turns"), [(90, 1), (180, 2), (-90, 3)])
def test_rotation_is_applied(make: Make, pattern: Pattern, degrees: int, turns: int) -> None:
    flat = pattern("flat.mp4", 3, "25")
    turned = make("turned.mp4", "-display_rotation", str(degrees), "-i", flat, "-c", "copy")
    info = agreed(turned)
    assert info.rotation == degrees % 360
    assert (info.width, info.height) == ((48, 64) if turns % 2 else (64, 48))
    assert "rotated" in info.notes[0]
    upright, original = next(read_frames(info)), next(read_frames(probe(flat)))
    error = np.abs(upright.astype(int) - np.rot90(original, turns))
    assert error.mean() < 4, "turned the wrong way"


def test_variable_rate_becomes_constant(pattern: Pattern) -> None:
    """Twenty frames at 30 per second, then ten at 15: as long as before, each shown in its time."""
    filters = "settb=1/90000,select='lt(n,20)+not(mod(n,2))',format=yuv420p"
    path = pattern("vfr.mp4", 30, "30", "-fps_mode", "vfr", "-qp", "0", filters=filters)
    info = agreed(path)
    assert (info.fps, info.variable_rate) == (30, True)
    assert info.picks is not None
    assert info.picks[:22] == (*range(20), 20, 20)
    assert info.frames == pytest.approx(40, abs=1)
    assert "variable" in info.notes[0]
    frames = list(read_frames(info, 18, 6))
    assert [bool((a == b).all()) for a, b in pairwise(frames)] == [
        False, False, True, False, True,
    ]  # fmt: skip


def test_another_rate_on_request(pattern: Pattern) -> None:
    info = probe(pattern("clip.mp4", 30, "30"), Fraction(10))
    assert (info.fps, info.frames, info.variable_rate) == (10, 10, False)
    assert info.picks is not None
    assert np.diff(info.picks).tolist() == [3] * 9


def test_a_rate_that_a_clip_has_nearly_leaves_its_frames_alone(pattern: Pattern) -> None:
    """As one that was measured, and recorded, where a frame is missing."""
    hole = "select='not(eq(n,40))',format=yuv420p"
    path = pattern("hole.mkv", 79, "25", "-fps_mode", "passthrough", filters=hole)
    assert (probe(path).fps, probe(path).frames) == (25, 80)
    measured = probe(path, Fraction(78 * 25, 79))
    assert (measured.picks, measured.frames) == (None, 79)


def test_ten_bits(pattern: Pattern) -> None:
    info = agreed(pattern("ten.mp4", 3, "25", filters="format=yuv420p10le"))
    assert info.bit_depth == 10
    assert info.notes == ("10 bits per channel reduced to 8",)


@pytest.mark.parametrize(("transfer", "hdr"), [("smpte2084", "pq"), ("arib-std-b67", "hlg")])
def test_hdr_is_tone_mapped(make: Make, transfer: str, hdr: str) -> None:
    """White at 203 nits (BT.2408) is bright, not clipped; twice the light is brighter still."""
    levels = {"pq": (0.38, 0.58), "hlg": (0.5, 0.75)}[hdr]
    codes = [round(64 + level * 876) for level in levels]
    path = make(
        "hdr.mp4", "-f", "lavfi", "-i",
        f"color=s=64x48:r=25,format=yuv420p10le,geq=lum='if(lt(X,32),{codes[0]},{codes[1]})'"
        f":cb=512:cr=512,setparams=color_primaries=bt2020:color_trc={transfer}"
        ":colorspace=bt2020nc:range=tv",
        "-frames:v", "2", "-crf", "1",
    )  # fmt: skip
    info = agreed(path)
    assert (info.color.hdr, info.bit_depth) == (hdr, 10)
    assert info.color == ColorTags("bt2020", transfer, "bt2020nc", "tv")
    assert any("HDR" in note for note in info.notes)
    if not has_filter("zscale"):
        pytest.skip("this ffmpeg has no zscale filter to map with")
    frame = next(read_frames(info))
    grey, white = frame[24, 8].astype(int), frame[24, 56].astype(int)
    assert np.ptp(grey) <= 2
    assert np.ptp(white) <= 2
    assert 225 <= white.mean() <= 245
    assert 100 <= grey.mean() <= 200


@pytest.mark.parametrize(
    ("size", "tags"),
    [
        ("64x48", "color_trc=smpte2084"),
        ("64x48", "color_trc=arib-std-b67:colorspace=bt2020nc"),
        ("64x48", "color_trc=arib-std-b67:color_primaries=bt2020:colorspace=bt2020c"),
        ("65x49", "color_trc=smpte2084:color_primaries=bt2020:colorspace=bt2020nc"),
        ("64x48", "color_trc=log100:color_primaries=bt709:colorspace=bt709"),
        ("64x48", "color_trc=log316"),
        ("64x48", "color_trc=bt2020-12:color_primaries=bt2020:colorspace=bt2020c"),
    ],
)
def test_unusual_tags_and_odd_sizes_are_read(make: Make, size: str, tags: str) -> None:
    source = f"color=0x808080:s={size}:r=25,format=yuv420p10le,setparams={tags}:range=tv"
    info = agreed(make("tags.mkv", "-f", "lavfi", "-i", source, "-frames:v", "3", "-c:v", "ffv1"))
    (frame, *_) = read_frames(info)
    assert np.ptp(frame.mean((0, 1))) <= 8, "grey stays grey"
    assert f"{info.width}x{info.height}" == size


def test_square_pixels(pattern: Pattern) -> None:
    info = agreed(pattern("wide.mp4", 2, "25", filters="setsar=4/3,format=yuv420p"))
    assert (info.width, info.height) == (85, 48)
    assert "square" in info.notes[0]


def test_the_first_of_several_streams(make: Make) -> None:
    red, blue = (("-f", "lavfi", "-i", f"color={c}:s=64x48:r=25:d=0.2") for c in ("red", "blue"))
    info = agreed(make("two.mkv", *red, *blue, "-map", "0", "-map", "1"))
    assert any("2 video streams" in note for note in info.notes)
    assert next(read_frames(info))[0, 0, 0] > 200


def test_a_single_picture_before_the_moving_ones_is_passed_over(make: Make) -> None:
    red, blue = (("-f", "lavfi", "-i", f"color={c}:s=64x48:r=25:d=0.4") for c in ("red", "blue"))
    one, many = make("one.mkv", *red, "-frames:v", "1"), make("many.mkv", *blue)
    both = ("-i", one, "-i", many, "-map", "0", "-map", "1", "-c", "copy")
    info = agreed(make("thumbnail.mkv", *both))
    assert info.frames == 10
    assert "2 video streams: number 2 is used" in info.notes
    assert next(read_frames(info))[0, 0, 2] > 200


def test_tags_in_another_encoding(pattern: Pattern) -> None:
    path = pattern("tags.mp4", 5, "25", "-metadata", "title=cafe1")
    path.write_bytes(path.read_bytes().replace(b"cafe1", b"caf\xe9 "))
    assert agreed(path).frames == 5


@pytest.mark.parametrize("codec", [("mjpeg",), ("ffv1", "-g", "1"), ("libx264", "-bf", "0")])
def test_empty_packets_of_an_avi_hold_the_frame(pattern: Pattern, codec: tuple[str, ...]) -> None:
    """As captures write them for frames that they have dropped."""
    kept = "select='not(between(n,10,19))',format=yuv420p"
    options = ("-fps_mode", "passthrough", "-c:v", *codec)
    info = agreed(pattern("capture.avi", 20, "25", *options, filters=kept))
    assert (info.frames, info.fps) == (30, 25)
    assert info.picks == (*range(10), *[9] * 10, *range(10, 20))
    assert "variable" in info.notes[0]


def test_packets_that_hold_the_frame_in_ogg(make: Make) -> None:
    """Theora says so with packets without a byte."""
    still = "color=red:s=64x48:r=25:d=0.4[a];testsrc2=s=64x48:r=25:d=0.4[b];[a][b]concat"
    info = agreed(make("held.ogv", "-f", "lavfi", "-i", still, "-c:v", "libtheora"))
    assert (info.frames, info.fps) == (20, 25)


PAUSE = ("-vf", "select='lt(t,1)+gt(t,13)',format=yuv420p", "-fps_mode", "passthrough")
SOUND = ("-f", "lavfi", "-i", "sine=d=14", "-t", "14")


@pytest.mark.parametrize(
    ("name", "codecs"),
    [
        ("pause.ts", ("-c:a", "mp2")),
        ("pause.mpg", ("-c:v", "mpeg2video", "-c:a", "mp2")),
        ("pause.ogv", ("-c:v", "libtheora", "-c:a", "libvorbis")),
        ("silent.ts", ("-an",)),
    ],
)
def test_a_long_pause_of_the_picture_alone_is_no_new_part(
    make: Make, name: str, codecs: tuple[str, ...]
) -> None:
    info = agreed(make(name, "-f", "lavfi", "-i", "testsrc2=s=64x48:r=25", *SOUND, *PAUSE, *codecs))
    assert not info.joined
    assert info.frames == pytest.approx(14 * 25, abs=2)
    assert info.picks is not None
    assert not any("begin anew" in note for note in info.notes)


def test_parts_whose_sound_leaps_too_are_put_one_after_another(make: Make, tmp_path: Path) -> None:
    one = ("-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=1,format=yuv420p", "-f", "lavfi", "-i")
    parts = [
        make(f"{at}.ts", *one, "sine=d=1", "-output_ts_offset", str(at), "-c:a", "mp2")
        for at in (0, 100, 30)
    ]
    (tmp_path / "all.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    info = agreed(tmp_path / "all.ts")
    assert (info.joined, info.frames, info.picks) == (True, 75, None)
    assert any("begin anew at frame 25, 50," in note for note in info.notes)


def test_one_packet_without_a_time_does_not_cost_those_of_the_others(
    pattern: Pattern, monkeypatch: pytest.MonkeyPatch
) -> None:
    filters = "settb=1/90000,select='lt(n,20)+not(mod(n,2))',format=yuv420p"
    path = pattern("vfr.mkv", 30, "30", "-fps_mode", "vfr", "-qp", "0", filters=filters)
    timed = probe(path)
    walk = clock._walk

    def forgetful(*arguments: Any) -> Any:
        found = walk(*arguments)
        return replace(found, shown=[(None, 0.0), *found.shown[1:]])

    monkeypatch.setattr(clock, "_walk", forgetful)
    info = agreed(path)
    assert (info.fps, info.frames, info.picks) == (timed.fps, timed.frames, timed.picks)
    assert info.variable_rate
    assert info.times == ()


def test_a_jump_in_time_is_refused_before_it_fills_the_memory(pattern: Pattern) -> None:
    far = "setts=ts='if(lt(N,8),TS,100000000000)'"
    path = pattern("leap.mkv", 9, "25", "-bf", "0", "-bsf:v", far)
    with pytest.raises(UserError, match="after frame 7 its times jump by 4000000000"):
        probe(path)


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EAGAIN, errno.EMFILE])
def test_too_little_memory_is_not_damage(
    pattern: Pattern, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Nor are threads that cannot be started, and too many open files."""

    def fail(*_: object) -> None:
        raise av.FFmpegError(number, os.strerror(number))

    path = pattern("clip.mp4", 5, "25")
    monkeypatch.setattr("maskora.video.probe.read_clock", fail)
    with pytest.raises(Fault, match=rf"too little memory.*\({os.strerror(number)}\)"):
        probe(path)
    monkeypatch.setattr("maskora.video.probe.find_track", fail)
    with pytest.raises(Fault, match="too little memory"):
        sound_note(path)


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("alpha.mov", ("prores_ks", "-profile:v", "4444", "-pix_fmt", "yuva444p10le")),
        ("alpha.mov", ("qtrle",)),
        ("alpha.png", ("apng",)),
        ("alpha.webm", ("libvpx-vp9", "-pix_fmt", "yuva420p")),
        ("alpha.webm", ("libvpx", "-pix_fmt", "yuva420p", "-auto-alt-ref", "0")),
    ],
)
def test_transparent_parts_are_black_and_said(
    make: Make, name: str, codec: tuple[str, ...]
) -> None:
    half = "color=magenta:s=64x48:r=25,format=rgba,geq=r=255:g=0:b=255:a='255*lt(X,32)'"
    clip = ("-f", "lavfi", "-i", half, "-frames:v", "4", "-c:v", *codec)
    info = agreed(make(name, *clip, *(["-f", "apng"] if name.endswith("png") else [])))
    assert "transparent parts become black" in info.notes
    frame = next(read_frames(info))
    np.testing.assert_allclose(frame[24, 16], (255, 0, 255), atol=4)
    np.testing.assert_array_equal(frame[24, 48], 0)
    seen = next(read_frames(info, 0, 1, alpha=True))
    assert seen.shape == (48, 64, 4)
    assert (seen[24, 16, 3], seen[24, 48, 3]) == (255, 0)


def test_a_fourth_byte_that_nobody_has_filled_is_no_transparency(make: Make) -> None:
    empty = "color=magenta:s=64x48:r=25,format=bgra,colorchannelmixer=aa=0"
    clip = ("-f", "lavfi", "-i", empty, "-frames:v", "3", "-c:v", "rawvideo", "-pix_fmt", "bgra")
    info = agreed(make("capture.avi", *clip))
    assert not info.has_alpha
    assert next(read_frames(info))[0, 0].tolist() == [255, 0, 255]


def test_missing_numbers_of_images_are_named(tmp_path: Path) -> None:
    for number in (0, 2, 4, 10, 12):  # every second one is a choice, not a gap
        write_png(tmp_path / f"shot1_{number:03d}.png", np.zeros((6, 8, 3), np.uint8))
    assert any("shot1_004.png is followed by shot1_010.png" in n for n in probe(tmp_path).notes)
    (tmp_path / "shot1_010.png").unlink()
    (tmp_path / "shot1_012.png").unlink()
    assert not any("missing" in note for note in probe(tmp_path).notes)


def test_sound_is_noticed(make: Make) -> None:
    picture = ("-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=0.4")
    assert probe(make("a.mp4", *picture, "-f", "lavfi", "-i", "sine=d=0.4")).has_audio


def test_a_folder_of_images_in_natural_order(tmp_path: Path) -> None:
    for number in (10, 9, 100):
        write_png(tmp_path / f"f{number}.png", np.full((6, 8, 3), number, np.uint8))
    (tmp_path / "notes.txt").write_text("hello")
    info = agreed(tmp_path)
    assert (len(info.images), info.width, info.height, info.frames, info.fps) == (3, 8, 6, 3, 16)
    assert [int(frame[0, 0, 0]) for frame in read_frames(info)] == [9, 10, 100]
    assert any("16" in note for note in info.notes)
    assert any("notes.txt" in note for note in info.notes)
    assert probe(tmp_path, Fraction(24)).fps == 24


def test_images_with_transparency_are_said(tmp_path: Path) -> None:
    for number, alpha in enumerate((90, 255)):
        Image.new("RGBA", (8, 6), (9, 9, 9, alpha)).save(tmp_path / f"{number}.png")
    assert "transparent parts become black" in probe(tmp_path).notes
    (tmp_path / "0.png").unlink()
    assert not any("transparent" in note for note in probe(tmp_path).notes)


def test_hidden_files_are_no_frames(tmp_path: Path) -> None:
    Image.new("RGB", (8, 6)).save(tmp_path / "f0.jpg")
    (tmp_path / "._f0.jpg").write_bytes(b"a resource fork")
    info = agreed(tmp_path)
    assert info.frames == 1
    assert not any("._f0" in note for note in info.notes)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"a.png": 8, "b.png": 8, "c.png": 9}, r"c\.png: 9x6, but a\.png is 8x6"),
        ({"f0.png": 8, "f1.png": 8, "f0.jpg": 8}, r"f0\.jpg and f0\.png"),
    ],
)
def test_images_that_are_no_frames_of_one_clip_are_named(
    tmp_path: Path, sizes: dict[str, int], words: str
) -> None:
    for name, width in sizes.items():
        Image.new("RGB", (width, 6)).save(tmp_path / name)
    with pytest.raises(UserError, match=words):
        probe(tmp_path)


def test_what_is_not_there_or_no_image(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no images"):
        probe(tmp_path)
    with pytest.raises(UserError, match="no such video"):
        probe(tmp_path / "none.mp4")
    (tmp_path / "a.png").write_text("not an image")
    with pytest.raises(UserError, match=r"a\.png: not a readable image"):
        probe(tmp_path)


@pytest.mark.parametrize("name", ["words.mp4", "words.txt"])
@pytest.mark.parametrize("content", [b"", b"just some words\n" * 40])
def test_a_file_that_is_no_video(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"words\.") as caught:
        probe(path)
    assert name == "words.txt" or "words.mp4: cannot be read as a video" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sound_alone_and_a_cover_are_no_video(make: Make) -> None:
    sound = ("-f", "lavfi", "-i", "sine=d=0.5")
    cover = (
        "-f", "lavfi", "-i", "color=s=64x48:d=0.1", "-map", "0", "-map", "1", "-frames:v", "1",
        "-c:v", "mjpeg", "-disposition:v:0", "attached_pic",
    )  # fmt: skip
    for path in (make("sound.m4a", *sound), make("song.m4a", *sound, *cover)):
        with pytest.raises(UserError, match="no video stream"):
            probe(path)


def test_pictures_in_an_unknown_format_are_told(pattern: Pattern) -> None:
    path = pattern("unknown.mp4", 10, "25")
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zz0z"))
    with pytest.raises(UserError, match="in a format that is not known here: convert it"):
        probe(path)


def test_an_mp4_without_its_index(pattern: Pattern) -> None:
    path = pattern("cut.mp4", 30, "25")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with pytest.raises(UserError, match="cut short"):
        probe(path)


@pytest.mark.parametrize("name", ["cut.mp4", "cut.mkv"])
def test_a_clip_cut_short_is_read_as_far_as_it_goes(pattern: Pattern, name: str) -> None:
    path = pattern(name, 60, "25", "-movflags", "faststart", "-g", "1")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    info = probe(path)
    assert info.frames == 60
    assert any("cut short" in note for note in info.notes)
    there = next(n for n in range(59, 0, -1) if f" {n} are there" in info.notes[0])
    assert there > 20
    assert len(list(read_frames(info, 0, there - 1))) == there - 1, "all but the one cut through"
    with pytest.raises(UserError, match="damaged or cut short"):
        list(read_frames(info))


def test_the_real_clips(real_clips: Path) -> None:
    dog, man = probe(real_clips / "dog.mp4"), agreed(real_clips / "man_walking" / "source.mp4")
    assert (dog.width, dog.height, dog.frames, dog.fps) == (1280, 720, 289, Fraction(30000, 1001))
    assert dog.has_audio
    assert dog.color == ColorTags("bt709", "bt709", "bt709", "tv")
    assert (man.width, man.height, man.frames, man.fps) == (512, 512, 16, 8)
    assert len(list(read_frames(dog, 280))) == 9
