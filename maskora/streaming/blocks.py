"""One block of a frozen model: what is stored of it, and how its modules take stored bytes.

A block's own parameters are replaced once by empty ones. While a buffer is bound to the block they
are views of it; in between they are NaN without memory, so that a use by mistake is loud.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from maskora.streaming.formats import FORMATS, Format, Part, StoredLinear

ALIGNMENT = 64
# The precision in which a parameter, named from the model's root, is computed.
Precision = Callable[[str], torch.dtype]


def precise(dtype: torch.dtype, keep_float32: Collection[str] = ()) -> Precision:
    """One precision for all parameters, but float32 below modules of some names."""

    def precision(name: str) -> torch.dtype:
        kept = any(part in keep_float32 for part in name.split("."))
        return torch.float32 if kept else dtype

    return precision


@dataclass(frozen=True)
class Slice:
    """One tensor's place in a block's buffer: its first byte, type and shape."""

    name: str
    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize

    @property
    def end(self) -> int:
        """Where the next tensor may begin."""
        return self.offset + -(-self.nbytes // ALIGNMENT) * ALIGNMENT

    def view(self, buffer: Tensor) -> Tensor:
        """The tensor inside a flat uint8 buffer, without a copy."""
        flat = buffer[self.offset : self.offset + self.nbytes]
        return flat.view(self.dtype).view(self.shape)


@dataclass(frozen=True)
class Layout:
    """All tensors of a block, and the size of the buffer that holds them.

    Converted files are known by its repr: whoever changes that makes them be written again.
    """

    slices: tuple[Slice, ...]
    nbytes: int


@dataclass(frozen=True)
class Weight:
    """One parameter as it is stored.

    Attributes:
        name: in the checkpoint.
        dtype: in which it is computed.
        shape: of the dense parameter.
        format: how it is compressed; None for plain.
        slices: its places in the block's buffer: one if plain, else one per part of the format.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    format: Format | None
    slices: tuple[Slice, ...]


class Block:
    """A module whose frozen parameters come from a buffer.

    Attributes:
        layout: how its stored parameters lie in the buffer.
        buffer: the one that is bound to it now.
    """

    def __init__(
        self,
        module: nn.Module,
        prefix: str,
        storage: str,
        precision: Precision,
        device: torch.device,
    ) -> None:
        """Take a module over; its parameters (on any device) are dropped.

        Args:
            module: the block; every parameter in it is managed from now on.
            prefix: of its parameters' names in the checkpoint, with the dot.
            storage: "same", or the name of a format for the weights of its Linear layers.
            precision: of a parameter by its full name.
            device: where it computes.
        """
        self.module = module
        self.weights = stored_weights(module, prefix, storage, precision)
        slices = tuple(one for weight in self.weights for one in weight.slices)
        self.layout = Layout(slices, slices[-1].end)
        self._bindings: list[Binding] = [
            (_bind_stored if weight.format else _bind_plain)(
                module, weight.name.removeprefix(prefix), weight, device
            )
            for weight in self.weights
        ]
        self.buffer: Tensor | None = None

    def bind(self, buffer: Tensor | None) -> None:
        """Let the parameters be views of a buffer that holds this block; None takes them away."""
        for set_values in self._bindings:
            set_values(buffer)
        self.buffer = buffer


def stored_weights(
    module: nn.Module, prefix: str, storage: str, precision: Precision
) -> list[Weight]:
    """How a module's parameters are stored as a `Block`, one after another in its buffer."""
    weights: list[Weight] = []
    for name, _ in module.named_parameters():
        end = weights[-1].slices[-1].end if weights else 0
        weights.append(_weight(module, name, prefix, storage, precision, end))
    return weights


def block_bytes(module: nn.Module, prefix: str, storage: str, precision: Precision) -> int:
    """Bytes of the buffer that a module would have as a `Block`; the module stays as it is."""
    return stored_weights(module, prefix, storage, precision)[-1].slices[-1].end


Binding = Callable[[Tensor | None], None]


def _weight(
    module: nn.Module, name: str, prefix: str, storage: str, precision: Precision, offset: int
) -> Weight:
    """How a module's parameter is stored in a buffer from an offset on."""
    owner, _, leaf = name.rpartition(".")
    is_linear_weight = leaf == "weight" and type(module.get_submodule(owner)) is nn.Linear
    form = FORMATS[storage] if storage != "same" and is_linear_weight else None
    shape, full = tuple(module.get_parameter(name).shape), prefix + name
    dtype = precision(full)
    parts = [Part(full, shape, dtype)]
    if form is not None:
        height, width = shape
        parts = [
            Part(f"{full}:{part.name}", part.shape, part.dtype)
            for part in form.parts((height, width))
        ]
    slices: list[Slice] = []
    for part in parts:
        slices.append(Slice(part.name, offset, part.dtype, part.shape))
        offset = slices[-1].end
    return Weight(full, dtype, shape, form, tuple(slices))


def _bind_plain(module: nn.Module, name: str, weight: Weight, device: torch.device) -> Binding:
    owner, _, leaf = name.rpartition(".")
    absent = torch.full((), torch.nan, dtype=weight.dtype, device=device).expand(weight.shape)
    parameter = nn.Parameter(absent, requires_grad=False)
    module.get_submodule(owner).register_parameter(leaf, parameter)
    (place,) = weight.slices

    def set_values(buffer: Tensor | None) -> None:
        parameter.data = absent if buffer is None else place.view(buffer)

    return set_values


def _bind_stored(module: nn.Module, name: str, weight: Weight, device: torch.device) -> Binding:
    owner = name.rpartition(".")[0]
    linear = module.get_submodule(owner)
    assert isinstance(linear, nn.Linear) and weight.format is not None
    stored = StoredLinear.of(linear, weight.format, weight.dtype, device)
    module.set_submodule(owner, stored)

    def set_values(buffer: Tensor | None) -> None:
        stored.set_stored(None if buffer is None else [s.view(buffer) for s in weight.slices])

    return set_values
