"""What a piece of work takes of a machine: device memory, host memory, seconds, bandwidth.

python -m benchmarks.measure MACHINE.json       # describes this machine
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

import psutil
import torch

from maskora import devices
from maskora.app.doctor.checks import pinned_bandwidth, staged_bandwidth
from maskora.memory.machine import peak_bytes

SAMPLE_SECONDS = 0.005
STATUS = Path("/proc/self/status")  # Linux's; elsewhere psutil answers


@dataclass(frozen=True)
class Phase:
    """One phase of a case; bytes, and None for what this machine cannot have.

    Attributes:
        name: for people.
        seconds: from start to end, the device's work included.
        peak_allocated: most bytes in tensors on the GPU at once.
        peak_reserved: most bytes that the allocator held of the GPU for them.
        host_before: bytes of this process's own memory at the start (see `host_memory`).
        peak_host: most of them at once.
    """

    name: str
    seconds: float
    peak_allocated: int | None
    peak_reserved: int | None
    host_before: int
    peak_host: int


@dataclass(frozen=True)
class Machine:
    """Where the numbers come from; no name of a host and no path.

    Attributes:
        gpu: the GPU's name, or "no GPU".
        gpu_bytes: its memory.
        cores: that this process may use.
        ram_bytes: of the machine.
        torch, cuda: versions.
        bandwidth: host to device in bytes per second, from memory as the engine pins it; None
            where it cannot be pinned.
        staged_bandwidth: the same from memory that is not pinned, through the engine's staging.
    """

    gpu: str
    gpu_bytes: int | None
    cores: int
    ram_bytes: int
    torch: str
    cuda: str | None
    bandwidth: float | None
    staged_bandwidth: float | None


class HostPeak:
    """Highest host memory of this process while active, sampled every 5 ms and at both ends."""

    def __init__(self) -> None:
        self.bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "HostPeak":
        self._sample()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._sample()

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            self._sample()

    def _sample(self) -> None:
        self.bytes = max(self.bytes, host_memory())


def host_memory() -> int:
    """Bytes of this process's own and shared memory now, without files that the kernel caches.

    RssAnon + RssShmem of /proc/self/status, or, where there is none, what would be free if the
    process ended. Ordinary memory that is registered with the driver (pinned) counts; memory that
    the driver itself allocates may not.
    """
    if fields := _status():
        return fields["RssAnon"] + fields["RssShmem"]
    unique: int = psutil.Process().memory_full_info().uss
    return unique


def high_water_mark() -> int:
    """The highest resident size of this process so far, mapped files included.

    VmHWM of /proc/self/status; elsewhere the system's own number.
    """
    if fields := _status():
        return fields["VmHWM"]
    return peak_bytes()


def _status() -> dict[str, int]:
    """Sizes in bytes by name; empty on systems that tell them in another way."""
    try:
        lines = STATUS.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    pairs = [line.split(":") for line in lines]
    return {name: int(value.split()[0]) * 1024 for name, value in pairs if value.endswith(" kB")}


@contextmanager
def measured(name: str, device: torch.device, done: Callable[[Phase], None]) -> Iterator[None]:
    """Measure the block; `done` gets the phase however the block ends."""
    on_gpu = device.type == "cuda"
    synchronize(device)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    before = host_memory()
    started = time.perf_counter()
    host = HostPeak()
    try:
        with host:
            yield
            synchronize(device)
    finally:
        done(
            Phase(
                name,
                time.perf_counter() - started,
                torch.cuda.max_memory_allocated(device) if on_gpu else None,
                torch.cuda.max_memory_reserved(device) if on_gpu else None,
                before,
                host.bytes,
            )
        )


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def limit_gpu(gigabytes: float, device: torch.device) -> None:
    """Let this process have no more of the GPU than one of `gigabytes` (GiB) would give it.

    What is taken of the GPU before the first tensor (the context) counts as taken.
    """
    torch.cuda.synchronize(device)
    free, total = torch.cuda.mem_get_info(device)
    context = total - free - torch.cuda.memory_reserved(device)
    share = (gigabytes * 2**30 - context) / total
    # It takes no device without an index; None is the current one.
    torch.cuda.set_per_process_memory_fraction(min(max(share, 0.0), 1.0), device.index)


def describe_machine(device: torch.device) -> Machine:
    """This machine and the bandwidths to its GPU."""
    on_gpu = device.type == "cuda"
    properties = torch.cuda.get_device_properties(device) if on_gpu else None
    return Machine(
        gpu=properties.name if properties else "no GPU",
        gpu_bytes=properties.total_memory if properties else None,
        cores=usable_cores(),
        ram_bytes=psutil.virtual_memory().total,
        torch=torch.__version__,
        cuda=torch.version.cuda if properties else None,
        bandwidth=pinned_bandwidth(device) if on_gpu else None,
        staged_bandwidth=staged_bandwidth(device) if on_gpu else None,
    )


def usable_cores() -> int:
    """How many this process may run on; macOS keeps no process from any."""
    process = psutil.Process()
    return len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else os.cpu_count() or 1


def default_device() -> torch.device:
    """The one that a run would choose."""
    return torch.device(devices.chosen().name)


if __name__ == "__main__":
    text = json.dumps(asdict(describe_machine(default_device())))
    Path(sys.argv[1]).write_text(text, encoding="utf-8")
