"""The plan of a run: what it takes of memory, phase by phase, and how the base is placed.

A run's numbers and a base's profile make a demand; the solver places the base within the budget.
Imports no torch.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from maskora.config.tables import Acceleration, Memory
from maskora.devices import DeviceKind
from maskora.errors import UserError
from maskora.frames import KEPT
from maskora.memory.machine import Budget, Machine, budget
from maskora.memory.profile import Profile
from maskora.memory.solver import (
    RINGS,
    BlockPhase,
    Change,
    ComputeMode,
    Demand,
    Need,
    Solution,
    Swap,
    TilePhase,
    refuse,
    smallest,
    solve,
)
from maskora.streaming.placement import (
    GIB,
    SAMPLE_ROOM,
    STAGING_PIECE,
    STAGING_PIECES,
    TILES,
    Placement,
    gb,
    spread,
)

Purpose = Literal["train", "infer"]
FLOAT = 4
# Python with its libraries: half a GiB once they are imported, and what they come to hold beside
# the tensors. (`maskora demo`, whose tensors are few, takes 0.7 in all on a CPU.)
PROGRAM = 2 * GIB // 3
# What a cache over the denoising steps keeps, in inputs of a block: the first block's result and
# change, the others' sum of changes; of the last layer's output two terms, never larger than one.
CACHED = {"first-block": 3, "taylor": 1}
RING = Placement(blocks_to_swap=0).ring
LIGHTER = 0.9  # the share of the memory that clearly less is at most
PLAIN = Acceleration()


@dataclass(frozen=True)
class PreviewClip:
    """A small clip that is generated now and then while the LoRA is trained.

    Attributes:
        width, height: in pixels.
        frames: how many.
        rows: how many denoise together.
    """

    width: int
    height: int
    frames: int
    rows: int


@dataclass(frozen=True)
class Workload:
    """Everything about a run that its memory and its time depend on, but the placement.

    Attributes:
        frames, width, height: of the clip, in pixels.
        window: frames of one training sample.
        windows: how many such samples there are.
        batch: how many rows denoise together: guidance branches, and the source beside them.
        optimizer: bytes of optimizer state per LoRA weight.
        accumulation: samples per training step, one after another.
        waiting: how many of a block's answers for the source wait for the edit's rows.
        further_loras: values of the LoRAs that are stacked on the trained one.
        acceleration: what is used to be faster.
        look: what training shows meanwhile; None where it shows nothing.
    """

    purpose: Purpose
    frames: int
    width: int
    height: int
    window: int
    windows: int
    batch: int
    rank: int
    targets: str
    dtype: str
    storage: str
    offload: bool
    optimizer: int
    accumulation: int = 1
    further_loras: int = 0
    waiting: int = 0
    acceleration: Acceleration = PLAIN
    look: PreviewClip | None = None

    def tokens(self, base: Profile, frames: int) -> int:
        return base.tokens(frames, self.width, self.height)


def memory_demand(base: Profile, job: Workload) -> Demand:
    """What a job asks of the device."""
    tiles = [None, *(tile for tile in TILES if tile < max(job.width, job.height))]
    shape = job.frames, job.width, job.height
    encode = {tile: base.vae_encode_bytes(*shape, tile) for tile in tiles}
    decode = {tile: base.vae_decode_bytes(*shape, tile) for tile in tiles}
    return Demand(
        blocks=_training(base, job) if job.purpose == "train" else _generating(base, job),
        # Both, whatever the purpose: training and inference must see latents of the same tiles.
        tiles=(
            TilePhase("video encoder", base.vae_bytes(), encode),
            TilePhase("decode", base.vae_bytes(), decode),
        ),
        fixed={
            name: Need(ring=RING * part.layer, others=part.others, activations=part.activations)
            for name, part in base.encoders(job.dtype).items()
        },
    )


def _training(base: Profile, job: Workload) -> BlockPhase:
    tokens = job.tokens(base, job.window)
    blocks = base.block_bytes(job.dtype, job.storage)
    kept = min(2, len(blocks)) if job.offload else len(blocks)
    scratch = base.scratch_bytes(job.dtype, job.storage)
    look = 0 if job.look is None else _looking(base, job, job.look)
    block, layer = (
        max(look, scratch + base.train_bytes(job.dtype, tokens, how, job.rank, job.targets))
        for how in ("block", "layer")
    )
    slower = (
        "training keeps one layer's graph at a time and computes each layer once more, because a "
        "whole block's does not fit"
    )
    return BlockPhase(
        name="train",
        block_bytes=blocks,
        others=base.other_bytes(job.dtype),
        adapter=base.lora_parameters(job.rank, job.targets) * (2 * FLOAT + job.optimizer),
        inputs=kept * base.input_bytes(job.dtype, tokens),
        modes=(ComputeMode(block), ComputeMode(layer, {"recompute": "layer"}, slower)),
        backward=True,
    )


def _looking(base: Profile, job: Workload, look: PreviewClip) -> int:
    """Bytes that a preview takes beside the transformer that is trained: denoised, then decoded."""
    tokens = base.tokens(look.frames, look.width, look.height)
    denoised = base.infer_bytes(job.dtype, tokens, look.rows, False, job.targets)
    decoded = base.vae_decode_bytes(look.frames, look.width, look.height, None)
    scratch = base.scratch_bytes(job.dtype, job.storage)
    return max(scratch + denoised, base.vae_bytes() + decoded)


def _generating(base: Profile, job: Workload) -> BlockPhase:
    tokens = job.tokens(base, job.frames)
    blocks = base.block_bytes(job.dtype, job.storage)
    scratch = base.scratch_bytes(job.dtype, job.storage)
    whole, split = (
        scratch + base.infer_bytes(job.dtype, tokens, job.batch, one_by_one, job.targets)
        for one_by_one in (False, True)
    )
    rows = "the source and the edit" if job.waiting else "the two guidance branches"
    in_turn = f"{rows} run one after the other within each block"
    remembered = CACHED.get(job.acceleration.cache, 0) * base.input_bytes(job.dtype, tokens)
    split += job.waiting * base.input_bytes(job.dtype, tokens)
    halves = (ComputeMode(split, {"split_batch": True}, in_turn),) if job.batch > 1 else ()
    values = base.lora_parameters(job.rank, job.targets) + job.further_loras
    return BlockPhase(
        name="generate",
        block_bytes=blocks,
        others=base.other_bytes(job.dtype),
        adapter=FLOAT * values,
        inputs=job.batch * remembered,
        modes=(ComputeMode(whole), *halves),
        free=True,
    )


@dataclass(frozen=True)
class Host:
    """Host memory of one phase in bytes.

    Attributes:
        computing: what would lie on a GPU, where there is none.
        weights: streamed blocks that wait.
        staging: pinned pieces between them and the device, where they are not pinned themselves.
        inputs: block inputs that wait for backward.
        loading: what loading takes beside, at its largest.
        frames: the clip's frames, masks and samples.
        program: Python with its libraries.
    """

    computing: int = 0
    weights: int = 0
    staging: int = 0
    inputs: int = 0
    loading: int = 0
    frames: int = 0
    program: int = PROGRAM

    @property
    def total(self) -> int:
        return sum(getattr(self, row.name) for row in fields(self))


def host_memory(
    base: Profile, job: Workload, placement: Placement, needs: dict[str, Need], on_gpu: bool
) -> dict[str, Host]:
    """What each phase takes of the machine's memory. Files that are mapped do not count."""
    blocks = base.block_bytes(job.dtype, job.storage)
    streamed = [blocks[index] for index in spread(len(blocks), placement.blocks_to_swap)]
    pinned = placement.weights == "pinned"
    transformer = Host(
        weights=0 if placement.weights == "mapped" else sum(streamed),
        staging=0 if pinned else _staging(min(len(streamed), placement.ring), streamed),
        loading=max(blocks) + base.largest_matrix(),
    )
    kept = len(blocks) - 1 if placement.activation_offload else 0
    tokens = job.tokens(base, job.window)
    phases = {
        **{
            name: Host(staging=_staging(RING, [part.layer]))
            for name, part in base.encoders(job.dtype).items()
        },
        "video encoder": Host(loading=base.vae_bytes()),
        "train": replace(
            transformer,
            inputs=kept * base.input_bytes(job.dtype, tokens),
            loading=max(transformer.loading, base.vae_bytes() if job.look else 0),
        ),
        "generate": transformer,
        "decode": Host(loading=base.vae_bytes()),
    }
    return {
        name: replace(
            phases[name],
            computing=0 if on_gpu else need.allocated,
            frames=_clip_bytes(job, decoded=name == "decode"),
        )
        for name, need in needs.items()
    }


def _staging(buffers: int, streamed: list[int]) -> int:
    """Pieces in host memory that weights pass through; never more than as many whole buffers."""
    return min(STAGING_PIECE * STAGING_PIECES, buffers * max(streamed, default=0))


def _clip_bytes(job: Workload, decoded: bool) -> int:
    """Frames and labels as bytes, videos and keep masks in float32, as many as there are at once.

    In training one sample is made while the last is let go, and of the encoded ones some stay.
    """
    pixels = job.width * job.height
    colours, mask = 3 * FLOAT * pixels, FLOAT * pixels
    frames = min(job.frames, KEPT) * 4 * pixels
    if job.purpose == "train":
        encoded = min(SAMPLE_ROOM, job.windows * job.window * 2 * mask)
        look = job.look
        shown = 0 if look is None else look.frames * look.width * look.height * 9 * FLOAT
        return frames + 2 * job.window * (2 * colours + 2 * mask) + encoded + shown
    return job.frames * (4 * pixels + colours + mask + (3 if decoded else 2) * colours)


def suggestions(base: Profile, job: Workload, swap: Swap) -> Iterator[Iterator[Change]]:
    """What could be changed so that a job fits, of each thing the smallest change first."""
    training = job.purpose == "train"

    def change(text: str, swap: Swap = swap, **changes: object) -> Change:
        return Change(text, memory_demand(base, replace(job, **changes)), swap)  # type: ignore[arg-type]

    if swap != "auto":
        yield iter([change('memory.blocks_to_swap = "auto"', swap="auto")])
    if training and not job.offload:
        yield iter([change("memory.activation_offload = true", offload=True)])
    for storage in ("float8", "nf4"):
        if job.storage == "same":
            yield iter([change(f'model.transformer_dtype = "{storage}"', storage=storage)])
    if training:
        yield (
            change(f"motion.window = {window}", window=window)
            for window in range(job.window - 4, 4, -4)
        )
    yield (
        change(f"inference.segment = {frames}", frames=frames)
        for frames in range(job.frames - 4, 8, -4)
    )
    yield (
        change(f'video.size = "{width}x{height}" (prepare again)', width=width, height=height)
        for width, height in smaller_sizes(job.width, job.height, base.grid.multiple)
    )


def smaller_sizes(width: int, height: int, multiple: int) -> Iterator[tuple[int, int]]:
    """Smaller pictures of about the same aspect on the grid, the largest first."""
    cells = min(width, height) // multiple
    for smaller in range(cells - 1, 0, -1):
        scale = smaller / cells
        sides = (max(1, round(side * scale / multiple)) * multiple for side in (width, height))
        yield next(sides), next(sides)


@dataclass(frozen=True)
class Plan:
    """One purpose's choice.

    Attributes:
        job: the run's numbers.
        base: its profile.
        machine: where it runs.
        placement: how the base lies in memory.
        needs: device memory by phase; where there is no GPU, of the computation in RAM.
        host: the machine's memory by phase.
        reason: why this placement, in a sentence.
        budget: what of the GPU's memory may be used; None where there is no GPU.
    """

    job: Workload
    base: Profile
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
        """A name for all that decides how long a step on samples of so many frames takes."""
        job = self.job
        return self._key(job.purpose, job.tokens(self.base, frames), job.batch)

    def look_key(self, look: PreviewClip) -> str:
        """The same of a denoising step of a preview while training."""
        tokens = self.base.tokens(look.frames, look.width, look.height)
        return self._key("preview", tokens, look.rows)

    def _key(self, purpose: str, tokens: int, rows: int) -> str:
        job, base = self.job, self.base
        facts: dict[str, Any] = {
            "device": self.machine.name,
            "purpose": purpose,
            "base": f"{base.name}, {base.parameters} parameters",
            "tokens": tokens,
            "batch": rows,
            "accumulation": job.accumulation,
            "rank": job.rank,
            "targets": job.targets,
            "further LoRA values": job.further_loras,
            "dtype": job.dtype,
            "placement": asdict(self.placement),
            "acceleration": job.acceleration.model_dump(),
        }
        return json.dumps(facts, sort_keys=True)


def plan_run(base: Profile, job: Workload, machine: Machine, memory: Memory) -> Plan:
    """How a run will lie in memory; without a GPU no budget is enforced.

    Args:
        memory: [memory] of the configuration.

    Raises:
        UserError: it does not fit the budget (and what would), or more blocks are to be swapped
            than there are.
    """
    plan = _planned(base, job, machine, memory, RINGS)
    if plan.placement.ring > min(RINGS) and plan.ram_bytes > machine.ram.available:
        shorter = _planned(base, job, machine, memory, RINGS[:1])  # fewer blocks wait in RAM
        return shorter if shorter.ram_bytes <= machine.ram.available else plan
    return plan


def _planned(
    base: Profile, job: Workload, machine: Machine, memory: Memory, rings: tuple[int, ...]
) -> Plan:
    """The plan with one of these numbers of buffers. Raises UserError where nothing fits."""
    cap = None if memory.vram_budget_gb == "auto" else memory.vram_budget_gb
    within = None if machine.gpu is None else budget(cap, machine.gpu)
    solution = _solution(base, job, memory, within, rings)
    needs = {
        name: need
        for name, need in solution.needs.items()
        if not (job.purpose == "train" and name == "decode")
    }
    return Plan(
        job=job,
        base=base,
        machine=machine,
        placement=solution.placement,
        needs=needs,
        host=host_memory(base, job, solution.placement, needs, within is not None),
        reason=solution.reason,
        budget=within,
    )


def _solution(
    base: Profile, job: Workload, memory: Memory, within: Budget | None, rings: tuple[int, ...]
) -> Solution:
    """What was asked for, or what fits best. Raises UserError where nothing does."""
    swap, asked = memory.blocks_to_swap, memory_demand(base, job)
    if swap != "auto" and swap > (count := asked.blocks.blocks):
        raise UserError(f"[memory] blocks_to_swap is {swap}, but this base has {count} blocks")
    start = Placement(
        blocks_to_swap=0,
        weights=memory.weights,
        storage=job.storage,
        activation_offload=job.offload,
    )
    if within is None:
        return _without_gpu(asked, swap, start)
    found = solve(asked, within.nbytes, swap, start, rings, within.steady)
    if found is None:
        raise refuse(asked, within, swap, start, suggestions(base, job, swap))
    return found


def _without_gpu(asked: Demand, swap: Swap, start: Placement) -> Solution:
    """Everything in RAM; mapped blocks are read from disk at every visit."""
    blocks = asked.blocks
    if isinstance(swap, int):
        swapped, reason = swap, f"{swap} of {blocks.blocks} blocks are swapped, as set"
    elif start.weights == "mapped":
        swapped = blocks.blocks
        reason = f"all {swapped} blocks are read from disk when needed"
    else:
        swapped, reason = 0, f"all {blocks.blocks} blocks lie in RAM"
    placement = Placement(swapped, start.weights, start.storage)
    needs = asked.needs(swapped, placement.ring, blocks.modes[0], None)
    return Solution(placement, needs, reason)


def lighter(plan: Plan) -> list[str]:
    """Single changes of the configuration with which a run needs clearly less VRAM at the least."""
    ring = min(RINGS)
    _, least = smallest(memory_demand(plan.base, plan.job), "auto", ring)
    firsts = [
        next((c for c in changes if smallest(c.demand, c.swap, ring)[1] <= LIGHTER * least), None)
        for changes in suggestions(plan.base, plan.job, "auto")
    ]
    return [change.text for change in firsts if change is not None]


def lacking_ram(plan: Plan, processes: int = 1) -> str | None:
    """What to do where a plan takes more RAM than can be had; None where it does not.

    Args:
        processes: how many carry it out on this machine.
    """
    ram, placement = plan.machine.ram, plan.placement
    nbytes = plan.ram_bytes if processes == 1 else _of_all(plan, processes)
    if nbytes <= ram.available:
        return None
    ways = ["end other programs"]
    if placement.weights != "mapped":
        ways.append('set memory.weights = "mapped", which leaves the weights on disk')
    if placement.storage == "same":
        ways.append('set model.transformer_dtype = "float8", which halves them')
    needed, instead = gb(nbytes), ", or ".join(ways)
    all_of_them = f" in {processes} processes" if processes > 1 else ""
    return f"the plan takes {needed} GB of RAM{all_of_them}, and {ram.description}: {instead}"


def _of_all(plan: Plan, processes: int) -> int:
    """What so many processes take of a machine's RAM; the weights that wait they hold once.

    In inference each of the base's transformers waits from when one of them first needs it.
    """
    parts = plan.host.values()
    if plan.job.purpose == "train":
        return max(processes * (part.total - part.weights) + part.weights for part in parts)
    waiting = plan.base.experts * max(part.weights for part in parts)
    return processes * max(part.total - part.weights for part in parts) + waiting
