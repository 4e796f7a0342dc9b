"""Training through streamed blocks: forward keeps only each block's input, backward runs it again.

This is gradient checkpointing (Chen et al. 2016, "Training deep nets with sublinear memory cost")
as an autograd function of our own, so that a block's weights are visited exactly twice, in an order
that the engine knows, and so that the kept inputs may wait in host memory.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from maskora.streaming.engine import Streamer
from maskora.streaming.keep import Keeper, Kept


class Recomputation:
    """The function for diffusers' `enable_gradient_checkpointing`: calls (block, *inputs)."""

    def __init__(self, streamer: Streamer, keeper: Keeper) -> None:
        self.streamer = streamer
        self.keeper = keeper
        self._indices = {id(block.module): index for index, block in enumerate(streamer.blocks)}

    def __call__(self, block: nn.Module, *inputs: Any) -> Any:
        """Run a block; its first inputs, as many as it has outputs, are what it carries on."""
        # Without an input that needs a gradient autograd would not call the first block's backward,
        # and its LoRA would silently learn nothing.
        anchor = torch.zeros((), requires_grad=True)
        return _Recomputed.apply(self, self._indices[id(block)], block, anchor, *inputs)


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, run: Recomputation, index: int, block: nn.Module, anchor: Tensor, *inputs: Any
    ) -> Any:
        there = run.keeper.outward.now()
        with run.streamer.visit(index, "forward"):
            output = block(*inputs)
        carried = 1 if isinstance(output, Tensor) else len(output)
        ctx.run, ctx.index, ctx.block = run, index, block
        turns = index == len(run.streamer.blocks) - 1
        ctx.kept = run.keeper.keep(index, inputs[:carried], there, turns)
        ctx.shared = inputs[carried:]
        ctx.set_materialize_grads(False)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        run: Recomputation = ctx.run
        kept: Kept = ctx.kept
        wanted = ctx.needs_input_grad[4:]
        inputs = [
            value.detach().requires_grad_(needs) if isinstance(value, Tensor) else value
            for value, needs in zip(
                [*run.keeper.bring_back(kept), *ctx.shared], wanted, strict=True
            )
        ]
        with torch.enable_grad(), run.streamer.visit(ctx.index, "backward"):
            output = ctx.block(*inputs)
            outputs = [output] if isinstance(output, Tensor) else output
            pairs = [
                (one, gradient)
                for one, gradient in zip(outputs, gradients, strict=True)
                if gradient is not None and one.requires_grad
            ]
            if pairs:
                torch.autograd.backward([one for one, _ in pairs], [g for _, g in pairs])
        return (
            None,
            None,
            None,
            None,
            *(value.grad if needs else None for value, needs in zip(inputs, wanted, strict=True)),
        )


def recompute_layers(block: nn.Module) -> None:
    """Let a block's own layers keep only their inputs too, while it runs with a graph.

    Costs one more forward of each layer per step, and leaves in memory one layer's graph instead of
    the whole block's.
    """
    for layer in block.children():
        if any(isinstance(module, nn.Linear) for module in layer.modules()):
            layer.forward = partial(_in_layer, layer.forward)


def _in_layer(forward: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs, **options)
    return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=False, **options)
