"""maskora doctor: the command as a person runs it, its page, its report, and what it promises."""

import errno
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from maskora.app import timings
from maskora.app.doctor import checks as doctor_checks
from maskora.app.doctor import checks as doctor_measures
from maskora.app.doctor import facts as doctor_facts
from maskora.app.doctor.facts import Facts, Folder, Gpu, Tool
from maskora.app.doctor.outcomes import Check, Found, Outcome
from maskora.app.doctor.page import (
    Speeds,
    Verdict,
    report,
    scrubbed,
    told_facts,
    told_gpu,
    told_outcome,
    verdicts,
)
from maskora.app.plan import plan_for
from maskora.app.workspace import Workspace
from maskora.config import build_config
from maskora.memory.machine import Ram
from maskora.memory.profile import published
from maskora.streaming.placement import GIB
from tests.app.conftest import Answer
from tests.machines import PLENTY, WITHOUT_GPU, install_driver, with_gpu

Run = Callable[..., Answer]
ROOT = Path(__file__).parents[2]
DEVICES = ("libraries", "device")
CARD = "0, GPU-1, 12288, 11000, 580.65, NVIDIA GeForce RTX 3060, 8.6"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "maskora"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the checks, those that take no time."""
    checks = {check.name: check for check in doctor_checks.CHECKS}
    fine = Check("fine", lambda bench: Found("it is"), "no advice")
    monkeypatch.setattr(doctor_checks, "CHECKS", (fine, checks["a clip written and read"]))
    monkeypatch.setattr(
        doctor_measures, "MEASURES", [m for m in doctor_measures.MEASURES if "disk" in m.name]
    )


def test_it_ends_well_here_within_a_minute_and_tells_nothing_of_the_person(tmp_path: Path) -> None:
    home, here = tmp_path / "Annabel Telltale", tmp_path / "Annabel Telltale" / "my secret edit"
    here.mkdir(parents=True)
    own = {"HOME": str(home), "LOGNAME": "annabel", "USER": "annabel"}
    path = os.environ.get("PYTHONPATH", "")
    environment = {k: v for k, v in os.environ.items() if k not in ("XDG_CACHE_HOME", "HF_HOME")}
    before = os.times()
    result = subprocess.run(
        [sys.executable, "-m", "maskora", "doctor", "--json"], cwd=here, check=False,
        env={**environment, **own, "PYTHONPATH": f"{ROOT}{os.pathsep}{path}"},
        capture_output=True, text=True, encoding="utf-8",
    )  # fmt: skip
    after = os.times()
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    states = {check["name"]: check["state"] for check in told["checks"]}
    skipped = {"memory that can be pinned", "from RAM to the GPU", "8-bit optimizer"}
    assert {name for name, state in states.items() if state == "skipped"} <= skipped
    assert set(states.values()) == {"ok", "skipped"}
    checks = (*doctor_measures.MEASURES, *doctor_checks.CHECKS, doctor_measures.PINNING)
    assert list(states) == [*DEVICES, *(check.name for check in checks)]
    # Time of the processor, since what others do here meanwhile does not count.
    assert sum(after[2:4]) - sum(before[2:4]) < 60
    assert {base["base"] for base in told["bases"]} == set(published())
    for word in ("annabel", "telltale", "secret", str(tmp_path)):
        assert word not in (result.stdout + result.stderr).lower()
    left = [p.name for p in home.rglob("*") if p.is_file() and "maskora" in p.parts]
    assert left == []


@pytest.mark.usefixtures("quick")
def test_the_page_has_every_section(run: Run, cache: Path) -> None:
    answer = run("doctor")
    assert answer.status == 0, answer.err
    headings = ["This machine", "Measured and tried", "What it can do", "All is well."]
    assert [line for line in answer.out.splitlines() if line and line[0] != " "] == headings
    assert f"cache         {cache}: 0.0 GB" in answer.out
    assert "  fine ... ok (0.0 s): it is\n" in answer.out
    assert "  disk of the cache ... ok" in answer.out
    assert list(cache.iterdir()) == []


@pytest.mark.usefixtures("quick")
def test_a_fault_in_one_check_is_told_and_the_others_run(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(bench: object) -> Found:
        raise ZeroDivisionError("by nothing")

    faulty = Check("faulty", fail, "do this")
    monkeypatch.setattr(doctor_checks, "CHECKS", (faulty, *doctor_checks.CHECKS))
    answer = run("doctor")
    assert answer.status == 1
    assert "  faulty ... BROKEN (0.0 s): ZeroDivisionError: by nothing\n" in answer.out
    assert "    what to do: do this\n" in answer.out
    assert "  fine ... ok" in answer.out
    assert answer.out.endswith("To mend first\n  faulty\n")
    assert answer.err == "maskora: something is broken: faulty\n"


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("says", ["exit 3", "echo ' V....D mpeg4  MPEG-4'"])
def test_a_broken_ffmpeg_is_told_and_the_others_run(
    says: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "ffmpeg"
    program.write_text(f"#!/bin/sh\n{says}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
    answer = run("doctor")
    assert answer.status == 1
    wrong = "it does not run (status 3)" if says == "exit 3" else "cannot write libx264, ffv1, aac"
    assert wrong in answer.out
    assert "unset IMAGEIO_FFMPEG_EXE" in answer.out
    assert "  a clip written and read ... BROKEN" in answer.out
    assert "  fine ... ok" in answer.out
    assert "ffmpeg, a clip written and read" in answer.err


@pytest.mark.usefixtures("quick")
def test_a_full_cache_disk_is_told_and_the_others_run(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    answer = run("doctor")
    assert answer.status == 1
    assert "disk of the cache ... BROKEN" in answer.out
    assert "No space left on device" in answer.out
    assert "name a folder on another disk with XDG_CACHE_HOME" in answer.out
    assert "  fine ... ok" in answer.out


@pytest.mark.usefixtures("quick")
def test_a_cache_that_cannot_be_made_is_told_and_the_others_run(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    answer = run("doctor")
    assert answer.status == 1
    assert "disk of the cache ... BROKEN" in answer.out
    assert "  a clip written and read ... ok" in answer.out
    assert "What it can do" in answer.out
    assert answer.err == "maskora: something is broken: disk of the cache\n"


def test_libraries_that_cannot_be_imported_are_told(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "maskora.app.doctor.checks", None)
    answer = run("doctor")
    assert answer.status == 1
    assert "This machine" in answer.out
    assert "  libraries ... BROKEN" in answer.out
    assert "pip install -e . -c constraints.txt" in answer.out


@pytest.mark.usefixtures("quick")
def test_a_gpu_that_torch_cannot_use_is_broken_and_the_checks_use_the_cpu(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert torch.version.cuda is None, "the installed torch is a build for the CPU"
    install_driver(tmp_path, monkeypatch, CARD)
    answer = run("doctor")
    assert answer.status == 1
    assert "NVIDIA GeForce RTX 3060: 10.7 of 12.0 GB are free, driver 580.65" in answer.out
    assert "  device ... BROKEN" in answer.out
    assert "https://download.pytorch.org/whl/" in answer.out
    assert "update the GPU's driver" not in answer.out
    assert "  a clip written and read ... ok" in answer.out
    assert "What it can do" not in answer.out


@pytest.mark.usefixtures("quick")
def test_a_driver_that_does_not_answer_is_broken_and_the_page_is_there(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_driver(tmp_path, monkeypatch, says="NVIDIA-SMI has failed: no communication")
    answer = run("doctor")
    assert answer.status == 1
    assert "  driver        BROKEN: NVIDIA's driver does not answer (NVIDIA-SMI has" in answer.out
    assert "what to do: restart the machine, or install the driver again" in answer.out
    assert "  device ... BROKEN" in answer.out
    assert "  a clip written and read ... ok" in answer.out
    assert answer.err == "maskora: something is broken: driver, device\n"


GPU = Gpu("A GPU", 12 * GIB, 11 * GIB, "8.6", True, False, "580.65", "")
FACTS = Facts(
    maskora="0.1.0", system="Linux 6.1, x86_64", python="3.11.9", processor="A processor, 8 cores",
    torch_build="torch 2.13.0+cu130, built for CUDA 13.0", ram=Ram(32 * GIB, 20 * GIB),
    gpus=(GPU,), cache=Folder("/home/annabel/.cache/maskora", GIB, 90 * GIB),
    hub=Folder("/home/annabel/.cache/huggingface/hub", 30 * GIB, 90 * GIB),
    packages={"torch": "2.13.0"}, tools=(Tool("ffmpeg", "ok", "ffmpeg 9"),),
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "A GPU: 11.0 of 12.0 GB are free, driver 580.65, compute capability 8.6: bfloat16, "
         "float8 only to store weights in"),
        ({"capability": "8.9", "float8": True}, "compute capability 8.9: bfloat16, float8"),
        ({"capability": "7.5", "bfloat16": False}, "capability 7.5: no bfloat16, float8 only"),
        ({"capability": None, "free": None}, "A GPU: its memory is not told, driver 580.65"),
        ({"obstacle": "its driver is too old"}, "\n                BROKEN: its driver is too old"),
    ],
)  # fmt: skip
def test_a_gpu_is_told(changes: dict[str, Any], told: str) -> None:
    assert told in told_gpu(replace(GPU, **changes))


@pytest.mark.parametrize(
    ("row", "bfloat16", "float8"),
    [(CARD, True, False), (CARD.replace("8.6", "8.9"), True, True),
     (CARD.replace("8.6", "7.5"), False, False), (CARD.replace("8.6", "12.0"), True, True)],
)  # fmt: skip
def test_what_a_gpu_computes_in_follows_from_its_capability(
    row: str, bfloat16: bool, float8: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_driver(tmp_path, monkeypatch, row)
    (gpu,) = doctor_facts.gather().gpus
    assert (gpu.bfloat16, gpu.float8) == (bfloat16, float8)


def test_facts_are_a_page() -> None:
    two = replace(FACTS, gpus=(GPU, replace(GPU, name="Another")))
    lines = told_facts(two).splitlines()
    assert "  RAM           20.0 of 32.0 GB are available" in lines
    assert any(line.startswith("  GPU 1         Another: ") for line in lines)
    assert "  ffmpeg        ffmpeg 9" in lines
    broken = replace(FACTS, tools=(Tool("ffmpeg", "broken", "no", "mend it"),))
    assert "BROKEN: no\n                what to do: mend it" in told_facts(broken)
    missing = replace(FACTS, tools=(Tool("gradio", "missing", "not installed", "get it"),))
    assert "gradio        not installed (get it)" in told_facts(missing)


def test_outcomes_are_told() -> None:
    assert told_outcome(Outcome("x", "skipped", 0.0, "no GPU")) == "skipped: no GPU"
    wrong = Outcome("x", "broken", 1.25, "odd", "mend it", notes=("slow",))
    assert told_outcome(wrong) == "BROKEN (1.2 s): odd\n    note: slow\n    what to do: mend it"


def test_packages_that_are_lacking_are_broken_and_extras_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor_facts, "version_of", lambda name: None)
    assert doctor_facts.packages_tool().state == "broken"
    assert doctor_facts.gradio().state == doctor_facts.bitsandbytes().state == "missing"


@pytest.mark.parametrize("package", ["imageio_ffmpeg", "huggingface_hub"])
def test_the_page_is_there_without_a_package(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    really = doctor_facts.version_of
    names = {package, package.replace("_", "-")}
    monkeypatch.setattr(
        doctor_facts, "version_of", lambda name: None if name in names else really(name)
    )
    monkeypatch.setitem(sys.modules, package, None)
    tools = {tool.name: tool for tool in doctor_facts.gather().tools}
    assert tools["packages"].state == "broken"
    assert package in tools["packages"].told.replace("-", "_")
    assert tools["ffmpeg"].state == ("broken" if package == "imageio_ffmpeg" else "ok")
    assert tools["SAM2"].state == "missing"


def test_what_was_fetched_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "models--facebook--sam2.1-hiera-large" / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("1")
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path))
    (snapshot / "config.json").write_text("{}")
    assert doctor_facts.sam2().state == "missing"
    (snapshot / "model.safetensors").write_bytes(bytes(1000))
    assert doctor_facts.sam2().state == "ok"
    assert doctor_facts.folder(tmp_path).held == 1003


def told_of(machine: Any, speeds: Speeds = Speeds()) -> dict[str, Verdict]:  # noqa: B008
    return {verdict.base: verdict for verdict in verdicts(machine, speeds)}


def test_what_a_machine_can_do_is_the_planners_answer() -> None:
    machine = with_gpu(7.1, 8.0)
    told = told_of(machine)
    assert all(verdict.fits for verdict in told.values())
    frames = published()["wan2.1-i2v-480p"].settings["video"]["frames"]
    assert "9 frames at 832x480 in 6." in told["wan2.1-i2v-480p"].told
    assert ": yes; seconds a step: unknown until the first\n" in told["wan2.1-i2v-480p"].told
    assert f"then {frames} frames in " in told["wan2.1-i2v-480p"].told


@pytest.mark.parametrize(
    ("machine", "fits", "words"),
    [
        (with_gpu(7.1, 8.0, ram=Ram(32 * GIB, 24 * GIB)), True, "model.transformer_dtype=float8"),
        (with_gpu(7.1, 8.0, ram=Ram(16 * GIB, 11 * GIB)), True, "memory.weights=mapped"),
        (with_gpu(7.1, 8.0, capability=(7, 5)), True, "with model.dtype=float16: yes"),
        (with_gpu(3.0, 4.0), False, "no: train needs 4."),
        (with_gpu(7.1, 8.0, ram=Ram(4 * GIB, 2 * GIB)), False, "GB of RAM are available"),
        (WITHOUT_GPU, True, "it fits, though there is no GPU"),
    ],
)
def test_what_helps_is_told_and_what_does_not_fit(machine: Any, fits: bool, words: str) -> None:
    verdict = told_of(machine)["wan2.1-i2v-480p"]
    assert verdict.fits == fits
    assert words in verdict.told
    assert "What would" not in verdict.told


def test_seconds_are_measured_ones_or_what_the_weights_take_to_come(tmp_path: Path) -> None:
    machine, speeds = with_gpu(7.1, 8.0), Speeds(pinned=10e9, staged=5e9, disk=1e9)
    (at_least,) = (
        float(line.split("at least ")[1].split()[0])
        for line in told_of(machine, speeds)["wan2.1-i2v-480p"].told.splitlines()[:1]
    )
    assert 5 < at_least < 7  # 58 GB at 10 GB/s
    base = published()["wan2.1-i2v-480p"]
    config = build_config(base.settings)
    plan = plan_for(config, Workspace(tmp_path), None, base.profile, machine, "train")
    timings.record(plan.step_key(9), 12.34)
    told = told_of(machine, speeds)["wan2.1-i2v-480p"].told
    assert ": yes; about 12.3 s a step, as measured before\n" in told


def test_a_report_has_no_paths() -> None:
    wrong = Outcome("x", "broken", 1.0, "cannot read /srv/annabel/w.bin (C:\\Users\\annabel\\x)")
    told = json.dumps(report(FACTS, [wrong], [Verdict("b", True, "yes")]))
    assert "annabel" not in told
    assert "cannot read <path> (<path>)" in told
    assert '"free": 96636764160' in told


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("see https://www.nvidia.com/drivers", "see https://www.nvidia.com/drivers"),
        ("facebook/sam2.1-hiera-large", "facebook/sam2.1-hiera-large"),
        ("1.2 GB/s; 3 s/step", "1.2 GB/s; 3 s/step"),
        ("in /home/anna/x y/z.mp4: no", "in <path>: no"),
        ("'/mnt/data/a.bin' is gone", "'<path>' is gone"),
        ("~/cache/a is gone", "<path> is gone"),
        ("file:/srv/annabel/a.mkv: no", "file:<path>: no"),
        ("../annabel/a.mkv", "..<path>"),
        (r"D:\clips\anna\a.mp4", "<path>"),
        ("anna owns annabel on box", "<name> owns annabel on <name>"),
        (r"no 'C:\\Users\\Anna Bel\\x y\\z.mp4'", "no '<path>'"),
        (r"c:\users\anna bel\x, C:/Users/Anna Bel/x", "<path>, <path>"),
        (r"D:\Clips of Eve\Eve Doe\a.mp4 is gone; 3 GB/s", "<path> is gone; 3 GB/s"),
        (r"'D:\\Clips of Eve\\a.mp4' is gone", "'<path>' is gone"),
        (r"\\server\Eve\a.mp4", "<path>"),
    ],
)
def test_texts_are_scrubbed(text: str, kept: str) -> None:
    folders = ["/home/anna/x y", r"C:\Users\Anna Bel"]
    (told,) = scrubbed([text], folders, ["anna", "box"])
    assert told == kept


def test_numbers_and_keys_stay() -> None:
    content = {"home": [1, 2.5, None, True], "x": ("/home/anna",)}
    assert scrubbed(content, [], ["home"]) == {"home": [1, 2.5, None, True], "x": ["<path>"]}


def test_ram_enough_is_not_lacking() -> None:
    assert "with" not in told_of(with_gpu(23.1, 23.5, ram=PLENTY))["wan2.1-fun-1.3b-inp"].told
