"""LoRA files side by side on a frozen transformer, for inference, each with its strength."""

import logging
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch.nn.functional as F
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn.utils import parametrize

from maskora.errors import UserError
from maskora.lora.adapter import set_matrices
from maskora.lora.layouts import read
from maskora.lora.update import LoraWeights, Update
from maskora.models.names import Names
from maskora.models.registry import Transformer
from maskora.models.wan.names import WAN

log = logging.getLogger("maskora")
LEAVES = {"diff": "weight", "diff_b": "bias"}


def stack(
    transformer: Transformer, files: Sequence[tuple[Path, float]], names: Names = WAN
) -> None:
    """Load LoRA files of any layout side by side for inference; all frozen.

    Args:
        files: each with its strength, of any sign.
        names: of the transformer's kind of base.

    Raises:
        UserError: a file is no LoRA or does not fit the base.
    """
    fitting = [(_fitting(transformer, read(path, names), path), s) for path, s in files]
    modules = dict(transformer.named_modules())
    for weights, strength in fitting:  # before updates wrap the modules
        for name, difference in weights.differences.items():
            target = _find(modules, name)
            assert target is not None
            _add_for_good(*target, strength * difference.float())
    adapters = {}
    for index, (weights, strength) in enumerate(fitting):
        if weights.updates:
            adapters[f"lora_{index}"] = strength
            _add_adapter(transformer, f"lora_{index}", weights.updates)
    if adapters:
        transformer.set_adapters(list(adapters), list(adapters.values()))
    transformer.requires_grad_(False)


def _add_adapter(transformer: Transformer, name: str, updates: Mapping[str, Update]) -> None:
    """Add one file's updates under a name of their own."""
    config = LoraConfig(r=1, target_modules="|".join(map(re.escape, updates)))
    with warnings.catch_warnings():  # several adapters side by side are what is wanted
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        transformer.add_adapter(config, adapter_name=name)
    for module, update in updates.items():
        layer = transformer.get_submodule(module)
        device = layer.get_base_layer().weight.device
        matrices = (update.down_RI.flatten(1), update.up_OR.flatten(1))
        set_matrices(layer, name, *(matrix.to(device) for matrix in matrices))
        layer.r[name], layer.lora_alpha[name] = update.rank, update.alpha


def _fitting(transformer: nn.Module, weights: LoraWeights, path: Path) -> LoraWeights:
    """What of a file the base has; updates of convolutions become differences.

    Raises:
        UserError: a shape is another, or the base has nothing of it.
    """
    modules = dict(transformer.named_modules())
    missing = [name for name in weights.updates if name not in modules]
    missing += [name for name in weights.differences if not _find(modules, name)]
    report_missing(missing, len(weights.updates) + len(weights.differences), path)
    updates: dict[str, Update] = {}
    added: dict[str, Tensor] = {}
    for name, difference in weights.differences.items():
        if target := _find(modules, name):
            check_shape(_difference_shape(*target), tuple(difference.shape), name, path)
            added[name] = difference
    for name, update in weights.updates.items():
        if name not in modules:
            continue
        weight = getattr(modules[name], "weight", None)
        shape = () if weight is None else tuple(weight.shape)
        check_shape((*shape[:1], math.prod(shape[1:])), update.size, name, path)
        if isinstance(modules[name], nn.Linear | LoraLayer):
            updates[name] = update
        else:
            added[f"{name}.diff"] = update.product().view(shape) + added.get(f"{name}.diff", 0.0)
    return LoraWeights(updates, added, weights.metadata)


def _find(modules: Mapping[str, nn.Module], name: str) -> tuple[nn.Module, str] | None:
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


def _difference_shape(owner: nn.Module, leaf: str) -> tuple[int, ...]:
    if isinstance(owner, nn.Linear) and leaf == "bias":
        return (owner.out_features,)
    return tuple(getattr(owner, leaf).shape)


def _add_for_good(owner: nn.Module, leaf: str, difference: Tensor) -> None:
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


def report_missing(missing: Sequence[str], total: int, path: Path) -> None:
    """Warn of a file's modules that the base lacks. Raises UserError where it has none of them."""
    if len(missing) == total:
        raise UserError(f"{path} does not fit this base, which has no {missing[0]}")
    if missing:
        log.warning(
            "note: %s: this base lacks %d of the %d modules in it (%s, …), which are skipped",
            path, len(missing), total, missing[0],
        )  # fmt: skip


def check_shape(own: tuple[int, ...], given: tuple[int, ...], name: str, path: Path) -> None:
    """Raises UserError where a weight has another shape than the one that a file changes."""
    if own != given:
        raise UserError(
            f"{path} does not fit this base: {name} is for a weight of {given}, which has {own}"
        )
