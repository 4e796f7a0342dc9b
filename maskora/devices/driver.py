"""What NVIDIA's driver shows, what the installed torch was built for, and whether they go together.

Imports no torch.
"""

import ast
import functools
import importlib.util
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from maskora.errors import Fault

DRIVER_TOOL = ("nvidia-smi",)
# Where WSL has it, which is on PATH in login shells alone.
WSL_TOOL = Path("/usr/lib/wsl/lib/nvidia-smi")
FIELDS = ("index", "uuid", "memory.total", "memory.free", "driver_version", "name", "compute_cap")
# The oldest driver that runs any build of torch for a major version of CUDA.
LEAST_DRIVER = {11: 450, 12: 525, 13: 580}
# CUDA 13 no longer has code for GPUs below this compute capability.
LEAST_CAPABILITY = {13: (7, 5)}
BUILDS = "https://pytorch.org/get-started/locally"
INSIST = "--device cpu computes on the CPU instead"
Capability = tuple[int, int]


@dataclass(frozen=True)
class Gpu:
    """A GPU as NVIDIA's driver tells it.

    Attributes:
        index: N in cuda:N.
        total, free: bytes of its memory, and of those the ones that no program holds; None where
            the driver does not tell.
        capability: its compute capability, (8, 6) say; None where the driver does not tell.
        driver: the driver's version.
    """

    index: int
    name: str
    total: int | None
    free: int | None
    capability: Capability | None
    driver: str


@dataclass(frozen=True)
class TorchBuild:
    """What an installed torch was built for: versions of CUDA and of ROCm's HIP, or None."""

    version: str
    cuda: str | None
    hip: str | None


@functools.cache
def torch_build() -> TorchBuild | None:
    """The installed torch, read once; None where there is none."""
    return read_build()


def read_build() -> TorchBuild | None:
    """The same from torch's version file, without importing torch."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return None
    text = (Path(found.origin).parent / "version.py").read_text(encoding="utf-8")
    told: dict[str, str | None] = {}
    for line in ast.parse(text).body:
        if isinstance(line, ast.AnnAssign | ast.Assign) and isinstance(line.value, ast.Constant):
            (target,) = line.targets if isinstance(line, ast.Assign) else (line.target,)
            told[ast.unparse(target)] = line.value.value  # type: ignore[assignment]
    return TorchBuild(told.get("__version__") or "", told.get("cuda"), told.get("hip"))


@functools.cache
def gpus() -> tuple[Gpu, ...]:
    """The GPUs that this process may use, in the order in which torch counts them.

    Read once by nvidia-smi; none where there is no NVIDIA driver.

    Raises:
        Fault: there is one, and it does not answer.
    """
    told = _ask(FIELDS)
    if told is not None and "not a valid field" in told:
        told = _ask(FIELDS[:-1])  # an older driver does not know the last one
    if told is None or "No devices were found" in told:
        return ()
    rows = [[cell.strip() for cell in line.split(",")] for line in told.splitlines()]
    odd = [", ".join(row) for row in rows if len(row) < len(FIELDS) - 1]  # a GPU that is lost, say
    if odd or not rows:
        raise Fault(
            f"NVIDIA's driver does not answer ({odd[0] if odd else 'nvidia-smi says nothing'}): "
            f"restart the machine, or install the driver again; {INSIST}"
        )
    entries = {row[0]: row[1:] for row in rows}
    visible = _visible(entries)
    return tuple(_gpu(index, entries[key]) for index, key in enumerate(visible))


def _ask(fields: tuple[str, ...]) -> str | None:
    """What nvidia-smi says, one line per GPU where all is well; None where there is none."""
    tool = DRIVER_TOOL
    if shutil.which(tool[0]) is None and WSL_TOOL.exists():
        tool = (str(WSL_TOOL),)
    asked = [*tool, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        result = subprocess.run(
            asked, capture_output=True, encoding="utf-8", errors="replace", timeout=30, check=False
        )
    except (FileNotFoundError, PermissionError):
        return None
    except subprocess.TimeoutExpired:
        return "nvidia-smi takes more than 30 seconds"
    return result.stdout or result.stderr


def _visible(entries: dict[str, list[str]]) -> list[str]:
    """The indices that CUDA_VISIBLE_DEVICES names, up to the first that it cannot mean."""
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    if told is None:
        return list(entries)
    chosen: list[str] = []
    for item in (item.strip() for item in told.split(",")):
        named = [key for key, (uuid, *_) in entries.items() if item and uuid.startswith(item)]
        key = item if item in entries else named[0] if len(named) == 1 else None
        if key is None:
            break
        chosen.append(key)
    return chosen


def _gpu(index: int, cells: list[str]) -> Gpu:
    _, total, free, driver, name, *rest = cells
    version = re.fullmatch(r"(\d+)\.(\d+)", rest[0]) if rest else None
    return Gpu(
        index,
        name,
        _mebibytes(total),
        _mebibytes(free),
        (int(version[1]), int(version[2])) if version else None,
        driver,
    )


def _mebibytes(text: str) -> int | None:
    return int(text) * 2**20 if text.isdecimal() else None


def obstacle(gpu: Gpu, build: TorchBuild | None) -> str | None:
    """What keeps torch from using a GPU that the driver shows, and what to do; else None."""
    if build is None:
        return f"torch is not installed: {install(gpu)}"
    if build.hip is not None:
        return rocm(build)
    if build.cuda is None:
        return (
            f"this machine has a GPU ({gpu.name}), but its torch {build.version} is a build for "
            f"the CPU: {install(gpu, build)}"
        )
    major, told = int(build.cuda.split(".")[0]), f"torch {build.version} (CUDA {build.cuda})"
    least, driver = LEAST_DRIVER.get(major, 0), gpu.driver.split(".")[0]
    if driver.isdecimal() and int(driver) < least:
        return (
            f"NVIDIA's driver {gpu.driver} is too old for {told}: install driver {least} or newer "
            f"(https://www.nvidia.com/drivers)"
        )
    if gpu.capability and gpu.capability < LEAST_CAPABILITY.get(major, (0, 0)):
        return (
            f"{told} has no code for {gpu.name} (compute capability "
            f"{dotted(gpu.capability)}): install a build of torch for CUDA 12 ({BUILDS})"
        )
    return None


def install(gpu: Gpu, build: TorchBuild | None = None) -> str:
    """What installs a torch for a GPU, in place of a build for something else."""
    older = gpu.capability is not None and gpu.capability < LEAST_CAPABILITY[13]
    kind = "cu126" if older else "cu130"
    # With the version alone, pip is content with the build that is there.
    version = f"=={build.version.partition('+')[0]}+{kind}" if build else ""
    return f"pip install torch{version} --index-url https://download.pytorch.org/whl/{kind}"


def rocm(build: TorchBuild) -> str:
    """Why a build of torch for AMD's GPUs is refused."""
    return (
        f"torch {build.version} is a build for AMD's ROCm, on which maskora has never run: "
        f"use --device cpu"
    )


def dotted(capability: Capability) -> str:
    """A compute capability as NVIDIA writes it, "8.6"."""
    return f"{capability[0]}.{capability[1]}"
