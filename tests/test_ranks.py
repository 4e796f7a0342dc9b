"""What a launcher says of a process, and how work is shared out."""

import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import typer

from maskora import cli, devices, ranks
from maskora.app import together
from maskora.app.together import check_shares
from maskora.app.workspace import Workspace
from maskora.config import Config
from maskora.config.tables import Training
from maskora.errors import UserError
from maskora.ranks import Alone, Launch, launched
from maskora.system import INTERRUPTIONS
from maskora.training.loop import share

SAID = {
    "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}  # fmt: skip


@dataclass
class Among(Alone):
    """One of several, for what only counts them."""

    rank: int
    count: int


def test_the_environment_says_which_process_this_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launched() is None
    for name, value in SAID.items():
        monkeypatch.setenv(name, value)
    assert launched() == Launch(1, 2, local=1, on_machine=2, address=("127.0.0.1", "29500"))
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert launched() is None


def test_each_process_takes_a_gpu_of_its_own() -> None:
    place = Launch(rank=5, count=8, local=1, on_machine=4)
    assert place.device(None, 4) == "cuda:1"
    assert place.device("cuda", 4) == "cuda:1"
    with pytest.raises(UserError, match="CUDA_VISIBLE_DEVICES"):
        place.device("cuda:0", 4)


def test_fewer_gpus_than_processes_are_refused_by_all() -> None:
    """By the first, too, which has one, and would wait for ever for those that have none."""
    with pytest.raises(UserError, match="torch sees 2: start 2"):
        Launch(rank=0, count=4, local=0, on_machine=4).device(None, 2)


@pytest.mark.parametrize("launcher", [{}, SAID])
def test_a_gpu_that_is_asked_for_and_not_there_is_refused(
    launcher: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By one process and by several, which would else compute on the CPU and not say so."""
    for name, value in launcher.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(devices, "gpus", lambda: ())
    monkeypatch.setattr(together, "log_into", lambda *_: None)
    monkeypatch.setattr(Workspace, "read_source", lambda self: None)
    with pytest.raises(UserError, match="--device cuda: this machine has no GPU"):
        together.begin(Workspace(tmp_path), Config(), "cuda", trains=True)


def test_what_one_process_alone_has_to_say_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first says what all have to say, and then the launcher ends the others."""
    own = "maskora (process 1 of 2): wrong\n"

    def said(number: int | None, rank: int = 1, **given: object) -> str:
        @cli.handle_errors
        def command(local_rank: int | None = None) -> None:
            monkeypatch.setattr(time, "sleep", lambda _: number and signal.raise_signal(number))
            raise UserError("wrong")

        monkeypatch.setenv("RANK", str(rank))
        with pytest.raises(typer.Exit):
            command(**given)  # type: ignore[arg-type]
        return capsys.readouterr().err

    before = [signal.getsignal(number) for number in INTERRUPTIONS]
    for name, value in SAID.items():
        monkeypatch.setenv(name, value)
    try:
        assert said(None, local_rank=None) == own
        assert said(signal.SIGTERM, local_rank=None) == ""
        assert said(None, rank=0, local_rank=None) == "maskora: wrong\n"
        assert said(None) == "maskora: wrong\n"  # another command, which has no part in it
    finally:
        for number, handler in zip(INTERRUPTIONS, before, strict=True):
            signal.signal(number, handler)


@pytest.mark.parametrize(("samples", "count"), [(4, 1), (4, 2), (5, 2), (7, 3), (3, 3)])
def test_every_sample_is_computed_once(samples: int, count: int) -> None:
    shares = [share(Among(rank, count), samples) for rank in range(count)]
    assert [number for own in shares for number in own] == [*range(samples)]
    lengths = [len(own) for own in shares]
    assert max(lengths) - min(lengths) <= 1


def test_a_process_without_a_sample_is_refused() -> None:
    check_shares(Training(gradient_accumulation_steps=3), Among(0, 2))
    with pytest.raises(UserError, match="Set it to 4"):
        check_shares(Training(gradient_accumulation_steps=3), Among(0, 4))


def test_one_process_alone_adds_nothing() -> None:
    gradient = torch.ones(3)
    ranks.ALONE.add_up([gradient])
    assert torch.equal(gradient, torch.ones(3))
    assert ranks.ALONE.gathered("a") == ["a"]
    assert ranks.ALONE.any(True)
    assert ranks.ALONE.shared_file() is None


def test_without_deepspeed_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"maskora\[multigpu\]"):
        ranks.join(Launch(0, 2, 0, 2), "cpu", {})
