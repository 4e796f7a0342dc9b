"""A look at a video that somebody else made, in a process that has little to lose.

Decoders are large and files can be made to break them: what goes wrong, or takes too much, ends a
small process of its own and is told as a refusal. Where the system limits a process's memory, the
small process asks for that itself; everywhere, the one that waits watches how much it has.
"""

import json
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import psutil

from maskora.errors import UserError
from maskora.video.limits import Limits
from maskora.video.probe import probe

BASE_MEMORY = 4 * 1024**3  # bytes of address space, much of which is never used
FRAMES_HELD = 200  # bytes per pixel: a decoder with 16 threads holds some 32 frames
PATIENCE = 300.0  # seconds
LOOK_EVERY = 0.1  # seconds


def check_untrusted(
    path: Path, limits: Limits, patience: float = PATIENCE, memory: int = BASE_MEMORY
) -> None:
    """Walk through a whole file once, within the limits; after that, `probe` may open it.

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
            said = _watched(looking, order.encode(), time.monotonic() + patience, memory)
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
        raise UserError(said)
    if looking.returncode:
        reason = said.splitlines()[-1] if said else f"status {looking.returncode}"
        raise UserError(f"{path} broke the program that looked at it, so it is refused ({reason})")


def _watched(looking: subprocess.Popen[bytes], order: bytes, last: float, memory: int) -> str:
    """What the small process says on stderr.

    Raises:
        TimeoutExpired: it has not ended by `last` (of time.monotonic).
        MemoryError: it has taken more memory than that.
    """
    given: bytes | None = order
    while True:
        left = last - time.monotonic()
        try:
            _, said = looking.communicate(given, timeout=max(0.0, min(LOOK_EVERY, left)))
        except subprocess.TimeoutExpired:
            if left <= LOOK_EVERY:
                raise
        else:
            return said.decode("utf-8", "replace").strip()
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
        try:
            used += process.memory_info().rss
        except psutil.NoSuchProcess:  # it has just ended
            continue
    return used


def _end(looking: subprocess.Popen[bytes]) -> None:
    """Nothing of the small process is left."""
    if looking.poll() is None:
        for process in _family(looking.pid):
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue


def main() -> None:
    """The small process: it may hold some memory, write no file, and leave no core."""
    order = json.load(sys.stdin)
    _limit(order["memory"])
    try:
        probe(Path(order["path"]), limits=Limits(**order["limits"]))
    except UserError as error:
        sys.stderr.buffer.write(str(error).encode("utf-8", "backslashreplace"))
        sys.exit(2)


def _limit(memory: int) -> None:
    """Ask the system to limit this process; Windows has no such limits."""
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
