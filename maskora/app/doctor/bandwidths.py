"""How fast bytes move on this machine: host to device as the engine moves them, RAM, disk."""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from maskora.streaming.checkpoint import ModuleReader, byte_view
from maskora.streaming.engine import Streamer
from maskora.streaming.host_memory import host_buffer, is_ready
from maskora.streaming.placement import Placement
from maskora.streaming.weights import stream_weights

COPY_BYTES, COPIES = 256_000_000, 10
BLOCKS, ROUNDS = 3, 3  # of what the engine moves
SECTOR = 4096  # direct reads go in whole ones
PIECE = 2**24


@dataclass(frozen=True)
class DiskSpeed:
    """Bytes per second of one large file.

    Attributes:
        write: until all of it is on the disk.
        read: from its start to its end.
        cached: the system could not be kept from reading out of RAM, so `read` may be RAM's.
    """

    write: float
    read: float
    cached: bool


def pinned_bandwidth(device: torch.device, nbytes: int = COPY_BYTES) -> float | None:
    """Host to device in bytes per second, from one block of memory as the engine pins it.

    The median of ten copies; None where the memory cannot be pinned.
    """
    source = host_buffer(nbytes, pin=True)
    if not is_ready(source):
        return None
    target = torch.empty(nbytes, dtype=torch.uint8, device=device)
    return nbytes / _median_seconds(lambda: target.copy_(source, non_blocking=True), device)


def staged_bandwidth(device: torch.device, nbytes: int = COPY_BYTES) -> float:
    """Host to device in bytes per second, of blocks that wait in memory that is not pinned.

    The engine itself moves them, through its staging; nothing computes meanwhile.
    """
    values = torch.zeros(nbytes // 2, dtype=torch.bfloat16)
    waiting = nn.ModuleList(_Values(values) for _ in range(BLOCKS))
    moved = nn.ModuleList(_Values(values.to("meta")) for _ in range(BLOCKS))
    placement = Placement(blocks_to_swap=BLOCKS, weights="pageable")
    supplied = stream_weights(
        moved, list(moved), ModuleReader(waiting), lambda _: torch.bfloat16, placement, device
    )

    streamer = supplied.streamer
    try:
        _visit_all(streamer)  # warms up
        before, started = streamer.traffic.bytes, _now(device)
        for _ in range(ROUNDS):
            _visit_all(streamer)
        return (streamer.traffic.bytes - before) / (_now(device) - started)
    finally:
        supplied.close()


def _visit_all(streamer: Streamer) -> None:
    for index in range(BLOCKS):
        with streamer.visit(index, "generate"):
            pass


def ram_bandwidth(nbytes: int = COPY_BYTES) -> float:
    """Bytes per second of copying from RAM to RAM: the median of ten copies."""
    source, target = host_buffer(nbytes, pin=False), host_buffer(nbytes, pin=False)
    source.fill_(1)
    return nbytes / _median_seconds(lambda: target.copy_(source), torch.device("cpu"))


def disk_bandwidth(folder: Path, nbytes: int = COPY_BYTES) -> DiskSpeed:
    """Write and read a file of random bytes in a folder; it is removed again.

    Raises:
        OSError: the folder cannot be written to, or the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = torch.randint(256, (PIECE,), dtype=torch.uint8)  # a compressing disk gains nothing
    pieces = -(-nbytes // PIECE)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".disk-speed-") as scratch:
        path = Path(scratch) / "bytes"
        started = time.perf_counter()
        with path.open("wb", buffering=0) as file:
            _stop_caching(file.fileno())
            for _ in range(pieces):
                _write_all(file.fileno(), byte_view(data))
            os.fsync(file.fileno())
        written = time.perf_counter()
        cached = _read_all(path, host_buffer(PIECE, pin=False))
        seconds = time.perf_counter() - written
    return DiskSpeed(pieces * PIECE / (written - started), pieces * PIECE / seconds, cached)


def _write_all(file: int, data: memoryview) -> None:
    while data:
        data = data[os.write(file, data) :]


def _read_all(path: Path, buffer: Tensor) -> bool:
    """Read a file to its end, and say whether the system may have done so out of RAM."""
    view = byte_view(buffer)
    file, cached = _open_uncached(path)
    with open(file, "rb", buffering=0) as stream:
        while stream.readinto(view):
            pass
    return cached


def _open_uncached(path: Path) -> tuple[int, bool]:
    """A descriptor whose reads go to the disk where the system can do that, and if it cannot."""
    plain = os.O_RDONLY | getattr(os, "O_BINARY", 0)
    if hasattr(os, "O_DIRECT"):  # Linux
        try:
            return os.open(path, plain | os.O_DIRECT), False
        except OSError:  # a file system that has no such reads, as one in RAM
            return os.open(path, plain), True
    file = os.open(path, plain)
    return file, not _stop_caching(file)


def _stop_caching(file: int) -> bool:
    """On macOS, keep a file out of the page cache; False elsewhere."""
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows
        return False
    if not hasattr(fcntl, "F_NOCACHE"):
        return False
    fcntl.fcntl(file, fcntl.F_NOCACHE, 1)
    return True


def _median_seconds(work: Callable[[], object], device: torch.device) -> float:
    """Of ten times, after one that warms up; what the device does counts."""
    seconds = []
    for _ in range(COPIES + 1):
        started = _now(device)
        work()
        seconds.append(_now(device) - started)
    return statistics.median(seconds[1:])


def _now(device: torch.device) -> float:
    """The time at which the device has done all that it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class _Values(nn.Module):
    """A block that is one parameter."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(values, requires_grad=False)
