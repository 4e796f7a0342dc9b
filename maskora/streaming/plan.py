"""How a base lies in memory, chosen by arithmetic on bytes; needs no torch and no weights.

The solver takes, of the choices that fit the budget in every phase, those that cost least time.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from maskora.errors import UserError
from maskora.streaming.budget import Budget
from maskora.streaming.demand import GIB, BlockPhase, Demand, Need, Swap, Way, gb

# How many buffers streamed blocks may pass through. Two are needed: one computes, one arrives.
RINGS = (2, 3, 4)
# Of a GPU's memory, what a tidy desktop leaves: the share that decides whether it helps to end
# what uses it.
MOST_FREE = 0.96


@dataclass(frozen=True)
class Placement:
    """How the base lies in memory: what the streaming engine is told.

    Attributes:
        blocks_to_swap: how many blocks are streamed from the host; the others stay on the device.
        weights: where streamed blocks wait: "pinned", "pageable", or "mapped" (on disk).
        storage: how their Linear weights are kept: "same" (as computed), "float8", "int8", "nf4".
        activation_offload: each block's saved input waits in host memory during training.
        ring: device buffers that streamed blocks pass through.
        recompute: what backward holds at once: a whole "block"'s graph, or one "layer"'s.
        split_batch: run the two guidance branches one after the other within a block's visit.
        vae_tile: edge of the VAE's square tiles in pixels; None takes the whole picture.
    """

    blocks_to_swap: int
    weights: str = "pinned"
    storage: str = "same"
    activation_offload: bool = False
    ring: int = 2
    recompute: str = "block"
    split_batch: bool = False
    vae_tile: int | None = None


RESIDENT = Placement(blocks_to_swap=0)
TILES = (512, 384, 256, 192, 128)


def next_tile(tile: int | None, longest: int) -> int | None:
    """The largest tile that is smaller than this one; None where there is none.

    Args:
        tile: edge of the tiles so far; None for the whole picture.
        longest: the longer side of the picture in pixels.
    """
    return next((edge for edge in TILES if edge < (tile or longest)), None)


@dataclass(frozen=True)
class Solution:
    """A placement, what each phase takes with it, and why it was chosen."""

    placement: Placement
    needs: dict[str, Need]
    reason: str


@dataclass(frozen=True)
class Change:
    """One change to what was asked for, and what it would ask of the device."""

    told: str
    demand: Demand
    swap: Swap


def solve(
    demand: Demand,
    budget: int,
    swap: Swap,
    base: Placement,
    rings: Sequence[int] = RINGS,
    steady: int | None = None,
) -> Solution | None:
    """The placement that costs least time within a budget; None where none fits.

    Args:
        budget: bytes that every phase must stay within.
        swap: how many blocks to stream, or "auto" for the fewest that fit.
        base: the choices that are not the solver's (weights, storage, offload).
        rings: the numbers of buffers to try, the smallest first.
        steady: bytes for the tiled phases alone, so that what happens to be free does not decide
            which tile's seams the latents have; the budget where no tile fits this.
    """
    if any(need.total > budget for need in demand.fixed.values()):
        return None
    fitting = [tile for tile in demand.tile_sizes if _fits_tiled(demand, tile, budget)]
    found = _least_moved(demand.blocks, budget, swap, rings)
    if not fitting or found is None:
        return None
    at_most = budget if steady is None else min(steady, budget)
    tile = next((tile for tile in fitting if _fits_tiled(demand, tile, at_most)), fitting[0])
    swapped, ring, way = found
    placement = replace(base, blocks_to_swap=swapped, ring=ring, vae_tile=tile, **way.settings)
    needs = demand.needs(swapped, ring, way, tile)
    return Solution(placement, needs, _reason(demand, budget, swap, placement, way))


def refuse(
    demand: Demand, budget: Budget, swap: Swap, base: Placement, dials: Iterable[Iterable[Change]]
) -> UserError:
    """Say that nothing fits, and what would: more memory, and single changes.

    Args:
        dials: for each thing that could be changed, its changes, the smallest one first. Of each
            dial the first that fits is told.
    """
    phase, least = smallest(demand, swap, min(RINGS))
    changes = [
        next((c.told for c in dial if solve(c.demand, budget.nbytes, c.swap, base)), None)
        for dial in dials
    ]
    fitting = [f"  {told}" for told in changes if told is not None]
    lines = [*_more_memory(phase, least + budget.overhead, budget), *fitting]
    if not fitting:
        lines.append("  no single change fits this budget: combine them, or use a smaller base")
    return UserError("\n".join(lines))


def _more_memory(phase: str, least: int, budget: Budget) -> list[str]:
    """How much a phase needs at the least, the overhead included, and where it could come from."""
    memory, needed = budget.memory, _rounded_up(least)
    if budget.cap is not None:
        lacks = f", on a GPU that has it free ({memory.told})" if least > memory.free else ""
        return [
            f"{phase} needs {needed} GB of VRAM at the least, and memory.vram_budget_gb is "
            f"{budget.cap / GIB:g}. What would fit:",
            f"  memory.vram_budget_gb = {needed}{lacks}",
        ]
    lines = [
        f"{phase} needs {needed} GB of free VRAM at the least, and {memory.told}. What would fit:",
        f"  a GPU with {needed} GB free",
    ]
    if memory.sold_gb is None and least <= MOST_FREE * memory.total:
        held = gb(max(0, memory.total - memory.free))
        lines.append(
            f"  to end what uses the GPU: {held} of its {gb(memory.total)} GB are taken "
            f"(nvidia-smi lists by what)"
        )
    return lines


def smallest(demand: Demand, swap: Swap, ring: int) -> tuple[str, int]:
    """The phase that asks for most, and the smallest budget in bytes that `solve` accepts."""
    phase = demand.blocks
    totals = {name: need.total for name, need in demand.fixed.items()}
    for tiled in demand.tiles:
        totals[tiled.name] = min(tiled.need(tile).total for tile in demand.tile_sizes)
    totals[phase.name] = min(
        phase.need(count, ring, way).total
        for way in phase.ways
        for count in phase.counts(swap, ring)
    )
    name = max(totals, key=lambda name: totals[name])
    return name, totals[name]


def check_swap(swap: Swap, blocks: int) -> None:
    """Raises UserError where more blocks are asked for than there are."""
    if swap != "auto" and swap > blocks:
        raise UserError(f"[memory] blocks_to_swap is {swap}, but this base has {blocks} blocks")


def _fits_tiled(demand: Demand, tile: int | None, budget: int) -> bool:
    return all(phase.need(tile).total <= budget for phase in demand.tiles)


def _least_moved(
    phase: BlockPhase, budget: int, swap: Swap, rings: Sequence[int]
) -> tuple[int, int, Way] | None:
    """How many blocks are streamed through how many buffers, and the way; None: nothing fits.

    Of what fits, the fastest way, then the fewest bytes moved, then the longest ring: where memory
    allows the same traffic, it gives more time to each block's arrival.
    """
    found: dict[tuple[int, int, int, int], tuple[int, int, Way]] = {}
    for rank, way in enumerate(phase.ways):
        for ring in rings:
            counts = phase.counts(swap, ring)
            fits = next((k for k in counts if phase.need(k, ring, way).total <= budget), None)
            if fits is None or (fits <= ring and ring != rings[0]):  # it would not be full
                continue
            moved = phase.moved(fits, ring)
            found[0 if phase.free else rank, moved, rank, -ring] = fits, ring, way
    return found[min(found)] if found else None


def _reason(demand: Demand, budget: int, swap: Swap, chosen: Placement, way: Way) -> str:
    phase, swapped = demand.blocks, chosen.blocks_to_swap
    if swap != "auto":
        told = f"{swapped} of {phase.blocks} blocks are swapped, as set"
    elif swapped == 0:
        told = f"all {phase.blocks} blocks stay on the GPU"
    else:
        fewer = max(k for k in phase.counts(swap, chosen.ring) if k < swapped)
        over = phase.need(fewer, chosen.ring, way).total
        told = (
            f"{swapped} of {phase.blocks} blocks are swapped through {chosen.ring} buffers, the "
            f"fewest that fit ({fewer} would need {over / GIB:.2f} of {budget / GIB:.2f} GB)"
        )
    if way.told:
        told += f"; {way.told}"
    if chosen.vae_tile is not None:
        told += f"; the VAE works in tiles of {chosen.vae_tile} pixels"
    return told


def _rounded_up(nbytes: int) -> str:
    return f"{math.ceil(10 * nbytes / GIB) / 10:.1f}"
