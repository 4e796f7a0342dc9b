"""Videos that somebody else made: limits, and a first look in a process that has little to lose.

Decoders are large and files can be made to break them: what goes wrong, or takes too much, ends a
small process of its own and becomes a refusal. Where the system can limit a process's memory, the
small process asks for that itself; everywhere, the one that waits watches how much it takes.
"""

import json
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import psutil
from av.container import InputContainer
from av.video.stream import VideoStream

from maskora.errors import UserError
from maskora.video.probe import probe

FRAMES_PER_SECOND = 120  # beyond this, a clip's length in frames counts instead of its seconds
BASE_MEMORY = 4 * 1024**3  # bytes of address space, much of which is never used
FRAMES_HELD = 200  # bytes per pixel: a decoder with 16 threads holds some 32 frames
PATIENCE = 300.0  # seconds
LOOK_EVERY = 0.1  # seconds


@dataclass(frozen=True)
class Limits:
    """The largest file that is accepted from elsewhere.

    Attributes:
        max_pixels: width times height.
        containers: accepted formats, in ffmpeg's names: the usual ones of `CONTAINERS`.
        container_names: the same for people.
    """

    containers: ClassVar[str] = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,gif,apng"
    container_names: ClassVar[str] = "mp4, mov, mkv, webm, avi, ts, gif or animated png"

    max_bytes: int
    max_seconds: float
    max_pixels: int
    max_frames: int

    @classmethod
    def of(cls, upload_mb: float = 2000, seconds: float = 600, megapixels: float = 9) -> "Limits":
        """From the numbers of --max-upload-mb, --max-seconds and --max-megapixels."""
        frames = round(seconds * FRAMES_PER_SECOND)
        return cls(round(upload_mb * 1e6), seconds, round(megapixels * 1e6), frames)

    def check_bytes(self, path: Path, found: int) -> None:
        """Raises UserError where a file is larger."""
        if found > self.max_bytes:
            raise UserError(
                f"{path} has {found / 1e6:.1f} MB, and at most {self.max_bytes / 1e6:g} are taken "
                f"(--max-upload-mb)"
            )

    def check_pixels(self, path: Path, width: int, height: int) -> None:
        """Raises UserError where a picture is larger."""
        if width * height > self.max_pixels:
            raise UserError(
                f"{path} is {width}x{height}, {width * height / 1e6:.1f} megapixels, and at most "
                f"{self.max_pixels / 1e6:g} are taken (--max-megapixels)"
            )

    def check_length(self, path: Path, frames: float, seconds: float) -> None:
        """Raises UserError where a clip is longer, in frames or in seconds."""
        if seconds > self.max_seconds:
            raise UserError(
                f"{path} lasts more than {self.max_seconds:g} seconds, the most that is taken "
                f"(--max-seconds)"
            )
        if frames > self.max_frames:
            raise UserError(
                f"{path} has more than {self.max_frames} frames, the most that is taken "
                f"({self.max_seconds:g} seconds, --max-seconds)"
            )

    def check_header(self, path: Path, container: InputContainer, stream: VideoStream) -> None:
        """Raises UserError where a file's header, before decoding, goes beyond a limit."""
        self.check_pixels(path, stream.codec_context.width, stream.codec_context.height)
        own = float((stream.duration or 0) * (stream.time_base or 0))
        whole = (container.duration or 0) / 1e6
        self.check_length(path, max(stream.frames, len(stream.index_entries)), own or whole)

    @property
    def decoder_options(self) -> dict[str, str]:
        """For the decoder: stop at frames that are larger; twice, for a frame's padded size."""
        return {"max_pixels": str(min(2 * self.max_pixels, 2**31 - 1))}


def check_untrusted(
    path: Path, limits: Limits, patience: float = PATIENCE, memory: int = BASE_MEMORY
) -> None:
    """Look through a whole file once, within the limits; after that, `probe` may open it.

    Args:
        patience: seconds after which the file is refused.
        memory: bytes of address space, or of memory that is used, besides those of the frames.

    Raises:
        UserError: it is no video, goes beyond a limit (which, and what raises it), or could not
            be looked through in the time and memory there is.
    """
    memory += FRAMES_HELD * limits.max_pixels
    order = json.dumps({"path": str(path.absolute()), "limits": asdict(limits), "memory": memory})
    command = [sys.executable, "-P", "-m", "maskora.video.untrusted"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as looking:
        try:
            message = _watched(looking, order.encode(), time.monotonic() + patience, memory)
        except subprocess.TimeoutExpired:
            raise UserError(
                f"{path} could not be looked through in {patience:g} seconds, so it is refused; "
                f"a shorter or smaller copy, or another container, may pass"
            ) from None
        except MemoryError:
            raise UserError(
                f"{path} took more than {memory / 1e9:.1f} GB of memory to look at, so it is "
                f"refused"
            ) from None
        finally:
            _end(looking)
    if looking.returncode == 2:
        raise UserError(message)
    if looking.returncode:
        reason = message.splitlines()[-1] if message else f"status {looking.returncode}"
        raise UserError(f"{path} broke the program that looked at it, so it is refused ({reason})")


def _watched(looking: subprocess.Popen[bytes], order: bytes, last: float, memory: int) -> str:
    """Wait for the small process, and return what it has written to stderr.

    Raises:
        TimeoutExpired: it has not ended by `last` (of time.monotonic).
        MemoryError: it has taken more memory than that.
    """
    given: bytes | None = order
    while True:
        left = last - time.monotonic()
        try:
            _, written = looking.communicate(given, timeout=max(0.0, min(LOOK_EVERY, left)))
        except subprocess.TimeoutExpired:
            if left <= LOOK_EVERY:
                raise
        else:
            return written.decode("utf-8", "replace").strip()
        given = None  # it has that already
        if _memory_of(looking.pid) > memory:
            raise MemoryError


def _family(pid: int) -> list[psutil.Process]:
    """A process and those it has started: on Windows, the interpreter of a venv starts another."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _memory_of(pid: int) -> int:
    """Bytes of memory that a process uses, and those it has started."""
    used = 0
    for process in _family(pid):
        with suppress(psutil.NoSuchProcess):  # it has just ended
            used += process.memory_info().rss
    return used


def _end(looking: subprocess.Popen[bytes]) -> None:
    """End the small process and what it has started."""
    if looking.poll() is None:
        for process in _family(looking.pid):
            with suppress(psutil.NoSuchProcess):
                process.kill()


def main() -> None:
    """The small process. Exit status 2: refused, with the reason on stderr."""
    order = json.load(sys.stdin)
    _limit(order["memory"])
    try:
        probe(Path(order["path"]), limits=Limits(**order["limits"]))
    except UserError as error:
        sys.stderr.buffer.write(str(error).encode("utf-8", "backslashreplace"))
        sys.exit(2)


def _limit(memory: int) -> None:
    """Let this process hold so much memory, write no file and leave no core; not on Windows."""
    try:
        import resource
    except ModuleNotFoundError:
        return
    most = {"RLIMIT_AS": memory, "RLIMIT_FSIZE": 0, "RLIMIT_CORE": 0}
    if sys.platform == "darwin":  # it counts the system's own libraries, and is not kept there
        del most["RLIMIT_AS"]
    for name, wanted in most.items():
        kind = getattr(resource, name)
        _, hard = resource.getrlimit(kind)
        least = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(kind, (least, least))


if __name__ == "__main__":
    main()
