"""What differs between operating systems."""

import io
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskora.system import INTERRUPTIONS, quoted, show_any_character
from tests.system import IS_POSIX


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))))
def test_a_posix_shell_reads_back_what_was_quoted(words: list[str]) -> None:
    assert shlex.split(quoted(*words, windows=False)) == words


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("maskora", "maskora"),
        ("--config", "--config"),
        (r"C:\clips\edit.toml", r"C:\clips\edit.toml"),
        (r"C:\my clips\edit.toml", r'"C:\my clips\edit.toml"'),
        (r"C:\a&b\edit.toml", r'"C:\a&b\edit.toml"'),  # cmd would begin another command
        ("16,64,120,96", '"16,64,120,96"'),  # PowerShell would pass four arguments
        (r"C:\it's (new)", r'"C:\it' + "'" + r's (new)"'),
        ("", '""'),
        ('a "b"', r'"a \"b\""'),
    ],
)
def test_quoting_for_cmd_and_powershell(word: str, shown: str) -> None:
    assert quoted(word, windows=True) == shown


def test_a_path_is_a_word() -> None:
    assert quoted("maskora", "gui", Path("my edit"), windows=False) == "maskora gui 'my edit'"


def test_interruptions_are_those_of_this_system() -> None:
    assert {signal.SIGINT, signal.SIGTERM} <= set(INTERRUPTIONS)
    assert len(INTERRUPTIONS) == (2 if IS_POSIX else 3)


def test_a_character_that_an_output_lacks_ends_no_command() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="cp437", errors="strict")
    show_any_character([stream, io.StringIO(), None])
    print("編集 × é", file=stream, flush=True)
    assert raw.getvalue().strip() == "?? ? é".encode("cp437")


def test_who_has_chosen_another_way_keeps_it() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="backslashreplace")
    show_any_character([stream])
    assert stream.errors == "backslashreplace"


def test_a_command_on_an_old_console(tmp_path: Path) -> None:
    """`maskora prepare` ends by naming the workspace, in whatever letters."""
    code = (
        "import sys; from maskora.cli import handle_errors\n"
        "@handle_errors\ndef command(): print(sys.argv[1])\ncommand()"
    )
    for encoding in ("ascii", "cp1252", "cp932"):
        done = subprocess.run(
            [sys.executable, "-X", "utf8=0", "-c", code, "é編"],
            env={"PYTHONIOENCODING": encoding, "PYTHONPATH": ":".join(sys.path), "PATH": ""},
            capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == "é編".encode(encoding, "replace")
