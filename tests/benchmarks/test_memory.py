"""The benchmark itself: cases run on a tiny model, and what it writes is what they did."""

import errno
import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from typer.testing import CliRunner

from benchmarks import cases, memory, runner
from benchmarks.cases import Record, run
from benchmarks.jobs import Job
from benchmarks.measure import Machine, Phase
from benchmarks.one_block import one_block_folder, repeat_block
from benchmarks.placing import Request, configure
from benchmarks.random_model import write_random_model
from benchmarks.report import markdown
from benchmarks.runner import Base, Resident, ending
from maskora.errors import OutOfMemory
from maskora.models.registry import open_model
from maskora.streaming.placement import RESIDENT, Placement

CPU = torch.device("cpu")
NO_GPU: dict[str, Any] = {"gpu_bytes": None, "ram_bytes": 2**34}
LAYERS, RING, ALIGNMENT = 4, 2, 64
ROW = {
    "case", "frames", "storage", "placement", "plan", "outcome", "phases", "step_seconds",
    "step_bytes", "parameters", "optimizer", "resident", "high_water_mark",
}  # fmt: skip
ENCODERS = ["text encoder", "image encoder", "VAE encode", "load transformer"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("random") / "model"
    write_random_model(folder, "tiny", layers=LAYERS, dtype="float32")
    return folder


def job(folder: Path, scratch: Path, kind: str, swap: int = LAYERS) -> Job:
    placement = Placement(swap, weights="pageable", activation_offload=kind == "train")
    return Job(
        kind=kind, model=str(folder), frames=5, width=48, height=32, dtype="float32",
        placement=asdict(placement), cap_gb=8.0, steps=2, rank=4, layers=LAYERS,
        scratch=str(scratch),
    )  # fmt: skip


def request(folder: Path, kind: str, swap: str = str(LAYERS), **changes: Any) -> Request:
    task = replace(job(folder, Path(), kind), placement={}, scratch="")
    return Request(f"{kind}-5", task, configure(task, swap, "pageable", "same"), changes)


def result(task: Job, tmp_path: Path) -> dict[str, Any]:
    run(task, Record(tmp_path / "result.json", CPU), CPU)
    content: dict[str, Any] = json.loads((tmp_path / "result.json").read_text())
    return content


def block_bytes(folder: Path) -> tuple[int, int]:
    """Least and most bytes of one block: its tensors, and each rounded up to the alignment."""
    with safe_open(folder / "transformer" / "diffusion_pytorch_model.safetensors", "pt") as file:
        tensors = [file.get_tensor(n) for n in file.keys() if n.startswith("blocks.0.")]  # noqa: SIM118
    plain = sum(tensor.nbytes for tensor in tensors)
    return plain, plain + ALIGNMENT * len(tensors)


def part_files(folder: Path) -> set[Path]:
    """All files of a folder, links followed, as they are called from there."""
    return {
        Path(root, name).relative_to(folder)
        for root, _, names in os.walk(folder, followlinks=True)
        for name in names
    }


def test_the_command_measures_a_training_case_and_writes_every_field(
    folder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out" / "tiny.json"
    answer = CliRunner().invoke(
        memory.app,
        f"--model {folder} --case train-9 --swap {LAYERS} --frames 5 --size 48x32 --steps 2 "
        f"--rank 4 --dtype float32 --resident none --output {output}".split(),
    )
    assert answer.exit_code == 0, answer.output
    results = json.loads(output.read_text())
    assert set(results) == {"machine", "model", "settings", "cases"}
    assert set(results["machine"]) == set(Machine.__annotations__)
    (row,) = results["cases"]
    assert set(row) == ROW
    assert row["outcome"] == "ok"
    assert row["placement"] == asdict(Placement(LAYERS))
    assert row["plan"]["ram_bytes"] > 2**20
    assert row["plan"]["allocated_bytes"] is None
    assert [set(phase) for phase in row["phases"]] == [set(Phase.__annotations__)] * 5
    assert [phase["name"] for phase in row["phases"]] == [*ENCODERS, "train"]
    assert all(phase["peak_host"] >= phase["host_before"] > 2**26 for phase in row["phases"])
    assert len(row["step_seconds"]) == 2
    least, most = block_bytes(folder)
    loads = 2 * (LAYERS - RING)
    assert all(loads * least <= moved <= loads * most for moved in row["step_bytes"])
    assert output.with_suffix(".md").read_text() == markdown(results)
    assert markdown(results) in answer.output
    assert str(tmp_path) not in output.read_text()


def test_generating_has_all_phases_and_moves_every_streamed_block_once_per_step(
    folder: Path, tmp_path: Path
) -> None:
    facts = result(job(folder, tmp_path, "infer"), tmp_path)
    assert facts["outcome"] == "ok"
    assert [phase["name"] for phase in facts["phases"]] == [*ENCODERS, "denoise", "VAE decode"]
    least, most = block_bytes(folder)
    assert len(facts["step_bytes"]) == len(facts["step_seconds"]) == 2
    assert all(LAYERS * least <= moved <= LAYERS * most for moved in facts["step_bytes"])
    denoising = facts["phases"][4]["seconds"]
    assert 0 < sum(facts["step_seconds"]) < denoising, "the first step is left out"


def test_a_resident_model_moves_nothing(folder: Path, tmp_path: Path) -> None:
    facts = result(job(folder, tmp_path, "train", swap=0), tmp_path)
    assert facts["outcome"] == "ok"
    assert facts["step_bytes"] == [0, 0]


def test_loading_alone_is_one_phase(folder: Path, tmp_path: Path) -> None:
    facts = result(job(folder, tmp_path, "load"), tmp_path)
    assert facts["outcome"] == "ok"
    assert [phase["name"] for phase in facts["phases"]] == ["load transformer"]


def test_a_case_that_runs_out_of_memory_is_a_row_that_says_so(folder: Path, tmp_path: Path) -> None:
    huge = replace(job(folder, tmp_path, "train"), width=16 * 10**5, height=16 * 10**5)
    facts = result(huge, tmp_path)
    assert facts["outcome"].startswith("out of memory: ")
    assert facts["phases"] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "nowhere"}, "missing"),
        ({"width": 50}, "multiples of 16"),
        ({"frames": 6}, "one more than a multiple of 4"),
    ],
)
def test_a_case_that_is_refused_says_why(
    changes: dict[str, Any], message: str, folder: Path, tmp_path: Path
) -> None:
    facts = result(replace(job(folder, tmp_path, "train"), **changes), tmp_path)
    assert facts["outcome"].startswith("refused: ")
    assert message in facts["outcome"]


def test_a_bug_is_no_outcome(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(cases.StepClock, "tick", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        result(job(folder, tmp_path, "train"), tmp_path)
    written = json.loads((tmp_path / "result.json").read_text())
    assert written["outcome"] == "stopped"


@pytest.mark.parametrize(
    ("resident", "blocks"),
    [
        ("auto", "all"),  # a tiny model fits any machine
        ("block", "one block, visited for all"),
    ],
)
def test_the_streamed_step_is_compared_with_a_resident_one(
    resident: Resident, blocks: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the jobs run in this process, which is all that is changed."""
    jobs: list[Job] = []

    def start(task: Job) -> dict[str, Any]:
        jobs.append(task)
        return result(task, tmp_path)

    monkeypatch.setattr(runner, "_start", start)
    row = runner.measure_case(request(folder, "train"), Base.read(folder), NO_GPU, resident)
    assert row["outcome"] == row["resident"]["outcome"] == "ok"
    assert row["resident"]["blocks"] == blocks
    assert len(row["resident"]["step_seconds"]) == 2
    streamed, compared = jobs
    assert row["placement"] == streamed.placement
    assert streamed.placement["blocks_to_swap"] == LAYERS
    assert compared.placement == {**streamed.placement, "blocks_to_swap": 0}
    assert compared.cap_gb is None
    assert row["step_bytes"][0] > 0
    assert row["plan"]["reason"] == f"{LAYERS} of {LAYERS} blocks are swapped, as set"


def test_the_placement_is_the_planners_and_a_change_has_no_plan(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_start", lambda task: {"phases": [], "outcome": "ok"})
    base = Base.read(folder)
    gpu = NO_GPU | {"gpu_bytes": 2**34}
    as_planned = runner.measure_case(request(folder, "infer", "auto"), base, gpu, "none")
    assert as_planned["placement"]["blocks_to_swap"] == 0
    assert as_planned["plan"]["allocated_bytes"] > 2**20
    changed = request(folder, "train", recompute="layer")
    row = runner.measure_case(changed, base, gpu, "none")
    assert (row["placement"]["recompute"], row["plan"]) == ("layer", None)


def test_what_the_planner_refuses_is_a_row_that_says_so(folder: Path) -> None:
    asked = request(folder, "train", "auto")
    small = replace(
        asked, config=configure(replace(asked.job, cap_gb=0.1), "auto", "pinned", "same")
    )
    row = runner.measure_case(small, Base.read(folder), NO_GPU | {"gpu_bytes": 2**34}, "auto")
    assert set(row) == ROW
    assert row["outcome"].startswith("refused by the plan: ")
    assert "memory.vram_budget_gb is 0.1" in row["outcome"]
    assert (row["placement"], row["phases"]) == (None, [])


def test_a_model_larger_than_the_machine_is_compared_by_one_block(folder: Path) -> None:
    phases = [{"peak_allocated": 6 * 2**30, "peak_host": 2**40}]
    base = replace(Base.read(folder), stored_bytes=33 * 10**9)
    gpu = {"gpu_bytes": 24 * 2**30, "ram_bytes": 2**40}
    assert not runner._fits({"phases": phases}, base, gpu)
    assert runner._fits({"phases": phases}, base, {**gpu, "gpu_bytes": 80 * 2**30})


def test_how_a_process_ended_is_told() -> None:
    assert ending(-9) == "killed by signal 9, out of RAM?"
    assert ending(-11) == "killed by signal 11"
    assert ending(1) == "failed with status 1; its traceback is above"
    assert ending(0xC0000005) == "ended by Windows, 0xc0000005"
    assert ending(0xC000012D) == "ended by Windows, 0xc000012d, out of RAM?"


@pytest.mark.parametrize("links", ["refused", "refused, hard ones too"])
def test_where_links_are_refused_other_parts_are_copied(
    links: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EPERM, "A required privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", refused)
    if links != "refused":
        monkeypatch.setattr(os, "link", refused)
    small = one_block_folder(folder, tmp_path / "one", "float32")
    others = {path for path in part_files(folder) if "transformer" not in path.parts}
    assert others == {path for path in part_files(small) if "transformer" not in path.parts}
    weights = Path("vae/diffusion_pytorch_model.safetensors")
    assert (small / weights).samefile(folder / weights) == (links == "refused")
    assert (small / weights).read_bytes() == (folder / weights).read_bytes()
    assert open_model("wan2.1-i2v", small, "float32", "cpu", RESIDENT).load_transformer()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        OutOfMemory("nothing is left to give"),
    ],
    ids=lambda error: str(error)[-20:],
)
def test_every_kind_of_it_is_out_of_memory(
    error: Exception, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(cases, "_run_case", fail)
    assert result(job(folder, tmp_path, "train"), tmp_path)["outcome"].startswith("out of memory")


def test_one_block_stands_for_all(folder: Path, tmp_path: Path) -> None:
    small = one_block_folder(folder, tmp_path / "one", "float32")
    transformer = open_model("wan2.1-i2v", small, "float32", "cpu", RESIDENT).load_transformer()
    visits = 0

    def count(*_: object) -> None:
        nonlocal visits
        visits += 1

    transformer.blocks[0].register_forward_pre_hook(count)
    repeat_block(transformer, LAYERS)
    with torch.no_grad():
        transformer(
            hidden_states=torch.zeros(1, 36, 2, 4, 6),
            timestep=torch.tensor([500.0]),
            encoder_hidden_states=torch.zeros(1, 512, 32),
            encoder_hidden_states_image=torch.zeros(1, 257, 32),
        )
    assert visits == LAYERS
    assert part_files(small / "vae") == part_files(folder / "vae")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (f"--swap {LAYERS + 1}", f"the transformer has {LAYERS} blocks"),
        ("--swap some", "write auto or a number"),
        ("--swap 4 --size big", "write width and height"),
        ("--swap 4 --frames 6", "6 is not 4k+1"),
        ("--swap 4 --place ringg=3", "key=value with one of activation_offload, ring"),
        ("--swap 4 --place weights=mapped", "key=value with one of"),
        ("--swap 4 --place ring=two", "whole number"),
        ("--swap 4 --place split_batch=yes", "true or false"),
        ("--swap 4 --storage same,fp8", "'fp8' is none of same, float8"),
        ("--swap 4 --model nowhere", "is missing"),
    ],
)
def test_wrong_options_are_told_before_anything_runs(
    options: str, message: str, folder: Path
) -> None:
    command = ["--model", str(folder), "--case", "load", *options.split()]
    answer = CliRunner().invoke(memory.app, command)
    assert answer.exit_code == 2
    assert message in answer.stderr
