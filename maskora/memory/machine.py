"""The machine where a run is, or will be: its memory and names, and what of it may be used.

Imports no torch by itself.
"""

import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

from maskora import devices
from maskora.devices import Capability, Device, DeviceKind, Gpu
from maskora.errors import UserError
from maskora.streaming.placement import GIB, gb
from maskora.system import Ram, ram

UNKNOWN_GPU = 8  # GB; planned for where a GPU is asked for and none is here
# The CUDA context, which the driver counts as ours as soon as the GPU is opened.
CONTEXT = 2 * GIB // 5
# The libraries' kernels and workspaces, which they allocate beside torch, and what other programs
# (a desktop above all) come to take while a run goes on.
RESERVE = GIB // 2
# A GPU that is sold with N GB and also serves a desktop has about so many of N * 2**30 bytes free:
# 7.1 and 7.4 of 8, 11.0 of 12, 14.8 of 16, 23.1 of 24.
FREE_OF_SOLD = 0.92
# Of a GPU's memory, what may be counted on however busy the desktop is at the moment.
STEADY = 0.87


@dataclass(frozen=True)
class GpuMemory:
    """A GPU's memory when a run starts, in bytes.

    Attributes:
        free: what no program holds.
        total: all of it.
        opened: our own context is out of `free` already.
        sold_gb: what a GPU that is not here is sold with.
    """

    free: int
    total: int
    opened: bool
    sold_gb: float | None = None

    @property
    def description(self) -> str:
        """ "7.1 of 8.0 GB are free"."""
        if self.sold_gb is None:
            return f"{gb(self.free)} of {gb(self.total)} GB are free"
        return (
            f"about {gb(self.free)} GB are free on a GPU sold as {self.sold_gb:g} GB with a desktop"
        )


@dataclass(frozen=True)
class Budget:
    """Bytes that every phase of a run must stay within, and why.

    Attributes:
        nbytes: for tensors, with what the allocator loses.
        overhead: what goes off the memory, or off the cap, beside that.
        steady: as `nbytes`, but of what may be counted on rather than of what happens to be free.
        description: in words.
        memory: the GPU's.
        cap: memory.vram_budget_gb in bytes, where it is what decides.
    """

    nbytes: int
    overhead: int
    steady: int
    description: str
    memory: GpuMemory
    cap: int | None = None


def sold_as(gigabytes: float) -> GpuMemory:
    """A GPU by what it is sold with, with what is usually free of it."""
    total = round(gigabytes * GIB)
    return GpuMemory(round(FREE_OF_SOLD * total), total, opened=False, sold_gb=gigabytes)


def budget(cap_gb: float | None, memory: GpuMemory) -> Budget:
    """The smaller of what is free and a cap, each less the reserve and the CUDA context.

    Args:
        cap_gb: what all of a run may take, the context included; None for no cap.
    """
    overhead = RESERVE if memory.opened else RESERVE + CONTEXT
    less = f", less {gb(RESERVE)} GB reserve"
    context = f" and {gb(CONTEXT)} GB for the CUDA context"
    free, steady = memory.free - overhead, round(STEADY * memory.total) - RESERVE - CONTEXT
    description, cap = f"{memory.description}{less}{'' if memory.opened else context}", None
    if cap_gb is not None:
        cap = round(cap_gb * GIB)
        most = cap - RESERVE - CONTEXT
        if most < free:
            description = f"cap {cap_gb:g} GB, as set{less}{context}; {memory.description}"
            free, overhead, steady = most, RESERVE + CONTEXT, min(most, steady)
        else:
            description += f"; the cap, {cap_gb:g} GB, would allow more"
            cap = None
    return Budget(max(0, free), overhead, max(0, steady), description, memory, cap)


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
