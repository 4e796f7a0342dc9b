"""What `maskora doctor` finds out about a machine without computing anything. Imports no torch."""

import importlib.metadata
import os
import platform
import stat
import subprocess
import sys
import webbrowser
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import psutil

from maskora import __version__, devices
from maskora.config import Config
from maskora.devices import BFLOAT16, Capability
from maskora.errors import Fault
from maskora.files import cache_home
from maskora.memory.machine import processor_name
from maskora.system import Ram, on_wsl, ram

# Without these nothing runs; their versions go into a bug report.
PACKAGES = (
    "torch", "diffusers", "transformers", "peft", "accelerate", "safetensors", "huggingface_hub",
    "numpy", "av", "imageio-ffmpeg", "opencv-python-headless",
)  # fmt: skip
ENCODERS = ("libx264", "ffv1", "aac", "flac")
FLOAT8 = (8, 9)  # the compute capability from which on a GPU computes in it
INSTALL = "pip install -e . -c constraints.txt"
State = Literal["ok", "missing", "broken"]


@dataclass(frozen=True)
class Tool:
    """Something that maskora uses.

    Attributes:
        state: "missing" is said of what one can do without.
        told: its version, or what is wrong.
        advice: what to do about it; empty where nothing is to be done.
    """

    name: str
    state: State
    told: str
    advice: str = ""


@dataclass(frozen=True)
class Gpu:
    """A GPU; bytes, and None for what the driver does not tell.

    Attributes:
        capability: its compute capability, as "8.6".
        bfloat16: whether attention computes in it.
        float8: whether the GPU computes in it; weights can be stored in it on every GPU.
        obstacle: why torch cannot use it; empty where it can.
    """

    name: str
    total: int | None
    free: int | None
    capability: str | None
    bfloat16: bool | None
    float8: bool | None
    driver: str
    obstacle: str


@dataclass(frozen=True)
class Folder:
    """A folder of files that can be fetched or made again, in bytes.

    Attributes:
        path: where it is; not for a bug report.
        held: of its files.
        free: of its disk.
    """

    path: str
    held: int
    free: int


@dataclass(frozen=True)
class Facts:
    """A machine, as far as it tells about itself.

    Attributes:
        packages: version by name; None for what is not installed.
    """

    maskora: str
    system: str
    python: str
    processor: str
    torch_build: str
    ram: Ram
    gpus: tuple[Gpu, ...]
    cache: Folder
    hub: Folder
    packages: dict[str, str | None]
    tools: tuple[Tool, ...]


def gather() -> Facts:
    """The facts of this machine."""
    shown, driver = graphics()
    return Facts(
        maskora=__version__,
        system=system_name(),
        python=platform.python_version(),
        processor=processor_name(),
        torch_build=build_name(),
        ram=ram(),
        gpus=shown,
        cache=folder(cache_home()),
        hub=folder(hub_cache()),
        packages={name: version_of(name) for name in PACKAGES},
        tools=(
            *driver, packages_tool(), ffmpeg(), browser(), gradio(), bitsandbytes(), sam2(),
            captioner(),
        ),
    )  # fmt: skip


def system_name() -> str:
    """The operating system with its version."""
    name = "macOS" if sys.platform == "darwin" else platform.system()
    version = platform.mac_ver()[0] if sys.platform == "darwin" else platform.release()
    return f"{name} {version}, {platform.machine()}" + (" (WSL)" if on_wsl() else "")


def build_name() -> str:
    """What the installed torch was built for."""
    build = devices.torch_build()
    if build is None:
        return "torch is not installed"
    kinds = [("CUDA", build.cuda), ("ROCm", build.hip)]
    told = next((f"{kind} {version}" for kind, version in kinds if version), "the CPU")
    return f"torch {build.version}, built for {told}"


def graphics() -> tuple[tuple[Gpu, ...], list[Tool]]:
    """The GPUs that the driver shows; and the driver, where it does not answer."""
    try:
        return tuple(map(described, devices.gpus())), []
    except Fault as error:
        told, _, advice = str(error).rpartition(": ")
        return (), [Tool("driver", "broken", told, advice)]


def described(gpu: devices.Gpu) -> Gpu:
    """A GPU as the driver tells it, with what follows."""
    return Gpu(
        name=gpu.name,
        total=gpu.total,
        free=gpu.free,
        capability=devices.dotted(gpu.capability) if gpu.capability else None,
        bfloat16=_at_least(gpu.capability, BFLOAT16),
        float8=_at_least(gpu.capability, FLOAT8),
        driver=gpu.driver,
        obstacle=devices.obstacle(gpu, devices.torch_build()) or "",
    )


def _at_least(capability: Capability | None, least: Capability) -> bool | None:
    return None if capability is None else capability >= least


def folder(path: Path) -> Folder:
    """How much a folder holds, and what is free on its disk, whether it is there yet or not."""
    existing = next((parent for parent in (path, *path.parents) if parent.exists()), None)
    return Folder(str(path), held_bytes(path), 0 if existing is None else disk_free(existing))


def held_bytes(path: Path) -> int:
    """Bytes of the files below a folder; links do not count, nor what is just being removed."""
    total = 0
    for root, _, names in os.walk(path):
        for name in names:
            with suppress(FileNotFoundError):
                told = Path(root, name).lstat()
                total += told.st_size if stat.S_ISREG(told.st_mode) else 0
    return total


def disk_free(path: Path) -> int:
    """Bytes that are free on a folder's disk."""
    return int(psutil.disk_usage(str(path)).free)


def hub_cache() -> Path:
    """Where files of the hub are kept."""
    if version_of("huggingface_hub") is None:
        return Path.home() / ".cache" / "huggingface" / "hub"
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def in_hub_cache(repository: str) -> bool:
    """Whether weights of a hub repository were fetched."""
    if version_of("huggingface_hub") is None:
        return False
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, "config.json")
    return isinstance(found, str) and any(Path(found).parent.glob("*.safetensors"))


def version_of(package: str) -> str | None:
    """A package's version; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def packages_tool() -> Tool:
    """What nothing runs without."""
    missing = [name for name in PACKAGES if version_of(name) is None]
    if missing:
        return Tool("packages", "broken", f"{', '.join(missing)} not installed", INSTALL)
    told = ", ".join(f"{name} {version_of(name)}" for name in PACKAGES[1:4])
    return Tool("packages", "ok", told)


def ffmpeg() -> Tool:
    """The ffmpeg that imageio-ffmpeg brings: it runs, and has what clips are written with."""
    advice = (
        "pip install --force-reinstall imageio-ffmpeg, and unset IMAGEIO_FFMPEG_EXE where it names "
        "another program"
    )
    try:
        import imageio_ffmpeg

        program = imageio_ffmpeg.get_ffmpeg_exe()
        version, listing = (
            _said([program, "-hide_banner", *a]) for a in (["-version"], ["-encoders"])
        )
    except (ImportError, RuntimeError, OSError, subprocess.SubprocessError) as error:
        return Tool("ffmpeg", "broken", f"it does not run ({_reason(error)})", advice)
    known = {words[1] for line in listing.splitlines() if len(words := line.split()) > 1}
    told = " ".join(version.split()[:3])
    if lacking := [name for name in ENCODERS if name not in known]:
        return Tool("ffmpeg", "broken", f"{told} cannot write {', '.join(lacking)}", advice)
    return Tool("ffmpeg", "ok", f"{told}, with {', '.join(ENCODERS)}")


def _said(command: list[str]) -> str:
    result = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", timeout=20, check=True
    )
    return result.stdout


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        return f"status {error.returncode}"
    return str(error).strip().partition("\n")[0] or type(error).__name__


def browser() -> Tool:
    """What `maskora gui` would open."""
    try:
        found = webbrowser.get()
    except webbrowser.Error:
        return Tool(
            "browser", "missing", "none that maskora gui could open",
            "open the address that it prints by hand, from another machine perhaps",
        )  # fmt: skip
    return Tool("browser", "ok", found.name or type(found).__name__)


def gradio() -> Tool:
    """The window's package."""
    version, advice = (
        version_of("gradio"),
        'for the window: pip install -e ".[gui]" -c constraints.txt',
    )
    if version is None:
        return Tool("gradio", "missing", "not installed", advice)
    return Tool("gradio", "ok", version)


def bitsandbytes() -> Tool:
    """8-bit AdamW, and weights in nf4."""
    version = version_of("bitsandbytes")
    if version is None:
        return Tool(
            "bitsandbytes", "missing", "not installed",
            'for 8-bit AdamW and nf4: pip install -e ".[quant]" -c constraints.txt',
        )  # fmt: skip
    return Tool("bitsandbytes", "ok", version)


def sam2() -> Tool:
    """SAM2 by transformers, and by its own package."""
    checkpoint = Config().tracker.checkpoint
    own = f", the package sam2 {version_of('sam2') or ''}".rstrip() if find_spec("sam2") else ""
    if in_hub_cache(checkpoint):
        return Tool("SAM2", "ok", f"{checkpoint}{own}")
    return Tool(
        "SAM2", "missing", f"{checkpoint} is not fetched yet{own}",
        'fetched when tracker.type = "sam2" first runs; "simple" needs nothing',
    )  # fmt: skip


def captioner() -> Tool:
    """Florence-2."""
    model = Config().caption.model
    if in_hub_cache(model):
        return Tool("captioner", "ok", model)
    return Tool(
        "captioner", "missing", f"{model} is not fetched yet",
        'fetched when a caption is "auto"; captions can be your own',
    )  # fmt: skip
