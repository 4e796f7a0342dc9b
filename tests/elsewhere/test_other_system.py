"""The system on which nothing of POSIX is: what it takes away, from whom, and that all imports."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# Each must be refused to our code, and to nobody else.
REFUSED = {
    "fcntl": "import fcntl",
    "resource": "from resource import getrlimit",
    "os.fork": "import os; os.fork",
    "os.preadv": "from os import preadv",
    "SIGKILL": "import signal; signal.SIGKILL",
    "SIGHUP": "import signal; signal.SIGHUP",
    "MAP_PRIVATE": "import mmap; mmap.MAP_PRIVATE",
    "/proc": "open('/proc/self/stat').close()",
    "replace an open file": "import os; f = open('a'); os.replace('b', 'a')",
    "replace by an open file": "import os; f = open('b'); os.replace('b', 'c')",
    "Path.replace": "import pathlib; f = open('a'); pathlib.Path('b').replace('a')",
    "remove an open file": "import os; f = open('a'); os.unlink('a')",
    "remove a folder with an open file": "import shutil; f = open('d/x'); shutil.rmtree('d')",
    "rename a folder with an open file": "import os; f = open('d/x'); os.rename('d', 'e')",
    "replace a folder": "import os; os.mkdir('e'); os.replace('d', 'e')",
    "replace a mapped file": (
        "import os; from mmap import mmap, ACCESS_COPY\n"
        "with open('a', 'rb') as f: m = mmap(f.fileno(), 0, access=ACCESS_COPY)\n"
        "os.replace('b', 'a')"
    ),
    "write over a mapped file": (
        "from mmap import mmap, ACCESS_COPY\n"
        "with open('a', 'rb') as f: m = mmap(f.fileno(), 0, access=ACCESS_COPY)\n"
        "open('a', 'w').close()"
    ),
    "a name with a colon": "open('x:y', 'w').close()",
    "a reserved name": "import os; os.mkdir('aux')",
    "an interruption sent": (
        "import subprocess, sys, signal\n"
        "p = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=-1)\n"
        "try: p.send_signal(signal.SIGINT)\n"
        "finally: p.kill(); p.wait(); p.stdin.close()"
    ),
}
ASK = """
import os, shutil, sys, json
for name, code in json.loads(sys.argv[1]).items():
    shutil.rmtree("work", ignore_errors=True)
    os.makedirs("work/d")
    os.chdir("work")
    for path in ("a", "b", "d/x"):
        with open(path, "w") as file:
            file.write("content")
    scope = {"__name__": sys.argv[2], "__spec__": None}
    try:
        exec(code, scope)
    except (ImportError, AttributeError, OSError, ValueError) as error:
        print(f"refused: {name} ({type(error).__name__})")
    scope.clear()
    os.chdir("..")
"""
IMPORT_ALL = """
import importlib, pkgutil, gui_mask, maskora
for package in (maskora, gui_mask):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not module.name.endswith("__main__"):
            try:
                importlib.import_module(module.name)
            except Exception as error:
                print(f"{module.name}: {type(error).__name__}: {error}")
print("done")
"""


def elsewhere(folder: Path, *arguments: str) -> list[str]:
    """The lines that a Python process on the other system prints."""
    root = HERE.parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(root)])}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, check=False,
        capture_output=True, encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Error in sitecustomize" not in done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("who", ["maskora.video.read", "gui_mask.jobs"])
def test_our_code_is_refused_what_windows_lacks(tmp_path: Path, who: str) -> None:
    lines = elsewhere(tmp_path, "-c", ASK, json.dumps(REFUSED), who)
    told = [line.removeprefix("refused: ").rpartition(" (")[0] for line in lines]
    assert told == list(REFUSED)


def test_others_keep_what_they_need(tmp_path: Path) -> None:
    assert elsewhere(tmp_path, "-c", ASK, json.dumps(REFUSED), "torch.storage") == []


def test_every_module_imports_where_nothing_of_posix_is(tmp_path: Path) -> None:
    assert elsewhere(tmp_path, "-c", IMPORT_ALL) == ["done"]
