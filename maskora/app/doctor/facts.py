"""The facts about a machine: system, GPUs, memory, caches, tools. Imports no torch."""

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
from maskora.devices import Gpu
from maskora.errors import Fault
from maskora.files import cache_home
from maskora.memory.machine import processor_name
from maskora.system import Ram, on_wsl, ram

# Required packages; their versions go into a bug report.
PACKAGES = (
    "torch", "diffusers", "transformers", "peft", "accelerate", "safetensors", "huggingface_hub",
    "numpy", "av", "imageio-ffmpeg", "opencv-python-headless",
)  # fmt: skip
ENCODERS = ("libx264", "ffv1", "aac", "flac")
INSTALL = "pip install -e . -c constraints.txt"
FFMPEG = (
    "pip install --force-reinstall imageio-ffmpeg, and unset IMAGEIO_FFMPEG_EXE where it names "
    "another program"
)


@dataclass(frozen=True)
class Tool:
    """Something that maskora uses.

    Attributes:
        state: "missing" is for optional tools.
        message: its version, or what is wrong.
        advice: what to do about it; empty where nothing is to be done.
    """

    name: str
    state: Literal["ok", "missing", "broken"]
    message: str
    advice: str = ""


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
    """A machine as its system describes it.

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
    gpus, driver = graphics()
    return Facts(
        maskora=__version__,
        system=system_name(),
        python=platform.python_version(),
        processor=processor_name(),
        torch_build=build_name(),
        ram=ram(),
        gpus=gpus,
        cache=folder(cache_home()),
        hub=folder(hub_cache()),
        packages={name: version_of(name) for name in PACKAGES},
        tools=(*driver, *tools()),
    )


def system_name() -> str:
    """The operating system with its version."""
    name = "macOS" if sys.platform == "darwin" else platform.system()
    version = platform.mac_ver()[0] if sys.platform == "darwin" else platform.release()
    return f"{name} {version}, {platform.machine()}" + (" (WSL)" if on_wsl() else "")


def build_name() -> str:
    """The installed torch and what it was built for."""
    build = devices.torch_build()
    if build is None:
        return "torch is not installed"
    kinds = [("CUDA", build.cuda), ("ROCm", build.hip)]
    target = next((f"{kind} {version}" for kind, version in kinds if version), "the CPU")
    return f"torch {build.version}, built for {target}"


def graphics() -> tuple[tuple[Gpu, ...], list[Tool]]:
    """The GPUs that the driver shows; and the driver, where it does not answer."""
    try:
        return devices.gpus(), []
    except Fault as error:
        message, _, advice = str(error).rpartition(": ")
        return (), [Tool("driver", "broken", message, advice)]


def folder(path: Path) -> Folder:
    """A folder's size and what is free on its disk, also of a folder that is not there yet."""
    existing = next((parent for parent in (path, *path.parents) if parent.exists()), None)
    free = 0 if existing is None else int(psutil.disk_usage(str(existing)).free)
    return Folder(str(path), _held_bytes(path), free)


def _held_bytes(path: Path) -> int:
    """Bytes of the files below a folder, links and what is just being removed left out."""
    total = 0
    for root, _, names in os.walk(path):
        for name in names:
            with suppress(FileNotFoundError):
                status = Path(root, name).lstat()
                total += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return total


def hub_cache() -> Path:
    """The folder where files of the hub are kept."""
    if version_of("huggingface_hub") is None:
        return Path.home() / ".cache" / "huggingface" / "hub"
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def version_of(package: str) -> str | None:
    """A package's version; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def tools() -> tuple[Tool, ...]:
    """Everything that maskora uses besides a GPU."""
    sam2, captioner = Config().tracker.checkpoint, Config().caption.model
    package = f", the package sam2 {version_of('sam2') or ''}".rstrip() if find_spec("sam2") else ""
    optional = (  # name, what is there, what is said where it is not, and what to do then
        (
            "browser", _browser(), "none that maskora gui could open",
            "open the address that it prints by hand, from another machine perhaps",
        ),
        (
            "gradio", version_of("gradio"), "not installed",
            'for the window: pip install -e ".[gui]" -c constraints.txt',
        ),
        (
            "bitsandbytes", version_of("bitsandbytes"), "not installed",
            'for 8-bit AdamW and nf4: pip install -e ".[quant]" -c constraints.txt',
        ),
        (
            "SAM2", f"{sam2}{package}" if _is_fetched(sam2) else None,
            f"{sam2} is not fetched yet{package}",
            'fetched when tracker.type = "sam2" first runs; "simple" needs nothing',
        ),
        (
            "captioner", captioner if _is_fetched(captioner) else None,
            f"{captioner} is not fetched yet",
            'fetched when a caption is "auto"; captions can be your own',
        ),
    )  # fmt: skip
    return (
        _packages(),
        _ffmpeg(),
        *(
            Tool(name, "missing", otherwise, advice) if there is None else Tool(name, "ok", there)
            for name, there, otherwise, advice in optional
        ),
    )


def _packages() -> Tool:
    versions = {name: version_of(name) for name in PACKAGES}
    missing = [name for name, version in versions.items() if version is None]
    if missing:
        return Tool("packages", "broken", f"{', '.join(missing)} not installed", INSTALL)
    shown = ", ".join(f"{name} {versions[name]}" for name in PACKAGES[1:4])
    return Tool("packages", "ok", shown)


def _ffmpeg() -> Tool:
    """The ffmpeg of imageio-ffmpeg: it runs, and has the encoders that clips are written with."""
    try:
        import imageio_ffmpeg

        program = imageio_ffmpeg.get_ffmpeg_exe()
        version, listing = (
            _output([program, "-hide_banner", option]) for option in ("-version", "-encoders")
        )
    except (ImportError, RuntimeError, OSError, subprocess.SubprocessError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        if isinstance(error, subprocess.CalledProcessError):
            reason = f"status {error.returncode}"
        return Tool("ffmpeg", "broken", f"it does not run ({reason})", FFMPEG)
    known = {words[1] for line in listing.splitlines() if len(words := line.split()) > 1}
    name = " ".join(version.split()[:3])
    if lacking := [encoder for encoder in ENCODERS if encoder not in known]:
        return Tool("ffmpeg", "broken", f"{name} cannot write {', '.join(lacking)}", FFMPEG)
    return Tool("ffmpeg", "ok", f"{name}, with {', '.join(ENCODERS)}")


def _output(command: list[str]) -> str:
    result = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", timeout=20, check=True
    )
    return result.stdout


def _browser() -> str | None:
    """The browser that `maskora gui` would open."""
    try:
        found = webbrowser.get()
    except webbrowser.Error:
        return None
    return found.name or type(found).__name__


def _is_fetched(repository: str) -> bool:
    """True if the weights of a hub repository are in the hub's cache."""
    if version_of("huggingface_hub") is None:
        return False
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, "config.json")
    return isinstance(found, str) and any(Path(found).parent.glob("*.safetensors"))
