"""What `maskora doctor` measures: what can be pinned, and how fast bytes come."""

from torch import Tensor

from maskora.commands.bandwidths import (
    disk_bandwidth,
    pinned_bandwidth,
    ram_bandwidth,
    staged_bandwidth,
)
from maskora.commands.doctor_outcomes import Bench, Check, Found, Skipped
from maskora.streaming.demand import gb
from maskora.streaming.memory import Driver, Pins, driver_of, host_buffer

GB = 1e9
PIECE, MOST = 2**28, 2**34  # of pinned memory, in bytes
DRIVER = "update the GPU's driver, and restart the computer (in WSL: wsl --shutdown)"


def measure_ram(bench: Bench) -> Found:
    """Copies from RAM to RAM."""
    speed = ram_bandwidth()
    return Found(f"{speed / GB:.1f} GB/s copied", {"ram": speed})


def measure_disk(bench: Bench) -> Found:
    """Writing and reading on the disk of the cache."""
    speed = disk_bandwidth(bench.cache)
    told = f"writes {speed.write / GB:.2f} GB/s, reads {speed.read / GB:.2f} GB/s"
    if speed.cached:
        told += " (perhaps out of RAM: this system does not read past its cache)"
    return Found(told, {"disk_write": speed.write, "disk_read": speed.read})


def measure_pinning(bench: Bench) -> Found:
    """How much memory can be pinned; it is given back at once."""
    driver = driver_of(bench.device)
    if driver is None:
        raise Skipped("nothing needs to be pinned without a GPU")
    pinned, refused = pinnable(driver, min(bench.ram // 2, MOST))
    told = f"then the system pins no more: {refused}" if refused else "more was not tried"
    return Found(f"{gb(pinned)} GB; {told}", {"pinned": pinned})


def pinnable(driver: Driver, most: int) -> tuple[int, str]:
    """How many bytes can be pinned, up to about `most`, and why no more (empty: not tried)."""
    pins = Pins(driver)
    held: list[Tensor] = []
    while len(held) * PIECE < most:
        buffer = host_buffer(PIECE, pin=False)
        if not pins.spare(buffer):
            break
        held.append(buffer)
    return len(held) * PIECE, pins.refused


def measure_bus(bench: Bench) -> Found:
    """Copies to the GPU, from memory that is pinned and from memory that is not."""
    if bench.vram is None:
        raise Skipped("no GPU")
    pinned, staged = pinned_bandwidth(bench.device), staged_bandwidth(bench.device)
    told = f"{staged / GB:.1f} GB/s through staging"
    if pinned is None:
        return Found(f"{told}; no memory can be pinned", {"staged": staged})
    numbers = {"bus": pinned, "staged": staged}
    return Found(f"{pinned / GB:.1f} GB/s from pinned memory, {told}", numbers)


MEASURES = (
    Check("RAM", measure_ram, "end other programs"),
    Check(
        "disk of the cache",
        measure_disk,
        "make room, or name a folder on another disk with XDG_CACHE_HOME",
    ),
    Check("from RAM to the GPU", measure_bus, DRIVER),
)
# The last of all: under WSL2, copies are known to do nothing once much was pinned and given back.
PINNING = Check("memory that can be pinned", measure_pinning, DRIVER)
