"""Which device computes, chosen in one place, and what NVIDIA's driver and torch's files say of it.

Imports torch only where a device is opened, so that a plan can ask here without it.
"""

import functools
import importlib.util
import logging
import os
import re
import runpy
import shutil
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from maskora.errors import Fault, UserError
from maskora.system import on_wsl

log = logging.getLogger("maskora")
DeviceKind = Literal["cuda", "cpu"]
Capability = tuple[int, int]
BFLOAT16 = (8, 0)  # the compute capability from which on torch's attention kernels take it
ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
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


@dataclass(frozen=True)
class Device:
    """Where a run computes; `note` is a line for the person, or empty."""

    kind: DeviceKind
    index: int = 0
    note: str = ""

    @property
    def name(self) -> str:
        """As torch writes it: "cpu", "cuda:0"."""
        return "cpu" if self.kind == "cpu" else f"cuda:{self.index}"


@dataclass(frozen=True)
class Gpu:
    """A GPU as NVIDIA's driver describes it.

    Attributes:
        index: N in cuda:N.
        total, free: bytes of its memory, and of those the ones that no program holds; None where
            the driver does not say.
        capability: its compute capability, (8, 6) say; None where the driver does not say.
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


CPU = Device("cpu")
_chosen: Device | None = None


def choose(asked: str | None = None) -> Device:
    """Choose the device of this process, check it with torch, and make it torch's current one.

    Args:
        asked: --device: None, "cpu", "cuda" or "cuda:N".

    Raises:
        UserError: there is no such device, or torch cannot use it.
        Fault: the GPU or its driver does not answer.
    """
    global _chosen
    _chosen = _choose(asked)
    return _chosen


def chosen() -> Device:
    """The device that this process has chosen; where it has not, it does now, by itself."""
    return _chosen or choose()


def forget() -> None:
    """Forget the choice and what the driver has said: both are asked for again."""
    global _chosen
    _chosen = None
    gpus.cache_clear()


def for_small_models() -> str:
    """The device for a captioner, a tracker, a judge: the chosen one, else the CPU with a note."""
    try:
        return chosen().name
    except (UserError, Fault) as error:
        log.warning("note: computing on the CPU: %s", str(error).removesuffix(f"; {INSIST}"))
        return choose("cpu").name


def computes_bfloat16(device: str) -> bool:
    """Whether a device, by its name for torch, is a GPU with kernels for bfloat16."""
    import torch

    return device.startswith("cuda") and torch.cuda.get_device_capability(device) >= BFLOAT16


def foresee(asked: str | None) -> Device:
    """The answer of `choose`, from the driver and torch's files, without importing torch.

    Args:
        asked: --device: None, "cpu", "cuda" or "cuda:N".

    Raises:
        UserError: there is no such device, or torch cannot use it.
    """
    kind, index = parse(asked)
    if kind == "cpu":
        return CPU
    build, found = torch_build(), gpus()
    if build is not None and build.hip is not None:
        raise UserError(_rocm(build))
    if found:
        gpu = _pick(asked, index, found)
        if problem := obstacle(gpu, build):
            raise UserError(f"{problem}; {INSIST}")
        return Device("cuda", gpu.index)
    if asked is not None:
        raise UserError(f"--device {asked}: this machine has no GPU that NVIDIA's driver shows")
    if sys.platform == "darwin":
        return Device("cpu", note="Apple's GPU (MPS) cannot be used: computing on the CPU")
    return Device("cpu", note="no NVIDIA GPU is found: computing on the CPU")


def planned_gpu() -> tuple[Gpu, str | None] | None:
    """The GPU that "cuda" means here, and what keeps torch from using it; None: there is none."""
    found = gpus()
    if not found:
        return None
    gpu = _pick("cuda", None, found)
    return gpu, obstacle(gpu, torch_build())


def parse(asked: str | None) -> tuple[DeviceKind | None, int | None]:
    """--device as a kind and a GPU's number, None for what is left open. Raises UserError."""
    if asked is None:
        return None, None
    if asked == "mps":
        raise UserError(
            "--device mps: Apple's GPUs cannot be used, because blocks are streamed by CUDA; "
            "use --device cpu"
        )
    found = re.fullmatch(r"(cpu|cuda)|cuda:(\d+)", asked, re.ASCII)
    if found is None:
        raise UserError(f"--device {asked}: write cpu, cuda or cuda:N (a GPU's number)")
    return ("cpu" if asked == "cpu" else "cuda"), None if found[2] is None else int(found[2])


def spills_to_ram() -> bool:
    """Whether the driver gives RAM where the GPU's memory is full, as on Windows and under WSL.

    Nothing fails then, but everything becomes very slow.
    """
    return sys.platform == "win32" or on_wsl()


def set_up_environment() -> None:
    """What torch reads when it is imported; nothing that the person has set is changed.

    Segments that grow lose less memory to fragments, where the driver can do them (not on Windows
    and not on WSL). GPUs are counted as nvidia-smi counts them.
    """
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    set_already = any(name in os.environ for name in ALLOCATOR)
    if sys.platform == "linux" and not on_wsl() and not set_already:
        os.environ[ALLOCATOR[0]] = "expandable_segments:True"


def _choose(asked: str | None) -> Device:
    kind, index = parse(asked)
    if kind == "cpu":
        return CPU
    set_up_environment()
    import torch

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    if not available:
        device = foresee(asked)  # raises where it knows why
        if device.kind == "cuda":
            reason = str(warned[-1].message).splitlines()[0] if warned else "it does not say why"
            name = gpus()[device.index].name
            raise UserError(f"torch cannot use {name}: {reason}; {INSIST}")
        return device
    build = torch_build()
    if build is not None and build.hip is not None:
        raise UserError(_rocm(build))
    number = _number(asked, index, torch.cuda.device_count())
    _check_code(number)
    try:
        torch.cuda.set_device(number)
        torch.cuda.mem_get_info(number)  # opens it
    except RuntimeError as error:
        name, reason = torch.cuda.get_device_name(number), str(error).partition("\n")[0]
        raise Fault(
            f"{name} cannot be opened ({reason}): end what uses it (nvidia-smi lists it); {INSIST}"
        ) from error
    return Device("cuda", number)


def _number(asked: str | None, index: int | None, count: int) -> int:
    """Which of torch's GPUs; nvidia-smi may be absent or fail where torch can use one."""
    try:
        shown = gpus()
    except Fault:
        shown = ()
    if len(shown) == count:
        return _pick(asked, index, shown).index
    if index is not None and index >= count:
        raise UserError(f"--device {asked}: torch sees {count} GPUs, counted from 0")
    return index or 0


def _pick(asked: str | None, index: int | None, found: tuple[Gpu, ...]) -> Gpu:
    """The GPU of a number, else of those that torch can use the one with most free memory."""
    if index is None:
        build = torch_build()
        usable = [gpu for gpu in found if obstacle(gpu, build) is None]
        return max(usable or found, key=lambda gpu: gpu.free or 0)
    if index >= len(found):
        names = ", ".join(f"cuda:{gpu.index} ({gpu.name})" for gpu in found)
        raise UserError(f"--device {asked}: this machine has {names}")
    return found[index]


def _check_code(number: int) -> None:
    """This torch has code for the GPU, or such as the driver translates for newer ones."""
    import torch

    capability = torch.cuda.get_device_capability(number)
    kinds = [re.match(r"(sm|compute)_(\d+)(\d)", kind) for kind in torch.cuda.get_arch_list()]
    known = [(kind[1], (int(kind[2]), int(kind[3]))) for kind in kinds if kind]
    if known and not any(_serves(kind, built, capability) for kind, built in known):
        older = capability < min(built for _, built in known)
        raise UserError(
            f"torch {torch.__version__} has no code for {torch.cuda.get_device_name(number)} "
            f"(compute capability {dotted(capability)}): install a build for "
            f"{'an older' if older else 'a newer'} CUDA ({BUILDS}); {INSIST}"
        )


def _serves(kind: str, built: Capability, capability: Capability) -> bool:
    """Finished code (sm) runs on its own generation; what is translated, on all that are newer."""
    return built <= capability and (kind == "compute" or built[0] == capability[0])


@functools.cache
def gpus() -> tuple[Gpu, ...]:
    """The GPUs that this process may use, in the order in which torch counts them.

    Read once by nvidia-smi; none where there is no NVIDIA driver.

    Raises:
        Fault: there is one, and it does not answer.
    """
    output = _ask(FIELDS)
    if output is not None and "not a valid field" in output:
        output = _ask(FIELDS[:-1])  # an older driver does not know the last one
    if output is None or "No devices were found" in output:
        return ()
    rows = [[cell.strip() for cell in line.split(",")] for line in output.splitlines()]
    odd = [", ".join(row) for row in rows if len(row) < len(FIELDS) - 1]  # a GPU that is lost, say
    if odd or not rows:
        raise Fault(
            f"NVIDIA's driver does not answer ({odd[0] if odd else 'nvidia-smi says nothing'}): "
            f"restart the machine, or install the driver again; {INSIST}"
        )
    entries = {row[0]: row[1:] for row in rows}
    return tuple(_gpu(index, entries[key]) for index, key in enumerate(_visible(entries)))


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
    variable = os.environ.get("CUDA_VISIBLE_DEVICES")
    if variable is None:
        return list(entries)
    visible: list[str] = []
    for item in (item.strip() for item in variable.split(",")):
        named = [key for key, (uuid, *_) in entries.items() if item and uuid.startswith(item)]
        key = item if item in entries else named[0] if len(named) == 1 else None
        if key is None:
            break
        visible.append(key)
    return visible


def _gpu(index: int, cells: list[str]) -> Gpu:
    _, total, free, driver, name, *rest = cells
    version = re.fullmatch(r"(\d+)\.(\d+)", rest[0]) if rest else None
    capability = (int(version[1]), int(version[2])) if version else None
    return Gpu(index, name, _mebibytes(total), _mebibytes(free), capability, driver)


def _mebibytes(text: str) -> int | None:
    return int(text) * 2**20 if text.isdecimal() else None


def torch_build() -> TorchBuild | None:
    """The installed torch by its version file, without importing it; None where there is none."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return None
    values = runpy.run_path(str(Path(found.origin).with_name("version.py")))
    return TorchBuild(values.get("__version__") or "", values.get("cuda"), values.get("hip"))


def obstacle(gpu: Gpu, build: TorchBuild | None) -> str | None:
    """What keeps torch from using a GPU that the driver shows, and what to do; else None."""
    if build is None:
        return f"torch is not installed: {_install(gpu)}"
    if build.hip is not None:
        return _rocm(build)
    if build.cuda is None:
        return (
            f"this machine has a GPU ({gpu.name}), but its torch {build.version} is a build for "
            f"the CPU: {_install(gpu, build)}"
        )
    major, installed = int(build.cuda.split(".")[0]), f"torch {build.version} (CUDA {build.cuda})"
    least, driver = LEAST_DRIVER.get(major, 0), gpu.driver.split(".")[0]
    if driver.isdecimal() and int(driver) < least:
        return (
            f"NVIDIA's driver {gpu.driver} is too old for {installed}: install driver {least} or "
            f"newer (https://www.nvidia.com/drivers)"
        )
    if gpu.capability and gpu.capability < LEAST_CAPABILITY.get(major, (0, 0)):
        return (
            f"{installed} has no code for {gpu.name} (compute capability "
            f"{dotted(gpu.capability)}): install a build of torch for CUDA 12 ({BUILDS})"
        )
    return None


def _install(gpu: Gpu, build: TorchBuild | None = None) -> str:
    """What installs a torch for a GPU, in place of a build for something else."""
    older = gpu.capability is not None and gpu.capability < LEAST_CAPABILITY[13]
    kind = "cu126" if older else "cu130"
    # With the version alone, pip is content with the build that is there.
    version = f"=={build.version.partition('+')[0]}+{kind}" if build else ""
    return f"pip install torch{version} --index-url https://download.pytorch.org/whl/{kind}"


def _rocm(build: TorchBuild) -> str:
    """Why a build of torch for AMD's GPUs is refused."""
    return (
        f"torch {build.version} is a build for AMD's ROCm, on which maskora has never run: "
        f"use --device cpu"
    )


def dotted(capability: Capability) -> str:
    """A compute capability as NVIDIA writes it, "8.6"."""
    return f"{capability[0]}.{capability[1]}"
