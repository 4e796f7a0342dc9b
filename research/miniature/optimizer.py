"""Muon for matrices and convolution kernels, AdamW for all else, behind one small class.

AdamW alone stalls on the autoencoder at 18-20 dB. Muon (Jordan et al. 2024) takes matrices; a
kernel is one of its output channels by everything else.
"""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

MOMENTUM, BETAS = 0.95, (0.9, 0.95)


class MuonAdamW:
    """Trains some of a module's weights with Muon and the others with AdamW.

    Args:
        module: its trainable parameters are trained.
        matrices: names of the parameters that are Muon's, of two dimensions or more.
        muon_lr, adamw_lr: the learning rates at their highest.
    """

    def __init__(
        self, module: nn.Module, matrices: Collection[str], muon_lr: float, adamw_lr: float
    ) -> None:
        named = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self._kernels = [named[name] for name in matrices]
        # Views of the same memory: what Muon writes, the module computes with.
        self._flat = [nn.Parameter(_matrix(kernel.data)) for kernel in self._kernels]
        others = [p for name, p in named.items() if name not in matrices]
        self.parameters = list(named.values())
        self._optimizers: tuple[torch.optim.Optimizer, ...] = (
            torch.optim.Muon(self._flat, lr=muon_lr, momentum=MOMENTUM, weight_decay=0.0),
            torch.optim.AdamW(others, lr=adamw_lr, betas=BETAS, weight_decay=0.0),
        )
        self._highest = (muon_lr, adamw_lr)

    def step(self, share: float) -> None:
        """One step with the gradients that the parameters have, which are dropped then.

        Args:
            share: of the highest learning rates.
        """
        for flat, kernel in zip(self._flat, self._kernels, strict=True):
            assert kernel.grad is not None
            flat.grad = _matrix(kernel.grad.contiguous(memory_format=_layout(kernel)))
        for optimizer, lr in zip(self._optimizers, self._highest, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = share * lr
            optimizer.step()
        for parameter in self.parameters:
            parameter.grad = None

    def state_dict(self) -> list[dict[str, Any]]:
        """What a later run needs to go on."""
        return [optimizer.state_dict() for optimizer in self._optimizers]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Go on from a state."""
        for optimizer, state in zip(self._optimizers, states, strict=True):
            optimizer.load_state_dict(state)


def kernel_names(module: nn.Module) -> list[str]:
    """The kernels of a module's convolutions."""
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return [f"{name}.weight" for name, part in module.named_modules() if isinstance(part, kinds)]


def _layout(kernel: Tensor) -> torch.memory_format:
    if kernel.is_contiguous():
        return torch.contiguous_format
    return torch.channels_last_3d if kernel.ndim == 5 else torch.channels_last


def _matrix(kernel: Tensor) -> Tensor:
    """A kernel (O, I, ...) as a matrix (O, rest) in the same memory, with its columns in whichever
    order they lie there: Muon minds no order.
    """
    matrix = (kernel if kernel.is_contiguous() else kernel.movedim(1, -1)).flatten(1)
    assert matrix.data_ptr() == kernel.data_ptr()
    return matrix
