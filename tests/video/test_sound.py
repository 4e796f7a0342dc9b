"""Sound: the track that can be read is found, and begins when it does in the file."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from maskora.video.ffmpeg import ffmpeg_command
from maskora.video.probe import probe
from maskora.video.read import read_frames
from maskora.video.sound import AudioClip
from maskora.video.write import write_mp4

Make = Callable[..., Path]
PICTURE = ("-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=2,format=yuv420p")
SILENT = "results will have none"


def beep(begin: float) -> tuple[str, ...]:
    """Three seconds of a tone, from so many seconds of the file on."""
    return "-itsoffset", str(begin), "-f", "lavfi", "-i", "sine=f=1000:d=3:r=48000"


def onset(path: Path) -> float:
    """When sound is first heard, in seconds."""
    command = ffmpeg_command("-i", str(path), "-map", "0:a:0", "-ac", "1", "-ar", "48000")
    raw = subprocess.run([*command, "-f", "f32le", "-"], check=True, capture_output=True).stdout
    return float(np.flatnonzero(abs(np.frombuffer(raw, "<f4")) > 0.05)[0]) / 48000


def unknown(path: Path, track: int) -> Path:
    """Give one of a file's PCM tracks a codec that nobody knows."""
    parts = path.read_bytes().split(b"sowt")
    names = [b"zzzz" if number == track else b"sowt" for number in range(len(parts) - 1)]
    path.write_bytes(b"".join(a + b for a, b in zip(parts, [*names, b""], strict=True)))
    return path


@pytest.mark.parametrize(
    ("name", "codecs"),
    [
        ("late.ts", ("-c:a", "aac")),
        ("late.mpg", ("-c:a", "mp2")),
        ("late.vob", ("-c:a", "ac3")),
        ("late.ogv", ("-c:v", "libtheora", "-c:a", "libvorbis")),
        ("late.mkv", ("-c:a", "aac")),
        ("late.mp4", ("-c:a", "aac")),
    ],
)
@pytest.mark.parametrize("start", [0, 10])
def test_sound_that_begins_after_the_picture_stays_there(
    make: Make, tmp_path: Path, name: str, codecs: tuple[str, ...], start: int
) -> None:
    path = make(name, *PICTURE, *beep(0.8), *codecs)
    info = probe(path)
    audio = AudioClip(path, info.start_seconds + start / 25, 1.4)
    write_mp4(tmp_path / "out.mp4", read_frames(info, start, 35), info.fps, audio=audio)
    assert onset(tmp_path / "out.mp4") == pytest.approx(0.8 - start / 25, abs=0.03)


def test_a_track_without_a_decoder_is_said_beforehand(make: Make) -> None:
    path = unknown(make("one.mov", *PICTURE, *beep(0), "-c:a", "pcm_s16le"), 0)
    info = probe(path)
    assert (info.has_audio, info.audio_track) == (False, None)
    assert any(SILENT in note and "no decoder" in note for note in info.notes)


def test_channels_that_cannot_be_written_are_said_beforehand(make: Make) -> None:
    channels = ("-f", "lavfi", "-i", "sine=d=1,pan=12c|" + "|".join(f"c{n}=c0" for n in range(12)))
    info = probe(make("many.mov", *PICTURE, *channels, "-c:a", "pcm_s16le"))
    assert info.audio_track is None
    assert any(SILENT in note for note in info.notes)


def test_of_several_tracks_one_that_can_be_read_is_taken(make: Make, tmp_path: Path) -> None:
    maps = ("-map", "0", "-map", "1", "-map", "2", "-c:a", "pcm_s16le")
    path = unknown(make("two.mov", *PICTURE, *beep(0), *beep(0.6), *maps), 0)
    info = probe(path)
    assert info.audio_track == 1
    assert any("number 2 is used" in note for note in info.notes)
    audio = AudioClip(path, info.start_seconds, 2.0, 1)
    write_mp4(tmp_path / "out.mp4", read_frames(info), info.fps, audio=audio)
    assert onset(tmp_path / "out.mp4") == pytest.approx(0.6, abs=0.03)


@pytest.mark.parametrize("begins", [0.3, 0.9])
@pytest.mark.parametrize("start", [10, 60])
def test_sound_of_joined_files_stays_in_step(
    make: Make, tmp_path: Path, begins: float, start: int
) -> None:
    """Two parts of two seconds, each with a beep from so many seconds on."""
    silence = f"aevalsrc='0.5*sin(6283*t)*gt(t,{begins})':d=2:s=48000"
    part = make("part.ts", *PICTURE, "-f", "lavfi", "-i", silence, "-c:a", "mp2").read_bytes()
    path = tmp_path / "joined.ts"
    path.write_bytes(part + part)
    info = probe(path)
    assert (info.frames, info.joined) == (100, True)
    audio = AudioClip(path, info.start_seconds + (start - 5) / 25, 1.4, 0, info.joined)
    write_mp4(tmp_path / "out.mp4", read_frames(info, start - 5, 35), info.fps, audio=audio)
    expected = begins - (start - 5) % 50 / 25
    assert onset(tmp_path / "out.mp4") == pytest.approx(max(expected, 0), abs=0.06)


def test_sound_that_is_damaged_in_parts_is_taken_and_said(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = make("torn.mkv", *PICTURE, *beep(0), "-c:a", "flac", "-t", "2")
    with av.open(path) as container:
        packets = [bytes(packet) for packet in container.demux(audio=0) if packet.size]
    content = path.read_bytes()
    for packet in packets[len(packets) // 2 :]:
        content = content.replace(packet, b"\x55" * len(packet))
    path.write_bytes(content)
    info = probe(path)
    assert info.audio_track == 0
    audio = AudioClip(path, info.start_seconds, 2.0)
    write_mp4(tmp_path / "out.mp4", read_frames(info), info.fps, audio=audio)
    assert onset(tmp_path / "out.mp4") < 0.05
    assert f"the sound of {path} is damaged in parts (" in caplog.text
