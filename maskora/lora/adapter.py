"""A LoRA on a frozen transformer through peft: inject it, train it, save it."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from maskora.errors import UserError
from maskora.lora.layouts import write
from maskora.lora.update import LoraWeights, Update
from maskora.models.registry import Transformer

TRAINED = "default"


def inject(transformer: Transformer, rank: int, alpha: float, targets: str, seed: int) -> None:
    """Add a fresh trainable LoRA (A random from the seed, B zero) in float32.

    Args:
        transformer: the frozen base, a diffusers model.
        targets: a regular expression of the modules that carry it.
    """
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformer.add_adapter(config, adapter_name=TRAINED)
    for layer in transformer.modules():
        if isinstance(layer, LoraLayer) and TRAINED in layer.lora_A:
            set_matrices(layer, TRAINED, layer.lora_A[TRAINED].weight, layer.lora_B[TRAINED].weight)


def set_matrices(layer: LoraLayer, name: str, down_RI: Tensor, up_OR: Tensor) -> None:
    """Give an adapter matrices in float32 that are multiplied in the precision of their input.

    peft would turn the input into float32 instead, and keep that copy of it for backward: at 16
    bits, a quarter of what a block holds in training.
    """
    layer.cast_input_dtype_enabled = False
    layer.lora_A[name] = _CastLinear.of(down_RI)
    layer.lora_B[name] = _CastLinear.of(up_OR)


class _CastLinear(nn.Linear):
    """A Linear without a bias that multiplies in its input's precision."""

    @classmethod
    def of(cls, weight_OI: Tensor) -> "_CastLinear":
        """Of a matrix, in float32."""
        height, width = weight_OI.shape
        with torch.device("meta"):
            cast = cls(width, height, bias=False)
        values, trains = weight_OI.data.float(), weight_OI.requires_grad
        cast.weight = nn.Parameter(values, requires_grad=trains)
        return cast

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight.to(input.dtype))


def trainable(transformer: Transformer) -> list[nn.Parameter]:
    """The LoRA's parameters, in a fixed order."""
    return [parameter for parameter in transformer.parameters() if parameter.requires_grad]


def save(path: Path, transformer: Transformer, metadata: dict[str, Any]) -> None:
    """Write the trained LoRA with its metadata, as a whole or not at all."""
    state = get_peft_model_state_dict(transformer, adapter_name=TRAINED)
    alpha = transformer.peft_config[TRAINED].lora_alpha
    updates = {
        module: Update(state[f"{module}.lora_A.weight"], state[f"{module}.lora_B.weight"], alpha)
        for module in dict.fromkeys(name.rpartition(".lora_")[0] for name in state)
    }
    write(path, LoraWeights(updates, {}, metadata), "diffusers")


def fill(transformer: Transformer, weights: LoraWeights, where: Path) -> None:
    """Put a file's values into the injected trainable LoRA. Raises UserError where they differ."""
    own = {
        n: t.shape for n, t in get_peft_model_state_dict(transformer, adapter_name=TRAINED).items()
    }
    given = {name: tensor.shape for name, tensor in (weights.tensors | weights.differences).items()}
    if own != given:
        names = sorted(own.keys() | given.keys())
        odd = [name for name in names if own.get(name) != given.get(name)]
        raise UserError(
            f"{where} does not fit [adapter] and the base: {len(odd)} tensors differ ({odd[0]}, …)"
        )
    set_peft_model_state_dict(transformer, weights.tensors, adapter_name=TRAINED)
