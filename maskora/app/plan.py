"""plan: what a run will take of VRAM, RAM, disk and time, before anything heavy starts.

Arithmetic on the configuration files alone. Imports no torch.
"""

import importlib.util
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from maskora.app import timings
from maskora.app.footprint import Host, Job, Purpose, demand, dials, host
from maskora.app.machine import Machine, foreseen
from maskora.app.shards import adapter_values
from maskora.app.workspace import Source, Workspace
from maskora.config import Config, parse_size
from maskora.devices import BFLOAT16, DeviceKind, dotted
from maskora.errors import UserError
from maskora.models.files.source import resolve_base
from maskora.models.registry import Sizes, read_sizes
from maskora.models.registry import Source as BaseSource
from maskora.streaming.budget import Budget, budget
from maskora.streaming.demand import Demand, Need
from maskora.streaming.plan import RINGS, Placement, Solution, check_swap, refuse, smallest, solve

CONFIGS = ["model_index.json", "config.json", "*/config.json"]
COLOURINGS = 6  # orders of three channels, with motion.augment
LIGHTER = 0.9  # the share of the memory that clearly less is at most
PURPOSES: tuple[Purpose, ...] = ("train", "infer")


@dataclass(frozen=True)
class Plan:
    """One purpose's choice.

    Attributes:
        job: the run's numbers.
        sizes: the base's arithmetic.
        machine: where it runs.
        placement: how the base lies in memory.
        needs: device memory by phase; where there is no GPU, of the computation in RAM.
        host: the machine's memory by phase.
        reason: why this placement, in a sentence.
        budget: what of the GPU's memory may be used; None where there is no GPU.
    """

    job: Job
    sizes: Sizes
    machine: Machine
    placement: Placement
    needs: dict[str, Need]
    host: dict[str, Host]
    reason: str
    budget: Budget | None

    @property
    def device(self) -> DeviceKind:
        """ "cuda" with a GPU, else "cpu"."""
        return self.machine.kind

    @property
    def vram_bytes(self) -> int:
        """The largest phase on the GPU, with what the allocator loses; 0 without a GPU."""
        return max(need.total for need in self.needs.values()) if self.device == "cuda" else 0

    @property
    def allocated_bytes(self) -> int:
        """The same without that loss: what torch's own counter should reach at most."""
        return max(need.allocated for need in self.needs.values()) if self.device == "cuda" else 0

    @property
    def ram_bytes(self) -> int:
        """The largest phase in the machine's memory."""
        return max(part.total for part in self.host.values())

    def step_key(self, frames: int) -> str:
        """The name in `timings` of a step on samples of so many frames."""
        job, sizes = self.job, self.sizes
        facts: dict[str, Any] = {
            "device": self.machine.name,
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
            "acceleration": job.acceleration.model_dump(),
        }
        return timings.key(facts)

    def render(self) -> str:
        """The plan as people read it."""
        from maskora.app.plan_text import render

        return render([self])


def plan_for(
    config: Config,
    workspace: Workspace,
    source: Source | None,
    found: BaseSource,
    machine: Machine,
    purpose: Purpose,
) -> Plan:
    """How a run will lie in memory.

    Args:
        source: the prepared clip; None plans with [video].
        found: the base's parts; only their configuration files are read.
        machine: where it runs; without a GPU no budget is enforced.

    Raises:
        UserError: it does not fit the budget (and what would), more blocks are to be swapped than
            there are, or the GPU has no kernels for the precision.
    """
    check_precision(config, machine)
    sizes = read_sizes(config.model.family, found)
    job = job_of(config, workspace, source, purpose, machine.kind, sizes)
    plan = _planned(config, sizes, job, machine, RINGS)
    if plan.placement.ring > min(RINGS) and plan.ram_bytes > machine.ram.available:
        shorter = _planned(config, sizes, job, machine, RINGS[:1])  # fewer blocks wait in RAM
        return shorter if shorter.ram_bytes <= machine.ram.available else plan
    return plan


def check_precision(config: Config, machine: Machine) -> None:
    """Raises UserError where a GPU has no attention kernels for model.dtype."""
    known = machine.capability
    if config.model.dtype == "bfloat16" and known is not None and known < BFLOAT16:
        raise UserError(
            f"{machine.name} has compute capability {dotted(known)}, and bfloat16 needs "
            f"{dotted(BFLOAT16)}: below that, bfloat16 leaves PyTorch only the math attention, "
            f"which keeps gigabytes of scores. What would do:\n"
            f'  model.dtype = "float16" (training then scales its loss by a fixed factor)\n'
            f"  a newer GPU: GeForce RTX 30, say"
        )


def _planned(
    config: Config, sizes: Sizes, job: Job, machine: Machine, rings: tuple[int, ...]
) -> Plan:
    """The plan with one of these numbers of buffers. Raises UserError where nothing fits."""
    within = _budget(config, machine)
    solution = _solution(config, sizes, job, within, rings)
    needs = {
        name: need
        for name, need in solution.needs.items()
        if not (job.purpose == "train" and name == "decode")
    }
    return Plan(
        job=job,
        sizes=sizes,
        machine=machine,
        placement=solution.placement,
        needs=needs,
        host=host(sizes, job, solution.placement, needs, within is not None),
        reason=solution.reason,
        budget=within,
    )


def _budget(config: Config, machine: Machine) -> Budget | None:
    """What of the GPU may be used; None without one."""
    asked = config.memory.vram_budget_gb
    cap = None if asked == "auto" else asked
    return None if machine.gpu is None else budget(cap, machine.gpu)


def _solution(
    config: Config, sizes: Sizes, job: Job, within: Budget | None, rings: tuple[int, ...]
) -> Solution:
    """What was asked for, or what fits best. Raises UserError where nothing does."""
    swap, asked = config.memory.blocks_to_swap, demand(sizes, job)
    check_swap(swap, asked.blocks.blocks)
    base = Placement(
        blocks_to_swap=0,
        weights=config.memory.weights,
        storage=job.storage,
        activation_offload=job.offload,
    )
    if within is None:
        return _without_gpu(asked, swap, base)
    found = solve(asked, within.nbytes, swap, base, rings, within.steady)
    if found is None:
        raise refuse(asked, within, swap, base, dials(sizes, job, swap))
    return found


def _without_gpu(asked: Demand, swap: int | str, base: Placement) -> Solution:
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
        acceleration=config.acceleration,
        further_loras=sum(map(adapter_values, further)) if purpose == "infer" else 0,
    )


def lighter(plan: Plan) -> list[str]:
    """Single changes of the configuration with which a run needs clearly less VRAM at the least."""
    now, ring = demand(plan.sizes, plan.job), min(RINGS)
    _, least = smallest(now, "auto", ring)
    firsts = [
        next((c.told for c in dial if smallest(c.demand, c.swap, ring)[1] <= LIGHTER * least), None)
        for dial in dials(plan.sizes, plan.job, "auto")
    ]
    return [told for told in firsts if told is not None]


def _planned_size(config: Config, multiple: int) -> tuple[int, int]:
    """[video] size on the base's grid; the area of an automatic one as if it were the size."""
    text = config.video.size
    text = (text.partition(":")[2] or "832x480") if config.video.is_auto else text
    width, height = (max(1, side // multiple) * multiple for side in parse_size(text))
    return width, height


def _has_bitsandbytes() -> bool:
    return importlib.util.find_spec("bitsandbytes") is not None


def show_plan(
    config: Config, workspace: Workspace, device: str | None, vram: float | None = None
) -> None:
    """Print the plan of training and of inference, or raise UserError where either cannot fit.

    Args:
        device, vram: --device and --vram.
    """
    from maskora.app.plan_text import render, tell_disk, tell_time

    machine = foreseen(device, vram)
    source = workspace.read_source() if workspace.source_record.is_file() else None
    found = resolve_base(config.model, workspace.root, CONFIGS)
    plans, refusals = [], []
    for purpose in PURPOSES:
        try:
            plans.append(plan_for(config, workspace, source, found, machine, purpose))
        except UserError as error:
            refusals.append(str(error))
    if refusals:
        raise UserError("\n".join(dict.fromkeys(refusals)))
    if source is None:
        print(f"{workspace.root} is not prepared yet: planned with [video] of the configuration")
    print(render(plans))
    print(tell_disk(config, found, plans[0]))
    print(tell_time(config, workspace, *plans))
