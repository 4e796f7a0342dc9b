"""Open the base for a workspace: find it, check it, plan its memory, choose the device."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from maskora import devices, ranks
from maskora.app import timings
from maskora.app.plan import check_precision, plan_for
from maskora.app.preflight import choose_acceleration, memory_warnings
from maskora.app.workspace import Source, Workspace
from maskora.config import Config
from maskora.devices import Device
from maskora.errors import OutOfMemory, UserError
from maskora.memory.machine import (
    CONTEXT,
    Budget,
    GpuMemory,
    Machine,
    own_bytes,
    peak_bytes,
    processor_name,
)
from maskora.memory.plan import Plan, Purpose, lacking_ram, lighter
from maskora.memory.report import render
from maskora.models.files.model_files import resolve_base
from maskora.models.registry import Grid, ModelFiles, VideoModel, open_model
from maskora.streaming.out_of_memory import first_line, ran_out_of
from maskora.streaming.placement import gb
from maskora.system import Ram, ram
from maskora.training.optimizer import available

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
    _logged: bool = False

    def log_plan(self) -> None:
        """Log the plan, once, before the first thing that is heavy."""
        if not self._logged:
            log.info("%s", render([self.plan]))
            for warning in self.warnings:
                log.warning("note: %s", warning)
            self._logged = True

    def log_usage(self) -> None:
        """Log how far the plan was off."""
        if self.model.device.type == "cuda":
            used = torch.cuda.max_memory_allocated(self.model.device)
            held = torch.cuda.max_memory_reserved(self.model.device)
            log.info(
                "%s; with what the allocator loses planned %s, held %s",
                compare("VRAM", self.plan.allocated_bytes, used),
                gb(self.plan.vram_bytes),
                gb(held),
            )
        log.info("%s", compare("RAM", self.plan.ram_bytes, peak_bytes()))

    def remember(self, frames: int, seconds: float) -> None:
        """Keep what a step on samples of so many frames took, for later plans."""
        model = self.model
        if model.placement == self.plan.placement and model.team.count == 1:  # as planned
            timings.record(self.plan.step_key(frames), seconds)

    @contextmanager
    def explaining_out_of_memory(self) -> Iterator[None]:
        """Let an out-of-memory error that is final say what would need less."""
        try:
            yield
        except RuntimeError as error:
            if not isinstance(error, OutOfMemory) and ran_out_of(error) != "VRAM":
                raise
            changes = [f"  {change}" for change in lighter(self.plan)]
            lines = [
                f"the GPU's memory has run out ({first_line(error)}), and nothing more of it can "
                f"be given back. What would need less:",
                *changes,
                "  to end what else uses the GPU (nvidia-smi lists it)",
            ]
            raise OutOfMemory("\n".join(lines)) from error


def open_base(config: Config, workspace: Workspace, source: Source, purpose: Purpose) -> Base:
    """The configured base on the chosen device, checked against the frames and what is free.

    Raises:
        UserError: it is incomplete, does not fit the frames, the budget, the GPU or the RAM.
    """
    device = devices.chosen()
    machine = measured(device)
    for note in machine.notes:
        log.info("%s", note)
    check_precision(config, machine)  # before anything is fetched
    if purpose == "train":  # the optimizer that will really run decides the plan
        optimizer = available(config.optimizer, torch.device(device.name))
        config = config.model_copy(update={"optimizer": optimizer})
    found = resolve_base(config.model, workspace.root)
    log.info("base: %s", found.description)
    model = open_model(config.model.family, found, config.model.dtype, device.name)
    check_grid(source, model.grid, found)
    plan = plan_for(config, workspace, source, found, machine, purpose)
    if too_much := lacking_ram(plan, ranks.joined().on_machine):
        raise UserError(f"{too_much} (maskora plan shows what comes of it)")
    if plan.budget is not None:
        hold_to(plan.budget, device)
    model.placement = plan.placement
    model.acceleration, notes = choose_acceleration(
        config, purpose, device.kind, model.masks_attention, plan.placement.recompute == "layer"
    )
    return Base(model, plan, [*memory_warnings(config, plan.device, plan.placement), *notes])


def check_grid(source: Source, grid: Grid, base: ModelFiles) -> None:
    """The frames are on a base's grid. Raises UserError."""
    (width, height), multiple = source.size, grid.multiple
    if width % multiple or height % multiple or source.cell != grid.cell:
        raise UserError(
            f"the frames were prepared at {width}x{height} for latent cells of {source.cell} "
            f"pixels; {base.where} needs multiples of {multiple} and cells of {grid.cell}: "
            f"run maskora prepare again with this base"
        )


def hold_to(budget: Budget, device: Device) -> None:
    """Let torch run out of memory where a cap ends, or where the driver would give RAM instead.

    Then less is used in its place; RAM in place of the GPU's memory would be very slow.
    """
    memory = budget.memory
    if budget.cap is not None:
        most = min(memory.free, budget.cap - CONTEXT)
    elif devices.spills_to_ram():
        most = memory.free
    else:
        return
    torch.cuda.set_per_process_memory_fraction(min(1.0, most / memory.total), device.index)


def measured(device: Device) -> Machine:
    """The machine of a run that has chosen its device; opens the GPU."""
    now, notes = ram(), (device.note,) if device.note else ()
    # What this process has already is part of what a plan counts.
    memory = Ram(now.installed, now.available + own_bytes())
    if device.kind == "cpu":
        return Machine("cpu", processor_name(), None, None, memory, notes)
    free, total = torch.cuda.mem_get_info(device.index)
    return Machine(
        kind="cuda",
        name=torch.cuda.get_device_name(device.index),
        gpu=GpuMemory(free, total, opened=True),
        capability=torch.cuda.get_device_capability(device.index),
        ram=memory,
        notes=notes,
    )


def compare(what: str, planned: int, used: int) -> str:
    """A sentence that compares the planned with the used bytes of some memory."""
    share = round(100 * (used - planned) / planned)
    off = f"{abs(share)} % {'more' if share > 0 else 'less'}" if share else "as planned"
    return f"planned {gb(planned)} GB of {what}, used {gb(used)} ({off})"
