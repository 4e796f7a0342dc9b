"""This machine, without importing torch: is there a card, which one, how much memory."""

import functools
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Literal

DeviceKind = Literal["cuda", "cpu"]
CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")


def device_kind() -> DeviceKind:
    """Where torch would run: "cuda" with a card that it can use, else "cpu"."""
    if importlib.metadata.version("torch").endswith("+cpu"):
        return "cpu"
    return "cuda" if _card() is not None else "cpu"


def device_name(kind: DeviceKind) -> str:
    """The card's name, or the processor's with its cores."""
    if kind == "cuda":
        return _card() or "a card"
    return f"{_processor()}, {os.cpu_count()} cores"


def host_bytes() -> int:
    """The machine's memory, or a container's where that is less."""
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = CONTAINER_LIMIT.read_text(encoding="utf-8").strip()
    except OSError:
        return installed
    return min(installed, int(limit)) if limit.isdecimal() else installed


@functools.cache
def _card() -> str | None:
    """The first visible card as the driver names it; None where there is none."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and (not visible.strip() or visible.strip().startswith("-")):
        return None
    chosen = [f"--id={visible.split(',')[0].strip()}"] if visible else []
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader", *chosen]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    names = result.stdout.splitlines()
    return names[0].strip() if result.returncode == 0 and names else None


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model na")]
    except FileNotFoundError:
        names = []
    return names[0] if names else platform.machine()
