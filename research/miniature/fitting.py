"""The loop that trains a part of the miniature for a given time; interrupted, it can go on.

It differs from `maskora.training.loop`, which trains a LoRA on one clip: here whole models learn
from an endless world, the clock decides how far, and an average of the weights is what counts.
"""

import io
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from maskora.errors import Fault
from maskora.files import write_bytes
from maskora.training.loop import Interruption
from research.miniature.curves import append_loss
from research.miniature.optimizer import MuonAdamW

log = logging.getLogger("maskora")
WARM_UP, STEADY = 30, 0.4  # steps; share of the time until the learning rate falls
AVERAGING, CLIPPING = 0.998, 1.0
SAVE_EVERY = 60.0  # seconds


@dataclass(frozen=True)
class Part:
    """What is trained, and how.

    Attributes:
        name: for people and file names.
        module: trained in place.
        loss: (step, share of the time that has passed) -> a scalar with a graph.
        optimizer: of the module.
    """

    name: str
    module: nn.Module
    loss: Callable[[int, float], Tensor]
    optimizer: MuonAdamW


@dataclass
class Progress:
    """How far a part has got."""

    step: int = 0
    seconds: float = 0.0
    average: dict[str, Tensor] = field(default_factory=dict)


def fit(part: Part, seconds: float, folder: Path) -> None:
    """Train a part until it has had its time; its module then holds the averaged weights.

    Checkpoints (NAME.pt) and losses (NAME.jsonl) go to `folder`; a checkpoint there is gone on
    from. Ctrl-C saves.
    """
    saved = folder / f"{part.name}.pt"
    progress = _resume(part, saved)
    kept = time.monotonic()
    bar = tqdm(total=round(seconds), initial=round(progress.seconds), desc=part.name, unit="s")
    part.module.train()
    with bar, Interruption() as interruption:
        while progress.seconds < seconds:
            started = time.monotonic()
            loss = _step(part, progress, progress.seconds / seconds)
            progress.seconds += time.monotonic() - started
            append_loss(folder / f"{part.name}.jsonl", progress.step, progress.seconds, loss)
            bar.set_postfix(step=progress.step, loss=f"{loss:.4f}", refresh=False)
            bar.update(min(round(progress.seconds), bar.total) - bar.n)
            if interruption.asked or time.monotonic() - kept > SAVE_EVERY:
                _save(part, progress, saved)
                kept = time.monotonic()
            if interruption.asked:
                raise KeyboardInterrupt
    _save(part, progress, saved)
    part.module.load_state_dict(progress.average)
    part.module.eval()


def _step(part: Part, progress: Progress, share: float) -> float:
    """One optimizer step; returns the loss."""
    loss = part.loss(progress.step, share)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(part.optimizer.parameters, CLIPPING)
    if not norm.isfinite():
        raise Fault(f"{part.name}, step {progress.step}: the gradient is not finite")
    part.optimizer.step(learning_rate(progress.step, share))
    progress.step += 1
    average(progress.average, part.module, progress.step)
    return loss.item()


def learning_rate(step: int, share: float) -> float:
    """Of the highest: it rises over the first steps, and falls to 0 over the last of the time."""
    return min(1.0, (step + 1) / WARM_UP, (1 - share) / (1 - STEADY))


@torch.no_grad()
def average(kept: dict[str, Tensor], module: nn.Module, step: int) -> None:
    """Move an exponential average of a module's state on; in its first steps it is shorter."""
    state = module.state_dict()
    if not kept:
        kept.update({name: value.detach().clone() for name, value in state.items()})
        return
    share = 1 - min(AVERAGING, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(kept.values()), [state[name] for name in kept], share)


def _save(part: Part, progress: Progress, path: Path) -> None:
    buffer = io.BytesIO()
    content: dict[str, Any] = {
        **asdict(progress),
        "module": part.module.state_dict(),
        "optimizer": part.optimizer.state_dict(),
    }
    torch.save(content, buffer)
    write_bytes(path, buffer.getvalue())


def _resume(part: Part, path: Path) -> Progress:
    if not path.exists():
        return Progress()
    content = torch.load(path, map_location=next(part.module.parameters()).device)
    part.module.load_state_dict(content["module"])
    part.optimizer.load_state_dict(content["optimizer"])
    log.info("%s: going on after %d steps", part.name, content["step"])
    return Progress(content["step"], content["seconds"], content["average"])
