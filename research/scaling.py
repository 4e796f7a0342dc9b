"""Many edits on many GPUs, simulated: how near a queue of jobs comes to the ideal, with failures.

    python -m research.scaling --minutes 30 --spread 0.5 --failures-per-hour 0.02

`--minutes` is what `maskora plan` prints as "whole edit" on the machine in question.
"""

import argparse
import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass

GPU_COUNTS = (1, 2, 4, 8, 16, 32, 64)


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


def table(jobs: Sequence[float], fleets: Sequence[Fleet], seed: int) -> list[str]:
    """A line per fleet: GPUs, hours, hours at best, and the second in parts of the first."""
    lines = ["GPUs     hours    ideal  efficiency"]
    for fleet in fleets:
        took, best = makespan(jobs, fleet, random.Random(seed)), ideal(jobs, fleet.gpus)
        lines.append(f"{fleet.gpus:5} {took / 3600:8.2f} {best / 3600:8.2f} {best / took:11.1%}")
    return lines


def main() -> None:
    """Print the table for 1 to 64 GPUs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edits", type=int, default=1000)
    parser.add_argument("--minutes", type=float, required=True, help="of an edit on one GPU")
    parser.add_argument("--spread", type=float, default=0.5, help="share by which edits differ")
    parser.add_argument("--failures-per-hour", type=float, default=0.0, help="of one GPU")
    parser.add_argument("--repair-minutes", type=float, default=10.0)
    parser.add_argument("--checkpoint-minutes", type=float, default=1.0)
    parser.add_argument("--overhead-seconds", type=float, default=60.0, help="to load the base")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    jobs = draw_jobs(given.edits, given.minutes * 60, given.spread, random.Random(given.seed))
    fleets = [
        Fleet(
            gpus, given.failures_per_hour / 3600, given.repair_minutes * 60,
            given.checkpoint_minutes * 60, given.overhead_seconds,
        )
        for gpus in GPU_COUNTS
    ]  # fmt: skip
    print("\n".join(table(jobs, fleets, given.seed)))


if __name__ == "__main__":
    main()
