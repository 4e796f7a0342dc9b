"""What a run asks of the device's memory, phase by phase, as a function of how it is computed.

A run is a few phases, one after another, so its peak is the largest of theirs. A GB is 2**30 bytes
here, as GPUs are sold: "8 GB" are about 8 of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

GIB = 2**30
# What the allocator rounds up and cannot use again, as a share of the activations: one part in so
# many. What the CUDA context and its libraries take beside it goes off the budget (`budget.py`).
ACTIVATIONS_HELD_BACK = 10
# What the host cannot pin of the streamed blocks is copied through a few pinned pieces.
STAGING_PIECE, STAGING_PIECES = 64 * 2**20, 4
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
class Way:
    """One way to compute a phase: its largest activations, and what it sets in the placement."""

    activations: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    told: str = ""


@dataclass(frozen=True)
class BlockPhase:
    """A phase that visits all blocks.

    Attributes:
        block_bytes: stored bytes of each block, in order.
        others, adapter, inputs: as in `Need`.
        ways: in the order in which they are tried.
        free: later ways cost no time, so one is taken as soon as it swaps fewer blocks; else only
            where an earlier one does not fit at all.
        backward: all blocks are visited a second time, in the opposite order.
    """

    name: str
    block_bytes: tuple[int, ...]
    others: int
    adapter: int
    inputs: int
    ways: tuple[Way, ...]
    free: bool = False
    backward: bool = False

    @property
    def blocks(self) -> int:
        """How many there are."""
        return len(self.block_bytes)

    def streamed(self, swapped: int) -> list[int]:
        """The bytes of each block that is streamed where so many are."""
        return [self.block_bytes[index] for index in spread(self.blocks, swapped)]

    def need(self, swapped: int, ring: int, way: Way) -> Need:
        """What the phase takes with so many blocks streamed."""
        streamed = self.streamed(swapped)
        return Need(
            resident=sum(self.block_bytes) - sum(streamed),
            ring=min(swapped, ring) * max(streamed, default=0),
            others=self.others,
            adapter=self.adapter,
            inputs=self.inputs,
            activations=way.activations,
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

    def needs(self, swapped: int, ring: int, way: Way, tile: int | None) -> dict[str, Need]:
        """What each phase takes with these choices."""
        tiled = {phase.name: phase.need(tile) for phase in self.tiles}
        return {**self.fixed, **tiled, self.blocks.name: self.blocks.need(swapped, ring, way)}


def spread(count: int, chosen: int) -> list[int]:
    """`chosen` of `count` blocks, evenly spread, so that each has the longest time to arrive."""
    return [index * count // chosen for index in range(chosen)] if chosen else []


def gb(nbytes: int) -> str:
    """Bytes in GB, with one digit after the point."""
    return f"{nbytes / GIB:.1f}"
