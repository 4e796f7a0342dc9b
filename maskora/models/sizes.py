"""What a base asks of memory, told from its configuration files alone: the planner's Protocol.

Needs no torch. A parameter is a shape and how it is kept; bytes follow from that.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Literal, Protocol

from maskora.models.base import Grid
from maskora.models.files.source import Source

ITEM = {"float32": 4, "float16": 2, "bfloat16": 2}
ALIGNMENT = 64  # every stored tensor begins on such a border
SCALE = 4  # bytes of one float32 scale
NF4_BLOCK = 64  # weights that share a scale; the last block is filled up


@dataclass(frozen=True)
class Parameter:
    """One parameter of a module.

    Attributes:
        shape: of the dense tensor.
        kind: "linear" is a Linear's weight, which a storage format compresses; "float32" stays
            in that precision whatever the model's; "plain" has the model's precision.
    """

    shape: tuple[int, ...]
    kind: Literal["linear", "plain", "float32"] = "plain"

    @property
    def count(self) -> int:
        """How many values it has."""
        return prod(self.shape)


def linear(inputs: int, outputs: int, bias: bool = True) -> list[Parameter]:
    """The parameters of a Linear layer."""
    weight = Parameter((outputs, inputs), "linear")
    return [weight, Parameter((outputs,))] if bias else [weight]


def count(parameters: Iterable[Parameter]) -> int:
    """How many values some parameters have together."""
    return sum(parameter.count for parameter in parameters)


def dense_bytes(parameters: Iterable[Parameter], dtype: str) -> int:
    """Bytes of parameters as they are computed with, without gaps."""
    return sum(p.count * ITEM["float32" if p.kind == "float32" else dtype] for p in parameters)


def stored_bytes(parameters: Iterable[Parameter], dtype: str, storage: str) -> int:
    """Bytes of one buffer that holds parameters in a storage format, each piece aligned.

    Args:
        dtype: the model's precision.
        storage: "same" (plain), "float8", "int8" (one byte and a scale per output row) or "nf4"
            (half a byte, and a scale per 64 weights); only Linear weights are compressed.
    """
    return sum(
        -(-piece // ALIGNMENT) * ALIGNMENT
        for parameter in parameters
        for piece in _pieces(parameter, dtype, storage)
    )


def _pieces(parameter: Parameter, dtype: str, storage: str) -> list[int]:
    if parameter.kind != "linear" or storage == "same":
        return [dense_bytes([parameter], dtype)]
    if storage == "nf4":
        blocks = -(-parameter.count // NF4_BLOCK)
        return [NF4_BLOCK // 2 * blocks, SCALE * blocks]
    assert storage in ("float8", "int8"), storage
    return [parameter.count, SCALE * parameter.shape[0]]


def tiled_area(width: int, height: int, tile: int | None, cell: int) -> tuple[int, float]:
    """A VAE's tile in pixels, and all tiles together relative to the picture.

    Tiles overlap by a quarter: one begins every three quarters of the edge.

    Args:
        tile: a tile's edge in pixels; None takes the whole picture.
        cell: pixels per latent cell.
    """
    if tile is None or (width <= tile and height <= tile):
        return width * height, 1.0
    stride = tile * 3 // 4 // cell * cell
    covered = [
        sum(min(tile, side - start) for start in range(0, side, stride)) for side in (width, height)
    ]
    return min(width, tile) * min(height, tile), prod(covered) / (width * height)


@dataclass(frozen=True)
class Encoder:
    """An encoder that is streamed layer by layer; all in bytes.

    Attributes:
        layer: its largest layer.
        others: what is outside the layers and lies on the device.
        activations: the largest sum of intermediate results.
        host: what waits in host memory, besides the staging of two layers.
    """

    layer: int
    others: int
    activations: int
    host: int


class Sizes(Protocol):
    """One base's arithmetic. Bytes on the device, unless it says something else.

    `frames`, `width` and `height` are those of the pixels; `tokens` those of one sample.

    Attributes:
        experts: how many transformers take turns; all else is about one of them.
        embeds_guidance: guidance is a number to the transformer, and no second branch.
    """

    name: str
    grid: Grid
    experts: int
    embeds_guidance: bool

    @staticmethod
    def read_grid(source: Source) -> Grid:
        """The grid, for which fewer configuration files are enough (VAE and transformer)."""
        ...

    @property
    def parameters(self) -> Mapping[str, int]:
        """Part of the model -> how many values it has."""
        ...

    def tokens(self, frames: int, width: int, height: int) -> int:
        """How many tokens the transformer sees."""
        ...

    def block_bytes(self, dtype: str, storage: str) -> tuple[int, ...]:
        """Each block as it is stored, in its buffer."""
        ...

    def other_bytes(self, dtype: str) -> int:
        """The transformer's parameters and tables outside its blocks."""
        ...

    def scratch_bytes(self, dtype: str, storage: str) -> int:
        """What using a compressed block takes beside it: one dense matrix."""
        ...

    def largest_matrix(self) -> int:
        """The largest weight in float32: what loading takes at a time (host memory)."""
        ...

    def lora_parameters(self, rank: int, targets: str) -> int:
        """How many values the LoRA has."""
        ...

    def input_bytes(self, dtype: str, tokens: int) -> int:
        """What training keeps of one block: its input."""
        ...

    def train_bytes(self, dtype: str, tokens: int, recompute: str, rank: int, targets: str) -> int:
        """The largest sum of a training step's intermediate results, without block inputs."""
        ...

    def infer_bytes(self, dtype: str, tokens: int, batch: int, split: bool, targets: str) -> int:
        """The largest sum of a denoising step's intermediate results."""
        ...

    def encoders(self, dtype: str) -> dict[str, Encoder]:
        """The encoders of words and pictures, by what people call them."""
        ...

    def vae_bytes(self) -> int:
        """The VAE's parameters, in float32."""
        ...

    def vae_encode_bytes(self, frames: int, width: int, height: int, tile: int | None) -> int:
        """Encoding a clip, the clip included; `tile` is a tile's edge in pixels."""
        ...

    def vae_decode_bytes(self, frames: int, width: int, height: int, tile: int | None) -> int:
        """Decoding a clip, the result included."""
        ...
