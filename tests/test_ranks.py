"""What a launcher says of a process, and how work is shared out."""

from dataclasses import dataclass

import pytest
import torch

from maskora import ranks
from maskora.app.together import check_shares
from maskora.config.tables import Training
from maskora.errors import UserError
from maskora.ranks import Alone, Launch, launched
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
    assert launched() == Launch(rank=1, count=2, local=1, on_machine=2)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert launched() is None


def test_each_process_takes_a_gpu_of_its_own() -> None:
    place = Launch(rank=5, count=8, local=1, on_machine=4)
    assert place.device(None, "cuda") == "cuda:1"
    assert place.device("cuda", "cuda") == "cuda:1"
    assert place.device("cpu", "cpu") == "cpu"
    with pytest.raises(UserError, match="CUDA_VISIBLE_DEVICES"):
        place.device("cuda:0", "cuda")


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
