"""Processes that outlive the one that starts them: started, recognised and interrupted."""

import signal
import subprocess
import threading

import psutil
from pydantic import BaseModel, ConfigDict

# On Windows, a process that is to be interrupted apart from this one is a group of its own, and
# only Ctrl-Break reaches such a group, on the console that both have. One that is to outlive the
# console of the program that starts it has another, which is not shown.
GROUP = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
OWN_CONSOLE = getattr(subprocess, "CREATE_NO_WINDOW", 0)
INTERRUPT: int = getattr(signal, "CTRL_BREAK_EVENT", signal.SIGINT)


class Process(BaseModel):
    """One process, which no later one with the same number is taken for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pid: int
    born: str

    @property
    def lives(self) -> bool:
        """Whether it is still there."""
        return identify(self.pid) == self

    def interrupt(self) -> None:
        """Ask it to end, as Ctrl-C does; on Windows, whose consoles keep programs apart, end it."""
        try:
            process = psutil.Process(self.pid)
            if INTERRUPT == signal.SIGINT:
                process.send_signal(INTERRUPT)
                return
            for one in (*process.children(recursive=True), process):
                one.kill()
        except psutil.NoSuchProcess:
            return  # it has just ended by itself


def identify(pid: int) -> Process | None:
    """A living process: by number and time of birth. None: there is none."""
    try:
        process = psutil.Process(pid)
        if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return None
        born = process.create_time()
    except (psutil.NoSuchProcess, psutil.AccessDenied):  # the second: it is nobody's of ours
        return None
    if psutil.LINUX:  # it counts from the machine's start, whatever becomes of the clock
        born -= psutil.boot_time()
    return Process(pid=pid, born=f"{born:.2f}")


def start_detached(command: list[str], errors: int) -> bool:
    """Start a process that outlives this one and its terminal, and wait until it says a line.

    Args:
        errors: the file descriptor for what it says on stderr.

    Returns:
        whether it said one; False: it has ended without.
    """
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
        creationflags=GROUP | OWN_CONSOLE, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    with process.stdout:
        has_begun = bool(process.stdout.readline())
    # Whoever has started a process must ask how it ended, or it stays as a zombie.
    threading.Thread(target=process.wait, name=f"wait-{process.pid}", daemon=True).start()
    return has_begun


def start_child(
    command: list[str], out: int, environment: dict[str, str]
) -> subprocess.Popen[bytes]:
    """Start a process that is interrupted apart from this one; what it says goes to `out`."""
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=environment,
        creationflags=GROUP,
    )  # fmt: skip
