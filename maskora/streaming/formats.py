"""The formats in which a frozen Linear's weight is stored, and the Linear that computes from them.

A stored weight lies compressed in host memory or on disk, travels as it is, and is made dense only
for the one multiplication that needs it, in training and inference alike. The arithmetic, and the
bytes that each format takes, are in `maskora.streaming.encodings`.
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from maskora.streaming.encodings import NF4, Part, PerChannel


class Format(Protocol):
    """A way to store a weight in fewer bytes."""

    @property
    def name(self) -> str:
        """As it is written in the configuration."""

    def parts(self, shape: tuple[int, int]) -> list[Part]:
        """What is stored of an (out, in) weight."""

    def encode(self, weight_OI: Tensor) -> list[Tensor]:
        """The tensors that `parts` describes, of a weight of any float dtype, on its device.

        Raises:
            Fault: a weight is infinite or not a number.
            UserError: the format needs a package that is not installed.
        """

    def decode(
        self, stored: Sequence[Tensor], shape: tuple[int, int], dtype: torch.dtype
    ) -> Tensor:
        """The dense (out, in) weight in float32, float16 or bfloat16, on the device of `stored`.

        Raises:
            UserError: the format needs a package that is not installed.
        """


FORMATS: dict[str, Format] = {
    "float8": PerChannel("float8", torch.float8_e4m3fn, 448.0),
    "int8": PerChannel("int8", torch.int8, 127.0),
    "nf4": NF4(),
}


def stored_bytes(form: Format, shape: tuple[int, int]) -> int:
    """Bytes of a stored (out, in) weight, without the alignment of its buffer."""
    return sum(part.nbytes for part in form.parts(shape))


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
