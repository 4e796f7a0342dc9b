"""The formats in which a frozen Linear's weight is stored, and the Linear that computes from them.

A stored weight lies compressed in host memory or on disk, travels as it is, and is made dense only
for the one multiplication that needs it, in training and inference alike.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
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


class Format:
    """A way to store a weight in fewer bytes.

    Attributes:
        name: as it is written in the configuration.
    """

    name: str

    def parts(self, shape: tuple[int, int]) -> list[Part]:
        """What is stored of an (out, in) weight."""
        raise NotImplementedError

    def encode(self, weight_OI: Tensor) -> list[Tensor]:
        """The tensors that `parts` describes, of a weight of any float dtype, on its device.

        Raises:
            Fault: a weight is infinite or not a number.
            UserError: the format needs a package that is not installed.
        """
        raise NotImplementedError

    def decode(
        self, stored: Sequence[Tensor], shape: tuple[int, int], dtype: torch.dtype
    ) -> Tensor:
        """The dense (out, in) weight in float32, float16 or bfloat16, on the device of `stored`.

        Raises:
            UserError: the format needs a package that is not installed.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class PerChannel(Format):
    """Each output channel divided by its own scale, which brings its largest weight to `largest`.

    Attributes:
        dtype: of the payload.
        largest: the largest magnitude that the payload uses.
    """

    name: str
    dtype: torch.dtype
    largest: float

    def parts(self, shape: tuple[int, int]) -> list[Part]:
        return [Part("payload", shape, self.dtype), Part("scale", shape[:1], torch.float32)]

    def encode(self, weight_OI: Tensor) -> list[Tensor]:
        """A channel of zeros has the scale 1."""
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
        payload_OI, scale_O = stored
        assert payload_OI.shape == shape, f"a payload of {payload_OI.shape} for a {shape} weight"
        # float16 cannot hold the scales: there the product is taken in float32, then rounded.
        scale_O = scale_O if dtype == torch.float16 else scale_O.to(dtype)
        return payload_OI.to(dtype).mul_(scale_O[:, None])


@dataclass(frozen=True)
class NF4(Format):
    """16 levels for a normal distribution; every 64 weights share the scale of their largest."""

    name: str = "nf4"

    def parts(self, shape: tuple[int, int]) -> list[Part]:
        """Two weights lie in one byte."""
        blocks = -(-math.prod(shape) // NF4_BLOCK)
        return [
            Part("payload", (blocks * NF4_BLOCK_BYTES,), torch.uint8),
            Part("scale", (blocks,), torch.float32),
        ]

    def encode(self, weight_OI: Tensor) -> list[Tensor]:
        """On a GPU bitsandbytes encodes on the default stream, whatever is current."""
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


FORMATS: dict[str, Format] = {
    "float8": PerChannel("float8", torch.float8_e4m3fn, 448.0),
    "int8": PerChannel("int8", torch.int8, 127.0),
    "nf4": NF4(),
}


class StoredLinear(nn.Linear):
    """A frozen Linear whose dense weight does not exist between calls.

    Whoever owns the memory sets the stored tensors before each use, forward or backward, and takes
    them away after it. `weight` is a placeholder of the right shape, dtype and device without
    memory: one NaN, expanded (to copy it, or to move it to another device, makes it dense).

    Attributes:
        format: how the weight is stored.
        stored: the tensors of `format.parts`, which may be views into a buffer; None between uses.
    """

    format: Format
    stored: list[Tensor] | None

    @classmethod
    def of(
        cls, linear: nn.Linear, form: Format, dtype: torch.dtype, device: torch.device
    ) -> "StoredLinear":
        """Replace a Linear on any device, meta too; the bias stays the same Parameter.

        Args:
            linear: its weight is not read.
            form: how its weight will be stored.
            dtype: of the dense weight: float32, float16 or bfloat16.
            device: where it will compute.
        """
        replaced = cls(linear.in_features, linear.out_features, bias=False, device="meta")
        placeholder = torch.full((), math.nan, dtype=dtype, device=device)
        replaced.weight = nn.Parameter(placeholder.expand(linear.weight.shape), requires_grad=False)
        replaced.bias = linear.bias
        replaced.format, replaced.stored = form, None
        return replaced.train(linear.training)

    def set_stored(self, stored: Sequence[Tensor] | None) -> None:
        """Say where the weight lies now, in the order of `format.parts`; None: nowhere."""
        self.stored = None if stored is None else list(stored)

    def dense(self) -> Tensor:
        """The (out, in) weight, decoded anew at every call."""
        assert self.stored is not None, f"{self._role()} is used while its weight is not here"
        return self.format.decode(
            self.stored, (self.out_features, self.in_features), self.weight.dtype
        )

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) -> (..., out), differentiable in the input alone."""
        assert self.bias is None or not self.bias.requires_grad, f"{self._role()} must be frozen"
        output: Tensor = _StoredProduct.apply(input, self.bias, self)
        return output

    def _role(self) -> str:
        return f"a Linear {self.in_features} -> {self.out_features} stored as {self.format.name}"


class _StoredProduct(torch.autograd.Function):
    """F.linear that keeps neither the dense weight nor its input: backward decodes again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, layer: StoredLinear) -> Tensor:
        ctx.layer = layer
        return F.linear(x, layer.dense(), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad @ ctx.layer.dense(), None, None
