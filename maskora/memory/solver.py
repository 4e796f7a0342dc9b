"""How a base is placed in memory, chosen by arithmetic on bytes; needs no torch and no weights.

A run is a few phases, one after another, so its peak is the largest of theirs. The solver takes, of
the choices that fit the budget in every phase, those that cost least time.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from maskora.errors import UserError
from maskora.memory.machine import Budget
from maskora.streaming.placement import GIB, Placement, gb, spread

# What the allocator rounds up and cannot use again, as a share of the activations: one part in so
# many. What the CUDA context and its libraries take beside it goes off the budget.
ACTIVATIONS_HELD_BACK = 10
# How many buffers streamed blocks may pass through. Two are needed: one computes, one arrives.
RINGS = (2, 3, 4)
# Of a GPU's memory, what a tidy desktop leaves: the share that decides whether it helps to end
# what uses it.
MOST_FREE = 0.96
Swap = int | Literal["auto"]


@dataclass(frozen=True)
class Need:
    """Device memory of one phase in bytes: the rows of the plan's table.

    Attributes:
        resident: weights of the blocks that stay.
        ring: the buffers that streamed blocks pass through.
        others: parameters outside the blocks.
        adapter: the LoRA with its gradients and optimizer states.
        inputs: block inputs that backward waits for.
        activations: the largest sum of other intermediate results.
    """

    resident: int = 0
    ring: int = 0
    others: int = 0
    adapter: int = 0
    inputs: int = 0
    activations: int = 0

    @property
    def reserve(self) -> int:
        """What is held back for the allocator."""
        return -(-self.activations // ACTIVATIONS_HELD_BACK)

    @property
    def allocated(self) -> int:
        """Everything but the reserve."""
        weights = self.resident + self.ring + self.others + self.adapter
        return weights + self.inputs + self.activations

    @property
    def total(self) -> int:
        """What must be free on the device beside the context and its libraries."""
        return self.allocated + self.reserve


@dataclass(frozen=True)
class ComputeMode:
    """One way to compute a phase: its largest activations, and what it sets in the placement."""

    activations: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class BlockPhase:
    """A phase that visits all blocks.

    Attributes:
        block_bytes: stored bytes of each block, in order.
        others, adapter, inputs: as in `Need`.
        modes: in the order in which they are tried.
        free: later modes cost no time, so one is taken as soon as it swaps fewer blocks; else only
            where an earlier one does not fit at all.
        backward: all blocks are visited a second time, in the opposite order.
    """

    name: str
    block_bytes: tuple[int, ...]
    others: int
    adapter: int
    inputs: int
    modes: tuple[ComputeMode, ...]
    free: bool = False
    backward: bool = False

    @property
    def blocks(self) -> int:
        return len(self.block_bytes)

    def streamed(self, swapped: int) -> list[int]:
        """The bytes of each block that is streamed where so many are."""
        return [self.block_bytes[index] for index in spread(self.blocks, swapped)]

    def need(self, swapped: int, ring: int, mode: ComputeMode) -> Need:
        """What the phase takes with so many blocks streamed."""
        streamed = self.streamed(swapped)
        return Need(
            resident=sum(self.block_bytes) - sum(streamed),
            ring=min(swapped, ring) * max(streamed, default=0),
            others=self.others,
            adapter=self.adapter,
            inputs=self.inputs,
            activations=mode.activations,
        )

    def moved(self, swapped: int, ring: int) -> int:
        """Bytes that one step brings to the device.

        With a backward pass each streamed block comes twice, but for those that the ring still
        holds where the direction turns and where the next step begins.
        """
        streamed = self.streamed(swapped)
        if swapped <= ring:
            return 0
        if not self.backward:
            return sum(streamed)
        return 2 * sum(streamed) - sum(streamed[:ring]) - sum(streamed[-ring:])

    def counts(self, asked: Swap, ring: int) -> list[int]:
        """The numbers of streamed blocks to try; up to `ring` of them save nothing."""
        return [0, *range(ring + 1, self.blocks + 1)] if asked == "auto" else [asked]


@dataclass(frozen=True)
class TilePhase:
    """A phase that works in tiles: its activations by the tile's edge, the largest tile first."""

    name: str
    others: int
    activations: Mapping[int | None, int]

    def need(self, tile: int | None) -> Need:
        """What the phase takes with such tiles."""
        return Need(others=self.others, activations=self.activations[tile])


@dataclass(frozen=True)
class Demand:
    """All that a run asks of the device. All phases of tiles share one tile."""

    blocks: BlockPhase
    tiles: tuple[TilePhase, ...] = ()
    fixed: Mapping[str, Need] = field(default_factory=dict)

    @property
    def tile_sizes(self) -> list[int | None]:
        """The tiles to try, the largest first."""
        return list(self.tiles[0].activations) if self.tiles else [None]

    def needs(
        self, swapped: int, ring: int, mode: ComputeMode, tile: int | None
    ) -> dict[str, Need]:
        tiled = {phase.name: phase.need(tile) for phase in self.tiles}
        return {**self.fixed, **tiled, self.blocks.name: self.blocks.need(swapped, ring, mode)}


@dataclass(frozen=True)
class Solution:
    """A placement, what each phase takes with it, and why it was chosen."""

    placement: Placement
    needs: dict[str, Need]
    reason: str


@dataclass(frozen=True)
class Change:
    """One change to what was asked for, and what it would ask of the device."""

    text: str
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
    swapped, ring, mode = found
    placement = replace(base, blocks_to_swap=swapped, ring=ring, vae_tile=tile, **mode.settings)
    needs = demand.needs(swapped, ring, mode, tile)
    return Solution(placement, needs, _reason(demand, budget, swap, placement, mode))


def refuse(
    demand: Demand,
    budget: Budget,
    swap: Swap,
    base: Placement,
    suggestions: Iterable[Iterable[Change]],
) -> UserError:
    """Say that nothing fits, and what would: more memory, and single changes.

    Args:
        suggestions: for each thing that could be changed, its changes, the smallest one first. Of
            each the first that fits is named.
    """
    phase, least = smallest(demand, swap, min(RINGS))
    changes = [
        next((c.text for c in suggestion if solve(c.demand, budget.nbytes, c.swap, base)), None)
        for suggestion in suggestions
    ]
    fitting = [f"  {text}" for text in changes if text is not None]
    lines = [*_more_memory(phase, least + budget.overhead, budget), *fitting]
    if not fitting:
        lines.append("  no single change fits this budget: combine them, or use a smaller base")
    return UserError("\n".join(lines))


def _more_memory(phase: str, least: int, budget: Budget) -> list[str]:
    """How much a phase needs at the least, the overhead included, and where it could come from."""
    memory, needed = budget.memory, f"{math.ceil(10 * least / GIB) / 10:.1f}"
    if budget.cap is not None:
        lacks = f", on a GPU that has it free ({memory.description})" if least > memory.free else ""
        return [
            f"{phase} needs {needed} GB of VRAM at the least, and memory.vram_budget_gb is "
            f"{budget.cap / GIB:g}. What would fit:",
            f"  memory.vram_budget_gb = {needed}{lacks}",
        ]
    lines = [
        f"{phase} needs {needed} GB of free VRAM at the least, and {memory.description}. "
        f"What would fit:",
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
        phase.need(count, ring, mode).total
        for mode in phase.modes
        for count in phase.counts(swap, ring)
    )
    name = max(totals, key=lambda name: totals[name])
    return name, totals[name]


def _fits_tiled(demand: Demand, tile: int | None, budget: int) -> bool:
    return all(phase.need(tile).total <= budget for phase in demand.tiles)


def _least_moved(
    phase: BlockPhase, budget: int, swap: Swap, rings: Sequence[int]
) -> tuple[int, int, ComputeMode] | None:
    """How many blocks are streamed through how many buffers, and the mode; None: nothing fits.

    Of what fits, the fastest mode, then the fewest bytes moved, then the longest ring: where memory
    allows the same traffic, it gives more time to each block's arrival.
    """
    found: dict[tuple[int, int, int, int], tuple[int, int, ComputeMode]] = {}
    for rank, mode in enumerate(phase.modes):
        for ring in rings:
            counts = phase.counts(swap, ring)
            fits = next((k for k in counts if phase.need(k, ring, mode).total <= budget), None)
            if fits is None or (fits <= ring and ring != rings[0]):  # it would not be full
                continue
            moved = phase.moved(fits, ring)
            found[0 if phase.free else rank, moved, rank, -ring] = fits, ring, mode
    return found[min(found)] if found else None


def _reason(demand: Demand, budget: int, swap: Swap, chosen: Placement, mode: ComputeMode) -> str:
    phase, swapped = demand.blocks, chosen.blocks_to_swap
    if swap != "auto":
        reason = f"{swapped} of {phase.blocks} blocks are swapped, as set"
    elif swapped == 0:
        reason = f"all {phase.blocks} blocks stay on the GPU"
    else:
        fewer = max(k for k in phase.counts(swap, chosen.ring) if k < swapped)
        over = phase.need(fewer, chosen.ring, mode).total
        reason = (
            f"{swapped} of {phase.blocks} blocks are swapped through {chosen.ring} buffers, the "
            f"fewest that fit ({fewer} would need {over / GIB:.2f} of {budget / GIB:.2f} GB)"
        )
    if mode.reason:
        reason += f"; {mode.reason}"
    if chosen.vae_tile is not None:
        reason += f"; the VAE works in tiles of {chosen.vae_tile} pixels"
    return reason
