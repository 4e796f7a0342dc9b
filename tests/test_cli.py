"""The command line: choices are checked; how a command ends that fails or is interrupted."""

import errno
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import get_args

import pytest
import typer
from typer.testing import CliRunner

from maskora import lora
from maskora.app.workspace import Record
from maskora.cli import _say, app, handle_errors
from maskora.config.tables import FAMILIES, Tracker
from maskora.errors import Fault, UserError
from maskora.models import tiny
from maskora.system import INTERRUPTIONS

SIGNALS = INTERRUPTIONS


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """They are what they were."""
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("becomes", [None, ImportError, RuntimeError, OSError, UserError, Fault])
def test_an_interruption_ends_a_command_plainly_whatever_it_becomes(
    number: int, becomes: type[Exception] | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """A library that is just being imported may catch it, and say that it is not there."""

    @handle_errors
    def command() -> None:
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt:
            if becomes is None:
                raise
            raise becomes("no such part") from None

    with pytest.raises(typer.Exit) as ended:
        command()
    assert ended.value.exit_code == 130
    assert capsys.readouterr().err == "maskora: interrupted\n"


def test_an_interruption_that_python_has_ignored_ends_a_command_all_the_same(
    capsys: pytest.CaptureFixture[str],
) -> None:
    @handle_errors
    def command() -> None:
        with suppress(KeyboardInterrupt):  # as in a weak reference's callback
            signal.raise_signal(signal.SIGINT)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(typer.Exit) as ended:
        command()
    assert ended.value.exit_code == 130
    assert capsys.readouterr().err == "maskora: interrupted\n"


@pytest.mark.parametrize(
    "line",
    [
        "prepare caf\udce9.mp4 ws --box 1,2,3,4",
        "prepare clip.mp4 caf\udce9",
        "prepare clip.mp4 ws --caption caf\udce9",
        "check --config caf\udce9/edit.toml",
        "train --config ws/edit.toml --set prompt.caption=caf\udce9",
        "infer --config ws/edit.toml --lora caf\udce9.safetensors",
        "export ws caf\udce9.safetensors",
        "edit caf\udce9.mp4 1,2,3,4 a.png out.mp4",
        "batch caf\udce9",
    ],
)
def test_what_is_not_in_utf8_is_named(line: str) -> None:
    result = CliRunner().invoke(app, line.split())
    assert result.exit_code == 2, result
    assert "caf?" in result.stderr
    assert "is not in UTF-8: rename it" in result.stderr


def test_a_name_that_is_not_in_utf8_and_is_met_on_the_way(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    class Named(Record):
        origin: str

    @handle_errors
    def command() -> None:
        Named(origin="/clips/caf\udce9.mp4").write(tmp_path / "source.json")

    with pytest.raises(typer.Exit) as ended:
        command()
    assert ended.value.exit_code == 2
    assert "/clips/caf?" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_library_that_can_start_no_thread_is_out_of_memory_and_another_panic_is_a_bug(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class PanicException(BaseException):
        pass

    @handle_errors
    def command(reason: str) -> None:
        raise PanicException(reason)

    with pytest.raises(typer.Exit) as ended:
        command("called `Result::unwrap()` on an `Err` value: ThreadPoolBuildError { kind: … }")
    assert ended.value.exit_code == 1
    assert "the machine's RAM is too small" in capsys.readouterr().err
    with pytest.raises(PanicException):
        command("index out of bounds")


def test_names_command_nothing_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    name = "a\x1b]0;owned\x07\x9b31m\u202egnp.exe\x08é編"
    logging.getLogger().handlers.clear()

    @handle_errors
    def command() -> None:
        logging.getLogger("maskora").warning("note: %s", name)
        _say(name)
        raise UserError(f"{name} is no frame:\n  really")

    with pytest.raises(typer.Exit):
        command()
    out, err = capsys.readouterr()
    clean = "a?]0;owned??31m?gnp.exe?é編"
    assert (out, err) == (f"{clean}\n", f"note: {clean}\nmaskora: {clean} is no frame:\n  really\n")


@pytest.mark.parametrize("error", [ImportError, RuntimeError, OSError])
def test_what_was_not_foreseen_keeps_its_traceback(error: type[Exception]) -> None:
    @handle_errors
    def command() -> None:
        raise error("broken")

    with pytest.raises(error, match="broken"):
        command()


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "make room there"),
        (errno.EDQUOT, "make room there"),
        (errno.EROFS, "choose another place, or change who may write there"),
        (errno.EMFILE, "end other programs, or raise the limit of open files (ulimit -n)"),
        (errno.ENFILE, "end other programs, or raise the limit of open files (ulimit -n)"),
        (errno.EIO, "the disk or its connection fails: copy the folder to another one"),
    ],
)
def test_what_the_system_refuses_is_told_with_the_file_and_what_to_do(
    number: int, advice: str, capsys: pytest.CaptureFixture[str]
) -> None:
    @handle_errors
    def command() -> None:
        raise OSError(number, os.strerror(number), "ws/output/edited.mp4")

    with pytest.raises(typer.Exit) as ended:
        command()
    assert ended.value.exit_code == 1
    told = f"maskora: {os.strerror(number)}: ws/output/edited.mp4 ({advice})\n"
    assert capsys.readouterr().err == told


def test_so_is_what_it_refuses_before_a_command_begins(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files", "decorators.py")

    monkeypatch.setattr(typer.Typer, "__call__", call)
    with pytest.raises(SystemExit) as ended:
        app(["doctor"])
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("maskora: Too many open files: decorators.py (end")


def test_who_ignores_interruptions_goes_on_ignoring_them() -> None:
    """A shell starts what runs in its background so."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    @handle_errors
    def command() -> str:
        signal.raise_signal(signal.SIGINT)
        return "done"

    assert command() == "done"


BREAK = """
import signal, time
signal.SIGBREAK = {number}  # as Windows has it, where other numbers are free
from maskora.cli import handle_errors
@handle_errors
def command():
    from maskora.training.loop import Interruption
    if {stepwise}:
        with Interruption() as interruption:
            print("ready", flush=True)
            while not interruption.asked:
                time.sleep(0.05)
        raise KeyboardInterrupt
    print("ready", flush=True)
    time.sleep(60)
try:
    command()
except Exception as ended:
    raise SystemExit(ended.exit_code)
"""


@pytest.mark.skipif(os.name != "posix", reason="on Windows it is sent to a group of processes")
@pytest.mark.parametrize("stepwise", [False, True])
def test_ctrl_break_is_an_interruption(stepwise: bool) -> None:
    """Another process can send nothing else on Windows, where it would end a program at once."""
    # The other system has the first, which nohup ignores.
    number = 1 if "MASKORA_ELSEWHERE" in os.environ else int(signal.SIGUSR1)
    command = [sys.executable, "-c", BREAK.format(stepwise=stepwise, number=number)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.send_signal(number)
        assert process.wait(20) == 130
        told = process.stderr.read().decode().splitlines()
    steps = ["interrupted: this step is finished and saved first (again: stop at once)"]
    assert told == [*(steps if stepwise else []), "maskora: interrupted"]


@pytest.mark.parametrize(
    ("words", "choices"),
    [
        (["train", "--config", "edit.toml", "--stage", "both"], ("motion", "appearance", "all")),
        (["track", "ws", "--tracker", "sam3"], get_args(Tracker.model_fields["type"].annotation)),
        (["export", "ws", "out", "--layout", "kohya"], lora.LAYOUTS),
        (["export", "ws", "out", "--family", "sdxl"], FAMILIES),
        (["tiny-model", "folder", "--family", "sdxl"], tuple(tiny.FAMILIES)),
    ],
)
def test_a_choice_that_is_none_lists_those_that_are(
    words: list[str], choices: tuple[str, ...]
) -> None:
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    message = re.sub(r"[\s│]+", " ", result.stderr)
    assert f"'{words[-1]}' is not one of {', '.join(map(repr, choices))}" in message


def test_the_doctor_tells_which_library_is_broken() -> None:
    """So the command line itself needs none of those that a system may fail to load."""
    code = (
        "import sys\n"
        "for library in ('cv2', 'av', 'PIL'): sys.modules[library] = None\n"
        "sys.argv = ['maskora', 'doctor']\n"
        "from maskora.cli import main; main()"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "libraries ... BROKEN" in ended.stdout, ended.stderr
    assert ended.returncode == 1
    assert ended.stderr.endswith("maskora: something is broken: libraries\n")
