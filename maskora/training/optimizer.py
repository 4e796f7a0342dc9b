"""AdamW, in 32 or 8 bits."""

import functools
import importlib.util
import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from maskora.config.tables import Optimizer
from maskora.errors import Fault
from maskora.streaming.out_of_memory import ran_out_of

log = logging.getLogger("maskora")


def available(settings: Optimizer, device: torch.device) -> Optimizer:
    """The optimizer that will really run: 8-bit AdamW needs bitsandbytes, which must work here.

    bitsandbytes tells that its CUDA library is missing, or is for another GPU, only when it is
    used, so one tensor is tried.
    """
    if settings.type != "adamw8bit":
        return settings
    if device.type != "cuda":
        reason = "8-bit AdamW needs an NVIDIA GPU"
    elif importlib.util.find_spec("bitsandbytes") is None:
        reason = "bitsandbytes is missing: pip install 'maskora[quant]'"
    elif failure := failed_trial(device):
        reason = f"bitsandbytes does not work here: {failure}"
    else:
        return settings
    log.info("optimizer: adamw (%s)", reason)
    return settings.model_copy(update={"type": "adamw"})


@functools.cache
def failed_trial(device: torch.device) -> str | None:
    """Why bitsandbytes cannot take one 8-bit step on a device; None where it can."""
    parameter = nn.Parameter(torch.ones(4096, device=device))  # smaller ones keep 32-bit states
    parameter.grad = torch.ones_like(parameter)
    try:
        make_optimizer(Optimizer(type="adamw8bit", lr=1.0, weight_decay=0.0), [parameter]).step()
        moved = bool((parameter < 1).all())
    except (RuntimeError, OSError, ImportError, AttributeError) as error:
        if ran_out_of(error) is not None:  # which says nothing about the library
            raise
        return str(error).strip().partition("\n")[0] or type(error).__name__
    return None if moved else "a step changed nothing"


def make_optimizer(settings: Optimizer, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW over the LoRA's parameters; `settings` as `available` answered them.

    On a GPU one kernel updates many parameters and allocates nothing.
    """
    lr, decay = settings.lr, settings.weight_decay
    if settings.type == "adamw8bit":
        from bitsandbytes.optim import AdamW8bit

        return AdamW8bit(parameters, lr=lr, weight_decay=decay)
    fused = True if parameters[0].device.type == "cuda" else None
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=decay, fused=fused)


def restore(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Go on from a saved state, which may come from another device or version of maskora."""
    for saved, own in zip(state["param_groups"], optimizer.param_groups, strict=True):
        if "fused" in own:  # how it computes is the device's matter
            saved["fused"] = own["fused"]
    optimizer.load_state_dict(state)


def leaves_out(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the device itself can leave out an update, so that the host need not look first.

    Looking costs no wait on a CPU, and 8-bit AdamW waits after each parameter anyway.
    """
    return bool(optimizer.param_groups[0].get("fused"))


@torch.no_grad()
def update(
    optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], finite: Tensor
) -> None:
    """An optimizer's step, wholly or not at all.

    Only the first one allocates on a GPU (the optimizer's states), so only that one can be undone.

    Args:
        finite: of the step's numbers, a boolean on the device. Where it can (`leaves_out`), it
            leaves out the first update without it, and all that come later.

    Raises:
        Fault: memory ran out in the middle of a later one.
    """
    if leaves_out(optimizer):
        fused: Any = optimizer
        unfit = (~finite).float()
        earlier = getattr(fused, "found_inf", None)
        fused.found_inf = unfit if earlier is None else torch.maximum(unfit, earlier)
    first = not optimizer.state
    before = [p.detach().to("cpu", copy=True) for p in parameters] if first else []
    try:
        optimizer.step()
    except RuntimeError as error:
        if ran_out_of(error) is None:
            raise
        if not first:
            raise Fault(
                f"memory ran out in the middle of an update of the LoRA ({error}); train with "
                f"--resume goes on from the last saved step"
            ) from error
        for parameter, values in zip(parameters, before, strict=True):
            parameter.copy_(values)
        optimizer.state.clear()
        raise
