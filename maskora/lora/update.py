"""A LoRA in memory, and how updates are joined into fused matrices and divided again."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# What `join` was given: rank and alpha of each member; None for one without an update.
Ranks = Sequence[tuple[int, float] | None]
CLOSE = 1e-5  # relative: files keep alphas in float32 or bfloat16


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


def join(members: Sequence[Update | None], rows: Sequence[int]) -> Update:
    """One update of all rows. Members of other scales than the first are multiplied in float64.

    Args:
        members: of the same input; None for one without an update.
        rows: how many each member has.
    """
    present = [member for member in members if member is not None]
    scale = present[0].scale
    down_RI = torch.cat([member.down_RI for member in present])
    alike = all(member.scale == scale for member in present)
    dtype = down_RI.dtype if alike else torch.float64
    up_OR = torch.zeros(sum(rows), len(down_RI), dtype=dtype)
    columns = 0
    for member, block in zip(members, up_OR.split(list(rows)), strict=True):
        if member is not None:
            block[:, columns : columns + member.rank] = _times(
                member.up_OR, member.scale / scale, alike, dtype
            )
            columns += member.rank
    return Update(down_RI, up_OR, scale * len(down_RI))


def cut(update: Update, rows: Sequence[int], ranks: Ranks) -> list[Update | None] | None:
    """The very members that were joined; None where these ranks are not what the update holds."""
    scales = [alpha / rank for rank, alpha in filter(None, ranks)]
    widths = [one[0] if one else 0 for one in ranks]
    if sum(widths) != update.rank or abs(update.scale / scales[0] - 1) > CLOSE:
        return None
    alike = all(scale == scales[0] for scale in scales)
    members: list[Update | None] = []
    for index, (one, block) in enumerate(zip(ranks, update.up_OR.split(list(rows)), strict=True)):
        before, _, after = block.split(
            [sum(widths[:index]), widths[index], sum(widths[index + 1 :])], dim=1
        )
        if before.any() or after.any():
            return None
        members.append(one and _member(update, block, before.shape[1], one, alike, scales[0]))
    return members


def _member(
    update: Update, block: Tensor, start: int, ranks: tuple[int, float], alike: bool, scale: float
) -> Update:
    rank, alpha = ranks
    columns = slice(start, start + rank)
    down_RI = update.down_RI[columns].contiguous()
    up_OR = _times(block[:, columns], scale / (alpha / rank), alike, down_RI.dtype)
    return Update(down_RI, up_OR.contiguous(), alpha)


def split(update: Update, rows: Sequence[int]) -> list[Update | None]:
    """Each member's rows, and of the columns those that they use; None where they use none."""
    members: list[Update | None] = []
    for block in update.up_OR.split(list(rows)):
        used_R = block.flatten(1).any(dim=0) if block.ndim == 2 else torch.ones(update.rank).bool()
        rank = int(used_R.sum())
        whole = rank == update.rank
        down_RI = update.down_RI if whole else update.down_RI[used_R]
        up_OR = block.contiguous() if whole else block[:, used_R]
        members.append(Update(down_RI, up_OR, update.scale * rank) if rank else None)
    return members


def _times(matrix: Tensor, factor: float, alike: bool, dtype: torch.dtype) -> Tensor:
    """A product that float64 keeps so well that its inverse finds the same float32 values."""
    return matrix.to(dtype) if alike else (matrix.double() * factor).to(dtype)
