"""Which files ffmpeg opens: single ones, and nothing that they name."""

import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from maskora.errors import UserError
from maskora.video.damage import damaged_frames
from maskora.video.ffmpeg import CONTAINERS
from maskora.video.probe import VideoInfo, probe
from maskora.video.sound import AudioClip, find_track
from maskora.video.untrusted import Limits
from maskora.video.write import write_mp4

Make = Callable[..., Path]
FFCONCAT = "ffconcat version 1.0\nfile 'elsewhere/{}'\n"
HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nelsewhere/{}\n#EXT-X-ENDLIST\n"
DASH = '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011">{}</MPD>'
PLAYLISTS = [
    ("list.ffconcat", FFCONCAT), ("list.mp4", FFCONCAT), ("list.m3u8", HLS), ("list.mp4", HLS),
    ("list.mpd", DASH),
]  # fmt: skip


@pytest.fixture
def elsewhere(make: Make, tmp_path: Path) -> Path:
    """A clip with sound in a folder of its own."""
    (tmp_path / "elsewhere").mkdir()
    picture = ("-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=1,format=yuv420p")
    clip = make("clip.ts", *picture, "-f", "lavfi", "-i", "sine=d=1", "-c:a", "aac")
    return clip.rename(tmp_path / "elsewhere" / "clip.ts")


@pytest.mark.parametrize(("name", "text"), PLAYLISTS)
def test_no_reader_follows_a_playlist(
    elsewhere: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, text: str
) -> None:
    path = tmp_path / name
    path.write_text(text.format(elsewhere.name))
    with pytest.raises(UserError, match=r"list\.\w+: (not one of the|cannot be read as a) video"):
        probe(path)
    with pytest.raises(av.FFmpegError):
        damaged_frames(VideoInfo(path, 64, 48, 25, Fraction(25), container=CONTAINERS), 0, 5)
    assert find_track(path, CONTAINERS, 1)[0] is None
    frame = np.zeros((48, 64, 3), np.uint8)
    write_mp4(tmp_path / "out.mp4", [frame], Fraction(25), audio=AudioClip(path, 0.0, 0.5))
    assert not probe(tmp_path / "out.mp4").has_audio
    assert f"out.mp4 has no sound: that of {path} fails (" in caplog.text


@pytest.mark.parametrize(("name", "text"), [PLAYLISTS[0], PLAYLISTS[1], PLAYLISTS[2]])
def test_the_same_playlists_are_followed_by_ffmpeg_itself(
    elsewhere: Path, tmp_path: Path, name: str, text: str
) -> None:
    """Else the test before would prove nothing."""
    path = tmp_path / name
    path.write_text(text.format(elsewhere.name))
    with av.open(path) as container:
        assert len(container.streams.audio) == 1
        assert sum(packet.size > 0 for packet in container.demux(video=0)) == 25


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names")
def test_what_a_playlist_names_is_not_even_opened(tmp_path: Path) -> None:
    """Opening a pipe that nobody writes to would wait for ever."""
    (tmp_path / "elsewhere").mkdir()
    os.mkfifo(tmp_path / "elsewhere" / "pipe.ts")
    for name, text in PLAYLISTS:
        (tmp_path / name).write_text(text.format("pipe.ts"))
        with pytest.raises(UserError):
            probe(tmp_path / name)


def test_uploads_are_of_formats_that_are_opened_at_all() -> None:
    assert set(Limits.containers.split(",")) < set(CONTAINERS.split(","))
