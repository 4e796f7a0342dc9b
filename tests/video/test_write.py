"""Written files: exact rate, size, colours and sound, and never half of one."""

import errno
import io
import os
import signal
import subprocess
import sys
import wave
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import pytest

from maskora import interruption
from maskora.errors import Fault
from maskora.video import write
from maskora.video.ffmpeg import ffmpeg_command
from maskora.video.probe import BT709, ColorTags, probe
from maskora.video.read import read_frames
from maskora.video.sound import AAC, AudioClip, add_sound
from maskora.video.write import write_lossless, write_mp4
from tests.system import posix_only

Make = Callable[..., Path]
NTSC = Fraction(30000, 1001)


def patches(height: int, width: int) -> np.ndarray:
    """(H, W, 3) of random colours in squares of 16, so that 4:2:0 has something to keep."""
    small = np.random.default_rng(0).integers(0, 256, (-(-height // 16), -(-width // 16), 3))
    return small.astype(np.uint8).repeat(16, 0).repeat(16, 1)[:height, :width]


def middles(frame: np.ndarray) -> np.ndarray:
    return frame[8:-8:16, 8:-8:16].astype(int)


@pytest.mark.parametrize("rate", [NTSC, Fraction(24000, 1001), Fraction(16), Fraction(25, 2)])
def test_rate_size_and_count_are_kept(tmp_path: Path, rate: Fraction) -> None:
    write_mp4(tmp_path / "a.mp4", iter([patches(48, 64)] * 7), rate)
    write_lossless(tmp_path / "a.mkv", iter([patches(48, 64)] * 7), rate)
    for name in ("a.mp4", "a.mkv"):
        info = probe(tmp_path / name)
        assert (info.width, info.height, info.frames, info.fps) == (64, 48, 7, rate)
        assert info.notes == ()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mkv", "a.mp4"]
    content = (tmp_path / "a.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat"), "its index comes first"


@pytest.mark.parametrize(("height", "width"), [(48, 64), (49, 64), (48, 65), (241, 321)])
def test_odd_sizes_are_kept(tmp_path: Path, height: int, width: int) -> None:
    path = tmp_path / "a.mp4"
    write_mp4(path, [patches(height, width)] * 2, Fraction(25))
    info = probe(path)
    assert (info.width, info.height) == (width, height)
    with av.open(path) as container:
        expected = "yuv444p" if height % 2 or width % 2 else "yuv420p"
        assert container.streams.video[0].codec_context.pix_fmt == expected
    (first, _) = read_frames(info)
    assert abs(middles(first) - middles(patches(height, width))).max() <= 6


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (None, BT709),
        (ColorTags(), ColorTags()),
        (BT709, BT709),
        (ColorTags("smpte170m", "smpte170m", "smpte170m", "tv"), None),
        (ColorTags("bt470bg", "bt470bg", "bt470bg", "pc"), None),
        (ColorTags("bt709", "iec61966-2-1", "bt709", "pc"), None),
        (ColorTags("bt2020", "bt2020-10", "bt2020nc", "tv"), None),
        (ColorTags("bt2020", "smpte2084", "bt2020nc", "tv"), BT709),
        (ColorTags("bt709", "bt709", "gbr", "pc"), BT709),
    ],
)
@pytest.mark.parametrize("height", [48, 720])
def test_colours_and_tags_survive(
    tmp_path: Path, given: ColorTags | None, kept: ColorTags | None, height: int
) -> None:
    frame = patches(height, 64)
    write_mp4(tmp_path / "a.mp4", [frame], Fraction(25), given)
    info = probe(tmp_path / "a.mp4")
    assert info.color == (kept or given)
    (read,) = read_frames(info)
    assert abs(middles(read) - middles(frame)).max() <= 6


def test_many_generations_do_not_drift(tmp_path: Path) -> None:
    """A wrong matrix or range would show at once, a rounding bias after a few copies."""
    path, frame = tmp_path / "a.mp4", patches(48, 64)
    copy = frame
    for _ in range(5):
        write_mp4(path, [copy], Fraction(25), ColorTags())
        (copy,) = read_frames(probe(path))
    assert abs(float((middles(copy) - middles(frame)).mean())) < 1.5


@pytest.mark.parametrize(("height", "width"), [(48, 64), (49, 65)])
def test_lossless_is_bit_exact(tmp_path: Path, height: int, width: int) -> None:
    chance = np.random.default_rng(3)
    frames = [chance.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(5)]
    write_lossless(tmp_path / "a.mkv", frames, NTSC)
    for read, frame in zip(read_frames(probe(tmp_path / "a.mkv")), frames, strict=True):
        np.testing.assert_array_equal(read, frame)


def sound(path: Path, rate: int = 48000) -> np.ndarray:
    """The sound as it is played, mono float, decoded by ffmpeg."""
    command = ffmpeg_command("-i", str(path), "-map", "0:a:0", "-ac", "1", "-ar", str(rate))
    raw = subprocess.run([*command, "-f", "f32le", "pipe:1"], check=True, capture_output=True)
    return np.frombuffer(raw.stdout, np.float32)


def flash_and_beep(make: Make, name: str, frame: int, frames: int, offset: float = 0.0) -> Path:
    """One white frame in black ones; a beep from its start to its end. `offset` delays both."""
    begin, end = float(frame / NTSC), float((frame + 1) / NTSC)
    picture = f"color=black:s=64x48:r=30000/1001,drawbox=c=white:t=fill:enable='eq(n,{frame})'"
    beep = f"aevalsrc='0.8*sin(2*PI*1000*t)*between(t,{begin},{end})':s=48000"
    return make(
        name, "-itsoffset", str(offset), "-f", "lavfi", "-i", picture,
        "-itsoffset", str(offset), "-f", "lavfi", "-i", beep,
        "-t", str(float(frames / NTSC)), "-pix_fmt", "yuv420p", "-c:a", "aac",
    )  # fmt: skip


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.ts"])
@pytest.mark.parametrize(("start", "every"), [(0, 1), (13, 1), (40, 1), (6, 2)])
@pytest.mark.parametrize("lossless", [False, True])
def test_flash_and_beep_stay_together(
    make: Make, tmp_path: Path, name: str, start: int, every: int, lossless: bool
) -> None:
    info = probe(flash_and_beep(make, name, frame=50, frames=90))
    count = 24
    clip = AudioClip(
        info.path,
        info.start_seconds + float(start / info.fps),
        float(count * every / info.fps),
    )
    out = tmp_path / ("out.mkv" if lossless else "out.mp4")
    write = write_lossless if lossless else write_mp4
    write(out, read_frames(info, start, count, every), info.fps / every, audio=clip)
    written = probe(out)
    assert written.has_audio
    assert (written.frames, written.fps) == (count, info.fps / every)
    bright = [frame.mean() > 128 for frame in read_frames(written)]
    loud = np.flatnonzero(abs(sound(out)) > 0.2)
    expected = (50 - start) // every
    if expected >= count:
        assert not any(bright)
        assert not loud.size
        return
    assert bright.index(True) == expected
    frame_seconds = float(1 / info.fps)
    onset = written.start_seconds + bright.index(True) * float(every / info.fps)
    assert abs(loud[0] / 48000 - onset) < frame_seconds
    assert len(sound(out)) / 48000 == pytest.approx(clip.duration_seconds, abs=0.05)


def test_sound_that_begins_late_or_ends_early_is_filled_with_silence(
    make: Make, tmp_path: Path
) -> None:
    beep = make("beep.wav", "-f", "lavfi", "-i", "sine=f=1000:d=0.5:r=48000")
    with wave.open(str(beep)) as file:
        assert file.getnframes() == 24000
    late = make(
        "late.mkv", "-itsoffset", "0.4", "-i", beep, "-f", "lavfi", "-i", "color=s=64x48:r=25:d=2",
        "-map", "1", "-map", "0", "-c:a", "pcm_s16le",
    )  # fmt: skip
    out = tmp_path / "out.mp4"
    info = probe(late)
    write_mp4(out, read_frames(info), info.fps, audio=AudioClip(late, 0.0, 2.0))
    played = sound(out)
    assert len(played) / 48000 == pytest.approx(2.0, abs=0.05)
    loud = np.flatnonzero(abs(played) > 0.02)
    assert loud[0] / 48000 == pytest.approx(0.4, abs=0.03)
    assert loud[-1] / 48000 == pytest.approx(0.9, abs=0.03)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "error", [KeyError("the model failed"), OSError(errno.EINVAL, "the disk with the frames")]
)
def test_a_failing_source_of_frames_leaves_nothing(tmp_path: Path, error: Exception) -> None:
    """Also where it fails as a pipe that is closed does on Windows."""

    def broken() -> Iterator[np.ndarray]:
        yield patches(48, 64)
        raise error

    (tmp_path / "old.mp4").write_bytes(b"the one from yesterday")
    for name, write_clip in (("old.mp4", write_mp4), ("new.mkv", write_lossless)):
        with pytest.raises(type(error), match=str(error.args[-1])):
            write_clip(tmp_path / name, broken(), Fraction(25))
    assert [path.name for path in tmp_path.iterdir()] == ["old.mp4"]
    assert (tmp_path / "old.mp4").read_bytes() == b"the one from yesterday"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["out.mp4", "out.mkv"])
def test_a_sound_that_fails_does_not_cost_the_picture(
    tmp_path: Path, pattern: Make, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    silent = pattern("silent.mp4", 3, "25")
    frames = [patches(48, 64)] * 3
    write = write_mp4 if name == "out.mp4" else write_lossless
    write(tmp_path / name, frames, Fraction(25), audio=AudioClip(silent, 0.0, 0.1))
    written = probe(tmp_path / name)
    assert (written.frames, written.has_audio) == (3, False)
    assert f"{name} has no sound: that of {silent} fails (" in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == [name, "silent.mp4"]


@pytest.fixture
def failing_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """failing_sound("shell words"): said before the ffmpeg that lays sound under a picture."""
    real, wrapper = imageio_ffmpeg.get_ffmpeg_exe(), tmp_path / "bin" / "ffmpeg"

    def prepare(words: str) -> None:
        wrapper.parent.mkdir()
        when = f'case "$*" in *filter_complex*) {words};; esac'
        wrapper.write_text(f'#!/bin/sh\n{when}\nexec "{real}" "$@"\n')
        wrapper.chmod(0o755)
        monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(wrapper))

    return prepare


@posix_only
@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("trap '' XFSZ; ulimit -f 40", "File too large"),  # as on a full disk
        ("ulimit -v 100000", "ffmpeg was ended"),
        ("kill -TERM $$", "ffmpeg was ended"),
    ],
)
@pytest.mark.parametrize("name", ["out.mp4", "out.mkv"])
def test_a_machine_that_fails_at_the_sound_is_a_fault_and_leaves_what_was(
    tmp_path: Path, make: Make, failing_sound: Callable[[str], None], name: str, words: str,
    reason: str,
) -> None:  # fmt: skip
    beep = make("beep.wav", "-f", "lavfi", "-i", "anoisesrc=d=9:r=48000")
    (tmp_path / name).write_bytes(b"the one from yesterday")
    frames, write = [patches(48, 64)] * 3, write_mp4 if name == "out.mp4" else write_lossless
    failing_sound(words)
    with pytest.raises(Fault, match=rf"{name} could not be written: .*{reason}"):
        write(tmp_path / name, frames, Fraction(25), audio=AudioClip(beep, 0.0, 9.0))
    assert (tmp_path / name).read_bytes() == b"the one from yesterday"
    assert {path.name for path in tmp_path.iterdir()} == {name, "beep.wav", "bin"}


@posix_only
def test_a_fault_is_no_reason_to_pass_over_a_track(
    make: Make, failing_sound: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = flash_and_beep(make, "clip.mp4", frame=2, frames=9)
    failing_sound("true")
    assert probe(path).has_audio
    wrapper = Path(os.environ["IMAGEIO_FFMPEG_EXE"])
    wrapper.write_text(wrapper.read_text().replace("#!/bin/sh", "#!/bin/sh\nulimit -v 100000"))
    with pytest.raises(Fault, match=r"clip\.mp4: its sound cannot be looked at: ffmpeg was ended"):
        probe(path)


@posix_only
def test_an_interruption_that_ended_ffmpeg_alone_ends_the_command(
    tmp_path: Path, make: Make, failing_sound: Callable[[str], None]
) -> None:
    beep = make("beep.wav", "-f", "lavfi", "-i", "sine=d=1")
    failing_sound("kill -INT $PPID; exit 1")
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, lambda *_: interruption._came.append(2))
    try:
        with pytest.raises(KeyboardInterrupt):
            write_mp4(
                tmp_path / "a.mp4", [patches(48, 64)], Fraction(25), audio=AudioClip(beep, 0, 1)
            )
    finally:
        signal.signal(signal.SIGINT, before)
        interruption.forget()
    assert not (tmp_path / "a.mp4").exists()


def test_a_file_that_cannot_be_written_is_not_laid_to_its_sound(tmp_path: Path, make: Make) -> None:
    beep = make("beep.wav", "-f", "lavfi", "-i", "sine=d=1")
    write_mp4(tmp_path / "a.mp4", [patches(48, 64)], Fraction(25))
    with pytest.raises(Fault):
        add_sound(tmp_path / "a.mp4", AudioClip(beep, 0.0, 1.0), AAC, "-movflags", "nonsense")


FULL_DISK = """
import resource, sys
from fractions import Fraction
from pathlib import Path
import numpy as np
from maskora.errors import Fault
from maskora.video import write
from maskora.video.write import write_lossless
frames = np.random.default_rng(0).integers(0, 256, (40, 240, 320, 3), dtype=np.uint8)
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
try:
    write_lossless(Path(sys.argv[1]), iter(frames), Fraction(25))
except Fault as fault:
    sys.exit(f"fault: {fault}")
"""


@posix_only
def test_a_file_that_may_not_grow_is_a_fault_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "out.mkv"
    command = [sys.executable, "-c", FULL_DISK, str(path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 1
    assert "fault: " in run.stderr
    assert "out.mkv could not be written" in run.stderr
    assert list(tmp_path.iterdir()) == []


@posix_only
def test_a_relative_path_with_odd_characters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a:b 50%d").mkdir()
    write_mp4(Path("a:b 50%d/-1.mp4"), [patches(48, 64)], Fraction(25))
    assert probe(Path("a:b 50%d/-1.mp4")).frames == 1


def test_a_pipe_that_windows_says_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There, writing to a program that has ended is EINVAL instead of EPIPE."""
    real = subprocess.Popen

    class Windows(io.BufferedIOBase):
        def __init__(self, pipe: io.BufferedWriter) -> None:
            self.pipe = pipe

        def write(self, data: object) -> int:
            try:
                written = self.pipe.write(data)  # type: ignore[arg-type]
                self.pipe.flush()
                return written
            except BrokenPipeError:
                raise OSError(errno.EINVAL, "Invalid argument") from None

        def close(self) -> None:
            self.pipe.close()

    def start(*args: object, **kwargs: object) -> subprocess.Popen[bytes]:
        process = real(*args, **kwargs)  # type: ignore[call-overload]
        process.stdin = Windows(process.stdin)
        return process

    monkeypatch.setattr(write.subprocess, "Popen", start)
    path = tmp_path / "clip.mkv"
    frames = (np.zeros((64, 64, 3), np.uint8) for _ in range(2000))
    with pytest.raises(Fault, match=r"clip\.mkv could not be written: "):
        write._encode(path, path, frames, Fraction(25), ["-c:v", "no-such-codec"], "null")
    assert list(tmp_path.iterdir()) == []
