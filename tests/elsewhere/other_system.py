"""A system like Windows, as far as the code of maskora and gui_mask can tell.

`begin` takes away what Windows lacks (lacking.txt; /proc), and refuses to replace, move or remove a
file that this process has open or mapped, and to make one whose name Windows does not take. Only
code of this repository's packages meets that: the standard library and others keep what they need.
It shows what is missing there, and is no Windows: paths, quoting and consoles stay this system's.
"""

import builtins
import errno
import os
import re
import signal
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

OURS = ("maskora", "gui_mask")
LIBRARY = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib"))
SITE = tuple(sysconfig.get_path(name) for name in ("purelib", "platlib"))
LISTED = [
    line.partition(": ")[::2]
    for line in Path(__file__).with_name("lacking.txt").read_text("utf-8").splitlines()
    if not line.startswith("#")
]
LACKING = {
    of: frozenset(name for other, names in LISTED if other == of for name in names.split())
    for of, _ in LISTED
}
ABSENT = LACKING.pop("modules")
# What Windows has instead. Ctrl-Break is played by SIGHUP, as their numbers agree.
BESIDES = {"signal": {"SIGBREAK": 1, "CTRL_C_EVENT": 0, "CTRL_BREAK_EVENT": 1}}
HIDDEN = ("/proc/", "/sys/", "/dev/", "/etc/")
UNWRITABLE = re.compile(r'[<>:"|?*\x00-\x1f]|[. ]$')
RESERVED = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?", re.IGNORECASE)
begun: list[str] = []
looking = threading.local()


def begin() -> None:
    """From now on, code of this repository's packages is on another system."""
    if begun:
        return
    begun.append(__name__)
    builtins.__import__ = _importing(builtins.__import__)
    subprocess.Popen.send_signal = _signalling(subprocess.Popen.send_signal)  # type: ignore[method-assign]
    sys.addaudithook(_watch)


class Elsewhere(ModuleType):
    """A module as Windows has it, in front of the real one."""

    def __init__(self, real: ModuleType) -> None:
        super().__init__(real.__name__)
        self.__dict__["_real"] = real
        self.__dict__["_before"] = {}  # what a test has put something else in the place of

    def __getattr__(self, name: str) -> Any:
        real = self.__dict__["_real"]
        besides = BESIDES.get(real.__name__, {})
        if name in besides:
            return besides[name]
        if name in LACKING[real.__name__]:
            raise AttributeError(f"module {real.__name__!r} has no attribute {name!r} elsewhere")
        if real is os and name == "kill":
            return _kill
        return getattr(real, name)

    def __setattr__(self, name: str, value: Any) -> None:
        real = self.__dict__["_real"]
        if hasattr(real, name):
            self.__dict__["_before"].setdefault(name, getattr(real, name))
        setattr(real, name, value)

    def __delattr__(self, name: str) -> None:
        """Pytest undoes what it has set so, as the name was not this module's own."""
        real, before = self.__dict__["_real"], self.__dict__["_before"]
        if name in before:
            setattr(real, name, before.pop(name))
        else:
            delattr(real, name)

    def __dir__(self) -> list[str]:
        real = self.__dict__["_real"]
        return sorted({*dir(real), *BESIDES.get(real.__name__, ())} - LACKING[real.__name__])


MODULES = {name: Elsewhere(__import__(name)) for name in LACKING}


def _importing(real: Callable[..., Any]) -> Callable[..., Any]:
    def importing(
        name: str,
        globals: Any = None,
        locals: Any = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        found = real(name, globals, locals, fromlist, level)
        if level or not _is_ours(globals or {}):
            return found
        top = name.partition(".")[0]
        if top in ABSENT and isinstance(found, ModuleType):  # a test's stand-in is none
            raise ModuleNotFoundError(f"No module named {name!r} elsewhere", name=name)
        if top == "psutil" and not hasattr(found.Process.send_signal, "elsewhere"):
            found.Process.send_signal = _signalling(found.Process.send_signal)
        if top == "filelock" and not hasattr(found.FileLock._release, "elsewhere"):
            found.FileLock._release = _removing(found.FileLock._release)
        is_whole = name == top or not fromlist  # `import os.path` gives os
        return MODULES[top] if top in MODULES and is_whole else found

    return importing


def _is_ours(scope: dict[str, Any]) -> bool:
    spec = scope.get("__spec__")
    name = spec.name if spec is not None else scope.get("__name__") or ""
    return name.partition(".")[0] in OURS


def _caller_is_ours(frame: FrameType | None) -> bool:
    """Whether the code that asked the standard library for something is of our packages."""
    while frame is not None:
        file = frame.f_code.co_filename
        is_library = file.startswith(LIBRARY) and not file.startswith(SITE)
        if not (is_library or file.startswith("<frozen")):
            return _is_ours(frame.f_globals)
        frame = frame.f_back
    return False


def _removing(real: Callable[[Any], None]) -> Callable[[Any], None]:
    def release(self: Any) -> None:
        """On Windows filelock removes the file of a lock that is released."""
        real(self)
        Path(self.lock_file).unlink(missing_ok=True)

    release.elsewhere = True  # type: ignore[attr-defined]
    return release


def _signalling(real: Callable[[Any, int], None]) -> Callable[[Any, int], None]:
    def send_signal(self: Any, sig: int) -> None:
        """Windows sends no SIGINT to another process."""
        if sig == signal.SIGINT and _caller_is_ours(sys._getframe().f_back):
            raise ValueError(f"Unsupported signal: {sig}")
        real(self, sig)

    send_signal.elsewhere = True  # type: ignore[attr-defined]
    return send_signal


def _kill(pid: int, number: int) -> None:
    """On Windows, os.kill ends the process, whatever the number, unless that is Ctrl-Break."""
    os.kill(pid, 1 if number == 1 else signal.SIGKILL)


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Refuse what Windows would."""
    check = CHECKS.get(event)
    if (
        check is None
        or getattr(looking, "busy", False)
        or not _caller_is_ours(sys._getframe().f_back)
    ):
        return
    looking.busy = True  # what the check itself opens
    try:
        check(*arguments)
    finally:
        looking.busy = False


def _opened(path: Any, mode: str | None, flags: int) -> None:
    if isinstance(path, int):
        return
    text = os.fsdecode(path)
    if text.startswith(HIDDEN) and text != os.devnull:
        raise FileNotFoundError(errno.ENOENT, "elsewhere there is no such file", text)
    if flags & os.O_CREAT:
        _check_name(text)
    if flags & os.O_TRUNC and os.path.realpath(text) in _mapped():
        raise _refusal(text, errno.EINVAL, 1224)


def _renamed(source: Any, target: Any, source_fd: int, target_fd: int) -> None:
    here, there = _whole(source, source_fd), _whole(target, target_fd)
    _check_name(there)
    if os.path.isdir(here) and os.path.exists(there) and not os.path.samefile(here, there):
        raise _refusal(there, errno.EACCES, 5)
    for path in (here, there):
        _check_free(path)


def _removed(path: Any, folder_fd: int) -> None:
    _check_free(_whole(path, folder_fd))


def _made(path: Any, mode: int, folder_fd: int) -> None:
    _check_name(_whole(path, folder_fd))


def _linked(source: Any, target: Any, folder_fd: int) -> None:
    raise _refusal(_whole(target, folder_fd), errno.EPERM, 1314)


CHECKS: dict[str, Callable[..., None]] = {
    "open": _opened, "os.rename": _renamed, "os.remove": _removed, "os.mkdir": _made,
    "os.symlink": _linked,
}  # fmt: skip


def _whole(path: Any, folder_fd: int) -> str:
    """A path that may be counted from an open folder."""
    text = os.fsdecode(path)
    return os.path.join(os.readlink(f"/proc/self/fd/{folder_fd}"), text) if folder_fd >= 0 else text


def _check_name(path: str) -> None:
    name = os.path.basename(path)
    if UNWRITABLE.search(name) or RESERVED.fullmatch(name):
        raise _refusal(path, errno.EINVAL, 123)


def _check_free(path: str) -> None:
    """A file is neither open nor mapped by this process, nor is one in a folder."""
    if os.path.islink(path) or not os.path.exists(path):
        return
    real = os.path.realpath(path)
    held = {*_open(), *_mapped()}
    inside = os.path.join(real, "")
    if any(one == real or one.startswith(inside) for one in held):
        raise _refusal(path, errno.EACCES, 5 if os.path.isdir(path) else 32)


def _open() -> list[str]:
    """The files that this process has open; a folder that is being listed may be renamed."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            path = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:  # the listing's own
            continue
        if path.startswith("/") and not os.path.isdir(path):
            found.append(path)
    return found


def _mapped() -> set[str]:
    """The files that are mapped into this process."""
    lines = Path("/proc/self/maps").read_text("utf-8", "surrogateescape").splitlines()
    return {parts[5] for line in lines if len(parts := line.split(maxsplit=5)) == 6}


def _refusal(path: str, number: int, windows: int) -> OSError:
    error = OSError(number, "refused elsewhere: open, mapped, or no name there", path)
    error.winerror = windows  # type: ignore[attr-defined]
    return error
