"""LoRA files as other programs write them."""

import json
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from maskora import lora
from maskora.lora import LoraWeights
from maskora.models.names import Names
from maskora.models.wan.names import WAN
from tests.lora.tiny import noise

DOWN, UP = noise(0, 2, 24), noise(1, 24, 2)


def pair(
    module: str, down: str = "lora_A.weight", up: str = "lora_B.weight", **more: Tensor
) -> dict[str, Tensor]:
    """The tensors of one module's update, and others of the module."""
    others = {f"{module}.{part}": tensor for part, tensor in more.items()}
    return {f"{module}.{down}": DOWN, f"{module}.{up}": UP, **others}


def written(
    path: Path, tensors: dict[str, Tensor], names: Names = WAN, **texts: object
) -> LoraWeights:
    """Write a file, and read it as a LoRA."""
    told = {k: text if isinstance(text, str) else json.dumps(text) for k, text in texts.items()}
    save_file({k: tensor.clone() for k, tensor in tensors.items()}, path, metadata=told)
    return lora.read(path, names)
