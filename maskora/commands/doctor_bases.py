"""What a machine can do with each published base: the planner's answer, in one line. No torch."""

import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from maskora.commands import timings
from maskora.commands.footprint import demand
from maskora.commands.machine import Machine
from maskora.commands.plan import Plan, plan_for
from maskora.commands.plan_text import lacking_ram
from maskora.config import build_config
from maskora.devices import BFLOAT16
from maskora.errors import UserError
from maskora.models import Source, open_source
from maskora.models.published import PUBLISHED, Published
from maskora.streaming.demand import gb
from maskora.workspace import Workspace

# What helps where memory is short, what costs least first.
FLOAT8, MAPPED = "model.transformer_dtype=float8", "memory.weights=mapped"
ROOM = ((), (FLOAT8,), (MAPPED,), (FLOAT8, MAPPED))


@dataclass(frozen=True)
class Speeds:
    """Measured bytes per second by which weights come; None for what was not measured.

    Attributes:
        pinned, staged: from RAM to the GPU.
        disk: from the disk.
    """

    pinned: float | None = None
    staged: float | None = None
    disk: float | None = None


@dataclass(frozen=True)
class Verdict:
    """Whether a base fits a machine, and what it takes, in words."""

    base: str
    fits: bool
    told: str


def verdicts(machine: Machine, speeds: Speeds) -> list[Verdict]:
    """Of every published base."""
    with tempfile.TemporaryDirectory(prefix="maskora-doctor-") as scratch:
        return [
            verdict(name, base, open_source(base.write(Path(scratch) / name)), machine, speeds)
            for name, base in PUBLISHED.items()
        ]


def verdict(
    name: str, base: Published, source: Source, machine: Machine, speeds: Speeds
) -> Verdict:
    """The first way to set a base up that fits the GPU and the RAM, else what is in the way."""
    refused, lacking = "", []
    for changes in ways(machine):
        try:
            train, infer = plans(base, source, machine, changes)
        except UserError as error:
            refused = refused or re.split(r"\n|\. What would", str(error))[0]
            continue
        larger = max(train, infer, key=lambda plan: plan.ram_bytes)
        too_much = lacking_ram(larger)
        if too_much is None:
            return Verdict(name, True, told(train, infer, changes, speeds))
        lacking.append((larger.ram_bytes, too_much.partition(":")[0], changes))
    if not lacking:
        return Verdict(name, False, f"no: {refused}")
    _, least, changes = min(lacking)
    return Verdict(name, False, f"no: {least}{with_(changes)}")


def ways(machine: Machine) -> Iterator[list[str]]:
    """Changes to a configuration, as for --set; none first."""
    old = machine.capability is not None and machine.capability < BFLOAT16
    precision = ["model.dtype=float16"] if old else []
    yield from ([*precision, *room] for room in ROOM)


def plans(
    base: Published, source: Source, machine: Machine, changes: list[str]
) -> tuple[Plan, Plan]:
    """Of training and of inference. Raises UserError where one does not fit."""
    config = build_config(base.settings(), changes)
    nowhere = Workspace(source.where)
    train = plan_for(config, nowhere, None, source, machine, "train")
    return train, plan_for(config, nowhere, None, source, machine, "infer")


def told(train: Plan, infer: Plan, changes: list[str], speeds: Speeds) -> str:
    """Training and inference in two lines."""
    job = train.job
    return (
        f"{job.window} frames at {job.width}x{job.height} in {memory(train)}{with_(changes)}: "
        f"{'yes' if train.machine.gpu else 'it fits, though there is no GPU'}; "
        f"{seconds(train, job.window, speeds)}\n"
        f"then {job.frames} frames in {memory(infer)}; {seconds(infer, job.frames, speeds)}"
    )


def with_(changes: list[str]) -> str:
    """Changes in words."""
    return f" with {', '.join(changes)}" if changes else ""


def memory(plan: Plan) -> str:
    """What a plan takes of it, in words."""
    on_gpu = f"{gb(plan.vram_bytes)} GB of VRAM and " if plan.machine.gpu is not None else ""
    return f"{on_gpu}{gb(plan.ram_bytes)} GB of RAM"


def seconds(plan: Plan, frames: int, speeds: Speeds) -> str:
    """Of a step: as it was measured here, else at least what its weights take to come."""
    key = plan.step_key(frames)
    measured = timings.lookup(key)
    if measured is None and (near := timings.neighbour(key)) is not None:
        measured = near[0]  # with nearly as many blocks swapped
    if measured is not None:
        return f"about {measured:.1f} s a step, as measured before"
    speed, placement = slowest(plan, speeds), plan.placement
    blocks = demand(plan.sizes, plan.job).blocks
    moved = blocks.moved(placement.blocks_to_swap, placement.ring) * plan.job.accumulation
    if plan.machine.gpu is None or not moved or speed is None:
        return "seconds a step: unknown until the first"
    return f"at least {moved / speed:.1f} s a step, which its weights take to come"


def slowest(plan: Plan, speeds: Speeds) -> float | None:
    """The slowest part of the way that a plan's weights take; None where one was not measured."""
    bus = speeds.staged if speeds.pinned is None else speeds.pinned
    way = {
        "pinned": [bus], "pageable": [speeds.staged], "mapped": [speeds.staged, speeds.disk],
    }[plan.placement.weights]  # fmt: skip
    known = [speed for speed in way if speed is not None]
    return min(known) if len(known) == len(way) else None
