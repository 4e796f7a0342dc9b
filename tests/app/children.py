"""A program that stands for maskora in a process: it notes what it is asked, and does as told."""

import json
import sys
from pathlib import Path

import pytest

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


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Child:
    """Takes maskora's place in processes that are started by commands in this one."""
    made = Child(folder / "a child")
    monkeypatch.setattr("maskora.app.batch.program", lambda: made.program)
    made.does(
        "prepare", "root = pathlib.Path(words[2]); root.mkdir(); (root / 'edit.toml').touch()"
    )
    return made
