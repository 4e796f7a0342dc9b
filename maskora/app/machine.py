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
from maskora.system import Ram, ram

UNKNOWN_GPU = 8  # GB; planned for where a GPU is asked for and none is here


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
