"""A LoRA in memory, under the names of the modules that are used here."""

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Update:
    """A low-rank update of one module's weight: scale * up @ down.

    Attributes:
        down_RI: (rank, in), or (rank, in, kernel …) of a convolution.
        up_OR: (out, rank), or the same with further dimensions of 1.
        alpha: the scale is alpha / rank.
    """

    down_RI: Tensor
    up_OR: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        """How many rows `down` has."""
        return len(self.down_RI)

    @property
    def scale(self) -> float:
        """The factor of the product."""
        return self.alpha / self.rank

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of what it updates; a convolution's kernel counts as columns."""
        return len(self.up_OR), math.prod(self.down_RI.shape[1:])

    def product(self) -> Tensor:
        """What it adds, in float32, of its size."""
        return self.scale * (self.up_OR.flatten(1).float() @ self.down_RI.flatten(1).float())


@dataclass(frozen=True)
class LoraWeights:
    """A LoRA file in memory.

    Attributes:
        updates: module path -> its low-rank update.
        differences: module path + ".diff" -> what is added to its weight, or + ".diff_b" -> to its
            bias. A parameter that belongs to no module of its own stands for the module.
        metadata: what maskora wrote about it (base, stage, steps, prompts), if it did.
    """

    updates: dict[str, Update]
    differences: dict[str, Tensor]
    metadata: dict[str, Any]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The updates' matrices as peft names them: `….lora_A.weight` and `….lora_B.weight`."""
        matrices = {f"{name}.lora_A.weight": one.down_RI for name, one in self.updates.items()}
        ups = {f"{name}.lora_B.weight": one.up_OR for name, one in self.updates.items()}
        return matrices | ups
