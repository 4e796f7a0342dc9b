"""AdamW, in 32 or 8 bits."""

import importlib.util
import logging

import torch
from torch import nn

log = logging.getLogger("maskora")


def available(kind: str, device: torch.device) -> str:
    """The optimizer that will really run: 8-bit AdamW needs bitsandbytes and a CUDA card."""
    if kind == "adamw8bit":
        if device.type != "cuda":
            log.info("optimizer: adamw (8-bit AdamW needs a CUDA card)")
            return "adamw"
        if importlib.util.find_spec("bitsandbytes") is None:
            log.info("optimizer: adamw (bitsandbytes is missing: pip install 'maskora[quant]')")
            return "adamw"
    return kind


def make_optimizer(
    kind: str, parameters: list[nn.Parameter], lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """AdamW over the LoRA's parameters; `kind` as `available` answered it."""
    if kind == "adamw8bit":
        from bitsandbytes.optim import AdamW8bit

        return AdamW8bit(parameters, lr=lr, weight_decay=weight_decay)
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay)
