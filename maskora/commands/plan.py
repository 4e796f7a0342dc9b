"""plan: what a run will take of VRAM, RAM, disk and time, before anything heavy starts.

Arithmetic on the configuration files alone. Imports no torch.
"""

import importlib.util
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from maskora.commands import timings
from maskora.commands.finding import find_base
from maskora.commands.footprint import Host, Job, Purpose, demand, dials, host
from maskora.commands.machine import DeviceKind, device_kind, device_name
from maskora.commands.shards import adapter_values
from maskora.config import Config, parse_size
from maskora.errors import UserError
from maskora.models import Sizes, read_sizes
from maskora.models import Source as BaseSource
from maskora.models.acceleration import Acceleration
from maskora.streaming.demand import GIB, Demand, Need
from maskora.streaming.plan import Placement, Solution, check_swap, refuse, solve
from maskora.workspace import Source, Workspace

CONFIGS = ["model_index.json", "config.json", "*/config.json"]
COLOURINGS = 6  # orders of three channels, with motion.augment
PURPOSES: tuple[Purpose, ...] = ("train", "infer")


@dataclass(frozen=True)
class Plan:
    """One purpose's choice.

    Attributes:
        job: the run's numbers.
        sizes: the base's arithmetic.
        device: where it runs.
        placement: how the base lies in memory.
        needs: device memory by phase; where there is no card, of the computation in RAM.
        host: the machine's memory by phase.
        reason: why this placement, in a sentence.
        budget: bytes of device memory that may be used; None where there is no card.
    """

    job: Job
    sizes: Sizes
    device: DeviceKind
    placement: Placement
    needs: dict[str, Need]
    host: dict[str, Host]
    reason: str
    budget: int | None

    @property
    def vram_bytes(self) -> int:
        """The largest phase on the card, the reserve included; 0 without a card."""
        return max(need.total for need in self.needs.values()) if self.device == "cuda" else 0

    @property
    def allocated_bytes(self) -> int:
        """The same without the reserve: what torch's own counter should reach at most."""
        return max(need.allocated for need in self.needs.values()) if self.device == "cuda" else 0

    @property
    def ram_bytes(self) -> int:
        """The largest phase in the machine's memory."""
        return max(part.total for part in self.host.values())

    def step_key(self, frames: int) -> str:
        """The name in `timings` of a step on samples of so many frames."""
        job, sizes = self.job, self.sizes
        facts: dict[str, Any] = {
            "device": device_name(self.device),
            "purpose": job.purpose,
            "base": f"{sizes.name}, {sizes.parameters['transformer']} parameters",
            "tokens": job.tokens(sizes, frames),
            "batch": job.batch,
            "accumulation": job.accumulation,
            "rank": job.rank,
            "targets": job.targets,
            "further LoRA values": job.further_loras,
            "dtype": job.dtype,
            "placement": asdict(self.placement),
            "acceleration": asdict(job.acceleration),
        }
        return timings.key(facts)

    def render(self) -> str:
        """The plan as people read it."""
        from maskora.commands.plan_text import render

        return render([self])


def plan_for(
    config: Config,
    workspace: Workspace,
    source: Source | None,
    found: BaseSource,
    device: DeviceKind,
    purpose: Purpose,
) -> Plan:
    """How a run will lie in memory.

    Args:
        source: the prepared clip; None plans with [video].
        found: the base's parts; only their configuration files are read.
        device: "cuda", or "cpu" for a machine without a card: there the budget is not enforced.

    Raises:
        UserError: it does not fit the budget (and what would), or more blocks are to be swapped
            than there are.
    """
    sizes = read_sizes(config.model.family, found)
    job = job_of(config, workspace, source, purpose, device, sizes)
    budget = round(config.memory.vram_budget_gb * GIB)
    solution = _solution(config, sizes, job, device, budget)
    used = [name for name in solution.needs if not (purpose == "train" and name == "decode")]
    needs = {name: solution.needs[name] for name in used}
    on_card = device == "cuda"
    return Plan(
        job=job,
        sizes=sizes,
        device=device,
        placement=solution.placement,
        needs=needs,
        host=host(sizes, job, solution.placement, needs, on_card),
        reason=solution.reason,
        budget=budget if on_card else None,
    )


def _solution(config: Config, sizes: Sizes, job: Job, device: DeviceKind, budget: int) -> Solution:
    """What was asked for, or what fits best. Raises UserError where nothing does."""
    swap, asked = config.memory.blocks_to_swap, demand(sizes, job)
    check_swap(swap, asked.blocks.blocks)
    base = Placement(
        blocks_to_swap=0,
        weights=config.memory.weights,
        storage=job.storage,
        activation_offload=job.offload,
    )
    if device == "cpu":
        return _without_card(asked, swap, base)
    found = solve(asked, budget, swap, base)
    if found is None:
        raise refuse(asked, budget, swap, base, dials(sizes, job, swap))
    return found


def _without_card(asked: Demand, swap: int | str, base: Placement) -> Solution:
    """Everything in RAM; mapped blocks are read from disk at every visit."""
    blocks = asked.blocks
    if isinstance(swap, int):
        swapped, told = swap, f"{swap} of {blocks.blocks} blocks are swapped, as set"
    elif base.weights == "mapped":
        swapped, told = blocks.blocks, f"all {blocks.blocks} blocks are read from disk when needed"
    else:
        swapped, told = 0, f"all {blocks.blocks} blocks lie in RAM"
    placement = Placement(swapped, base.weights, base.storage)
    needs = asked.needs(swapped, placement.ring, blocks.ways[0], None)
    return Solution(placement, needs, told)


def job_of(
    config: Config,
    workspace: Workspace,
    source: Source | None,
    purpose: Purpose,
    device: DeviceKind,
    sizes: Sizes,
) -> Job:
    """The numbers of a run, from the prepared clip or, before that, from [video]."""
    width, height = source.size if source else _planned_size(config, sizes.grid.multiple)
    frames = source.frames if source else config.video.frames
    window = frames if config.motion.window == "full" else min(config.motion.window, frames)
    windows = -(-(frames - window) // config.motion.stride) + 1
    is_8bit = config.optimizer.type == "adamw8bit" and device == "cuda" and _has_bitsandbytes()
    guided = config.inference.guidance > 1 and not sizes.embeds_guidance
    further = [workspace.root / Path(lora.path).expanduser() for lora in config.inference.loras]
    return Job(
        purpose=purpose,
        frames=frames,
        width=width,
        height=height,
        window=window,
        windows=windows * (1 if config.motion.augment == "none" else COLOURINGS),
        batch=2 if purpose == "infer" and guided else 1,
        rank=config.adapter.rank,
        targets=config.adapter.targets,
        dtype=config.model.dtype,
        storage=config.model.storage,
        offload=purpose == "train" and device == "cuda" and config.memory.activation_offload,
        optimizer=2 if is_8bit else 8,
        accumulation=config.training.gradient_accumulation_steps if purpose == "train" else 1,
        acceleration=Acceleration(**config.acceleration.model_dump()),
        further_loras=sum(map(adapter_values, further)) if purpose == "infer" else 0,
    )


def _planned_size(config: Config, multiple: int) -> tuple[int, int]:
    """[video] size on the base's grid; the area of an automatic one as if it were the size."""
    text = config.video.size
    text = (text.partition(":")[2] or "832x480") if config.video.is_auto else text
    width, height = (max(1, side // multiple) * multiple for side in parse_size(text))
    return width, height


def _has_bitsandbytes() -> bool:
    return importlib.util.find_spec("bitsandbytes") is not None


def show_plan(config: Config, workspace: Workspace, device: str | None) -> None:
    """Print the plan of training and of inference, or raise UserError where either cannot fit."""
    from maskora.commands.plan_text import render, tell_disk, tell_time

    if device not in (None, "cuda", "cpu"):
        raise UserError(f"--device {device}: write cuda (a card) or cpu (none)")
    kind: DeviceKind = device_kind() if device is None else "cpu" if device == "cpu" else "cuda"
    source = workspace.read_source() if workspace.source_record.is_file() else None
    found = find_base(config.model, workspace.root, CONFIGS)
    plans, refusals = [], []
    for purpose in PURPOSES:
        try:
            plans.append(plan_for(config, workspace, source, found, kind, purpose))
        except UserError as error:
            refusals.append(str(error))
    if refusals:
        raise UserError("\n".join(dict.fromkeys(refusals)))
    if source is None:
        print(f"{workspace.root} is not prepared yet: planned with [video] of the configuration")
    print(render(plans))
    print(tell_disk(config, found, plans[0]))
    print(tell_time(config, workspace, *plans))
