"""The machine where a run is, or will be: its memory and its names. Imports no torch by itself."""

import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

from maskora import devices
from maskora.devices import Capability, Device, DeviceKind, Gpu
from maskora.errors import UserError
from maskora.streaming.budget import GpuMemory, sold_as
from maskora.streaming.demand import gb

# A container's limit, what it uses of it, and its statistics: of version 2 and 1 of control groups.
GROUPS = Path("/sys/fs/cgroup")
LIMITS = (
    ("memory.max", "memory.current", "memory.stat", ""),
    (
        "memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat",
        "total_",
    ),
)  # fmt: skip
UNKNOWN_GPU = 8  # GB; planned for where a GPU is asked for and none is here


@dataclass(frozen=True)
class Ram:
    """The machine's memory in bytes, or its container's where that is less.

    Attributes:
        available: what programs can have without others being swapped out.
    """

    installed: int
    available: int

    @property
    def told(self) -> str:
        """ "9.1 of 31.2 GB of RAM are available", and why there may be less than was bought."""
        text = f"{gb(self.available)} of {gb(self.installed)} GB of RAM are available"
        if devices.on_wsl():
            text += " (WSL has half of the computer's, unless memory in .wslconfig says otherwise)"
        return text


@dataclass(frozen=True)
class Machine:
    """Where a run computes.

    Attributes:
        kind: "cuda" with a GPU, else "cpu".
        name: the GPU's, or the processor's with its cores.
        gpu: the GPU's memory; None without one.
        capability: the GPU's compute capability; None where it is not known.
        ram: the machine's memory.
        notes: lines for the person about the choice.
    """

    kind: DeviceKind
    name: str
    gpu: GpuMemory | None
    capability: Capability | None
    ram: Ram
    notes: tuple[str, ...] = ()


def ram() -> Ram:
    """This machine's memory now."""
    memory = psutil.virtual_memory()
    installed, available = memory.total, memory.available
    for limit, used, statistics, prefix in LIMITS:
        most, taken = _number(GROUPS / limit), _number(GROUPS / used)
        if most is not None and taken is not None:
            installed = min(installed, most)
            cached = _cached_files(GROUPS / statistics, prefix)
            available = min(available, max(0, most - taken + cached))
    return Ram(installed, available)


def _number(path: Path) -> int | None:
    """A file's one number; None where there is no file, or it says "max"."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def _cached_files(statistics: Path, prefix: str) -> int:
    """Bytes of files that a container's use counts and that the system gives back when asked."""
    try:
        lines = [line.split() for line in statistics.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return 0
    names = {f"{prefix}inactive_file", f"{prefix}active_file"}
    return sum(int(line[1]) for line in lines if line[0] in names)


def own_bytes() -> int:
    """Bytes that this process alone holds in RAM."""
    return int(psutil.Process().memory_full_info().uss)


def peak_bytes() -> int:
    """The most that this process has held in RAM at once, in bytes."""
    memory = psutil.Process().memory_info()
    try:
        import resource
    except ImportError:  # Windows, which counts it itself
        return int(getattr(memory, "peak_wset", memory.rss))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def processor_name() -> str:
    """The processor's name with its cores."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line[:8] == "model na"]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"


def foreseen(asked: str | None, sold_gb: float | None = None) -> Machine:
    """The machine that a plan is for, without importing torch.

    Args:
        asked: --device: None and "cuda:N" mean this machine as `train` would find it; "cuda" means
            one with a GPU, whatever this one has.
        sold_gb: --vram: a GPU that is sold with so many GB, instead of this machine's.

    Raises:
        UserError: there is no such device, or torch cannot use it.
    """
    kind, index = devices.parse(asked)
    if sold_gb is not None and (kind == "cpu" or index is not None):
        raise UserError(f"--vram {sold_gb:g} is for another machine's GPU: write --device cuda")
    if sold_gb is not None:
        return _elsewhere(sold_gb)
    if asked != "cuda":
        device = devices.foresee(asked)
        return _here(devices.gpus()[device.index]) if device.kind == "cuda" else _without(device)
    here = devices.planned_gpu()
    if here is None:
        note = f"no GPU is found here: planned for one that is sold as {UNKNOWN_GPU} GB (--vram)"
        return _elsewhere(UNKNOWN_GPU, note)
    gpu, problem = here
    return _here(gpu, *([f"note: train would refuse this GPU: {problem}"] if problem else []))


def _elsewhere(sold_gb: float, *notes: str) -> Machine:
    name = f"a GPU sold as {sold_gb:g} GB"
    return Machine("cuda", name, sold_as(sold_gb), None, ram(), notes)


def _without(device: Device) -> Machine:
    notes = (device.note,) if device.note else ()
    return Machine("cpu", processor_name(), None, None, ram(), notes)


def _here(gpu: Gpu, *notes: str) -> Machine:
    if gpu.free is None or gpu.total is None:
        raise UserError(
            f"nvidia-smi does not tell the memory of {gpu.name}: plan with --device cuda --vram N"
        )
    memory = GpuMemory(gpu.free, gpu.total, opened=False)
    return Machine("cuda", gpu.name, memory, gpu.capability, ram(), notes)
