"""LoRA files side by side on a frozen transformer, for inference, each with its strength."""

import logging
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from maskora.errors import UserError
from maskora.lora import differences
from maskora.lora.adapter import hold
from maskora.lora.read import read
from maskora.lora.weights import LoraWeights, Update
from maskora.models import Transformer
from maskora.models.names import Names
from maskora.models.wan_names import WAN

log = logging.getLogger("maskora")


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
            target = differences.find(modules, name)
            assert target is not None
            differences.add(*target, strength * difference.float())
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
        hold(layer, name, update.down_RI.to(device), update.up_OR.to(device))
        layer.r[name], layer.lora_alpha[name] = update.rank, update.alpha


def _fitting(transformer: nn.Module, weights: LoraWeights, path: Path) -> LoraWeights:
    """What of a file the base has; updates of convolutions become differences.

    Raises:
        UserError: a shape is another, or the base has nothing of it.
    """
    modules = dict(transformer.named_modules())
    _tell_missing(modules, weights, path)
    updates: dict[str, Update] = {}
    added: dict[str, Tensor] = {}
    for name, difference in weights.differences.items():
        if target := differences.find(modules, name):
            _check(differences.shape(*target), tuple(difference.shape), name, path)
            added[name] = difference
    for name, update in weights.updates.items():
        if name not in modules:
            continue
        shape = tuple(getattr(modules[name], "weight", torch.empty(0)).shape)
        down_RI, up_OR = update.down_RI.flatten(1), update.up_OR.flatten(1)
        _check((*shape[:1], math.prod(shape[1:])), (len(up_OR), down_RI.shape[1]), name, path)
        if isinstance(modules[name], nn.Linear | LoraLayer):
            updates[name] = Update(down_RI, up_OR, update.alpha)
        else:
            product = update.scale * (up_OR.float() @ down_RI.float()).view(shape)
            added[f"{name}.diff"] = product + added.get(f"{name}.diff", 0.0)
    return LoraWeights(updates, added, weights.metadata)


def _tell_missing(modules: Mapping[str, nn.Module], weights: LoraWeights, path: Path) -> None:
    """Say what the base lacks. Raises UserError where it has nothing of the file."""
    names = [*weights.updates, *weights.differences]
    missing = [name for name in weights.updates if name not in modules]
    missing += [name for name in weights.differences if not differences.find(modules, name)]
    if len(missing) == len(names):
        raise UserError(f"{path} does not fit this base, which has no {missing[0]}")
    if missing:
        log.warning(
            "note: %s: this base lacks %d of the %d modules in it (%s, …), which are skipped",
            path, len(missing), len(names), missing[0],
        )  # fmt: skip


def _check(own: tuple[int, ...], given: tuple[int, ...], name: str, path: Path) -> None:
    if own != given:
        raise UserError(
            f"{path} does not fit this base: {name} is for a weight of {given}, which has {own}"
        )
