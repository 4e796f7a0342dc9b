"""Many edits on many GPUs: what an edit costs by its plan, what runs short, and how it scales.

    python -m research.scaling --config configs/wan2.1-i2v-480p.toml --vram 24 --minutes 30

The minutes of an edit are those that `maskora plan` prints as "whole edit" where this machine has
measured them, or given. Everything else is the planner's.
"""

import argparse
import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from maskora.app.plan import CONFIGS, clip_segments, plan_for, planned_seconds
from maskora.app.workspace import Workspace
from maskora.config import Config, load_config
from maskora.errors import UserError
from maskora.memory.machine import Machine, foreseen
from maskora.memory.plan import Plan, memory_demand
from maskora.memory.profile import published
from maskora.models.files.model_files import resolve_base
from maskora.streaming.placement import GIB, gb
from maskora.system import Ram

GPU_COUNTS = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Cost:
    """What one edit takes; all but the seconds in bytes.

    Attributes:
        seconds: on one GPU.
        moved: weights that pass from the host to the GPU.
        read: from disk: the transformer, once for training and once for each segment; with
            weights = "mapped" what is moved, too.
        cached: latents in the workspace's cache, at most.
        ram: at its largest.
    """

    seconds: float
    moved: int
    read: int
    cached: int
    ram: int


@dataclass(frozen=True)
class Site:
    """What jobs share.

    Attributes:
        gpus, ram: of a machine, which may have fewer GPUs: how many, and bytes for jobs.
        disk: bytes per second that all machines together read.
    """

    gpus: int
    ram: float
    disk: float

    def busy(self, gpus: int, cost: Cost) -> int:
        """How many of so many GPUs have a job, as far as the RAM of their machines reaches."""
        most = min(self.gpus, int(self.ram // cost.ram))
        whole, rest = divmod(gpus, self.gpus)
        return whole * most + min(rest, most)

    def slowdown(self, busy: int, cost: Cost) -> float:
        """By how much jobs take longer where so many at a time want more of the disk than it has.

        Jobs are taken to read evenly over their time.
        """
        return max(1.0, busy * cost.read / cost.seconds / self.disk)


@dataclass(frozen=True)
class Fleet:
    """What the GPUs of a simulation do.

    Attributes:
        gpus: how many.
        failures: of a GPU per second of work.
        repair: seconds until a failed GPU works again.
        checkpoint: seconds of work between two checkpoints, from which a job goes on elsewhere.
        overhead: seconds that a job takes to begin or to go on.
    """

    gpus: int
    failures: float = 0.0
    repair: float = 600.0
    checkpoint: float = 60.0
    overhead: float = 0.0


def plans_of(path: Path, config: Config, machine: Machine) -> tuple[Plan, Plan]:
    """The plans of training and of inference, of the published base where it is one.

    Args:
        path: of the configuration.

    Raises:
        UserError: it does not fit, or the base is not there.
    """
    known, workspace = published().get(path.stem), Workspace(path.parent)
    base = known.profile if known else resolve_base(config.model, workspace.root, CONFIGS)
    source = workspace.read_source() if workspace.source_record.is_file() else None
    train = plan_for(config, workspace, source, base, machine, "train")
    return train, plan_for(config, workspace, source, base, machine, "infer")


def cost_of(config: Config, train: Plan, infer: Plan, segments: int, seconds: float) -> Cost:
    """What an edit of the first frame takes by its plans.

    Args:
        segments: in how many the clip is generated.
    """
    base, job = train.base, train.job
    trained = base.experts * config.motion.steps * job.accumulation
    moved = trained * _moved(train) + segments * config.inference.steps * _moved(infer)
    dense = sum(base.block_bytes(job.dtype, "same")) + base.other_bytes(job.dtype)
    mapped = train.placement.weights == "mapped"
    # Of each sample the target and its condition; of each segment the condition and the result.
    latents = 2 * job.windows * base.latent_bytes(job.window, job.width, job.height)
    latents += 2 * segments * base.latent_bytes(infer.job.frames, job.width, job.height)
    return Cost(
        seconds=seconds,
        moved=moved,
        read=(1 + segments) * base.experts * dense + (moved if mapped else 0),
        cached=latents,
        ram=max(train.ram_bytes, infer.ram_bytes),
    )


def _moved(plan: Plan) -> int:
    """Bytes that a step on one sample brings to the GPU."""
    blocks, placement = memory_demand(plan.base, plan.job).blocks, plan.placement
    return blocks.moved(placement.blocks_to_swap, placement.ring)


def makespan(seconds: Sequence[float], fleet: Fleet, rng: random.Random) -> float:
    """Seconds until the last job is done; a free GPU takes the next one in the queue.

    A job that loses its GPU goes to the end of the queue with what it has done up to its last
    checkpoint.

    Args:
        seconds: of work, by job.
    """
    gpus = [0.0] * fleet.gpus
    waiting, again = list(reversed(seconds)), list[tuple[float, float]]()
    end = 0.0
    while waiting or again:
        free = heapq.heappop(gpus)
        if waiting:
            work = waiting.pop()
        else:
            lost, work = heapq.heappop(again)
            free = max(free, lost)
        needed = fleet.overhead + work
        fails = rng.expovariate(fleet.failures) if fleet.failures else needed
        if fails >= needed:
            end = max(end, free + needed)
            heapq.heappush(gpus, free + needed)
            continue
        done = max(0.0, fails - fleet.overhead) // fleet.checkpoint * fleet.checkpoint
        heapq.heappush(again, (free + fails, work - done))
        heapq.heappush(gpus, free + fails + fleet.repair)
    return end


def ideal(seconds: Sequence[float], gpus: int) -> float:
    """What no order of jobs can be faster than: the work shared evenly, or the longest job."""
    return max(sum(seconds) / gpus, max(seconds))


def draw_jobs(count: int, mean: float, spread: float, rng: random.Random) -> list[float]:
    """Seconds of so many jobs, evenly between mean * (1 - spread) and mean * (1 + spread)."""
    return [mean * (1 + spread * (2 * rng.random() - 1)) for _ in range(count)]


def table(
    jobs: Sequence[float], cost: Cost, site: Site, fleets: Sequence[Fleet], seed: int
) -> list[str]:
    """A line per fleet: its GPUs, those that RAM leaves busy, hours, hours at best, their ratio."""
    lines = ["| GPUs | busy | hours | ideal | efficiency |", "| --- | --- | --- | --- | --- |"]
    for fleet in fleets:
        busy, best = site.busy(fleet.gpus, cost), ideal(jobs, fleet.gpus)
        slower = [one * site.slowdown(busy, cost) for one in jobs]
        took = makespan(slower, replace(fleet, gpus=busy), random.Random(seed))
        cells = fleet.gpus, busy, f"{took / 3600:.2f}", f"{best / 3600:.2f}", f"{best / took:.1%}"
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def describe(cost: Cost, site: Site, train: Plan, infer: Plan) -> list[str]:
    """What an edit costs, and how many at a time would use up what they share."""
    per_machine, fed = int(site.ram // cost.ram), int(site.disk * cost.seconds / cost.read)
    job, weights = train.job, train.placement.weights
    swapped = train.placement.blocks_to_swap, infer.placement.blocks_to_swap
    return [
        f"{train.base.name} on {train.machine.name}, in windows of {job.window} and segments of "
        f"{infer.job.frames} frames at {job.width}x{job.height}. An edit takes",
        "",
        f"- {cost.seconds / 60:.1f} minutes of one GPU",
        f"- {gb(cost.moved)} GB of weights on their way to the GPU: {swapped[0]} blocks in "
        f"training and {swapped[1]} in inference are {weights}",
        f"- {gb(cost.read)} GB of the transformer, read from disk: {site.disk / GIB:g} GB a second "
        f"feed {fed} GPUs",
        f"- {cost.cached / 2**20:.0f} MB of latents in the cache, at most",
        f"- {gb(cost.ram)} GB of RAM: {site.ram / GIB:g} GB hold {per_machine} edits at a time, "
        f"for {site.gpus} GPUs",
    ]


def main() -> None:
    """Print the costs of an edit, and the table for 1 to 64 GPUs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=Path("configs/wan2.1-i2v-480p.toml"))
    parser.add_argument("--set", action="append", default=[], metavar="TABLE.KEY=VALUE")
    parser.add_argument("--vram", type=float, help="GB of GPUs as sold, instead of this machine's")
    parser.add_argument("--minutes", type=float, help="of an edit on one GPU, if not as measured")
    parser.add_argument("--edits", type=int, default=1000)
    parser.add_argument("--spread", type=float, default=0.5, help="share by which edits differ")
    parser.add_argument("--machine-gpus", type=int, default=8)
    parser.add_argument("--machine-ram", type=float, default=512, help="GB")
    parser.add_argument("--disk", type=float, default=2.0, help="GB a second, for all machines")
    parser.add_argument("--failures-per-hour", type=float, default=0.0, help="of one GPU")
    parser.add_argument("--repair-minutes", type=float, default=10.0)
    parser.add_argument("--checkpoint-minutes", type=float, default=1.0)
    parser.add_argument("--overhead-seconds", type=float, default=60.0, help="to load the base")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    try:
        print("\n".join(report(given)))
    except UserError as error:
        parser.error(str(error))


def report(given: argparse.Namespace) -> list[str]:
    """All that is printed. Raises UserError."""
    config = load_config(given.config, given.set)
    nbytes = given.machine_ram * GIB
    machine = replace(foreseen(None if given.vram is None else "cuda", given.vram),
                      ram=Ram(int(nbytes), int(nbytes)))  # fmt: skip
    train, infer = plans_of(given.config, config, machine)
    workspace = Workspace(given.config.parent)
    source = workspace.read_source() if workspace.source_record.is_file() else None
    segments = len(clip_segments(config, source, []))
    seconds = planned_seconds(config, [train, infer], [0], segments)
    if given.minutes is not None:
        seconds = given.minutes * 60
    if seconds is None:
        raise UserError(f"no step of this plan was measured on {machine.name}: give --minutes")
    cost = cost_of(config, train, infer, segments, seconds)
    site = Site(given.machine_gpus, nbytes, given.disk * GIB)
    if nbytes < cost.ram:
        raise UserError(f"--machine-ram {given.machine_ram:g}: an edit takes {gb(cost.ram)} GB")
    jobs = draw_jobs(given.edits, seconds, given.spread, random.Random(given.seed))
    fleets = [
        Fleet(
            gpus, given.failures_per_hour / 3600, given.repair_minutes * 60,
            given.checkpoint_minutes * 60, given.overhead_seconds,
        )
        for gpus in GPU_COUNTS
    ]  # fmt: skip
    lines = table(jobs, cost, site, fleets, given.seed)
    return [*describe(cost, site, train, infer), "", *lines]


if __name__ == "__main__":
    main()
