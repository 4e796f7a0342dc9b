"""doctor: one page about this machine, a few real checks, and what it can do.

Torch is imported where it is first needed, and only after the page about the machine: where it
cannot be imported, the page is there all the same.
"""

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from maskora import devices
from maskora.app.doctor.facts import INSTALL, Facts, gather
from maskora.app.doctor.outcomes import Bench, Check, Found, Outcome, Wrong, perform
from maskora.app.doctor.page import (
    Speeds,
    Verdict,
    report,
    told_facts,
    told_outcome,
    told_problems,
    told_verdicts,
    verdicts,
)
from maskora.errors import Fault, UserError
from maskora.files import cache_home
from maskora.memory.machine import Machine
from maskora.system import ram

Show = Callable[[str], None]
DRIVER = "https://www.nvidia.com/drivers"


def examine(as_json: bool) -> None:
    """Print the page as it comes, or the same as JSON at the end.

    Raises:
        Fault: something is broken.
    """
    show = _nothing if as_json else _at_once
    facts = gather()
    show(f"{told_facts(facts)}\n\nMeasured and tried\n")
    examination = Examination(show)
    outcomes = list(examination.outcomes())
    able, problems = _able(examination.machine, outcomes), problems_of(facts, outcomes)
    if able:
        show(f"\n{told_verdicts(able)}\n")
    show(f"\n{told_problems(problems)}\n")
    if as_json:
        print(json.dumps(report(facts, outcomes, able), indent=2))
    if problems:
        raise Fault(f"something is broken: {', '.join(problems)}")


class Examination:
    """Everything that is measured and tried, one after another.

    Attributes:
        machine: as a plan sees it, once it is known; None where its device cannot be used.
    """

    machine: Machine | None = None

    def __init__(self, show: Show) -> None:
        """`show` is given each check's name as it begins, and what came of it."""
        self._show = show
        self._device = devices.CPU
        self._checks: tuple[Check, ...] = ()

    def outcomes(self) -> Iterator[Outcome]:
        """What comes of each check, as it comes."""
        loaded = self._tell("libraries", self._load, INSTALL)
        yield loaded
        if loaded.state == "broken":
            return
        yield self._tell("device", self._choose, f"update the GPU's driver ({DRIVER})")
        with _scratch(cache_home()) as scratch:
            bench = self._bench(scratch)
            for check in self._checks:
                yield self._tell(check.name, partial(check.run, bench), check.advice)

    def _tell(self, name: str, work: Callable[[], Found], advice: str) -> Outcome:
        self._show(f"  {name} ... ")
        outcome = perform(name, work, advice)
        self._show(f"{told_outcome(outcome)}\n")
        return outcome

    def _load(self) -> Found:
        """Import what computes."""
        from maskora.app.doctor.checks import CHECKS, MEASURES, PINNING

        self._checks = (*MEASURES, *CHECKS, PINNING)
        return Found("torch, diffusers, transformers and peft can be imported")

    def _choose(self) -> Found:
        """Choose the device as `train` would; where it cannot, the checks use the CPU."""
        from maskora.app.base import measured

        try:
            device = devices.choose()
        except (UserError, Fault) as error:
            raise Wrong(str(error), "") from error  # it says what to do
        self.machine = measured(device)
        self._device = device
        return Found(device.note or f"{device.name}, {self.machine.name}")

    def _bench(self, scratch: Path) -> Bench:
        """The place of all checks."""
        import torch

        gpu = self.machine.gpu if self.machine is not None else None
        return Bench(
            device=torch.device(self._device.name),
            scratch=scratch,
            cache=cache_home(),
            ram=ram().available,
            vram=gpu.free if gpu is not None else None,
        )


@contextmanager
def _scratch(cache: Path) -> Iterator[Path]:
    """An empty folder on the cache's disk; elsewhere where it takes none, as a check will tell."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        made = tempfile.TemporaryDirectory(dir=cache, prefix=".doctor-")
    except OSError:
        made = tempfile.TemporaryDirectory(prefix="maskora-doctor-")
    with made as folder:
        yield Path(folder)


def _able(machine: Machine | None, outcomes: Sequence[Outcome]) -> list[Verdict]:
    """What the machine can do; nothing where it is not known which device computes."""
    if machine is None:
        return []
    numbers = {name: value for outcome in outcomes for name, value in outcome.numbers.items()}
    speeds = Speeds(numbers.get("bus"), numbers.get("staged"), numbers.get("disk_read"))
    return verdicts(machine, speeds)


def problems_of(facts: Facts, outcomes: Sequence[Outcome]) -> list[str]:
    """The names of what is broken."""
    tools = [tool.name for tool in facts.tools if tool.state == "broken"]
    return [*tools, *(outcome.name for outcome in outcomes if outcome.state == "broken")]


def _at_once(text: str) -> None:
    print(text, end="", flush=True)


def _nothing(text: str) -> None:
    pass
