"""Simulated machines: GPUs as they are sold, with what is really free of them."""

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from maskora import devices
from maskora.devices import Capability, TorchBuild
from maskora.memory.machine import GpuMemory, Machine
from maskora.streaming.placement import GIB
from maskora.system import Ram

PLENTY = Ram(128 * GIB, 120 * GIB)
WITHOUT_GPU = Machine("cpu", "a processor", None, None, PLENTY)
# Free and total memory in GB of GPUs that also serve a desktop, as people report them.
OWNED = ((7.4, 7.8), (7.1, 8.0), (11.0, 12.0), (14.8, 15.6), (23.1, 23.5))


def with_gpu(
    free: float,
    total: float | None = None,
    opened: bool = True,
    capability: Capability | None = (8, 6),
    ram: Ram = PLENTY,
) -> Machine:
    """A machine whose GPU has so many GB free, of so many (else of a little more)."""
    total = free + 0.6 if total is None else total
    memory = GpuMemory(round(free * GIB), round(total * GIB), opened)
    return Machine("cuda", "a GPU", memory, capability, ram)


def install_driver(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *rows: str, says: str = ""
) -> None:
    """A program that answers as nvidia-smi does.

    Args:
        rows: index, uuid, total and free MiB, driver, name, compute capability (which older
            drivers do not know).
        says: what it fails with instead.
    """
    program = folder / "nvidia_smi.py"
    program.write_text(
        "import sys\n"
        f"rows, says = {list(rows)!r}, {says!r}\n"
        "names = ['index', 'uuid', 'memory.total', 'memory.free', 'driver_version', 'name',\n"
        "         'compute_cap']\n"
        "asked = sys.argv[1].partition('=')[2].split(',')\n"
        "assert sys.argv[2:] == ['--format=csv,noheader,nounits'], sys.argv\n"
        "if says:\n"
        "    print(says)\n"
        "    sys.exit(9)\n"
        "for row in rows:\n"
        "    cells = dict(zip(names, row.split(', ')))\n"
        "    if not set(asked) <= cells.keys():\n"
        "        print('Field \"compute_cap\" is not a valid field to query.')\n"
        "        sys.exit(2)\n"
        "    print(', '.join(cells[name] for name in asked))\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(devices, "DRIVER_TOOL", (sys.executable, str(program)))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    devices.forget()


@dataclass(frozen=True)
class Card:
    """A GPU as torch would show it; memory in GB; `fails` when it is opened."""

    name: str
    free: float
    total: float
    capability: Capability = (8, 6)
    fails: str = ""


def plug_in(monkeypatch: pytest.MonkeyPatch, *cards: Card) -> list[int]:
    """Let torch see these GPUs; the answer collects which one is made the current one."""
    current: list[int] = []

    def memory(index: int) -> tuple[int, int]:
        if cards[index].fails:
            raise torch.AcceleratorError(cards[index].fails)
        return round(cards[index].free * GIB), round(cards[index].total * GIB)

    answers = {
        "is_available": lambda: True,
        "device_count": lambda: len(cards),
        "set_device": current.append,
        "mem_get_info": memory,
        "get_device_name": lambda index: cards[index].name,
        "get_device_capability": lambda index: cards[index].capability,
        "get_arch_list": lambda: ["sm_75", "sm_80", "sm_86", "sm_90", "compute_90"],
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, index: None)
    return current


class Here:
    """This machine, as a test wants it to be."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder, self._patch = folder, monkeypatch

    def driver(self, *rows: str, says: str = "") -> None:
        """Have nvidia-smi answer."""
        install_driver(self._folder, self._patch, *rows, says=says)

    def no_driver(self) -> None:
        self._patch.setattr(devices, "DRIVER_TOOL", ("/no/such/program",))
        devices.forget()

    def torch(self, build: TorchBuild | None, *cards: Card) -> list[int]:
        """Have this build of torch, which sees these GPUs; collects which one is made current."""
        self._patch.setattr(devices, "torch_build", lambda: build)
        devices.forget()
        return plug_in(self._patch, *cards) if cards else []
