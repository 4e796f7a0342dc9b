"""What `maskora doctor` streams: random blocks of published shapes, compared byte for byte."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from safetensors.torch import save_file
from torch import nn

from maskora.commands.doctor_outcomes import Bench, Found, Skipped, Wrong
from maskora.streaming.blocks import precise
from maskora.streaming.checkpoint import Checkpoint
from maskora.streaming.engine import Direction
from maskora.streaming.header import read_headers
from maskora.streaming.plan import Placement
from maskora.streaming.sources import ModuleReader, Reader
from maskora.streaming.supply import supply

BLOCKS, RING = 3, 2  # more blocks than buffers, so that every block moves
CORRUPT = (
    "the GPU does not get what lies in RAM or on the disk, so results would be wrong: update its "
    "driver (in WSL: wsl --update, then wsl --shutdown); if it stays, test the RAM and the disk"
)


@dataclass(frozen=True)
class Shape:
    """A published transformer's block.

    Attributes:
        told: which one it is.
        width: of its tokens.
        inner: of its feed-forward.
        heads: of its attention.
    """

    told: str
    width: int
    inner: int
    heads: int

    def build(self) -> nn.ModuleList:
        """The real blocks, without memory."""
        with torch.device("meta"):
            blocks = nn.ModuleList(self._block() for _ in range(BLOCKS))
        return blocks.requires_grad_(False)

    def _block(self) -> nn.Module:
        block: nn.Module = WanTransformerBlock(
            self.width, self.inner, self.heads, "rms_norm_across_heads", True,
            added_kv_proj_dim=self.width,
        )  # fmt: skip
        return block


WIDE = Shape("Wan2.1-I2V-14B", 5120, 13824, 40)
NARROW = Shape("Wan2.1-Fun-1.3B-InP", 1536, 8960, 12)
PRECISION = precise(torch.bfloat16, tuple(WanTransformer3DModel._keep_in_fp32_modules))


def stream_from_ram(bench: Bench, weights: str, shape: Shape | None = None) -> Found:
    """Random blocks wait in RAM, pass through the engine, and are compared byte for byte."""
    chosen = shape or affordable(bench)
    expected = random_values(chosen)
    placement = Placement(BLOCKS, weights=weights, ring=RING)
    found = stream(bench, chosen, expected, ModuleReader(expected), placement)
    if shape is None and chosen is not WIDE:
        return Found(f"{found.told}; too little memory is free for those of {WIDE.told}")
    return found


def stream_from_disk(bench: Bench, shape: Shape = NARROW) -> Found:
    """The same with blocks that are read from a file when they are needed."""
    expected = random_values(shape)
    path = bench.scratch / "blocks.safetensors"
    save_file({name: p.detach().clone() for name, p in expected.named_parameters()}, path)
    reader = Checkpoint(read_headers([path]), str(path))
    placement = Placement(BLOCKS, weights="mapped", ring=RING)
    try:
        return stream(bench, shape, expected, reader, placement)
    finally:
        path.unlink()


def affordable(bench: Bench) -> Shape:
    """The widest published block of which enough fit into half of what may be had."""
    for shape in (WIDE, NARROW):
        block = sum(_nbytes(name, p) for name, p in shape.build()[0].named_parameters())
        on_host = BLOCKS if bench.vram is not None else BLOCKS + RING
        device = bench.vram if bench.vram is not None else bench.ram
        if on_host * block < bench.ram / 2 and RING * block < device / 2:
            return shape
    raise Skipped("too little memory is free even for narrow blocks: end other programs")


def random_values(shape: Shape) -> nn.ModuleList:
    """Blocks of random bytes. All parameters look into one pool, each at a place of its own."""
    blocks = shape.build()
    sizes = {name: _nbytes(name, p) for name, p in blocks.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    room = 2**20
    words = (max(sizes.values()) + room) // 8 + 1
    pool = torch.randint(-(2**63), 2**63 - 1, (words,), generator=generator).view(torch.uint8)
    for name, parameter in list(blocks.named_parameters()):
        start = 4 * int(torch.randint(room // 4, (1,), generator=generator))
        values = pool[start : start + sizes[name]].view(PRECISION(name)).view(parameter.shape)
        owner, _, leaf = name.rpartition(".")
        blocks.get_submodule(owner).register_parameter(leaf, nn.Parameter(values, False))
    return blocks


def _nbytes(name: str, parameter: nn.Parameter) -> int:
    return parameter.numel() * PRECISION(name).itemsize


def stream(
    bench: Bench, shape: Shape, expected: nn.ModuleList, reader: Reader, placement: Placement
) -> Found:
    """Visit blocks as training and inference do, and compare them with what is expected."""
    moved = shape.build()
    supplied = supply(moved, list(moved), reader, PRECISION, placement, bench.device)
    streamer, visits = supplied.streamer, 0
    try:
        for direction, index in _visits(shape):
            with streamer.visit(index, direction):
                compare(index, moved[index], expected[index])
            visits += 1
        block = streamer.traffic.bytes / streamer.traffic.loads
    finally:
        supplied.close()
    return Found(
        f"{BLOCKS} blocks of {block / 1e6:.0f} MB (as of {shape.told}), loaded "
        f"{streamer.traffic.loads} times, every byte compared at {visits} visits"
    )


def _visits(shape: Shape) -> Iterator[tuple[Direction, int]]:
    """One training step; and one denoising step, but for the widest, to save time."""
    yield from (("forward", index) for index in range(BLOCKS))
    yield from (("backward", index) for index in reversed(range(BLOCKS)))
    if shape is not WIDE:
        yield from (("generate", index) for index in range(BLOCKS))


def compare(index: int, block: nn.Module, expected: nn.Module) -> None:
    """Every byte of a block is as expected. Raises Wrong."""
    for name, parameter in block.named_parameters():
        found = parameter.detach().view(-1).view(torch.int32)  # no number is unlike itself
        meant = expected.get_parameter(name).detach().view(-1).view(torch.int32).to(found.device)
        if not torch.equal(found, meant):
            odd = (found.view(torch.uint8) != meant.view(torch.uint8)).nonzero()
            raise Wrong(
                f"block {index}: {name} is not what was written: {len(odd)} of its "
                f"{4 * len(meant)} bytes differ, the first at {int(odd[0])}",
                CORRUPT,
            )
