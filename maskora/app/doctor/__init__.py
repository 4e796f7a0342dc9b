"""`maskora doctor`: one page about this machine, a few real checks, and what it can do.

Torch is imported only after the page about the machine, so that the page is there even where torch
cannot be imported.
"""

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from maskora import devices
from maskora.app.doctor import page
from maskora.app.doctor.facts import INSTALL, Tool, gather
from maskora.app.doctor.outcomes import Bench, Found, Outcome, Wrong, perform
from maskora.errors import Fault, UserError
from maskora.files import cache_home
from maskora.memory.machine import Machine
from maskora.system import ram

Show = Callable[[str], None]
DRIVER = "https://www.nvidia.com/drivers"


def examine(as_json: bool, show: Show) -> None:
    """Examine this machine.

    Args:
        as_json: one JSON document at the end, instead of the page as it comes.
        show: prints a piece of text; line breaks are in the text.

    Raises:
        Fault: something is broken.
    """
    tell = (lambda text: None) if as_json else show
    facts = gather()
    tell(f"{page.render_facts(facts)}\n\nMeasured and tried\n")
    examination = Examination(tell)
    examination.run()
    outcomes, machine = examination.outcomes, examination.machine
    speeds = {name: value for outcome in outcomes for name, value in outcome.numbers.items()}
    bases = page.verdicts(machine, speeds) if machine is not None else []
    if bases:
        tell(f"\n{page.render_verdicts(bases)}\n")
    things: Sequence[Tool | Outcome] = (*facts.tools, *outcomes)
    problems = [thing.name for thing in things if thing.state == "broken"]
    tell(f"\n{page.render_problems(problems)}\n")
    if as_json:
        show(f"{json.dumps(page.report(facts, outcomes, bases), indent=2)}\n")
    if problems:
        raise Fault(f"something is broken: {', '.join(problems)}")


class Examination:
    """Performs all checks, one after another.

    Attributes:
        outcomes: of the checks performed so far.
        machine: as a plan sees it; None where its device cannot be used.
    """

    def __init__(self, show: Show) -> None:
        """`show` gets each check's name as it begins, and then its outcome."""
        self.outcomes: list[Outcome] = []
        self.machine: Machine | None = None
        self._show = show
        self._device = devices.CPU

    def run(self) -> None:
        """Perform them; without the libraries, that is the only one."""
        if self._perform("libraries", _import_libraries, INSTALL).state == "broken":
            return
        import torch

        from maskora.app.doctor.checks import CHECKS

        self._perform("device", self._choose_device, f"update the GPU's driver ({DRIVER})")
        gpu = self.machine.gpu if self.machine is not None else None
        vram = gpu.free if gpu is not None else None
        with _scratch_folder(cache_home()) as scratch:
            device = torch.device(self._device.name)
            bench = Bench(device, scratch, cache_home(), ram().available, vram)
            for check in CHECKS:
                self._perform(check.name, partial(check.run, bench), check.advice)

    def _perform(self, name: str, work: Callable[[], Found], advice: str) -> Outcome:
        self._show(f"  {name} ... ")
        outcome = perform(name, work, advice)
        self._show(f"{page.render_outcome(outcome)}\n")
        self.outcomes.append(outcome)
        return outcome

    def _choose_device(self) -> Found:
        """Choose the device as `train` would; where it cannot be used, the checks use the CPU."""
        from maskora.app.open_base import measured

        try:
            device = devices.choose()
        except (UserError, Fault) as error:
            raise Wrong(str(error), "") from error  # the message says what to do
        self.machine = measured(device)
        self._device = device
        return Found(device.note or f"{device.name}, {self.machine.name}")


def _import_libraries() -> Found:
    import maskora.app.doctor.checks  # noqa: F401

    return Found("torch, diffusers, transformers and peft can be imported")


@contextmanager
def _scratch_folder(cache: Path) -> Iterator[Path]:
    """An empty folder on the cache's disk, or elsewhere where that disk cannot be written to."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        made = tempfile.TemporaryDirectory(dir=cache, prefix=".doctor-")
    except OSError:  # a check of the disk reports it
        made = tempfile.TemporaryDirectory(prefix="maskora-doctor-")
    with made as folder:
        yield Path(folder)
