"""How a frozen model lies in memory, the streaming engine's settings; imports no torch."""

from dataclasses import dataclass

GIB = 2**30  # a GB as GPUs are sold: "8 GB" are about 8 of them
# What the host cannot pin of the streamed blocks is copied through a few pinned pieces.
STAGING_PIECE, STAGING_PIECES = 64 * 2**20, 4
SAMPLE_ROOM = 512 * 2**20  # bytes of encoded samples that stay in host memory


@dataclass(frozen=True)
class Placement:
    """How the base lies in memory: the settings of the streaming engine.

    Attributes:
        blocks_to_swap: how many blocks are streamed from the host; the others stay on the device.
        weights: where streamed blocks wait: "pinned", "pageable", or "mapped" (on disk).
        storage: how their Linear weights are kept: "same" (as computed), "float8", "int8", "nf4".
        activation_offload: each block's saved input waits in host memory during training.
        ring: device buffers that streamed blocks pass through.
        recompute: what backward holds at once: a whole "block"'s graph, or one "layer"'s.
        split_batch: run the rows of a batch one after the other within a block's visit.
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

    @property
    def vae_tiling(self) -> str:
        """How the VAE takes pictures, for people and records: other tiles, other latents."""
        return "whole pictures" if self.vae_tile is None else f"tiles of {self.vae_tile} pixels"


RESIDENT = Placement(blocks_to_swap=0)
TILES = (512, 384, 256, 192, 128)


def next_tile(tile: int | None, longest: int) -> int | None:
    """The largest tile that is smaller than this one; None where there is none.

    Args:
        tile: edge of the tiles so far; None for the whole picture.
        longest: the longer side of the picture in pixels.
    """
    return next((edge for edge in TILES if edge < (tile or longest)), None)


def spread(count: int, chosen: int) -> list[int]:
    """`chosen` of `count` blocks, evenly spread, so that each has the longest time to arrive."""
    return [index * count // chosen for index in range(chosen)] if chosen else []


def gb(nbytes: int) -> str:
    """Bytes in GB, with one digit after the point."""
    return f"{nbytes / GIB:.1f}"
