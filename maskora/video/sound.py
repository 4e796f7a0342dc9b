"""The sound of a file: which of its tracks can be taken along, and laying it under a picture."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from maskora import interruption
from maskora.errors import Fault, UserError
from maskora.files import replacing
from maskora.video.ffmpeg import (
    ffmpeg_command,
    file_url,
    input_file,
    log_lines,
    machine_failure,
)

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

    Raises:
        Fault: the machine failed at it, and nothing is known of the sound.
    """
    reasons = []
    for track in range(tracks):
        source = [*input_file(path, container), "-map", f"0:a:{track}"]
        try:
            _convert([*source, "-frames:a", str(TRIED), *AAC, "-f", "null", "-"])
        except UserError as error:
            reasons.append(str(error))
        except Fault as fault:
            raise Fault(f"{path}: its sound cannot be looked at: {fault}") from None
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
        UserError: this sound cannot be used; the file is what it was.
        Fault: the file cannot be written (a full disk, too little memory); it is what it was.
    """
    clock = [] if audio.joined else ["-copyts"]
    source = [*clock, *input_file(audio.path), "-filter_complex"]
    sound = f"a:{audio.track}]{_span(audio)}[sound]"
    both = [*input_file(video), *source, f"[1:{sound}", "-map", "0:v", "-c:v", "copy"]
    try:
        with replacing(video) as joined:
            return _convert([*both, "-map", "[sound]", *codec, *options, file_url(joined)])
    except UserError as error:
        # Where the sound alone goes well, it is the file that cannot be written.
        _convert([*source, f"[0:{sound}", "-map", "[sound]", *codec, "-f", "null", "-"])
        raise Fault(str(error)) from None


def _convert(arguments: list[str]) -> list[str]:
    """Run ffmpeg: what it complains of. Raises UserError or Fault with its reason."""
    run = subprocess.run(ffmpeg_command(*arguments), stderr=subprocess.PIPE)
    said = log_lines(run.stderr)
    if run.returncode == 0:
        return said
    interruption.check()  # a Ctrl-C ends ffmpeg, too
    if reason := machine_failure(run.returncode, said):
        raise Fault(reason)
    raise UserError((said or [f"ffmpeg stopped with status {run.returncode}"])[0])


def _span(audio: AudioClip) -> str:
    """The filter that cuts the span out, silence before and after where the sound has none."""
    start, end = audio.start_seconds, audio.start_seconds + audio.duration_seconds
    return (
        f"atrim=start={start:.6f}:end={end:.6f},asetpts=PTS-{start:.6f}/TB,"
        f"aresample=async=1:first_pts=0,apad,atrim=end={audio.duration_seconds:.6f}"
    )
