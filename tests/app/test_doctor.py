"""maskora doctor: the command as a person runs it, its page, its report, and what it promises."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from maskora import devices
from maskora.app import timings
from maskora.app.doctor import checks, facts, page
from maskora.app.doctor.facts import Facts, Folder, Tool
from maskora.app.doctor.outcomes import Bench, Check, Found, Outcome
from maskora.app.doctor.page import Verdict
from maskora.app.plan import plan_for
from maskora.app.workspace import Workspace
from maskora.config import build_config
from maskora.devices import Gpu, TorchBuild
from maskora.memory.machine import Machine, Ram
from maskora.memory.profile import published
from maskora.streaming.placement import GIB
from tests.app.conftest import Answer
from tests.machines import PLENTY, WITHOUT_GPU, install_driver, with_gpu

Run = Callable[..., Answer]
ROOT = Path(__file__).parents[2]
CARD = "0, GPU-1, 12288, 11000, 580.65, NVIDIA GeForce RTX 3060, 8.6"
NAME = "wan2.1-i2v-480p"
DISK, CLIP = "disk of the cache", "a clip written and read"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "maskora"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only checks that take no time, and one base."""

    def measure_disk(bench: Bench) -> Found:
        return Found(f"writes {checks.disk_bandwidth(bench.cache, 20_000_000)[0]} B/s")

    known = {check.name: check for check in checks.CHECKS}
    fine = Check("fine", lambda bench: Found("it is"), "no advice")
    disk = replace(known[DISK], run=measure_disk)
    monkeypatch.setattr(checks, "CHECKS", (fine, disk, known[CLIP]))
    one = {NAME: published()[NAME]}
    monkeypatch.setattr(page, "published", lambda: one)


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
    found = json.loads(result.stdout)
    states = {check["name"]: check["state"] for check in found["checks"]}
    skipped = {"memory that can be pinned", "from RAM to the GPU", "8-bit optimizer"}
    assert {name for name, state in states.items() if state == "skipped"} <= skipped
    assert set(states.values()) == {"ok", "skipped"}
    assert list(states) == ["libraries", "device", *(check.name for check in checks.CHECKS)]
    # Time of the processor, since what others do here meanwhile does not count.
    assert sum(after[2:4]) - sum(before[2:4]) < 60
    assert all(one["told"] for one in (*found["checks"], *found["bases"]))
    assert {base["base"] for base in found["bases"]} == set(published())
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


def install_ffmpeg(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str = "exit 3") -> None:
    program = folder / "ffmpeg"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))


def add_a_faulty_check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(bench: object) -> Found:
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr(checks, "CHECKS", (Check("faulty", fail, "do this"), *checks.CHECKS))


def fill_the_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)


def put_a_file_in_the_caches_place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "file"))


def install_a_gpu_for_another_torch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert torch.version.cuda is None, "the installed torch is a build for the CPU"
    install_driver(folder, monkeypatch, CARD)


def break_the_driver(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_driver(folder, monkeypatch, says="NVIDIA-SMI has failed: no communication")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("break_it", "problems", "words"),
    [
        (add_a_faulty_check, ["faulty"],
         ["  faulty ... BROKEN (0.0 s): ZeroDivisionError: by nothing\n    what to do: do this\n"]),
        (install_ffmpeg, ["ffmpeg", CLIP],
         ["it does not run (status 3)", "unset IMAGEIO_FFMPEG_EXE", f"  {CLIP} ... BROKEN"]),
        (fill_the_disk, [DISK],
         ["No space left on device", "name a folder on another disk with XDG_CACHE_HOME"]),
        (put_a_file_in_the_caches_place, [DISK], [f"  {DISK} ... BROKEN"]),
        (install_a_gpu_for_another_torch, ["device"],
         ["NVIDIA GeForce RTX 3060: 10.7 of 12.0 GB are free, driver 580.65",
          "  device ... BROKEN", "https://download.pytorch.org/whl/"]),
        (break_the_driver, ["driver", "device"],
         ["  driver        BROKEN: NVIDIA's driver does not answer (NVIDIA-SMI has",
          "what to do: restart the machine, or install the driver again", "  device ... BROKEN"]),
    ],
)  # fmt: skip
def test_what_is_broken_is_reported_and_the_other_checks_run(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    break_it: Callable[[Path, pytest.MonkeyPatch], None], problems: list[str], words: list[str],
) -> None:  # fmt: skip
    break_it(tmp_path, monkeypatch)
    answer = run("doctor")
    assert answer.status == 1
    assert [word for word in words if word not in answer.out] == []
    assert answer.out.endswith("\n  ".join(["To fix first", *problems]) + "\n")
    assert answer.err == f"maskora: something is broken: {', '.join(problems)}\n"
    passed = {"fine", CLIP, DISK} - set(problems)
    assert [name for name in passed if f"  {name} ... ok" not in answer.out] == []
    assert ("What it can do" in answer.out) == ("device" not in problems)
    if "driver" not in problems:
        assert "update the GPU's driver" not in answer.out


def test_libraries_that_cannot_be_imported_are_reported(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "maskora.app.doctor.checks", None)
    answer = run("doctor")
    assert answer.status == 1
    assert "This machine" in answer.out
    assert "  libraries ... BROKEN" in answer.out
    assert "pip install -e . -c constraints.txt" in answer.out


def test_an_ffmpeg_that_lacks_encoders_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_ffmpeg(tmp_path, monkeypatch, "echo ' V....D mpeg4  MPEG-4'")
    assert tool("ffmpeg").state == "broken"
    assert "cannot write libx264, ffv1, aac" in tool("ffmpeg").message


GPU = Gpu(0, "A GPU", 12 * GIB, 11 * GIB, (8, 6), "580.65")
FACTS = Facts(
    maskora="0.1.0", system="Linux 6.1, x86_64", python="3.11.9", processor="A processor, 8 cores",
    torch_build="torch 2.13.0+cu130, built for CUDA 13.0", ram=Ram(32 * GIB, 20 * GIB),
    gpus=(GPU,), cache=Folder("/home/annabel/.cache/maskora", GIB, 90 * GIB),
    hub=Folder("/home/annabel/.cache/huggingface/hub", 30 * GIB, 90 * GIB),
    packages={"torch": "2.13.0"}, tools=(Tool("ffmpeg", "ok", "ffmpeg 9"),),
)  # fmt: skip


@pytest.fixture
def cuda_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "torch_build", lambda: TorchBuild("2.13.0+cu130", "13.0", None))


@pytest.mark.usefixtures("cuda_build")
@pytest.mark.parametrize(
    ("changes", "text", "kinds"),
    [
        ({}, "A GPU: 11.0 of 12.0 GB are free, driver 580.65, compute capability 8.6: bfloat16, "
         "float8 only to store weights in", ("8.6", True, False)),
        ({"capability": (8, 9)}, "compute capability 8.9: bfloat16, float8", ("8.9", True, True)),
        ({"capability": (12, 0)}, "capability 12.0: bfloat16, float8", ("12.0", True, True)),
        ({"capability": (7, 5)}, "7.5: no bfloat16, float8 only", ("7.5", False, False)),
        ({"capability": None, "free": None}, "A GPU: its memory is not known, driver 580.65",
         (None, None, None)),
        ({"driver": "525.60"}, "\n                BROKEN: NVIDIA's driver 525.60 is too old",
         ("8.6", True, False)),
    ],
)  # fmt: skip
def test_a_gpu_on_the_page_and_in_the_report(
    changes: dict[str, Any], text: str, kinds: tuple[Any, ...]
) -> None:
    gpu = replace(GPU, **changes)
    assert text in page.render_gpu(gpu)
    (entry,) = page.report(replace(FACTS, gpus=(gpu,)), [], [])["machine"]["gpus"]
    assert (entry["capability"], entry["bfloat16"], entry["float8"]) == kinds
    assert bool(entry["obstacle"]) == ("BROKEN" in text)
    names = ["name", "total", "free", "capability", "bfloat16", "float8", "driver", "obstacle"]
    assert list(entry) == names


def test_facts_are_a_page() -> None:
    two = replace(FACTS, gpus=(GPU, replace(GPU, name="Another")))
    lines = page.render_facts(two).splitlines()
    assert "  RAM           20.0 of 32.0 GB are available" in lines
    assert any(line.startswith("  GPU 1         Another: ") for line in lines)
    assert "  ffmpeg        ffmpeg 9" in lines
    broken = replace(FACTS, tools=(Tool("ffmpeg", "broken", "no", "repair it"),))
    assert "BROKEN: no\n                what to do: repair it" in page.render_facts(broken)
    missing = replace(FACTS, tools=(Tool("gradio", "missing", "not installed", "get it"),))
    assert "gradio        not installed (get it)" in page.render_facts(missing)


def test_an_outcome_is_one_line_with_notes_and_advice_below() -> None:
    assert page.render_outcome(Outcome("x", "skipped", 0.0, "no GPU")) == "skipped: no GPU"
    wrong = Outcome("x", "broken", 1.25, "odd", "mend it", notes=("slow",))
    assert (
        page.render_outcome(wrong) == "BROKEN (1.2 s): odd\n    note: slow\n    what to do: mend it"
    )


def tool(name: str) -> Tool:
    return next(one for one in facts.tools() if one.name == name)


def test_packages_that_are_lacking_are_broken_and_extras_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(facts, "version_of", lambda name: None)
    assert tool("packages").state == "broken"
    assert tool("gradio").state == tool("bitsandbytes").state == "missing"


@pytest.mark.parametrize("package", ["imageio_ffmpeg", "huggingface_hub"])
def test_the_page_is_there_without_a_package(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    really = facts.version_of
    names = {package, package.replace("_", "-")}
    monkeypatch.setattr(facts, "version_of", lambda name: None if name in names else really(name))
    monkeypatch.setitem(sys.modules, package, None)
    tools = {tool.name: tool for tool in facts.gather().tools}
    assert tools["packages"].state == "broken"
    assert package in tools["packages"].message.replace("-", "_")
    assert tools["ffmpeg"].state == ("broken" if package == "imageio_ffmpeg" else "ok")
    assert tools["SAM2"].state == "missing"


def test_what_was_fetched_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "models--facebook--sam2.1-hiera-large" / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("1")
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path))
    (snapshot / "config.json").write_text("{}")
    assert tool("SAM2").state == "missing"
    (snapshot / "model.safetensors").write_bytes(bytes(1000))
    assert tool("SAM2").state == "ok"
    assert facts.folder(tmp_path).held == 1003


def judged(machine: Machine, **speeds: float) -> Verdict:
    return page.verdict(NAME, published()[NAME], machine, speeds)


# As in docs/doctor.md and docs/bases.md: by family, not by the alphabet.
ORDER = [
    "wan2.1-i2v-480p", "wan2.1-i2v-720p", "wan2.1-fun-1.3b-inp", "wan2.2-i2v-a14b",
    "hunyuan-video-i2v", "hunyuan-video-1.5-i2v-480p",
]  # fmt: skip


def test_what_a_machine_can_do_is_the_planners_answer() -> None:
    found = {one.base: one for one in page.verdicts(with_gpu(7.1, 8.0), {})}
    assert list(found) == list(published())
    assert [name for name in found if name in ORDER] == ORDER
    assert all(one.fits for one in found.values())
    assert "9 frames at 832x480 in 6." in found[NAME].message
    assert ": yes; seconds a step: unknown until the first\n" in found[NAME].message
    frames = published()[NAME].settings["video"]["frames"]
    assert f"then {frames} frames in " in found[NAME].message
    roomy = {one.base: one for one in page.verdicts(with_gpu(23.1, 23.5, ram=PLENTY), {})}
    assert "with" not in roomy["wan2.1-fun-1.3b-inp"].message


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
def test_a_verdict_names_what_helps_and_what_does_not_fit(
    machine: Machine, fits: bool, words: str
) -> None:
    found = judged(machine)
    assert found.fits == fits
    assert words in found.message
    assert "What would" not in found.message


def test_seconds_are_measured_ones_or_what_the_weights_take_to_arrive(tmp_path: Path) -> None:
    machine, speeds = with_gpu(7.1, 8.0), {"bus": 10e9, "staged": 5e9, "disk_read": 1e9}
    line = judged(machine, **speeds).message.splitlines()[0]
    assert 5 < float(line.split("at least ")[1].split()[0]) < 7  # 58 GB at 10 GB/s
    base = published()[NAME]
    config = build_config(base.settings)
    plan = plan_for(config, Workspace(tmp_path), None, base.profile, machine, "train")
    timings.record(plan.step_key(9), 12.34)
    message = judged(machine, **speeds).message
    assert ": yes; about 12.3 s a step, as measured before\n" in message


def test_a_report_has_no_paths() -> None:
    wrong = Outcome("x", "broken", 1.0, "cannot read /srv/annabel/w.bin (C:\\Users\\annabel\\x)")
    text = json.dumps(page.report(FACTS, [wrong], [Verdict("b", True, "yes")]))
    assert "annabel" not in text
    assert "cannot read <path> (<path>)" in text
    assert '"free": 96636764160' in text


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
    (found,) = page.scrubbed([text], folders, ["anna", "box"])
    assert found == kept


def test_numbers_and_keys_stay() -> None:
    content = {"home": [1, 2.5, None, True], "x": ("/home/anna",)}
    assert page.scrubbed(content, [], ["home"]) == {"home": [1, 2.5, None, True], "x": ["<path>"]}
