"""What takes maskora's place in processes that commands start, and the inputs of an edit."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.conftest import REPOSITORY

LINE = ["clip.mp4", "1,2,3,4", "edited.PNG", "out.mp4"]
CHILD = """
import json, os, pathlib, sys
home = pathlib.Path(__file__).parent
words = sys.argv[1:]
with (home / "asked.jsonl").open("a", encoding="utf-8") as file:
    file.write(json.dumps(words) + "\\n")
todo = home / f"{words[0]}.py"
if todo.exists():
    exec(todo.read_text(encoding="utf-8"))
"""


class Child:
    """What is run instead of maskora."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.program = [sys.executable, str(folder / "child.py")]
        (folder / "child.py").write_text(CHILD, encoding="utf-8")

    def does(self, name: str, code: str) -> None:
        """Python that a command runs; `words` are the command and what it is given."""
        (self.folder / f"{name}.py").write_text(code, encoding="utf-8")

    def asked(self) -> list[list[str]]:
        """The lines of all commands so far; they are forgotten."""
        path = self.folder / "asked.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [json.loads(line) for line in lines]


def make_job(folder: Path, **files: str | bytes) -> Path:
    """A job's folder with a video, an edited frame, a box, and more texts: `NAME` is NAME.txt."""
    folder.mkdir(parents=True)
    (folder / "video.mp4").touch()
    (folder / "edited.png").touch()
    for name, content in {"box": "1, 2,\n3, 4\n", **files}.items():
        data = content if isinstance(content, bytes) else content.encode()
        (folder / f"{name}.txt").write_bytes(data)
    return folder


def write_jobs(folder: Path, count: int = 3, more: str = "") -> Path:
    """A jobs.toml of so many jobs, named j0, j1, …"""
    for name in ("clip.mp4", "edited.png", "later.png", "base.toml"):
        (folder / name).write_bytes(name.encode())
    jobs = [
        f'[[job]]\nname = "j{number}"\nvideo = "clip.mp4"\nbox = [1, 2, 3, 4]\n'
        f'edits = {{ 0 = "edited.png" }}\n'
        for number in range(count)
    ]
    path = folder / "jobs.toml"
    path.write_text("\n".join(['[defaults]\nframes = 9\nset = ["a.b=c"]', *jobs, more]))
    return path


DRIVER = """
import sys
from maskora.app import processes
from maskora.cli import main
program = [sys.executable, sys.argv.pop(1)]
processes.program = lambda: program
main()
"""
SAVES = """
import signal, time
heard = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: heard.append(number))
(home / "ready").touch()
while not heard:
    time.sleep(0.01)
time.sleep(0.5)  # the step in hand is finished
(home / "heard").write_text(str(len(heard)))
sys.exit(130)
"""


def begin(child: Child, *line: str) -> "subprocess.Popen[str]":
    """`maskora …` in a group of processes of its own, as a terminal starts it."""
    begun = subprocess.Popen(
        [sys.executable, "-c", DRIVER, child.program[1], *line],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (child.folder / "ready").exists():
        assert begun.poll() is None, begun.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return begun
