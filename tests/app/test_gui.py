"""maskora gui, up to the moment in which it would serve."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.app.conftest import Run, refused


def test_a_port_that_is_taken(run: Run) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused(run("gui", "--port", port, "--no-browser"), str(port), "--port")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["nowhere"], ["not a prepared workspace"]),
        (["--allow", "nowhere"], ["--allow nowhere", "no such folder"]),
    ],
)
def test_folders_that_are_not_there(run: Run, options: list[str], words: list[str]) -> None:
    refused(run("gui", *options, "--no-browser"), *words)


def test_without_the_gui_extra(tmp_path: Path) -> None:
    """Python answers an import of gradio as where it is not installed."""
    code = "import sys; sys.modules['gradio'] = None\nfrom maskora.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", code, "gui", "--no-browser", "--port", "7999"],
        cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 2, result.stderr
    assert ".[gui]" in result.stderr
    assert "Traceback" not in result.stderr
