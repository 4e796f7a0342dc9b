"""Which device computes, with simulated drivers and builds of torch: never a silent CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from maskora import devices
from maskora.devices import Gpu, TorchBuild, choose, foresee, gpus
from maskora.errors import Fault, UserError
from tests.machines import Card, Here

SMALL = "0, GPU-aaaa-1, 8188, 7270, 580.65.06, NVIDIA GeForce RTX 3050, 8.6"
LARGE = "1, GPU-bbbb-2, 24564, 23654, 580.65.06, NVIDIA GeForce RTX 4090, 8.9"
CUDA13, CUDA12 = TorchBuild("2.13.0+cu130", "13.0", None), TorchBuild("2.13.0", "12.6", None)
WINDOWS_CPU = TorchBuild("2.13.0", None, None)  # the wheel of the package index says no "+cpu"
CPU = TorchBuild("2.13.0+cpu", None, None)
ROCM = TorchBuild("2.13.0+rocm7.1", None, "7.1.25424")
MIB = 2**20


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    return Here(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("mps", "Apple's GPUs cannot be used"),
        ("tpu", "--device tpu: write cpu, cuda or cuda:N"),
        ("cuda:", "write cpu, cuda or cuda:N"),
        ("cuda:-1", "write cpu, cuda or cuda:N"),
        ("cpu:0", "write cpu, cuda or cuda:N"),
    ],
)
def test_what_is_no_device_is_refused_by_name(asked: str, told: str) -> None:
    for answer in (foresee, choose):
        with pytest.raises(UserError, match=told):
            answer(asked)


def test_gpus_are_read_as_the_driver_tells_them(here: Here) -> None:
    here.driver(SMALL, LARGE)
    assert gpus() == (
        Gpu(0, "NVIDIA GeForce RTX 3050", 8188 * MIB, 7270 * MIB, (8, 6), "580.65.06"),
        Gpu(1, "NVIDIA GeForce RTX 4090", 24564 * MIB, 23654 * MIB, (8, 9), "580.65.06"),
    )


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        ("1,0", ["4090", "3050"]),
        ("1", ["4090"]),
        ("GPU-bbbb", ["4090"]),
        ("0,7,1", ["3050"]),  # as CUDA reads it: up to the first that is none
        ("", []),
        ("-1", []),
        ("GPU-", []),
    ],
)
def test_only_visible_gpus_count_in_torchs_order(
    here: Here, monkeypatch: pytest.MonkeyPatch, visible: str, names: list[str]
) -> None:
    here.driver(SMALL, LARGE)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [gpu.name[-4:] for gpu in gpus()] == names
    assert [gpu.index for gpu in gpus()] == list(range(len(names)))


def test_an_older_driver_tells_no_capability_and_mig_no_memory(here: Here) -> None:
    here.driver("0, GPU-1, 8188, 7270, 470.82.01, Quadro P1000")
    assert gpus()[0].capability is None
    here.driver("0, GPU-1, [N/A], [N/A], 580.65.06, NVIDIA H100, 9.0")
    assert (gpus()[0].total, gpus()[0].free) == (None, None)


def test_a_driver_that_does_not_answer_is_no_absent_gpu(here: Here) -> None:
    here.driver(says="NVIDIA-SMI has failed: version mismatch")
    for answer in (foresee, choose):
        with pytest.raises(Fault, match=r"does not answer .*version mismatch.*--device cpu"):
            answer(None)
        assert answer("cpu").name == "cpu"
    here.driver(says="No devices were found")
    assert gpus() == ()
    here.no_driver()
    assert gpus() == ()


@pytest.mark.parametrize(
    ("says", "told"),
    [
        (f"{SMALL}\nUnable to determine the device handle for GPU1: GPU is lost", "Unable .* lost"),
        ("", "nvidia-smi says nothing"),
    ],
)
def test_what_the_driver_complains_of_is_told(
    says: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_ask", lambda fields: says)
    devices.forget()
    with pytest.raises(Fault, match=rf"does not answer \({told}\): restart"):
        gpus()


@pytest.mark.parametrize(
    ("row", "build", "told"),
    [
        (
            SMALL,
            WINDOWS_CPU,
            r"pip install torch==2\.13\.0\+cu130 --index-url https://\S+/whl/cu130;",
        ),
        (SMALL, CPU, r"install torch==2\.13\.0\+cu130 --index-url"),
        (SMALL.replace("8.6", "6.1"), WINDOWS_CPU, r"torch==2\.13\.0\+cu126 .*/whl/cu126;"),
        (SMALL.replace("8.6", "6.1"), None, r"torch --index-url .*/whl/cu126;"),
        (SMALL, None, "torch is not installed: pip install torch --index-url"),
        (SMALL.replace("580.65.06", "551.23"), CUDA13, "driver 551.23 is too old .* 580 or newer"),
        (SMALL.replace("580.65.06", "516.94"), CUDA12, "driver 516.94 is too old .* 525 or newer"),
        (SMALL.replace("8.6", "6.1"), CUDA13, "no code for .*compute capability 6.1.*CUDA 12"),
        (SMALL, ROCM, "AMD's ROCm"),
    ],
)
def test_a_gpu_that_torch_cannot_use_is_an_error_with_the_way_out(
    here: Here, row: str, build: TorchBuild | None, told: str
) -> None:
    """Here torch has no CUDA in truth, so `choose` sees what these machines would show it."""
    here.driver(row)
    here.torch(build)
    for asked in (None, "cuda", "cuda:0"):
        for answer in (foresee, choose):
            with pytest.raises(UserError, match=told) as caught:
                answer(asked)
            assert "--device cpu" in str(caught.value)
    assert choose("cpu").name == "cpu"


def test_a_gpu_that_torch_cannot_open_for_a_reason_of_its_own(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.driver(SMALL)
    here.torch(CUDA13)
    assert foresee(None).name == "cuda:0"

    def unavailable() -> bool:
        import warnings

        warnings.warn("CUDA initialization: CUDA unknown error\n(at Functions.cpp)", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", unavailable)
    with pytest.raises(UserError, match=r"cannot use NVIDIA GeForce RTX 3050: .*unknown error; --"):
        choose(None)


def test_without_a_gpu_the_cpu_is_taken_and_said(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.no_driver()
    for answer in (foresee, choose):
        assert answer(None).name == "cpu"
        assert answer(None).note == "no NVIDIA GPU is found: computing on the CPU"
        assert answer("cpu").note == ""
        with pytest.raises(UserError, match="--device cuda:1: this machine has no GPU"):
            answer("cuda:1")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert foresee(None).note == "Apple's GPU (MPS) cannot be used: computing on the CPU"


def test_a_rocm_build_is_refused_by_name_where_it_shows_a_gpu(here: Here) -> None:
    here.torch(ROCM, Card("AMD Radeon", 15.0, 16.0))
    with pytest.raises(UserError, match="ROCm, on which maskora has never run: use --device cpu"):
        choose(None)


def test_the_gpu_with_most_free_memory_is_taken_or_the_one_that_is_named(here: Here) -> None:
    here.driver(SMALL, LARGE)
    opened = here.torch(CUDA13, Card("a 3050", 7.1, 8.0), Card("a 4090", 23.1, 24.0))
    for asked, index in ((None, 1), ("cuda", 1), ("cuda:0", 0), ("cuda:1", 1)):
        assert foresee(asked).index == index
        assert choose(asked).name == f"cuda:{index}"
        assert opened[-1] == index
        assert devices.chosen().index == index
    for answer in (foresee, choose):
        with pytest.raises(UserError, match=r"cuda:2: this machine has cuda:0 \(NVIDIA GeF"):
            answer("cuda:2")


def test_a_gpu_that_torch_cannot_use_is_passed_over_for_one_that_it_can(here: Here) -> None:
    old = "1, GPU-cccc-3, 24576, 24000, 580.65.06, Tesla P40, 6.1"
    here.driver(SMALL, old)
    here.torch(CUDA13, Card("a 3050", 7.1, 8.0), Card("a P40", 23.4, 24.0, (6, 1)))
    for asked in (None, "cuda"):
        assert foresee(asked).index == choose(asked).index == 0
    for answer in (foresee, choose):
        with pytest.raises(UserError, match=r"no code for .*P40"):
            answer("cuda:1")
    here.torch(CUDA12)
    assert foresee(None).index == 1


@pytest.mark.parametrize(
    ("capability", "code", "older"),
    [
        ((12, 0), ["sm_75", "sm_90"], "a newer"),
        ((12, 0), ["sm_75", "sm_90", "compute_90"], None),
        ((12, 0), ["sm_75", "sm_120"], None),
        ((8, 9), ["sm_75", "sm_86"], None),
        ((8, 0), ["sm_75", "sm_86"], "a newer"),
        ((6, 1), ["sm_75", "compute_75"], "an older"),
    ],
)
def test_code_for_another_generation_does_not_serve_a_gpu(
    here: Here,
    capability: devices.Capability,
    code: list[str],
    older: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here.no_driver()
    here.torch(CUDA13, Card("a GPU", 7.1, 8.0, capability))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: code)
    if older is None:
        assert choose(None).name == "cuda:0"
        return
    name = f"a GPU \\(compute capability {capability[0]}\\.{capability[1]}\\)"
    with pytest.raises(UserError, match=f"no code for {name}: install a build for {older} CUDA"):
        choose(None)


@pytest.mark.parametrize("says", ["", "Failed to initialize NVML"])
def test_torch_is_believed_where_nvidia_smi_is_absent_or_fails(here: Here, says: str) -> None:
    here.no_driver()
    if says:
        here.driver(says=says)
    here.torch(CUDA13, Card("one", 7.1, 8.0), Card("other", 23.1, 24.0))
    assert choose(None).name == "cuda:0"
    assert choose("cuda:1").name == "cuda:1"
    with pytest.raises(UserError, match="--device cuda:2: torch sees 2 GPUs"):
        choose("cuda:2")


def test_a_gpu_that_cannot_be_opened_is_told(here: Here) -> None:
    here.no_driver()
    here.torch(CUDA13, Card("full", 0.0, 8.0, fails="CUDA error: out of memory\nCompile with"))
    with pytest.raises(Fault, match=r"full cannot be opened \(CUDA error: out of memory\): end"):
        choose(None)


def test_small_models_compute_on_the_chosen_device_and_never_fail_for_it(
    here: Here, caplog: pytest.LogCaptureFixture
) -> None:
    here.driver(SMALL, LARGE)
    here.torch(WINDOWS_CPU)
    assert devices.for_small_models() == "cpu"
    assert "computing on the CPU: this machine has a GPU (NVIDIA GeForce RTX 4090)" in caplog.text
    assert "--device" not in caplog.text
    here.torch(CUDA13, Card("a 3050", 7.1, 8.0), Card("a 4090", 23.1, 24.0))
    choose("cuda:0")
    assert devices.for_small_models() == "cuda:0"


def test_the_build_is_read_without_importing_torch(tmp_path: Path) -> None:
    assert devices.torch_build() == TorchBuild(
        str(torch.__version__), torch.version.cuda, torch.version.hip
    )
    package = tmp_path / "torch"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('torch was imported')")
    (package / "version.py").write_text(
        "from typing import Optional\n__version__ = '2.13.0'\ndebug = False\n"
        "cuda: Optional[str] = None\nhip: Optional[str] = None\n"
    )
    code = "from maskora.devices import torch_build; print(torch_build())"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[1]}"},
    )  # fmt: skip
    assert result.stdout.strip() == str(WINDOWS_CPU)


@pytest.mark.parametrize(
    ("system", "release", "already", "expected"),
    [
        ("linux", "6.1.0-23-amd64", {}, {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}),
        ("linux", "5.15.153.1-microsoft-standard-WSL2", {}, {}),
        ("win32", "11", {}, {}),
        ("linux", "6.1.0", {"PYTORCH_ALLOC_CONF": "backend:native"}, {}),
        ("linux", "6.1.0", {"PYTORCH_CUDA_ALLOC_CONF": "backend:native"}, {}),
    ],
)
def test_the_allocator_is_set_up_where_the_system_can_and_the_person_has_not(
    monkeypatch: pytest.MonkeyPatch,
    system: str,
    release: str,
    already: dict[str, str],
    expected: dict[str, str],
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr("platform.release", lambda: release)
    environment = dict(already)
    monkeypatch.setattr(os, "environ", environment)
    devices.set_up_environment()
    assert environment == {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", **already, **expected}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is set")
@pytest.mark.parametrize("command", ["train", "infer", "preview"])
def test_the_allocator_is_set_up_before_torch_is_imported(tmp_path: Path, command: str) -> None:
    (tmp_path / "edit.toml").write_text("")
    code = f"""
import os, sys
seen = []

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            seen.append(os.environ.get("PYTORCH_ALLOC_CONF"))

sys.meta_path.insert(0, Watch())
from maskora.cli import app
try:
    app([{command!r}, "--config", {str(tmp_path / "edit.toml")!r}, "--device", "cuda:99"])
except SystemExit:
    print(seen[0])
"""
    environment = {k: v for k, v in os.environ.items() if k not in devices.ALLOCATOR}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert result.stdout.strip() == "expandable_segments:True", result.stderr


@pytest.mark.skipif(os.name == "nt", reason="a program of WSL")
def test_wsl_has_the_drivers_program_outside_of_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho '0, GPU-1, 8192, 7270, 580.1, GeForce, 8.6'\n", "utf-8")
    tool.chmod(0o755)
    monkeypatch.setattr(devices, "DRIVER_TOOL", ("no-such-nvidia-smi",))
    devices.forget()
    assert devices.gpus() == ()
    monkeypatch.setattr(devices, "WSL_TOOL", tool)
    devices.forget()
    assert [(gpu.name, gpu.capability) for gpu in devices.gpus()] == [("GeForce", (8, 6))]
