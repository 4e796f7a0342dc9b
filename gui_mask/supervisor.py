"""The process that runs a workspace's commands in turn, whatever becomes of page and server.

    python -m gui_mask.supervisor WORKSPACE train|infer|both [EDIT]

prints a line as soon as the work has begun, writes down how it stands (runs/job.json), what the
commands say (runs/job.log) and how far they are (runs/progress.jsonl), and looks whether it is to
stop (runs/.stops). Once all has ended, it begins the job that waits next, perhaps in another
workspace.
"""

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import TextIO, cast

from gui_mask.jobs import (
    COMMANDS,
    GROUP,
    INTERRUPT,
    INTERRUPTED,
    Command,
    Job,
    advance,
    argv,
    identify,
    store,
)
from gui_mask.waiting import Work
from maskora import progress
from maskora.app.workspace import Workspace
from maskora.files import remove
from maskora.system import INTERRUPTIONS, quoted

log = logging.getLogger("maskora")
OWN_ENDS = (2, -9)  # what a command never ends with because of Ctrl-C: a refusal, SIGKILL
LOOK_EVERY = 0.2  # seconds
HEARD_WITHIN = 5.0  # seconds, or it is interrupted again


class Supervisor:
    """Runs the commands of a job, and passes an interruption on to the one that runs."""

    def __init__(self, workspace: Workspace, job: Job, out: TextIO) -> None:
        self._workspace, self._out = workspace, out
        self._job = job
        self._signals, self._passed_on = 0, 0
        self._log_size = 0  # when the command was first interrupted

    @property
    def _asked(self) -> int:
        """How often it was interrupted, by a signal or from the window."""
        return self._signals + len(list(self._workspace.stops_dir.glob("*")))

    def listen(self) -> None:
        """From now on, an interruption is passed on instead of ending this process."""
        hangup = [signal.SIGHUP] if hasattr(signal, "SIGHUP") else []
        for number in {*INTERRUPTIONS, *hangup}:
            signal.signal(number, self.interrupt)

    def run(self) -> None:
        """All of it, and write down how it ended."""
        code, left = 0, list(COMMANDS[self._job.what])
        while left and not code and not self._asked:
            code = self._command(left.pop(0))
        broken = code not in (0, *OWN_ENDS) and self._passed_on > 0 and not self._was_heard()
        if code in INTERRUPTED or broken or (code == 0 and left):
            self._note(status="stopped", ended=time.time())
        else:
            self._note(status="failed" if code else "done", ended=time.time())

    def _command(self, name: Command) -> int:
        line = argv(self._workspace, name, self._job.edit)
        print(f"$ {quoted(*line)}", file=self._out, flush=True)
        remove(self._workspace.job_progress)
        settings = {
            progress.VARIABLE: str(self._workspace.job_progress.absolute()),
            "TQDM_MININTERVAL": "1",  # seconds between two states of a library's own bar
            "PYTHONIOENCODING": "utf-8",
        }
        process = start_child(
            [sys.executable, "-P", "-m", *line], self._out.fileno(), {**os.environ, **settings}
        )
        self._note(name=name, command=identify(process.pid), exit_code=None)
        code = self.wait(process)
        self._note(command=None, exit_code=code)
        return code

    def wait(self, process: subprocess.Popen[bytes]) -> int:
        """A command's exit code; as often as this process is interrupted, so is the command."""
        sent_at, self._passed_on = 0.0, 0
        while True:
            try:
                return process.wait(LOOK_EVERY)
            except subprocess.TimeoutExpired:
                asked = self._asked
                waited = time.monotonic() - sent_at > HEARD_WITHIN
                unheard = self._passed_on > 0 and waited and not self._was_heard()
                if self._passed_on == asked and not unheard:
                    continue
            if not self._passed_on:
                self._log_size = os.fstat(self._out.fileno()).st_size
            process.send_signal(INTERRUPT)
            sent_at, self._passed_on = time.monotonic(), asked
            self._note(asked_to_stop=True)

    def _was_heard(self) -> bool:
        """Whether the command has said that it was interrupted.

        Python drops an interruption that falls into a destructor, and libraries that are just
        being imported turn it into an error of their own.
        """
        try:
            with self._workspace.job_log.open("rb") as file:
                file.seek(self._log_size)
                return b"interrupted" in file.read()
        except OSError:  # nobody can tell any more, and the record is still to be written
            return True

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1

    def _note(self, **changes: object) -> None:
        """Write the record; a full disk must not end the work that it is about."""
        self._job = self._job.model_copy(update=changes)
        try:
            store(self._workspace, self._job)
        except OSError as error:
            log.warning("%s could not be written: %s", self._workspace.job_record, error)


def start_child(
    command: list[str], out: int, environment: dict[str, str]
) -> subprocess.Popen[bytes]:
    """Start a process that is interrupted apart from this one; what it says goes to `out`."""
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=environment,
        creationflags=GROUP,
    )  # fmt: skip


def main() -> None:
    """Write down that the work has begun, say so to who has started this, and do it."""
    root, asked, *named = sys.argv[1:]
    workspace, own = Workspace(Path(root)), identify(os.getpid())
    assert own is not None
    with workspace.job_log.open("a", encoding="utf-8", newline="\n") as out:
        job = Job.model_validate(
            {
                "what": asked, "edit": named[0] if named else None, "started": time.time(),
                "supervisor": own, "name": COMMANDS[cast(Work, asked)][0],
                "log_from": out.tell(),
            }
        )  # fmt: skip
        supervisor = Supervisor(workspace, job, out)
        supervisor.listen()
        store(workspace, job)
        print("begun", flush=True)
        supervisor.run()
    advance()


if __name__ == "__main__":
    main()
