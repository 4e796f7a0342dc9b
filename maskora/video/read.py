"""Reading frames of a clip: exactly those that are asked for, upright, in RGB."""

import io
import logging
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from maskora.errors import Fault, UserError
from maskora.video.damage import damaged_frames, is_complaint
from maskora.video.ffmpeg import (
    ffmpeg_command,
    has_filter,
    input_file,
    log_lines,
    machine_failure,
)
from maskora.video.images import over_black, read_image
from maskora.video.probe import VideoInfo, scale_matrix
from maskora.video.seek import most_pixels, seek_target

log = logging.getLogger("maskora")
USUAL_MATRIX = ("bt709", "smpte170m", "bt470bg")  # that ffmpeg's scale filter takes from tags
# Tags that ffmpeg's scale filter refuses, though the pixels are kept as they are.
_RETAGGED = {
    "log100": "setparams=color_trc=unknown,",
    "log316": "setparams=color_trc=unknown,",
    "bt2020c": "setparams=colorspace=bt2020nc,",
}
TROUBLE = ("error", "fatal", "panic")  # levels of ffmpeg's log
CHANGED = "Reconfiguring filter graph because"
CORRUPT = "corrupt decoded frame"
# The first frame is marked, and the mark printed with its time.
MARK_FIRST = "metadata=add:maskora:first:enable='eq(n,0)',metadata=print:maskora,"
FIRST_TIME = re.compile(rb"frame:0 +pts:\S+ +pts_time:(\S+)")
# Words of failures in which the file is whole, as far as anybody knows.
NO_DAMAGE = ("No such file", "Permission denied", "filter", "colorspace", "max pixel")
_SCALE_FLAGS = "lanczos+accurate_rnd+full_chroma_int+bitexact"


def read_frames(
    info: VideoInfo, start: int = 0, count: int | None = None, every: int = 1, alpha: bool = False
) -> Iterator[np.ndarray]:
    """Yield frames ``start, start + every, ...`` of a clip.

    Args:
        info: the clip, from `probe`.
        start: first frame, counted from 0 at the rate ``info.fps``.
        count: how many frames to yield; by default all up to the clip's end.
        every: step between them.
        alpha: with transparency, where the clip has any; otherwise it is flattened over black.

    Yields:
        Arrays of shape (info.height, info.width, 3), uint8 RGB, each its own memory; with `alpha`
        and where `info.has_alpha`, (info.height, info.width, 4) RGBA.

    Raises:
        UserError: the clip has no such frames, or is damaged before the last of them.
    """
    available = len(range(start, info.frames, every)) if every > 0 else 0
    count = available if count is None else count
    if start < 0 or every < 1 or not 0 <= count <= available:
        raise UserError(
            f"{info.path}: {count} frames from frame {start}, every {every}, asked for, "
            f"but the clip has {info.frames} frames, 0 to {info.frames - 1}"
        )
    wanted = range(start, start + count * every, every)
    return _image_frames(info, wanted) if info.images else _file_frames(info, wanted, alpha)


def _image_frames(info: VideoInfo, wanted: Sequence[int]) -> Iterator[np.ndarray]:
    for index in wanted:
        frame_HWC = read_image(info.images[index])
        if frame_HWC.shape != (info.height, info.width, 3):
            raise UserError(f"{info.images[index]}: its size changed while it was being read")
        yield frame_HWC


def _file_frames(info: VideoInfo, wanted: Sequence[int], alpha: bool) -> Iterator[np.ndarray]:
    if not wanted:
        return
    shown = Counter(wanted if info.picks is None else (info.picks[i] for i in wanted))
    first, last = min(shown), max(shown)
    with _decoder(info, first) as decoder:
        for index in range(decoder.begin, last + 1):
            frame_HWC = np.empty((info.height, info.width, 4 if info.has_alpha else 3), np.uint8)
            if decoder.pipe.readinto(frame_HWC.data.cast("B")) < frame_HWC.nbytes:
                raise decoder.failure(index, last)
            if index < first:
                continue
            decoder.check(index, first, last)
            if info.has_alpha and not alpha:
                frame_HWC = over_black(frame_HWC)
            for _ in range(shown[index] - 1):
                yield frame_HWC.copy()
            if shown[index]:
                yield frame_HWC


@dataclass
class _Decoder:
    """A running ffmpeg that writes decoded frames, raw, to a pipe, and its log.

    Attributes:
        begin: the number of the first frame that comes. Frames are counted here: ffmpeg's filters
            count anew where the picture changes its size within the file.
        damaged: the damaged frames, once the log has given reason to look for them.
    """

    info: VideoInfo
    begin: int
    process: subprocess.Popen[bytes]
    log: Path
    log_size: int = 0
    changed: bool = False
    damaged: dict[int, str] | None = None

    @property
    def pipe(self) -> io.BufferedReader:
        assert isinstance(self.process.stdout, io.BufferedReader)
        return self.process.stdout

    def check(self, index: int, first: int, last: int) -> None:
        """Look at what ffmpeg has said meanwhile. Raises UserError where the frame is damaged."""
        if (size := self.log.stat().st_size) != self.log_size:
            self.log_size = size
            self._read_log(first, last)
        if self.damaged and (words := self.damaged.get(index)):
            numbers = ", ".join(map(str, sorted(self.damaged)[:5]))
            raise UserError(
                f"{self.info.path}: damaged: frame {index} of the file can only be guessed "
                f"({words}; damaged frames: {numbers}{' …' if len(self.damaged) > 5 else ''}). "
                f"Use frames before or after, or another copy of the file"
            )
        if index == self.begin and not self.begins_as_said():
            raise UserError(
                f"{self.info.path}: damaged: a later frame comes instead of frame {index} of the "
                f"file. Use frames after it, or another copy of the file"
            )

    def begins_as_said(self) -> bool:
        """The first frame that comes has the time of number `begin`, where times are known."""
        if not self.info.times:
            return True
        self.pipe.peek(1)  # until it comes
        found = FIRST_TIME.search(self.log.read_bytes())
        if found is None:
            return False
        return int(np.abs(np.array(self.info.times) - float(found[1])).argmin()) == self.begin

    def _read_log(self, first: int, last: int) -> None:
        text = self.log.read_bytes()
        changes = [line for line in log_lines(text, ["info"]) if line.startswith(CHANGED)]
        if changes and not self.changed:
            self.changed = True
            log.warning(
                "note: %s: the picture changes within the file (%s); every frame is brought to "
                "%dx%d", self.info.path, changes[0].removeprefix(CHANGED).strip(),
                self.info.width, self.info.height,
            )  # fmt: skip
        corrupt = any(line.startswith(CORRUPT) for line in log_lines(text, ["warning"]))
        complaint = corrupt or any(map(is_complaint, log_lines(text, TROUBLE)))
        if complaint and self.damaged is None:
            self.damaged = damaged_frames(self.info, first, last)

    def failure(self, index: int, last: int) -> UserError | Fault:
        """Why no frame came, from what ffmpeg has said before it stopped."""
        status, path = self.process.wait(), self.info.path
        said = log_lines(self.log.read_bytes(), TROUBLE)
        reason = said[0] if said else f"ffmpeg stopped with status {status}" if status else ""
        where = f"{path}: frames up to {last} are needed, and decoding stops at frame {index}"
        if failure := machine_failure(status, said):
            return Fault(f"{where}: too little memory, say, but no damage ({failure})")
        if not any(word in line for word in NO_DAMAGE for line in said):
            words = f" ({reason})" if reason else ""
            return UserError(
                f"{path}: damaged or cut short: decoding stops at frame {index} of the file, "
                f"frames up to {last} are needed{words}. Use fewer frames, or another copy of the "
                f"file"
            )
        return UserError(f"{where} ({reason})")


@contextmanager
def _decoder(info: VideoInfo, first: int) -> Iterator[_Decoder]:
    """An ffmpeg that decodes from frame `first` on, or before; gone when the context is left."""
    if (target := seek_target(info, first)) is not None:
        with _running(info, first, target) as reader:
            if reader.begins_as_said():
                yield reader
                return
        log.info("%s: decoding from its start: frame %d is not found otherwise", info.path, first)
    with _running(info, first, None) as reader:
        yield reader


@contextmanager
def _running(info: VideoInfo, first: int, target: float | None) -> Iterator[_Decoder]:
    """The same, sought at a time in seconds; None: decoded from the file's start."""
    filters, seek, begin = rgb_filter(info), list[str](), 0
    if info.times:
        begin, filters = first, f"{MARK_FIRST}{filters}"
    if info.times and first > 0:
        middle = (info.times[first - 1] + info.times[first]) / 2
        filters = f"trim=start={middle:.6f},{filters}"
    if target is not None:
        seek = ["-noaccurate_seek", "-seek_timestamp", "1", "-ss", f"{target:.6f}"]
    decoder = ["-c:v", info.decoder] if info.decoder else []
    command = ffmpeg_command(
        "-nostats", "-v", "level+info", "-copyts",
        "-max_pixels", str(most_pixels(info)), *seek, *decoder,
        *input_file(info.path, info.container),  # the file must be what probe found
        "-map", f"0:{info.stream}", "-vf", filters,
        "-fps_mode", "passthrough", "-f", "rawvideo",
        "-pix_fmt", "rgba" if info.has_alpha else "rgb24", "pipe:1",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder) / "log"
        with said.open("wb") as errors:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors)
        reader = _Decoder(info, begin, process, said)
        try:
            yield reader
        finally:
            process.kill()
            reader.pipe.close()
            process.wait()


def rgb_filter(info: VideoInfo) -> str:
    """The ffmpeg filters from decoded (and rotated) frames to RGB at the displayed size."""
    size, pixels = f"{info.width}:{info.height}", "rgba" if info.has_alpha else "rgb24"
    if info.color.hdr and has_filter("zscale"):
        return f"{_tone_mapping(info)},scale={size}:flags={_SCALE_FLAGS},format={pixels}"
    # What the first frame names is taken from each frame's own tags: they may change on the way.
    matrix = (
        ""
        if info.color.matrix in USUAL_MATRIX
        else f":in_color_matrix={scale_matrix(info.color, info.height)}"
    )
    levels = "" if info.color.range else ":in_range=tv"
    retag = _RETAGGED.get(info.color.transfer or "", "") or _RETAGGED.get(
        info.color.matrix or "", ""
    )
    return f"{retag}scale={size}{matrix}{levels}:flags={_SCALE_FLAGS},format={pixels}"


def _tone_mapping(info: VideoInfo) -> str:
    """PQ or HLG to BT.709: to linear light, smaller gamut, highlights rolled off, SDR curve."""
    color = info.color
    source_range = "full" if color.range == "pc" else "limited"
    tags = f"setparams=color_primaries=bt2020:color_trc={color.transfer}"
    if color.matrix != "gbr":  # tags that are missing, or do not go together, count as the usual
        tags += ":colorspace=bt2020nc"
    # Half a colour sample at the edge of an odd size is more than zscale takes.
    whole = f"scale=flags={_SCALE_FLAGS},format=yuv444p{10 if info.bit_depth <= 10 else 12}le,"
    odd = (info.width % 2 or info.height % 2) and color.matrix != "gbr"
    return (
        f"{tags},{whole if odd else ''}"
        f"zscale=tin={color.transfer}:min=bt2020nc:pin=bt2020:rin={source_range}"
        ":t=linear:npl=100,format=gbrpf32le,zscale=p=bt709,tonemap=mobius:desat=0,"
        "zscale=t=bt709:r=full,format=gbrp"
    )
