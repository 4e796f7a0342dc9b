"""How a case's model lies in memory: what the planner chooses for a person; needs no torch."""

import tempfile
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from benchmarks.jobs import Job
from maskora import devices
from maskora.app.plan import plan_for
from maskora.app.workspace import Workspace
from maskora.config import Config, load_config
from maskora.errors import UserError
from maskora.memory.machine import GpuMemory, Machine, processor_name
from maskora.memory.plan import Plan, Purpose
from maskora.models.registry import open_source
from maskora.streaming.placement import Placement
from maskora.system import ram

STORAGES = ("same", "float8", "int8", "nf4")
# The placement's fields that options of the command line's own decide.
OWN_OPTIONS = ("blocks_to_swap", "weights", "storage")
SHORTEST = 9  # frames of a segment


@dataclass(frozen=True)
class Request:
    """A row to measure.

    Attributes:
        case: its name.
        job: everything but the placement.
        config: what a person would have configured for it.
        changes: fields of the placement that are set against the planner's choice.
    """

    case: str
    job: Job
    config: Config
    changes: dict[str, Any]


def configure(job: Job, swap: str, weights: str, storage: str) -> Config:
    """The configuration of a job. Raises UserError where it is none."""
    settings = {
        "model.dtype": job.dtype,
        "model.transformer_dtype": storage,
        "video.size": f"{job.width}x{job.height}",
        "video.frames": job.frames,
        "inference.segment": max(SHORTEST, job.frames),
        "motion.window": job.frames,
        "adapter.rank": job.rank,
        "memory.blocks_to_swap": swap,
        "memory.weights": weights,
    }
    if job.cap_gb is not None:
        settings["memory.vram_budget_gb"] = job.cap_gb
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder) / "options.toml"
        empty.touch()
        return load_config(empty, [f"{name}={value}" for name, value in settings.items()])


def plan_request(request: Request, gpu_bytes: int | None) -> Plan:
    """The planner's answer for a GPU with so much memory, or for none.

    Raises:
        UserError: it does not fit.
    """
    folder = Path(request.job.model)
    purpose: Purpose = "infer" if request.job.kind == "infer" else "train"
    source, machine = open_source(folder), _machine(gpu_bytes)
    return plan_for(request.config, Workspace(folder), None, source, machine, purpose)


def _machine(gpu_bytes: int | None) -> Machine:
    """This machine, with what the driver says to be free of its GPU."""
    if gpu_bytes is None:
        return Machine("cpu", processor_name(), None, None, ram())
    free = next((gpu.free for gpu in devices.gpus()[:1] if gpu.free), gpu_bytes)
    memory = GpuMemory(min(free, gpu_bytes), gpu_bytes, opened=False)
    return Machine("cuda", "a GPU", memory, None, ram())


def placed(request: Request, plan: Plan) -> Job:
    """The job with the plan's placement and the changes to it."""
    placement = replace(plan.placement, **request.changes)
    return replace(request.job, placement=asdict(placement))


def parse_storages(text: str) -> list[str]:
    """Names with commas between them. Raises UserError."""
    names = text.split(",")
    if odd := [name for name in names if name not in STORAGES]:
        raise UserError(f"--storage {text}: {odd[0]!r} is none of {', '.join(STORAGES)}")
    return names


def parse_swap(text: str, layers: int) -> str:
    """ "auto" or a number of blocks, as text. Raises UserError."""
    if text != "auto" and not text.isdecimal():
        raise UserError(f"--swap {text}: write auto or a number of blocks")
    if text != "auto" and int(text) > layers:
        raise UserError(f"--swap {text}: the transformer has {layers} blocks")
    return text


def parse_changes(items: list[str]) -> dict[str, Any]:
    """ "key=value" items as fields of a `Placement`. Raises UserError."""
    plain = {field.name: field.default for field in fields(Placement)}
    changes: dict[str, Any] = {}
    for item in items:
        key, _, text = item.partition("=")
        if key not in plain or key in OWN_OPTIONS:
            names = ", ".join(name for name in plain if name not in OWN_OPTIONS)
            raise UserError(f"--place {item}: write key=value with one of {names}")
        changes[key] = _value(item, text, plain[key])
    return changes


def _value(item: str, text: str, default: object) -> object:
    """A text as the type of a field's default; a field without one holds a number of pixels."""
    if isinstance(default, str):
        return text
    if isinstance(default, bool):
        if text not in ("true", "false"):
            raise UserError(f"--place {item}: write true or false")
        return text == "true"
    if not text.isdecimal():
        raise UserError(f"--place {item}: write a whole number")
    return int(text)
