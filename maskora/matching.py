"""While the edit is denoised it takes features of the source, which goes through with it.

Both are rows of one batch, the source's first, so every block is visited once for both: a streamed
base moves nothing more. What is taken passes through hooks on modules that every family has, LoRA
or not, whatever form the weights are stored in.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from maskora.config.tables import Transfer
from maskora.errors import UserError
from maskora.method.transfer import matched, steps_within

# A block's modules, as diffusers names them: Wan has attn1 and ffn, the Hunyuans attn and ff, or
# act_mlp where a block has one stream.
QUERIES_KEYS, FUSED = r"attn1?\.(to_q|to_k)", r"attn1?\.to_qkv"
ANSWERS = r"attn1?"
FEATURES = r"ffn?|act_mlp"
Change: TypeAlias = Callable[[Tensor, Tensor], Tensor]  # (source's (1, N, D), edit's (B, N, D))


@dataclass(frozen=True)
class Taken:
    """What of some blocks is taken from the source, in the first steps.

    Attributes:
        changes: names of a block's modules, as a regular expression -> what becomes of the answers
            that they have for the edit's video tokens.
        blocks: the share of the depth where they begin, and where they end.
        steps: how many of the first steps.
    """

    changes: Mapping[str, Change]
    blocks: tuple[float, float]
    steps: int


class Matching:
    """What an edit takes from the source, step by step.

    Args:
        blocks: the transformer's, in the order of computation.
        transfer: the attention and the features that are taken.
        steps: how many are denoised.
        tokens: of the video; other tokens, which some modules have after them, are let be.

    Raises:
        UserError: none of the chosen blocks has such modules.
    """

    def __init__(
        self, blocks: Sequence[nn.Module], transfer: Transfer, steps: int, tokens: int
    ) -> None:
        self._blocks, self._tokens = blocks, tokens
        self._taken = taken_from(transfer, steps)
        for one in self._taken:
            if not list(self._modules(one)):
                raise UserError(
                    f"[transfer] chooses none of this base's {len(blocks)} blocks "
                    f"({one.blocks[0]:g} to {one.blocks[1]:g} of the depth): choose more of them"
                )

    def takes(self, step: int) -> bool:
        """True where something is taken in a step, counted from 0."""
        return any(step < one.steps for one in self._taken)

    @contextmanager
    def during(self, step: int, rows: int) -> Iterator[None]:
        """Let a forward pass of so many rows, the first the source's, take what the step takes."""
        with ExitStack() as hooks:
            for one in self._taken:
                for change, module in self._modules(one) if step < one.steps else ():
                    hook = _hook(change, rows, self._tokens)
                    hooks.callback(module.register_forward_hook(hook).remove)
            yield

    def _modules(self, one: Taken) -> Iterator[tuple[Change, nn.Module]]:
        first, last = (round(share * len(self._blocks)) for share in one.blocks)
        for block in self._blocks[first:last]:
            for name, module in block.named_modules():
                for names, change in one.changes.items():
                    if re.fullmatch(names, name):
                        yield change, module


def taken_from(transfer: Transfer, steps: int) -> list[Taken]:
    """What a configuration takes: AnyV2V's queries and keys, or I2VEdit's attention; features."""
    first = steps_within(transfer.attention_share, steps)
    features = steps_within(transfer.features_share, steps)
    changes: dict[str, Change] = {}
    if transfer.attention == "qk":
        changes = {QUERIES_KEYS: _copied, FUSED: _copied_but_values}
    elif transfer.attention == "difference":
        changes = {ANSWERS: partial(matched, threshold=transfer.threshold)}
    wanted = [
        Taken(changes, transfer.attention_blocks, first if changes else 0),
        Taken({FEATURES: _copied}, transfer.features_blocks, features),
    ]
    return [one for one in wanted if one.steps]


def _copied(source_1ND: Tensor, edited_BND: Tensor) -> Tensor:
    return source_1ND.expand_as(edited_BND)


def _copied_but_values(source_1ND: Tensor, edited_BND: Tensor) -> Tensor:
    """Queries and keys of a projection that gives queries, keys and values side by side."""
    values = edited_BND.shape[-1] // 3
    kept_BND = edited_BND[..., -values:]
    return torch.cat([_copied(source_1ND[..., :-values], edited_BND[..., :-values]), kept_BND], -1)


def _hook(change: Change, rows: int, tokens: int) -> Callable[..., Any]:
    """A hook for one module and one forward pass, which sees the rows at once or in turn."""
    source: list[Tensor] = []  # its answer, between the row that it comes with and the last one
    seen = 0

    def hook(module: nn.Module, given: Any, answer: Any) -> Any:
        nonlocal seen
        whole = answer[0] if isinstance(answer, tuple) else answer
        own = 0 if source else 1
        if not source:
            source.append(whole[:1, :tokens])
        seen += len(whole)
        if len(whole) > own:
            changed = change(source[0], whole[own:, :tokens])
            edited = torch.cat([changed, whole[own:, tokens:]], dim=1)
            whole = torch.cat([whole[:own], edited])
        if seen == rows:
            source.clear()
        return (whole, *answer[1:]) if isinstance(answer, tuple) else whole

    return hook
