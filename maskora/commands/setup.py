"""Opening the base for a workspace: find it, check it, plan its memory, choose the device."""

import logging
import resource
from dataclasses import dataclass

import torch

from maskora.commands import timings
from maskora.commands.effects import accelerate, memory_warnings
from maskora.commands.finding import find_base
from maskora.commands.footprint import Purpose
from maskora.commands.machine import DeviceKind, host_bytes
from maskora.commands.plan import Plan, plan_for
from maskora.config import Config
from maskora.errors import UserError
from maskora.models import VideoModel, open_model
from maskora.streaming.demand import gb
from maskora.workspace import Source, Workspace

log = logging.getLogger("maskora")


@dataclass
class Base:
    """The base, ready to be loaded, and what it will take.

    Attributes:
        model: nothing of it is loaded yet.
        plan: how it will lie in memory.
        warnings: settings of [memory] and [acceleration] that have no effect here.
    """

    model: VideoModel
    plan: Plan
    warnings: list[str]
    _told: bool = False

    def tell_plan(self) -> None:
        """Say the plan, once, before the first thing that is heavy."""
        if not self._told:
            log.info("%s", self.plan.render())
            for warning in self.warnings:
                log.warning("note: %s", warning)
            self._told = True

    def tell_usage(self) -> None:
        """Say how far the plan was off."""
        if self.model.device.type == "cuda":
            used = torch.cuda.max_memory_allocated(self.model.device)
            held = torch.cuda.max_memory_reserved(self.model.device)
            log.info(
                "%s; with the reserve planned %s, held %s",
                compare("VRAM", self.plan.allocated_bytes, used),
                gb(self.plan.vram_bytes),
                gb(held),
            )
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        log.info("%s", compare("RAM", self.plan.ram_bytes, used))

    def remember(self, frames: int, seconds: float) -> None:
        """Keep what a step on samples of so many frames took, for later plans."""
        timings.record(self.plan.step_key(frames), seconds)


def open_base(config: Config, workspace: Workspace, source: Source, purpose: Purpose) -> Base:
    """The configured base on this machine's device, checked against the frames and the budget.

    Raises:
        UserError: it is incomplete, does not fit the frames, the budget or the card.
    """
    found = find_base(config.model, workspace.root)
    log.info("base: %s", found.told)
    device: DeviceKind = "cuda" if torch.cuda.is_available() else "cpu"
    model = open_model(config.model.family, found, config.model.dtype, device)
    width, height = source.size
    multiple = model.grid.multiple
    if width % multiple or height % multiple or source.cell != model.grid.cell:
        raise UserError(
            f"the frames were prepared at {width}x{height} for latent cells of {source.cell} "
            f"pixels; {found.where} needs multiples of {multiple} and cells of {model.grid.cell}: "
            f"run maskora prepare again with this base"
        )
    plan = plan_for(config, workspace, source, found, device, purpose)
    _check_ram(plan)
    if device == "cuda":
        _check_card(plan)
    model.placement = plan.placement
    model.acceleration, notes = accelerate(
        config, purpose, device, model.masks_attention, plan.placement.recompute == "layer"
    )
    return Base(model, plan, [*memory_warnings(config, plan), *notes])


def compare(what: str, planned: int, used: int) -> str:
    """What was planned beside what a run has used, both in bytes."""
    share = round(100 * (used - planned) / planned)
    told = f"{abs(share)} % {'more' if share > 0 else 'less'}" if share else "as planned"
    return f"planned {gb(planned)} GB of {what}, used {gb(used)} ({told})"


def _check_ram(plan: Plan) -> None:
    """The machine has the memory at all; what others use of it may still be given back."""
    if plan.ram_bytes > host_bytes():
        raise UserError(
            f"the plan takes {gb(plan.ram_bytes)} GB of RAM, and this machine has "
            f'{gb(host_bytes())}: memory.weights = "mapped" leaves the weights on disk, '
            f'model.transformer_dtype = "float8" halves them (maskora plan tells what comes of it)'
        )


def _check_card(plan: Plan) -> None:
    """The card has as much free memory as the plan takes."""
    free, total = torch.cuda.mem_get_info()
    if plan.vram_bytes > free:
        raise UserError(
            f"the plan takes {gb(plan.vram_bytes)} GB of VRAM, and {gb(free)} of this card's "
            f"{gb(total)} GB are free: set memory.vram_budget_gb = {gb(free)}, or end what uses "
            f"the card (nvidia-smi lists it)"
        )
