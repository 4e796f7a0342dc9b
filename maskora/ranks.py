"""The processes of one run, a GPU each: which of them this is, and what they tell each other.

`torchrun --nproc-per-node N train.py …` and `deepspeed --num_gpus=N train.py …` start them and say
so in the environment. One process alone needs neither a launcher nor DeepSpeed.
"""

import importlib.util
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from maskora import interruption
from maskora.errors import Fault, UserError

if TYPE_CHECKING:
    from torch import Tensor

Answer = TypeVar("Answer")
VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
PATIENCE = timedelta(days=7)  # one waits for another: whoever dies is noticed at once
GONE = (
    "another process of this run has ended: its message says why, if it was not killed, and so do "
    "the logs runs/rank-N.log of the workspace. What is saved stays: train with --resume goes on "
    "after the last saved step"
)


class Team(Protocol):
    """Processes that work together, numbered from 0.

    Every method is called by all of them, in the same order.

    Attributes:
        rank: the number of this process among them.
        count: how many there are.
    """

    rank: int
    count: int

    def add_up(self, tensors: "Sequence[Tensor]") -> None:
        """Put into each tensor, in place, its sum over all processes, added in float32.

        Nothing was exchanged where memory runs out.
        """
        ...

    def gathered(self, value: Answer) -> list[Answer]:
        """What each of them has here, the first one's first."""
        ...


class Ranks(Team, Protocol):
    """The processes of a run; the first alone writes.

    Attributes:
        on_machine: how many of them are on this machine.
    """

    on_machine: int

    def any(self, here: bool) -> bool:
        """Whether something is so in any of them; asked on the host."""
        ...

    def team(self, size: int) -> Team:
        """So many that follow one another, of which this one is one; those left over are alone."""
        ...

    def shared_file(self) -> int | None:
        """An open, empty file in memory that the processes of a machine share; None: there is none.

        It is gone with the last process that has it open.
        """
        ...


class Alone:
    """One process."""

    rank, count, on_machine = 0, 1, 1

    def add_up(self, tensors: "Sequence[Tensor]") -> None:
        """Its own are the sum."""

    def any(self, here: bool) -> bool:
        return here

    def gathered(self, value: Answer) -> list[Answer]:
        return [value]

    def team(self, size: int) -> Team:
        return self

    def shared_file(self) -> int | None:
        return None


class DeepSpeedTeam:
    """Some of the processes, through deepspeed.comm: NCCL between GPUs, gloo between CPUs.

    What the hosts tell each other goes through gloo, so that no host waits for a GPU.

    Args:
        devices: their group of torch.distributed between devices; None: all processes.
        hosts: between hosts.
    """

    def __init__(self, rank: int, count: int, devices: Any, hosts: Any) -> None:
        self.rank, self.count = rank, count
        self._devices, self._hosts = devices, hosts

    def add_up(self, tensors: "Sequence[Tensor]") -> None:
        import deepspeed.comm
        import torch

        flat = torch.cat([one.detach().reshape(-1).float() for one in tensors])
        with _others():
            deepspeed.comm.all_reduce(flat, group=self._devices)
        parts = flat.split([one.numel() for one in tensors])
        for one, part in zip(tensors, parts, strict=True):
            one.detach().copy_(part.view_as(one))

    def gathered(self, value: Answer) -> list[Answer]:
        import torch

        found: list[Any] = [None] * self.count
        with _others():
            torch.distributed.all_gather_object(found, value, group=self._hosts)
        return found


class DeepSpeedRanks(DeepSpeedTeam):
    """Several processes, all of a run."""

    def __init__(self, place: "Launch", kind: str, logger: dict[str, Any]) -> None:
        """Meet the others.

        Args:
            kind: "cuda" or "cpu".
            logger: of communication, as `deepspeed.comm.configure` takes it.
        """
        os.environ.setdefault("DS_ACCELERATOR", kind)
        import deepspeed.comm

        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        backend = "nccl" if kind == "cuda" else "gloo"
        if kind == "cpu":  # else it would compile its own way through shared memory, for minutes
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        with _others():
            deepspeed.comm.init_distributed(
                backend, auto_mpi_discovery=False, verbose=False, timeout=PATIENCE
            )
            super().__init__(place.rank, place.count, None, _group(None, "gloo"))
        if logger:
            deepspeed.comm.configure(**logger)
        self._local, self.on_machine = place.local, place.on_machine

    def any(self, here: bool) -> bool:
        return any(self.gathered(here))

    def team(self, size: int) -> Team:
        found: Team = ALONE
        if size == 1:
            return found
        for first in range(0, self.count - size + 1, size):
            members = [*range(first, first + size)]
            with _others():  # all make the groups of all
                groups = _group(members, None), _group(members, "gloo")
            if self.rank in members:
                found = DeepSpeedTeam(self.rank - first, size, *groups)
        return found

    def shared_file(self) -> int | None:
        """It has no name: where a process is killed, it leaves nothing behind."""
        if not hasattr(os, "memfd_create"):  # elsewhere than on Linux
            return None
        first = self._local == 0
        file = os.memfd_create("maskora") if first else -1
        machine = os.uname().nodename
        owners = self.gathered((machine, os.getpid(), file) if first else None)
        if not first:
            _, process, number = next(one for one in owners if one and one[0] == machine)
            file = os.open(f"/proc/{process}/fd/{number}", os.O_RDWR | os.O_CLOEXEC)
        self.gathered(None)  # the first keeps it open until all have it
        return file


def _group(members: list[int] | None, backend: str | None) -> Any:
    """A group of torch.distributed; made by all processes."""
    import torch

    return torch.distributed.new_group(members, backend=backend, timeout=PATIENCE)


@dataclass(frozen=True)
class Launch:
    """What a launcher says of this process.

    Attributes:
        rank, count: as of `Ranks`.
        local: its number among those of this machine.
        on_machine: how many those are.
        address: where they meet: a host and a port.
    """

    rank: int
    count: int
    local: int
    on_machine: int
    address: tuple[str, str] = ("", "")

    def device(self, asked: str | None, gpus: int) -> str:
        """The GPU of this process, as --device names it.

        Args:
            asked: --device: None, "cuda" or "cuda:N".
            gpus: how many GPUs a process sees.

        Raises:
            UserError: one GPU is asked for, or there are too few.
        """
        if asked not in (None, "cuda"):
            raise UserError(
                f"--device {asked}: {self.count} processes take a GPU each, the first ones; leave "
                f"it out, and choose them with CUDA_VISIBLE_DEVICES"
            )
        if gpus < self.on_machine:
            raise UserError(
                f"{self.on_machine} processes on a machine take a GPU each, and torch sees {gpus}: "
                f"start {gpus}, or look at CUDA_VISIBLE_DEVICES"
            )
        return f"cuda:{self.local}"


ALONE = Alone()
_joined: Ranks = ALONE


def launched() -> Launch | None:
    """What a launcher says of this process; None where it runs by itself."""
    values = [os.environ.get(name, "") for name in VARIABLES]
    if not all(values) or not all(value.isdecimal() for value in values[:3]):
        return None
    rank, local, count = map(int, values[:3])
    said = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or str(count)
    here = int(said) if said.isdecimal() else count
    return Launch(rank, count, local, here, (values[3], values[4])) if count > 1 else None


def join(place: Launch, kind: str, logger: dict[str, Any]) -> Ranks:
    """Meet the other processes; from now on `joined` answers them. Arguments as `DeepSpeedRanks`.

    Raises:
        UserError: DeepSpeed is not installed.
        Fault: another one has ended meanwhile.
    """
    global _joined
    if importlib.util.find_spec("deepspeed") is None:
        raise UserError(
            f"{place.count} processes need DeepSpeed: pip install 'maskora[multigpu]', or start "
            f"one process alone"
        )
    _joined = DeepSpeedRanks(place, kind, logger)
    return _joined


def joined() -> Ranks:
    """The processes of this run."""
    return _joined


def leave() -> None:
    """Part from the others, after all that they do together."""
    global _joined
    if isinstance(_joined, DeepSpeedRanks):
        import torch

        _joined.gathered(None)
        torch.distributed.destroy_process_group()
    _joined = ALONE


def first_then_others(ranks: Ranks, work: Callable[[], Answer]) -> Answer:
    """Do something in the first process, then in the others, which find what it has written.

    Raises:
        UserError: the first has raised it; in all of them.
    """
    if ranks.rank:
        if (failure := ranks.gathered("")[0]) != "":
            raise UserError(failure)
        return work()
    try:
        done = work()
    except UserError as error:
        ranks.gathered(str(error))
        raise
    ranks.gathered("")
    return done


@contextmanager
def _others() -> Iterator[None]:
    """What fails between the processes is the end of one of them. Raises Fault."""
    try:
        yield
    except RuntimeError as error:
        interruption.come_late()  # the launcher ends what is left
        reason = str(error).strip().partition("\n")[0]
        raise Fault(f"{GONE} (torch says: {reason})") from error
