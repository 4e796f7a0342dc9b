"""Which device computes, chosen in one place.

Imports torch only where a device is opened, so that a plan can ask here without it.
"""

import logging
import os
import platform
import re
import sys
import warnings
from dataclasses import dataclass
from typing import Literal

from maskora.devices.driver import (
    BUILDS,
    INSIST,
    Capability,
    Gpu,
    TorchBuild,
    dotted,
    gpus,
    obstacle,
    rocm,
    torch_build,
)
from maskora.errors import Fault, UserError

__all__ = [
    "ALLOCATOR", "BFLOAT16", "CPU", "Capability", "Device", "DeviceKind", "Gpu", "TorchBuild",
    "choose", "chosen", "computes_bfloat16", "dotted", "for_small_models", "foresee", "forget",
    "gpus", "obstacle", "on_wsl", "parse", "planned_gpu", "set_up_environment", "spills_to_ram",
    "torch_build",
]  # fmt: skip

log = logging.getLogger("maskora")

DeviceKind = Literal["cuda", "cpu"]
BFLOAT16 = (8, 0)  # the compute capability from which on torch's attention kernels take it
ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


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


CPU = Device("cpu")
_chosen: Device | None = None


def on_wsl() -> bool:
    """Whether this is Linux inside Windows."""
    return "microsoft" in platform.release().lower()


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


def foresee(asked: str | None) -> Device:
    """What `choose` would answer, told from the driver and torch's files without importing it.

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
        raise UserError(rocm(build))
    if not found:
        return _without_gpu(asked)
    gpu = _pick(asked, index, found)
    if problem := obstacle(gpu, build):
        raise UserError(f"{problem}; {INSIST}")
    return Device("cuda", gpu.index)


def _without_gpu(asked: str | None) -> Device:
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


def _pick(asked: str | None, index: int | None, found: tuple[Gpu, ...]) -> Gpu:
    """The GPU of a number, else of those that torch can use the one with most free memory."""
    if index is None:
        build = torch_build()
        usable = [gpu for gpu in found if obstacle(gpu, build) is None]
        return max(usable or found, key=lambda gpu: gpu.free or 0)
    if index >= len(found):
        told = ", ".join(f"cuda:{gpu.index} ({gpu.name})" for gpu in found)
        raise UserError(f"--device {asked}: this machine has {told}")
    return found[index]


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
    """What was chosen, and what the driver has told: both are asked again."""
    global _chosen
    _chosen = None
    gpus.cache_clear()
    torch_build.cache_clear()


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


def _choose(asked: str | None) -> Device:
    kind, index = parse(asked)
    if kind == "cpu":
        return CPU
    set_up_environment()
    import torch

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    if not available:
        device = foresee(asked)  # raises where it knows why
        if device.kind == "cuda":
            reason = str(told[-1].message).splitlines()[0] if told else "it does not say why"
            name = gpus()[device.index].name
            raise UserError(f"torch cannot use {name}: {reason}; {INSIST}")
        return device
    build = torch_build()
    if build is not None and build.hip is not None:
        raise UserError(rocm(build))
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
