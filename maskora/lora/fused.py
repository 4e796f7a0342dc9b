"""Fused matrices: several modules' updates as one update of the matrix that holds their rows.

Joined, the members' `up` matrices stand block by block on a diagonal, and zeros besides, so that
each member keeps its own columns, and can be cut out again:

    q          up = | q . . |    down = | q |
    k    ->         | . k . |           | k |
    v               | . . v |           | v |
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from maskora.lora.weights import Update

# What `join` was given: rank and alpha of each member; None for one without an update.
Ranks = Sequence[tuple[int, float] | None]
CLOSE = 1e-5  # relative: files keep alphas in float32 or bfloat16


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


def exchange_halves(rows_O: Tensor) -> Tensor:
    """The second half of the rows, then the first."""
    first, second = rows_O.chunk(2)
    return torch.cat([second, first])
