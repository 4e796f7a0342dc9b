"""Real commands, each in a fork of this process, which has loaded the heavy libraries.

A fork starts in a fifth of a second where a new Python needs ten. It has a folder of its own, a
cache of its own, and is watched: how long it took, how much memory it grew by, where it wrote.
"""

import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

Prepare = Callable[[], None]
HANGS = 10.0  # seconds after which a command on a small file hangs
WRITING = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate"}


@dataclass(frozen=True)
class Answer:
    """What a command answered.

    Attributes:
        status: the exit status; of one that was killed, minus the signal; None: it hung.
        seconds: until it ended.
        grown: bytes of memory that it (or a program that it ran) took more than it began with.
        outside: the files outside of the folders allowed that it opened for writing.
    """

    status: int | None
    out: str
    err: str
    seconds: float
    grown: int
    outside: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """ "works", "told" (a message and status 1, 2 or 130), or what is wrong with it."""
        if self.outside:
            return "wrote outside"
        if self.status is None:
            return "hangs"
        if "Traceback (most recent call last)" in self.err:
            return "traceback"
        if self.status == 0:
            return "works"
        return "told" if self.status in (1, 2, 130) and "maskora: " in self.err else "no message"


class Commands:
    """Runs commands in a folder; everything that they may write lies below it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)

    def start(self, *words: object, prepare: Prepare | None = None) -> "Started":
        """Start `maskora WORDS` in the folder.

        Args:
            prepare: called in the new process before the command, to set limits and traps.
        """
        out, err, wrote = (_empty_file() for _ in range(3))
        sys.stdout.flush()
        sys.stderr.flush()
        began = time.monotonic(), _resident()
        process = os.fork()
        if process == 0:
            self._command([str(word) for word in words], out, err, wrote, prepare)
        return Started(process, *began, out, err, wrote)

    def run(self, *words: object, seconds: float = 120.0, prepare: Prepare | None = None) -> Answer:
        """Run `maskora WORDS` to its end, or until it hangs."""
        return self.start(*words, prepare=prepare).wait(seconds)

    def _command(
        self, words: list[str], out: Path, err: Path, wrote: Path, prepare: Prepare | None
    ) -> NoReturn:
        status = 70
        try:
            os.setsid()
            os.chdir(self.folder)
            for path, number in ((out, 1), (err, 2)):
                file = os.open(path, os.O_WRONLY | os.O_TRUNC)
                os.dup2(file, number)
                os.close(file)
            for name, place in (
                ("HOME", "home"),
                ("XDG_CACHE_HOME", "home/cache"),
                ("TMPDIR", "tmp"),
            ):
                (self.folder / place).mkdir(parents=True, exist_ok=True)
                os.environ[name] = str(self.folder / place)
            tempfile.tempdir = None
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            _watch_writes(self.folder, os.open(wrote, os.O_WRONLY | os.O_APPEND))
            if prepare is not None:
                prepare()
            status = _maskora(words)
        except BaseException:  # noqa: BLE001 - a fork must not go on as its parent
            traceback.print_exc()
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(status)


def _maskora(words: list[str]) -> int:
    from maskora.cli import app

    sys.argv = ["maskora", *words]
    try:
        app(words, prog_name="maskora")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - the end of a program
        traceback.print_exc()
        return 1
    return 0


class Started:
    """A command that runs."""

    def __init__(
        self, process: int, began: float, resident: int, out: Path, err: Path, wrote: Path
    ) -> None:
        self.process = process
        self._began, self._resident = began, resident
        self._files = out, err, wrote

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to it and to all that it has started."""
        try:
            os.killpg(self.process, number)
        except ProcessLookupError:  # it has no group of its own yet
            os.kill(self.process, number)

    def ended(self) -> bool:
        """True if it has ended, and can be waited for at once."""
        return bool(os.waitid(os.P_PID, self.process, os.WEXITED | os.WNOHANG | os.WNOWAIT))

    def wait(self, seconds: float = 120.0) -> Answer:
        """Wait for its end; what is still there after so long is killed."""
        last, hung = self._began + seconds, False
        while not self.ended():
            if time.monotonic() > last:
                hung = True
                self.kill()
                break
            time.sleep(0.005)
        _, code, used = os.wait4(self.process, 0)
        with suppress(ProcessLookupError):
            os.killpg(self.process, signal.SIGKILL)  # what it has left behind
        took = time.monotonic() - self._began
        grown = max(0, used.ru_maxrss * 1024 - self._resident)
        out, err, wrote = (path.read_text(errors="replace") for path in self._files)
        for path in self._files:
            path.unlink()
        status = None if hung else os.waitstatus_to_exitcode(code)
        return Answer(status, out, err, took, grown, tuple(sorted(set(wrote.splitlines()))))


def _empty_file() -> Path:
    handle, name = tempfile.mkstemp(prefix="answer-")
    os.close(handle)
    return Path(name)


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _watch_writes(allowed: Path, report: int) -> None:
    """Note every path outside of a folder that Python opens for writing, moves or removes."""
    inside = str(allowed.resolve())

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if not (isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
                return
            paths = (path,)
        elif event in WRITING:
            paths = arguments[:2] if event in ("os.rename", "os.link") else arguments[:1]
        else:
            return
        for path in paths:
            if isinstance(path, str | bytes):
                real = os.path.realpath(os.fsdecode(path))
                if not (real + "/").startswith(inside + "/") and not real.startswith("/dev/"):
                    os.write(report, f"{event} {real}\n".encode(errors="replace"))

    sys.addaudithook(note)
