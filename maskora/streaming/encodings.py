"""How a frozen Linear's weight becomes fewer bytes, and dense again.

Bytes of an (out, in) weight, without the alignment of the buffer that holds it:

    float8, int8    payload out * in,      scale 4 * out        (one scale per output channel)
    nf4             payload 32 * blocks,   scale 4 * blocks     (blocks = ceil(out * in / 64))

float8 is e4m3 with 3 bits of mantissa. nf4 is the 4-bit code of bitsandbytes (an optional package,
imported at the first use) in blocks of 64 weights that follow the rows; the last one is filled up
with zeros. Scales are float32. Those of float8 and int8 fit into bfloat16 as well, so that payload
times scale is rounded once, to whatever precision the Linear computes in.

Names: O output channels, I input channels; `stored` are a weight's tensors in the order of `parts`.
The methods are those of `maskora.streaming.formats.Format`.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional as F

from maskora.errors import Fault, UserError

# Weights encoded at once: bounds the temporary memory, changes no result.
CHUNK = 2**22
NF4_BLOCK = 64
NF4_BLOCK_BYTES = NF4_BLOCK // 2


@dataclass(frozen=True)
class Part:
    """One stored tensor of a weight."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Its size without alignment."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class PerChannel:
    """Each output channel divided by its own scale, which brings its largest weight to `largest`.

    Attributes:
        name: as it is written in the configuration.
        dtype: of the payload.
        largest: the largest magnitude that the payload uses.
    """

    name: str
    dtype: torch.dtype
    largest: float

    def parts(self, shape: tuple[int, int]) -> list[Part]:
        """See `Format`."""
        return [Part("payload", shape, self.dtype), Part("scale", shape[:1], torch.float32)]

    def encode(self, weight_OI: Tensor) -> list[Tensor]:
        """See `Format`. A channel of zeros has the scale 1."""
        payload_OI, scale_O = _empty(self.parts(_shape(weight_OI)), weight_OI.device)
        for rows in _slices(len(weight_OI), max(1, CHUNK // weight_OI.shape[1])):
            chunk = weight_OI[rows].float()
            scale_O[rows] = self._scales(chunk)
            chunk = (chunk / scale_O[rows, None]).clamp_(-self.largest, self.largest)
            payload_OI[rows] = chunk if self.dtype.is_floating_point else chunk.round_()
        return [payload_OI, scale_O]

    def _scales(self, weight_OI: Tensor) -> Tensor:
        amax_O = weight_OI.abs().amax(dim=1)
        _check_finite(amax_O)
        # Not below float32's normal numbers, which a device may take for zero.
        scale_O = (amax_O / self.largest).clamp_(min=torch.finfo(torch.float32).tiny)
        return torch.where(amax_O > 0, _up_to_bfloat16(scale_O), 1.0)

    def decode(
        self, stored: Sequence[Tensor], shape: tuple[int, int], dtype: torch.dtype
    ) -> Tensor:
        """See `Format`."""
        payload_OI, scale_O = stored
        assert payload_OI.shape == shape, f"a payload of {payload_OI.shape} for a {shape} weight"
        # float16 cannot hold the scales: there the product is taken in float32, then rounded.
        scale_O = scale_O if dtype == torch.float16 else scale_O.to(dtype)
        return payload_OI.to(dtype).mul_(scale_O[:, None])


@dataclass(frozen=True)
class NF4:
    """16 levels for a normal distribution; every 64 weights share the scale of their largest."""

    name: str = "nf4"

    def parts(self, shape: tuple[int, int]) -> list[Part]:
        """See `Format`. Two weights lie in one byte."""
        blocks = -(-math.prod(shape) // NF4_BLOCK)
        return [
            Part("payload", (blocks * NF4_BLOCK_BYTES,), torch.uint8),
            Part("scale", (blocks,), torch.float32),
        ]

    def encode(self, weight_OI: Tensor) -> list[Tensor]:
        """See `Format`. On a card bitsandbytes encodes on the default stream, whatever is current.

        Raises:
            UserError: bitsandbytes cannot be imported.
        """
        quantize_4bit = _bitsandbytes().quantize_4bit
        payload, scale = _empty(self.parts(_shape(weight_OI)), weight_OI.device)
        payload_BN, weights = payload.view(-1, NF4_BLOCK_BYTES), weight_OI.flatten()
        for blocks in _slices(len(scale), CHUNK // NF4_BLOCK):
            chunk = weights[blocks.start * NF4_BLOCK : blocks.stop * NF4_BLOCK].float()
            _check_finite(torch.stack(torch.aminmax(chunk)))
            chunk = F.pad(chunk, (0, -len(chunk) % NF4_BLOCK))
            packed, state = quantize_4bit(chunk, blocksize=NF4_BLOCK, quant_type=self.name)
            payload_BN[blocks] = packed.view(-1, NF4_BLOCK_BYTES)
            scale[blocks] = state.absmax
        return [payload, scale]

    def decode(
        self, stored: Sequence[Tensor], shape: tuple[int, int], dtype: torch.dtype
    ) -> Tensor:
        """See `Format`. Raises UserError where bitsandbytes cannot be imported."""
        payload, scale = stored
        found, wanted = [part.shape for part in stored], [part.shape for part in self.parts(shape)]
        assert found == wanted, f"tensors of {found} for a {shape} weight"
        functional = _bitsandbytes()
        state = functional.QuantState(
            absmax=scale,
            shape=torch.Size((len(scale), NF4_BLOCK)),
            blocksize=NF4_BLOCK,
            quant_type=self.name,
            dtype=dtype,
        )
        blocks_BN: Tensor = functional.dequantize_4bit(payload, state)
        return blocks_BN.flatten()[: math.prod(shape)].view(shape)


def _bitsandbytes() -> ModuleType:
    try:
        from bitsandbytes import functional
    except ImportError as error:
        raise UserError(
            "storing the base as nf4 needs the package bitsandbytes, which cannot be imported "
            f"({error}): pip install 'maskora[quant]', or store it as float8 or int8"
        ) from error
    return functional


def _shape(weight_OI: Tensor) -> tuple[int, int]:
    height, width = weight_OI.shape
    return height, width


def _empty(parts: list[Part], device: torch.device) -> list[Tensor]:
    return [torch.empty(part.shape, dtype=part.dtype, device=device) for part in parts]


def _slices(length: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, length)) for start in range(0, length, step))


def _check_finite(extremes: Tensor) -> None:
    if not extremes.isfinite().all():
        raise Fault("the weights are not finite")


def _up_to_bfloat16(positive: Tensor) -> Tensor:
    """The smallest float32 values, not below these, that bfloat16 holds exactly."""
    return ((positive.view(torch.int32) + 0xFFFF) & -0x10000).view(torch.float32)
