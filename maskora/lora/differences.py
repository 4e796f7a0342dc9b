"""Differences of weights on a frozen model: added where they are used, so that streamed and stored
weights stay as they are.
"""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

LEAVES = {"diff": "weight", "diff_b": "bias"}


def find(modules: Mapping[str, nn.Module], name: str) -> tuple[nn.Module, str] | None:
    """The module and the name of its parameter that a difference is for; None if there is none.

    Args:
        modules: all of a model's, by their paths.
        name: module path + ".diff" or ".diff_b"; the path may be that of a parameter itself.
    """
    path, _, slot = name.rpartition(".")
    owner, leaf = modules.get(path), LEAVES[slot]
    if owner is None:
        place, _, leaf = path.rpartition(".")
        owner = modules.get(place)
    known = isinstance(owner, nn.Linear) or isinstance(getattr(owner, leaf, None), Tensor)
    return (owner, leaf) if owner is not None and known else None


def shape(owner: nn.Module, leaf: str) -> tuple[int, ...]:
    """The shape that a difference must have."""
    if isinstance(owner, nn.Linear) and leaf == "bias":
        return (owner.out_features,)
    return tuple(getattr(owner, leaf).shape)


def add(owner: nn.Module, leaf: str, difference: Tensor) -> None:
    """Add to a parameter for good. That of a Linear may be stored in any format, or absent."""
    device = owner.weight.device if isinstance(owner, nn.Linear) else getattr(owner, leaf).device
    shift = difference.to(device)
    if not isinstance(owner, nn.Linear):
        parametrize.register_parametrization(owner, leaf, _Shifted(shift))
    elif leaf == "bias":
        owner.register_forward_hook(lambda _, inputs, output: output + shift.to(output.dtype))
    else:
        shift = shift.to(owner.weight.dtype)
        owner.register_forward_hook(lambda _, inputs, output: output + F.linear(inputs[0], shift))


class _Shifted(nn.Module):
    """A parameter and what is added to it, in float32."""

    shift: Tensor

    def __init__(self, shift: Tensor) -> None:
        super().__init__()
        self.register_buffer("shift", shift.float())

    def forward(self, original: Tensor) -> Tensor:
        return (original.float() + self.shift).to(original.dtype)
