"""LoRA files side by side on a frozen transformer, for inference, each with its strength."""

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from maskora.lora import differences
from maskora.lora.adapter import hold
from maskora.lora.fit import check_shape, tell_missing
from maskora.lora.read import read
from maskora.lora.weights import LoraWeights, Update
from maskora.models import Transformer
from maskora.models.names import Names
from maskora.models.wan_names import WAN


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
        matrices = (update.down_RI.flatten(1), update.up_OR.flatten(1))
        hold(layer, name, *(matrix.to(device) for matrix in matrices))
        layer.r[name], layer.lora_alpha[name] = update.rank, update.alpha


def _fitting(transformer: nn.Module, weights: LoraWeights, path: Path) -> LoraWeights:
    """What of a file the base has; updates of convolutions become differences.

    Raises:
        UserError: a shape is another, or the base has nothing of it.
    """
    modules = dict(transformer.named_modules())
    missing = [name for name in weights.updates if name not in modules]
    missing += [name for name in weights.differences if not differences.find(modules, name)]
    tell_missing(missing, len(weights.updates) + len(weights.differences), path)
    updates: dict[str, Update] = {}
    added: dict[str, Tensor] = {}
    for name, difference in weights.differences.items():
        if target := differences.find(modules, name):
            check_shape(differences.shape(*target), tuple(difference.shape), name, path)
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
