"""How a base lies in memory, chosen by arithmetic on bytes; needs no torch and no weights."""

from dataclasses import dataclass


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
