"""Starts each case in a process of its own and collects what came of it; needs no torch."""

import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from benchmarks.jobs import Job
from benchmarks.placing import Request, placed, plan_request
from benchmarks.report import markdown
from maskora.errors import Fault, UserError
from maskora.files import write_text
from maskora.models.files.folder import read_json

ROOT = Path(__file__).resolve().parents[1]
# A whole resident model must leave this share of the memory for everything else.
ROOMY = 0.8
# What a streamed step is compared with.
Resident = Literal["auto", "whole", "block", "none"]
# Windows tells a crash as a status: one of its errors, of which two are about memory.
CRASHED, NO_MEMORY = 0xC0000000, (0xC0000017, 0xC000012D)


@dataclass(frozen=True)
class Base:
    """The facts of a model's folder that a row needs."""

    folder: Path
    layers: int
    stored_bytes: int

    @staticmethod
    def read(folder: Path) -> "Base":
        """Raises UserError where it is no model's folder."""
        part = folder / "transformer"
        layers = int(read_json(part / "config.json")["num_layers"])
        stored = sum(path.stat().st_size for path in part.glob("*.safetensors"))
        return Base(folder.resolve(), layers, stored)


def measure_all(
    requests: list[Request], base: Base, resident: Resident, output: Path | None
) -> dict[str, Any]:
    """The machine, and one row per request; written to `output` after every row."""
    machine, job = describe(), requests[0].job
    results: dict[str, Any] = {
        "machine": machine,
        "model": {"layers": base.layers, "stored_bytes": base.stored_bytes},
        "settings": {
            "cap_gb": job.cap_gb, "dtype": job.dtype, "steps": job.steps, "rank": job.rank,
            "size": [job.width, job.height],
        },
        "cases": [],
    }  # fmt: skip
    for request in requests:
        results["cases"].append(measure_case(request, base, machine, resident))
        if output is not None:
            write_text(output, json.dumps(results, indent=2) + "\n")
            write_text(output.with_suffix(".md"), markdown(results))
    return results


def measure_case(
    request: Request, base: Base, machine: dict[str, Any], resident: Resident
) -> dict[str, Any]:
    """One row: the plan, the case itself, and the same step with resident blocks."""
    row: dict[str, Any] = {
        "case": request.case, "frames": request.job.frames, "storage": request.config.model.storage,
        "placement": None, "plan": None, "outcome": "", "phases": [], "step_seconds": [],
        "step_bytes": [], "parameters": None, "optimizer": None, "high_water_mark": None,
        "resident": None,
    }  # fmt: skip
    try:
        plan = plan_request(request, machine["gpu_bytes"])
    except UserError as error:
        return row | {"outcome": f"refused by the plan: {str(error).partition(chr(10))[0]}"}
    job = placed(request, plan)
    if not request.changes and job.kind != "load":
        row["plan"] = {
            "allocated_bytes": plan.allocated_bytes or None,
            "ram_bytes": plan.ram_bytes,
            "reason": plan.reason,
        }
    with tempfile.TemporaryDirectory(prefix="maskora-benchmark-") as scratch:
        job = replace(job, scratch=scratch)
        row |= {"placement": job.placement, **_start(job)}
        compared = row["outcome"] == "ok" and row["step_seconds"] and resident != "none"
        if compared and job.placement["blocks_to_swap"]:
            whole = resident == "whole" or (resident == "auto" and _fits(row, base, machine))
            row["resident"] = _resident(job, whole)
    return row


def _resident(job: Job, whole: bool) -> dict[str, Any]:
    """The same steps with nothing to move; the cap is lifted, since only seconds count here."""
    answer = _start(
        replace(
            job,
            placement={**job.placement, "blocks_to_swap": 0},
            cap_gb=None,
            one_block=not whole,
        )
    )
    return {
        "blocks": "all" if whole else "one block, visited for all",
        "outcome": answer["outcome"],
        "step_seconds": answer.get("step_seconds", []),
    }


def _fits(row: dict[str, Any], base: Base, machine: dict[str, Any]) -> bool:
    """Whether the whole model and what the streamed run took lie in the memory together."""
    peaks = [phase["peak_allocated"] or phase["peak_host"] for phase in row["phases"]]
    available = machine["gpu_bytes"] or machine["ram_bytes"]
    return bool(base.stored_bytes + max(peaks) < ROOMY * available)


def describe() -> dict[str, Any]:
    """The machine, looked at in a process of its own, so that this one takes nothing of a GPU."""
    status, machine = _process("benchmarks.measure")
    if status:
        raise Fault(f"the machine could not be described (status {status})")
    return machine


def _start(job: Job) -> dict[str, Any]:
    """What a job's own process wrote; whatever ended it, the answer has an outcome."""
    with tempfile.TemporaryDirectory(prefix="maskora-job-") as folder:
        task = Path(folder) / "job.json"
        task.write_text(json.dumps(asdict(job)), encoding="utf-8")
        status, answer = _process("benchmarks.cases", str(task))
    return {"phases": [], **answer, **({"outcome": ending(status)} if status else {})}


def ending(status: int) -> str:
    """The outcome of a process that did not end by itself as it should."""
    if status < 0:
        return f"killed by signal {-status}" + (", out of RAM?" if status == -9 else "")
    if status >= CRASHED:
        return f"ended by Windows, {status:#010x}{', out of RAM?' if status in NO_MEMORY else ''}"
    return f"failed with status {status}; its traceback is above"


def _process(module: str, *arguments: str) -> tuple[int, dict[str, Any]]:
    """A module's exit status, and the JSON that it wrote to the file named last, if it did."""
    with tempfile.TemporaryDirectory(prefix="maskora-result-") as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, "-m", module, *arguments, str(result)]
        status = subprocess.run(command, cwd=ROOT, check=False).returncode
        written = result.read_text(encoding="utf-8") if result.exists() else "{}"
        return status, json.loads(written)
