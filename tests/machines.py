"""Simulated machines: GPUs as they are sold, with what is really free of them."""

import sys
from pathlib import Path

import pytest

from maskora import devices
from maskora.commands.machine import Machine, Ram
from maskora.devices import Capability
from maskora.streaming.budget import GpuMemory
from maskora.streaming.demand import GIB

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


def install_driver(folder: Path, monkeypatch: pytest.MonkeyPatch, *rows: str) -> None:
    """A program that answers as nvidia-smi does.

    Args:
        rows: index, uuid, total and free MiB, driver, name, compute capability; none where the
            driver fails.
    """
    program = folder / "nvidia_smi.py"
    program.write_text(
        "import sys\n"
        f"rows = {list(rows)!r}\n"
        "names = ['index', 'uuid', 'memory.total', 'memory.free', 'driver_version', 'name',\n"
        "         'compute_cap']\n"
        "asked = sys.argv[1].partition('=')[2].split(',')\n"
        "assert sys.argv[2:] == ['--format=csv,noheader,nounits'], sys.argv\n"
        "if not rows:\n"
        "    sys.exit('NVIDIA-SMI has failed')\n"
        "for row in rows:\n"
        "    cells = dict(zip(names, row.split(', ')))\n"
        "    if not set(asked) <= cells.keys():\n"
        "        sys.exit(f'Field is not a valid field to query.')\n"
        "    print(', '.join(cells[name] for name in asked))\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(devices, "DRIVER_TOOL", (sys.executable, str(program)))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    devices.gpus.cache_clear()
