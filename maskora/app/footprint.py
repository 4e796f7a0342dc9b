"""What one run asks of memory: a job's numbers and a base's sizes as a demand. Imports no torch."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Literal

from maskora.config.tables import Acceleration
from maskora.models.registry import Sizes
from maskora.streaming.demand import (
    STAGING_PIECE,
    STAGING_PIECES,
    BlockPhase,
    Demand,
    Need,
    Swap,
    TilePhase,
    Way,
    spread,
)
from maskora.streaming.plan import TILES, Change, Placement

Purpose = Literal["train", "infer"]
FLOAT, HALF_GIB = 4, 2**29
# What a cache over the denoising steps keeps, in inputs of a block: the first block's result and
# change, the others' sum of changes; of the last layer's output two terms, never larger than one.
CACHED = {"first-block": 3, "taylor": 1}
RING = Placement(blocks_to_swap=0).ring


PLAIN = Acceleration()


@dataclass(frozen=True)
class Job:
    """Everything about a run that its memory and its time depend on, but the placement.

    Attributes:
        frames, width, height: of the clip, in pixels.
        window: frames of one training sample.
        windows: how many such samples there are.
        batch: how many guidance branches denoise together.
        optimizer: bytes of optimizer state per LoRA weight.
        accumulation: samples per training step, one after another.
        further_loras: values of the LoRAs that are stacked on the trained one.
        acceleration: what is used to be faster.
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
    acceleration: Acceleration = PLAIN

    def tokens(self, sizes: Sizes, frames: int) -> int:
        """Tokens of so many of its frames."""
        return sizes.tokens(frames, self.width, self.height)


def demand(sizes: Sizes, job: Job) -> Demand:
    """What a job asks of the device."""
    tiles = [None, *(tile for tile in TILES if tile < max(job.width, job.height))]
    shape = job.frames, job.width, job.height
    encode = {tile: sizes.vae_encode_bytes(*shape, tile) for tile in tiles}
    decode = {tile: sizes.vae_decode_bytes(*shape, tile) for tile in tiles}
    return Demand(
        blocks=_training(sizes, job) if job.purpose == "train" else _generating(sizes, job),
        # Both, whatever the purpose: training and inference must see latents of the same tiles.
        tiles=(
            TilePhase("video encoder", sizes.vae_bytes(), encode),
            TilePhase("decode", sizes.vae_bytes(), decode),
        ),
        fixed={
            name: Need(ring=RING * part.layer, others=part.others, activations=part.activations)
            for name, part in sizes.encoders(job.dtype).items()
        },
    )


def _training(sizes: Sizes, job: Job) -> BlockPhase:
    tokens = job.tokens(sizes, job.window)
    blocks = sizes.block_bytes(job.dtype, job.storage)
    kept = min(2, len(blocks)) if job.offload else len(blocks)
    scratch = sizes.scratch_bytes(job.dtype, job.storage)
    block, layer = (
        scratch + sizes.train_bytes(job.dtype, tokens, how, job.rank, job.targets)
        for how in ("block", "layer")
    )
    slower = (
        "training keeps one layer's graph at a time and computes each layer once more, because a "
        "whole block's does not fit"
    )
    return BlockPhase(
        name="train",
        block_bytes=blocks,
        others=sizes.other_bytes(job.dtype),
        adapter=sizes.lora_parameters(job.rank, job.targets) * (2 * FLOAT + job.optimizer),
        inputs=kept * sizes.input_bytes(job.dtype, tokens),
        ways=(Way(block), Way(layer, {"recompute": "layer"}, slower)),
        backward=True,
    )


def _generating(sizes: Sizes, job: Job) -> BlockPhase:
    tokens = job.tokens(sizes, job.frames)
    blocks = sizes.block_bytes(job.dtype, job.storage)
    scratch = sizes.scratch_bytes(job.dtype, job.storage)
    whole, split = (
        scratch + sizes.infer_bytes(job.dtype, tokens, job.batch, one_by_one, job.targets)
        for one_by_one in (False, True)
    )
    in_turn = "the two guidance branches run one after the other within each block"
    remembered = CACHED.get(job.acceleration.cache, 0) * sizes.input_bytes(job.dtype, tokens)
    halves = (Way(split, {"split_batch": True}, in_turn),) if job.batch > 1 else ()
    values = sizes.lora_parameters(job.rank, job.targets) + job.further_loras
    return BlockPhase(
        name="generate",
        block_bytes=blocks,
        others=sizes.other_bytes(job.dtype),
        adapter=FLOAT * values,
        inputs=job.batch * remembered,
        ways=(Way(whole), *halves),
        free=True,
    )


@dataclass(frozen=True)
class Host:
    """Host memory of one phase in bytes.

    Attributes:
        computing: what would lie on a GPU, where there is none.
        weights: weights that wait: streamed blocks, the image encoder's layers.
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
    program: int = HALF_GIB

    @property
    def total(self) -> int:
        """All of it."""
        return sum(getattr(self, row.name) for row in fields(self))


def host(
    sizes: Sizes, job: Job, placement: Placement, needs: dict[str, Need], on_card: bool
) -> dict[str, Host]:
    """What each phase takes of the machine's memory. Files that are mapped do not count."""
    blocks = sizes.block_bytes(job.dtype, job.storage)
    streamed = [blocks[index] for index in spread(len(blocks), placement.blocks_to_swap)]
    pinned = placement.weights == "pinned"
    transformer = Host(
        weights=0 if placement.weights == "mapped" else sum(streamed),
        staging=0 if pinned else _staging(min(len(streamed), placement.ring), streamed),
        loading=max(blocks) + sizes.largest_matrix(),
    )
    kept = len(blocks) - 1 if placement.activation_offload else 0
    tokens = job.tokens(sizes, job.window)
    phases = {
        **{
            name: Host(weights=part.host, staging=_staging(RING, [part.layer]))
            for name, part in sizes.encoders(job.dtype).items()
        },
        "video encoder": Host(loading=sizes.vae_bytes()),
        "train": replace(transformer, inputs=kept * sizes.input_bytes(job.dtype, tokens)),
        "generate": transformer,
        "decode": Host(loading=sizes.vae_bytes()),
    }
    return {
        name: replace(
            phases[name],
            computing=0 if on_card else need.allocated,
            frames=_clip_bytes(job, decoded=name == "decode"),
        )
        for name, need in needs.items()
    }


def _staging(buffers: int, streamed: list[int]) -> int:
    """Pieces in host memory that weights pass through; never more than as many whole buffers."""
    return min(STAGING_PIECE * STAGING_PIECES, buffers * max(streamed, default=0))


def _clip_bytes(job: Job, decoded: bool) -> int:
    """Frames and labels as bytes, the video and the keep mask in float32, and the samples."""
    pixels = job.width * job.height
    colours, mask = 3 * FLOAT * pixels, FLOAT * pixels
    clip = job.frames * (4 * pixels + colours + mask)
    if job.purpose == "train":
        return clip + job.windows * job.window * (colours + mask)
    return clip + job.frames * (3 if decoded else 2) * colours


def dials(sizes: Sizes, job: Job, swap: Swap) -> Iterator[Iterator[Change]]:
    """What could be changed so that a job fits, each dial from the smallest change on."""
    training = job.purpose == "train"

    def change(told: str, swap: Swap = swap, **changes: object) -> Change:
        return Change(told, demand(sizes, replace(job, **changes)), swap)  # type: ignore[arg-type]

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
        change(
            f"video.frames = {frames} (prepare again)",
            frames=frames,
            window=min(frames, job.window),
        )
        for frames in range(job.frames - 4, 4, -4)
    )
    yield (
        change(f'video.size = "{width}x{height}" (prepare again)', width=width, height=height)
        for width, height in smaller_sizes(job.width, job.height, sizes.grid.multiple)
    )


def smaller_sizes(width: int, height: int, multiple: int) -> Iterator[tuple[int, int]]:
    """Smaller pictures of about the same aspect on the grid, the largest first."""
    cells = min(width, height) // multiple
    for smaller in range(cells - 1, 0, -1):
        scale = smaller / cells
        sides = (max(1, round(side * scale / multiple)) * multiple for side in (width, height))
        yield next(sides), next(sides)
