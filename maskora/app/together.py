"""What the processes of one run do together: who holds the workspace, and who says what where."""

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext

from maskora import devices, progress, ranks
from maskora.app.deepspeed_file import read_deepspeed_file
from maskora.app.workspace import Workspace, working
from maskora.config import Config
from maskora.config.tables import Training
from maskora.devices import Device
from maskora.errors import UserError
from maskora.models.registry import VideoModel
from maskora.ranks import Launch, Ranks, first_then_others

log = logging.getLogger("maskora")


def begin(workspace: Workspace, config: Config, asked: str | None, *, trains: bool) -> None:
    """Choose the device of this process, and meet the others where a launcher has started several.

    Args:
        asked: --device.
        trains: they train; else they share an inference, and no samples.

    Raises:
        UserError: there is no such device, DeepSpeed is missing, or its file contradicts the run.
    """
    place = ranks.launched()
    count = None if place is None or not trains else place.count
    file = read_deepspeed_file(config, workspace.root, count)
    if place is None:
        devices.choose(asked)
        return
    workspace.read_source()  # where there is no workspace, no log is made
    log_into(workspace, place.rank)
    device = _choose_device(place, asked)
    log.info(
        "process %d of %d, on %s; it waits for the others at %s:%s (RANK, WORLD_SIZE, MASTER_ADDR "
        "and MASTER_PORT say so)", place.rank, place.count, device.name, *place.address,
    )  # fmt: skip
    ranks.join(place, device.kind, file.logger)
    for note in file.notes:
        log.warning("note: %s", note)


def _choose_device(place: Launch, asked: str | None) -> Device:
    """`devices.choose` for one of several processes: a GPU of its own, where torch sees some."""
    if devices.parse(asked)[0] == "cpu":
        return devices.choose(asked)
    devices.set_up_environment()
    import torch

    gpus = torch.cuda.device_count()
    return devices.choose(place.device(asked, gpus) if gpus else asked)


def log_into(workspace: Workspace, rank: int) -> None:
    """Write the messages of one of several processes into a file; the first also shows them."""
    path = workspace.rank_log(rank)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A second command, which will be refused, must not empty the log of one that runs.
    handler = logging.FileHandler(path, "a", encoding="utf-8", errors="replace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    root = logging.getLogger()
    if rank:
        progress.silence()
        root.handlers.clear()
    root.addHandler(handler)


@contextmanager
def working_together(workspace: Workspace) -> Iterator[None]:
    """`working`, by the first process for all of them. Raises UserError."""
    together = ranks.joined()
    held = working(workspace) if together.rank == 0 else nullcontext()
    with ExitStack() as holding:
        first_then_others(together, lambda: holding.enter_context(held))
        yield
        together.gathered(None)


@contextmanager
def blocks_held_once(model: VideoModel) -> Iterator[None]:
    """Let the processes of a machine hold the blocks that wait in RAM once, until all of them end.

    So each may load the base's transformers as often and whenever it needs them.
    """
    files = {one.part: ranks.joined().shared_file() for one in model.experts}
    with ExitStack() as closing:
        for part, file in files.items():
            if file is not None:
                closing.callback(os.close, file)
                model.waiting[part] = file
        closing.callback(model.waiting.clear)
        yield


def check_shares(training: Training, together: Ranks) -> None:
    """Every process has a sample to compute in each step. Raises UserError."""
    samples, count = training.gradient_accumulation_steps, together.count
    if samples < count:
        raise UserError(
            f"[training] gradient_accumulation_steps is {samples}: it counts the samples of a step "
            f"over all {count} processes, so some would have none. Set it to {count}, or a "
            f"multiple of that (other numbers train another LoRA), or start {samples}"
        )
    if samples % count:
        log.warning(
            "note: %d samples of a step are not shared evenly by %d processes, so some wait: a "
            "multiple of %d for training.gradient_accumulation_steps is faster",
            samples, count, count,
        )  # fmt: skip
