"""The loop that trains a part of the miniature for a given time, its optimizer, and its losses.

It differs from `maskora.training.loop`, which trains a LoRA on one clip: here whole models learn
from an endless world, the clock decides how far, and an average of the weights is what counts.
"""

import io
import json
import logging
import time
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from maskora.errors import Fault
from maskora.files import write_bytes
from maskora.training import report
from maskora.training.loop import Interruption

log = logging.getLogger("maskora")
MOMENTUM, BETAS = 0.95, (0.9, 0.95)
WARM_UP, STEADY = 30, 0.4  # steps; share of the time until the learning rate falls
AVERAGING, CLIPPING = 0.998, 1.0
SAVE_EVERY = 60.0  # seconds


class MuonAdamW:
    """Muon for matrices and convolution kernels, AdamW for all else.

    AdamW alone stalls on the autoencoder at 18-20 dB. Muon (Jordan et al. 2024) takes matrices; a
    kernel is one of its output channels by everything else.

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
        """The state that a later run needs to go on."""
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


@dataclass(frozen=True)
class Trainable:
    """A part of the model to train, and how.

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
    """A part's progress."""

    step: int = 0
    seconds: float = 0.0
    average: dict[str, Tensor] = field(default_factory=dict)


def fit(part: Trainable, seconds: float, folder: Path) -> None:
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


def _step(part: Trainable, progress: Progress, share: float) -> float:
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


def _save(part: Trainable, progress: Progress, path: Path) -> None:
    buffer = io.BytesIO()
    content: dict[str, Any] = {
        **asdict(progress),
        "module": part.module.state_dict(),
        "optimizer": part.optimizer.state_dict(),
    }
    torch.save(content, buffer)
    write_bytes(path, buffer.getvalue())


def _resume(part: Trainable, path: Path) -> Progress:
    if not path.exists():
        return Progress()
    content = torch.load(path, map_location=next(part.module.parameters()).device)
    part.module.load_state_dict(content["module"])
    part.optimizer.load_state_dict(content["optimizer"])
    log.info("%s: going on after %d steps", part.name, content["step"])
    return Progress(content["step"], content["seconds"], content["average"])


def append_loss(path: Path, step: int, seconds: float, loss: float) -> None:
    """Add a step to a file of losses."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8", newline="\n") as file:
        file.write(json.dumps({"step": step, "seconds": round(seconds, 2), "loss": loss}) + "\n")


def read_losses(path: Path) -> list[float]:
    """The losses in a file, by rising step; a step that was taken again counts once."""
    steps: dict[int, float] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        steps[entry["step"]] = entry["loss"]
    return [steps[step] for step in sorted(steps)]


def draw_losses(losses: Path, picture: Path, title: str) -> None:
    """Draw the losses in a file."""
    values = read_losses(losses)
    report.draw_losses(range(len(values)), values, picture, title, memory=0.98, scale="log")
