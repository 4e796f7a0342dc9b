"""The sound of a file: which of its tracks can be taken along, and laying it under a picture."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from maskora.errors import Fault
from maskora.files import replacing
from maskora.video.ffmpeg import ffmpeg_command, file_url, input_file, log_lines

AAC = ("-c:a", "aac", "-b:a", "192k")
FLAC = ("-c:a", "flac")
TRIED = 20  # frames of sound that are converted to see whether a track can be read


@dataclass(frozen=True)
class AudioClip:
    """A span of a file's sound.

    Attributes:
        start_seconds: on the file's own clock, as `VideoInfo.start_seconds` is.
        track: which of the file's sound tracks, from 0.
        joined: the file's clock begins anew on the way; times count from the track's start, one
            part after another.
    """

    path: Path
    start_seconds: float
    duration_seconds: float
    track: int = 0
    joined: bool = False


def find_track(path: Path, container: str, tracks: int) -> tuple[int | None, str]:
    """The first of a file's sound tracks that can be converted, and a note where not all is well.

    A little of each is converted as it will be when a result is written, up to the first that can.
    """
    reasons = []
    for track in range(tracks):
        source = [*input_file(path, container), "-map", f"0:a:{track}"]
        try:
            _convert([*source, "-frames:a", str(TRIED), *AAC, "-f", "null", "-"])
        except Fault as fault:
            reasons.append(str(fault))
        else:
            skipped = f"; {_tracks(track)} cannot be read ({reasons[0]})" if reasons else ""
            several = f"{tracks} sound tracks: number {track + 1} is used{skipped}"
            return track, several if tracks > 1 else ""
    if not reasons:
        return None, ""
    return None, f"the sound cannot be read ({reasons[0]}): results will have none"


def _tracks(count: int) -> str:
    return "number 1" if count == 1 else f"numbers 1 to {count}"


def add_sound(video: Path, audio: AudioClip, codec: tuple[str, ...], *options: str) -> list[str]:
    """Lay sound under the picture of a file, which stays as it is.

    Args:
        codec: for the sound, `AAC` or `FLAC`.
        options: of the file's format.

    Returns:
        what ffmpeg complains of, where parts of the sound are damaged.

    Raises:
        Fault: that is not possible; the file is what it was.
    """
    clock = [] if audio.joined else ["-copyts"]
    inputs = [*input_file(video), *clock, *input_file(audio.path)]
    sound = f"[1:a:{audio.track}]{_span(audio)}[sound]"
    maps = ["-filter_complex", sound, "-map", "0:v", "-map", "[sound]", "-c:v", "copy"]
    with replacing(video) as joined:
        return _convert([*inputs, *maps, *codec, *options, file_url(joined)])


def _convert(arguments: list[str]) -> list[str]:
    """Run ffmpeg: what it complains of. Raises Fault with its reason where it fails."""
    run = subprocess.run(ffmpeg_command(*arguments), stderr=subprocess.PIPE)
    said = log_lines(run.stderr)
    if run.returncode != 0:
        raise Fault((said or [f"ffmpeg stopped with status {run.returncode}"])[0])
    return said


def _span(audio: AudioClip) -> str:
    """The filter that cuts the span out, silence before and after where the sound has none."""
    start, end = audio.start_seconds, audio.start_seconds + audio.duration_seconds
    return (
        f"atrim=start={start:.6f}:end={end:.6f},asetpts=PTS-{start:.6f}/TB,"
        f"aresample=async=1:first_pts=0,apad,atrim=end={audio.duration_seconds:.6f}"
    )
