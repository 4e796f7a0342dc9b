"""Runs on simulated GPUs and in little RAM: what is free decides, and what cannot be is told."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from maskora import devices
from maskora import system as ram_module
from maskora.app import open_base as opening
from maskora.app.open_base import Base, measured, open_base
from maskora.app.plan import plan_for
from maskora.app.workspace import Workspace
from maskora.config import build_config, load_config
from maskora.devices import Capability, TorchBuild
from maskora.errors import UserError
from maskora.memory import machine
from maskora.memory.machine import GpuMemory, budget, peak_bytes
from maskora.memory.plan import Plan
from maskora.memory.report import render
from maskora.models.registry import open_source
from maskora.streaming.placement import GIB
from maskora.system import Ram, ram
from tests.app.conftest import Answer
from tests.machines import OWNED, PLENTY, Card, Here, with_gpu

Run = Callable[..., Answer]
CUDA13 = TorchBuild("2.13.0+cu130", "13.0", None)
SMALL = "0, GPU-aaaa-1, 8188, 7270, 580.65.06, NVIDIA GeForce RTX 3050, 8.6"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    """At first, no driver; a build of torch for CUDA."""
    here = Here(tmp_path, monkeypatch)
    here.no_driver()
    here.torch(CUDA13)
    return here


def opened(root: Path, *sets: str) -> Base:
    config, workspace = load_config(root / "edit.toml", list(sets)), Workspace(root)
    return open_base(config, workspace, workspace.read_source(), "train")


@pytest.mark.parametrize(("free", "total"), OWNED)
def test_a_run_uses_what_is_free_of_the_chosen_gpu(
    here: Here, free: float, total: float, prepared: Callable[..., Path]
) -> None:
    here.torch(CUDA13, Card("other", 0.3, 80.0), Card("this", free, total))
    devices.choose("cuda:1")
    base = opened(prepared())
    assert str(base.model.device) == "cuda:1"
    assert base.plan.machine.name == "this"
    assert base.plan.budget is not None
    assert base.plan.budget.nbytes == pytest.approx((free - 0.5) * GIB, abs=2)
    told = f"budget {free - 0.5:.1f} GB: {free:.1f} of {total:.1f} GB are free, less 0.5 GB reserve"
    assert told in render([base.plan])


def test_a_full_gpu_is_refused_with_what_would_fit(
    here: Here, prepared: Callable[..., Path]
) -> None:
    here.torch(CUDA13, Card("full", 0.4, 8.0))
    devices.choose(None)
    with pytest.raises(UserError) as caught:
        opened(prepared())
    told = str(caught.value)
    assert re.search(
        r"needs 0\.\d GB of free VRAM at the least, and 0\.4 of 8\.0 GB are free", told
    )
    assert (
        "to end what uses the GPU: 7.6 of its 8.0 GB are taken (nvidia-smi lists by what)" in told
    )
    assert "vram_budget_gb" not in told


def test_a_refusal_tells_who_decides(big: Path) -> None:
    config = build_config({}, ["motion.window=full"])

    def refused(gpu: tuple[float, float], *sets: str) -> str:
        told = build_config({}, ["motion.window=full", *sets])
        with pytest.raises(UserError) as caught:
            plan_for(told, Workspace(big), None, open_source(big), with_gpu(*gpu), "train")
        return str(caught.value)

    small = refused((4.0, 4.2))
    assert "  a GPU with 7.8 GB free" in small
    assert "to end what uses" not in small, "that would not do"
    assert "memory.vram_budget_gb is 4. What" in refused((10, 12), "memory.vram_budget_gb=4")
    low = refused((5, 12), "memory.vram_budget_gb=4")
    assert "vram_budget_gb = 8.2, on a GPU that has it free (5.0 of 12.0 GB are free)" in low
    for fitting in (with_gpu(7.8, 8), with_gpu(8.2, 8.3, opened=False)):
        plan_for(config, Workspace(big), None, open_source(big), fitting, "train")


@pytest.mark.parametrize("command", ["train", "infer"])
def test_bfloat16_is_refused_on_a_gpu_that_has_no_kernels_for_it(
    here: Here, command: str, run: Run, prepared: Callable[..., Path]
) -> None:
    here.torch(CUDA13, Card("Quadro RTX 4000", 7.1, 8.0, (7, 5)))
    root = prepared()
    answer = run(command, "--config", root / "edit.toml", "--set", "model.dtype=bfloat16")
    assert answer.status == 2
    assert "Quadro RTX 4000 has compute capability 7.5, and bfloat16 needs 8.0" in answer.err
    assert 'model.dtype = "float16"' in answer.err
    assert "loading" not in answer.err
    devices.choose(None)
    opened(root, "model.dtype=float16")


@pytest.mark.parametrize(("capability", "status"), [("7.5", 2), ("8.0", 0), ("12.0", 0)])
def test_the_plan_says_it_too(
    here: Here, capability: str, status: int, run: Run, edit: Path
) -> None:
    here.driver(SMALL.replace("8.6", capability))
    answer = run("plan", "--config", edit)
    assert answer.status == status
    assert ("compute capability 7.5" in answer.err) == bool(status)
    assert run("plan", "--config", edit, "--set", "model.dtype=float16").status == 0


def test_the_plan_of_this_machines_gpu_counts_the_context_that_is_not_there_yet(
    here: Here, run: Run, edit: Path
) -> None:
    here.driver(SMALL)
    told = "budget 6.2 GB: 7.1 of 8.0 GB are free, less 0.5 GB reserve and 0.4 GB for the CUDA cont"
    for device in ([], ["--device", "cuda"], ["--device", "cuda:0"]):
        assert told in run("plan", "--config", edit, *device).out


def test_a_plan_for_another_machine_takes_a_gpu_as_it_is_sold(
    here: Here, run: Run, edit: Path
) -> None:
    here.no_driver()
    told = run("plan", "--config", edit, "--device", "cuda").out
    assert "no GPU is found here: planned for one that is sold as 8 GB (--vram)" in told
    assert "budget 6.5 GB: about 7.4 GB are free on a GPU sold as 8 GB with a desktop, less" in told
    told = run("plan", "--config", edit, "--vram", "24").out
    assert "budget 21.2 GB: about 22.1 GB are free on a GPU sold as 24 GB with a desktop" in told
    assert "time on a GPU sold as 24 GB:" in told
    for wrong in (["--device", "cpu"], ["--device", "cuda:0"]):
        answer = run("plan", "--config", edit, "--vram", "8", *wrong)
        assert (answer.status, "--vram 8 is for another machine's GPU" in answer.err) == (2, True)
    assert "no NVIDIA GPU is found: computing on the CPU" in run("plan", "--config", edit).out


def test_the_plan_in_the_documentation_is_what_the_command_prints(
    run: Run, edit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "ram", lambda: PLENTY)
    page = (Path(__file__).parents[2] / "docs" / "memory.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```\n(VRAM.*?)\n```", page, re.DOTALL)
    said = run("plan", "--config", edit, "--vram", "8").out
    for part in shown.split("\n\n"):
        assert part in said


def test_a_gpu_that_torch_cannot_use_stops_a_run_and_its_plan(
    here: Here, run: Run, prepared: Callable[..., Path]
) -> None:
    """Here torch is a build for the CPU in truth."""
    root = prepared()
    here.driver(SMALL)
    here.torch(TorchBuild("2.13.0", None, None))
    for command in ("train", "infer", "plan"):
        answer = run(command, "--config", root / "edit.toml")
        assert answer.status == 2
        assert "a build for the CPU: pip install torch==2.13.0+cu130 --index-url" in answer.err
    answer = run("plan", "--config", root / "edit.toml", "--device", "cuda")
    assert answer.status == 0
    assert "note: train would refuse this GPU: this machine has a GPU" in answer.out
    answer = run("train", "--config", root / "edit.toml", "--device", "cpu", "--stage", "motion")
    assert answer.status == 0, answer.err


def column(text: str, table: str, row: str) -> list[str]:
    """The cells of a row of a table."""
    lines = text[text.index(table) :].splitlines()
    return next(line for line in lines if line.strip().startswith(row)).split()[-4:]


def test_a_plan_needs_under_a_second_and_no_torch(edit: Path, tmp_path: Path) -> None:
    """In a process of its own, with an nvidia-smi that answers and a torch that must not start."""
    package = tmp_path / "elsewhere" / "torch"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('torch was imported')")
    (package / "version.py").write_text("__version__ = '2.13.0'\ncuda = '13.0'\nhip = None\n")
    (tmp_path / "smi.py").write_text(f"print({SMALL!r})")
    code = (
        "import sys, time; from maskora import devices as driver\n"
        f"driver.DRIVER_TOOL = (sys.executable, {str(tmp_path / 'smi.py')!r})\n"
        "from maskora.cli import app\n"
        f"app(['plan', '--config', {str(edit)!r}], standalone_mode=False)\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'peft', 'accelerate'}\n"
        "assert not heavy & sys.modules.keys()"
    )
    path = [str(package.parent), str(Path(__file__).parents[2])]
    started = time.perf_counter()
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "time on NVIDIA GeForce RTX 3050:" in result.stdout
    totals = column(result.stdout, "VRAM", "total")
    assert len(totals) == 4
    assert all(1 < float(total) <= 7 for total in totals)
    assert time.perf_counter() - started < 3, "a second, and two for a machine that is busy"


def planned(big: Path, memory: Ram) -> Plan:
    machine = with_gpu(14.8, 15.6, ram=memory)
    return plan_for(build_config({}), Workspace(big), None, open_source(big), machine, "train")


def test_a_longer_ring_is_not_paid_with_ram_that_is_not_there(big: Path) -> None:
    roomy = planned(big, Ram(128 * GIB, 100 * GIB))
    exact = planned(big, Ram(128 * GIB, roomy.ram_bytes))
    scarce = planned(big, Ram(128 * GIB, roomy.ram_bytes - 1))
    nothing = planned(big, Ram(GIB, GIB))
    assert (roomy.placement.ring, scarce.placement.ring) == (4, 2)
    assert (exact.placement, nothing.placement) == (roomy.placement, roomy.placement)
    assert scarce.ram_bytes < roomy.ram_bytes
    assert scarce.placement.blocks_to_swap == roomy.placement.blocks_to_swap - 2


def grouped(folder: Path, files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Ram:
    """The RAM of a machine of 64 GB, 40 of them available, under a control group's files."""
    memory = SimpleNamespace(total=64 * GIB, available=40 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(ram_module, "GROUPS", folder)
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return ram()


@pytest.mark.parametrize(
    ("files", "installed", "available"),
    [
        ({}, 64, 40),
        ({"memory.max": "max\n", "memory.current": f"{50 * GIB}\n"}, 64, 40),
        ({"memory.max": f"{16 * GIB}\n", "memory.current": f"{6 * GIB}\n"}, 16, 10),
        (
            {
                "memory.max": f"{16 * GIB}\n", "memory.current": f"{15 * GIB}\n",
                "memory.stat": f"anon {GIB}\ninactive_file {6 * GIB}\nactive_file {2 * GIB}\n",
            },
            16, 9,
        ),
        ({"memory.max": f"{60 * GIB}\n", "memory.current": f"{GIB}\n"}, 60, 40),
        ({"memory.max": f"{4 * GIB}\n", "memory.current": f"{5 * GIB}\n"}, 4, 0),
        (
            {
                "memory/memory.limit_in_bytes": f"{8 * GIB}\n",
                "memory/memory.usage_in_bytes": f"{6 * GIB}\n",
                "memory/memory.stat": f"inactive_file 5\ntotal_inactive_file {GIB}\n",
            },
            8, 3,
        ),
        (
            {
                "memory/memory.limit_in_bytes": "9223372036854771712\n",
                "memory/memory.usage_in_bytes": f"{6 * GIB}\n",
            },
            64, 40,
        ),
    ],
)  # fmt: skip
def test_ram_is_what_is_available_within_a_container(
    files: dict[str, str],
    installed: int,
    available: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert grouped(tmp_path, files, monkeypatch) == Ram(installed * GIB, available * GIB)


def test_wsl_is_told_to_have_half_of_the_computers_ram(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Ram(16 * GIB, 12 * GIB).description
    assert told == "12.0 of 16.0 GB of RAM are available"
    monkeypatch.setattr("platform.release", lambda: "5.15.153.1-microsoft-standard-WSL2")
    assert Ram(16 * GIB, 12 * GIB).description.startswith(f"{told} (WSL has half of the computer's")


def test_the_peak_is_in_bytes_on_every_system(monkeypatch: pytest.MonkeyPatch) -> None:
    now = psutil.Process().memory_info().rss
    assert 0.5 * now < peak_bytes() < 100 * now
    unix = SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda who: SimpleNamespace(ru_maxrss=3 * GIB))
    monkeypatch.setitem(sys.modules, "resource", unix)
    for system, expected in (("linux", 3 * GIB * 1024), ("darwin", 3 * GIB)):
        monkeypatch.setattr(sys, "platform", system)
        assert peak_bytes() == expected
    monkeypatch.setitem(sys.modules, "resource", None)  # as where there is none
    windows = SimpleNamespace(memory_info=lambda: SimpleNamespace(rss=GIB, peak_wset=5 * GIB))
    monkeypatch.setattr(psutil, "Process", lambda: windows)
    assert peak_bytes() == 5 * GIB


def test_what_a_process_has_already_counts_as_available_to_it(here: Here) -> None:
    capability: Capability = (12, 0)
    here.torch(CUDA13, Card("new", 30.0, 32.0, capability))
    found = measured(devices.choose(None))
    assert found.capability == capability
    assert found.gpu is not None
    assert found.gpu.opened
    own = psutil.Process().memory_full_info().uss
    assert found.ram.available - ram().available == pytest.approx(own, abs=2**30)
    assert own > 2**26


@pytest.mark.parametrize(
    ("cap", "spills", "expected"),
    [(None, False, None), (None, True, 7.1 / 8), (6.0, False, 5.6 / 8), (7.8, True, 7.1 / 8)],
)
def test_torch_runs_out_of_memory_before_the_driver_gives_ram(
    cap: float | None, spills: bool, expected: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[tuple[float, int]] = []
    monkeypatch.setattr(
        torch.cuda,
        "set_per_process_memory_fraction",
        lambda share, index: held.append((share, index)),
    )
    monkeypatch.setattr(devices, "spills_to_ram", lambda: spills)
    memory = GpuMemory(round(7.1 * GIB), 8 * GIB, opened=True)
    opening.hold_to(budget(cap, memory), devices.Device("cuda", 1))
    if expected is None:
        assert held == []
    else:
        assert held == [(pytest.approx(expected, abs=1e-6), 1)]


@pytest.mark.parametrize(
    ("system", "release", "spills"),
    [
        ("win32", "11", True),
        ("linux", "6.6-microsoft-standard-WSL2", True),
        ("linux", "6.1", False),
    ],
)
def test_windows_and_wsl_give_ram_for_a_full_gpu(
    system: str, release: str, spills: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr("platform.release", lambda: release)
    assert devices.spills_to_ram() == spills


@pytest.mark.parametrize(("capability", "can"), [((7, 5), False), ((8, 0), True)])
def test_small_models_take_bfloat16_where_there_are_kernels(
    capability: Capability, can: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert devices.computes_bfloat16("cuda:0") == can
    assert not devices.computes_bfloat16("cpu")
