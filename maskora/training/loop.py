"""The one training loop: encoded samples in, a LoRA out."""

import logging
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from math import isfinite
from types import FrameType, TracebackType
from typing import Any

import torch
from torch import Tensor

from maskora import lora
from maskora.errors import Fault, OutOfMemory
from maskora.latents import EncodedSample
from maskora.method.objective import TIMESTEPS, draw_noise_level, flow_loss, mix, region_weights
from maskora.models.registry import Transformer, VideoModel
from maskora.models.times import at_times
from maskora.progress import Progress
from maskora.streaming.out_of_memory import with_room
from maskora.streaming.transfer import upload
from maskora.system import INTERRUPTIONS
from maskora.training.checkpoint import RunFolder
from maskora.training.optimizer import make_optimizer, restore, update
from maskora.training.report import Report, StepMetrics, draw_loss

log = logging.getLogger("maskora")


class Interruption:
    """While active, the first Ctrl-C (or SIGTERM, or Ctrl-Break) only asks; the second stops.

    What was saved before stays whole either way.
    """

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> "Interruption":
        self._before = {number: signal.signal(number, self._ask) for number in INTERRUPTIONS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        log.warning("interrupted: this step is finished and saved first (again: stop at once)")


log = logging.getLogger("maskora")


@dataclass(frozen=True)
class TrainingPlan:
    """How one stage trains; see the configuration's tables for the meaning of each number.

    Attributes:
        lowest, highest: noise levels are drawn from this range.
        loss_scale: the loss is multiplied by it before the backward pass, and the gradients are
            divided by it after it; a power of two.
    """

    title: str
    steps: int
    seed: int
    optimizer: str
    lr: float
    weight_decay: float
    method: str
    shift: float
    inside_weight: float
    clipping: float
    accumulation: int
    checkpoint_every: int
    lowest: float = 0.0
    highest: float = 1.0
    loss_scale: float = 1.0


# Chooses a step's sample from the step's own random numbers.
Chooser = Callable[[torch.Generator], EncodedSample]


def train(
    model: VideoModel,
    transformer: Transformer,
    choose: Chooser,
    plan: TrainingPlan,
    run: RunFolder,
    depends_on: dict[str, str],
    metadata: dict[str, Any],
) -> None:
    """Train the injected LoRA from the run's last saved step to `plan.steps`.

    A fresh and a continued run share this path. On Ctrl-C the step in hand is finished and saved.

    Args:
        transformer: as the model loads it, with a trainable LoRA injected (and filled).
        choose: picks a sample for each micro step.
        run: where checkpoints and metrics go; what it holds must belong to this run.
        depends_on: recorded with every checkpoint.
        metadata: written into every LoRA file.
    """
    parameters = lora.trainable(transformer)
    optimizer = make_optimizer(plan.optimizer, parameters, plan.lr, plan.weight_decay)
    record = run.read()
    done = record.step if record else 0
    if done:
        restore(optimizer, run.load_optimizer(done, plan.optimizer))
    transformer.train()
    transformer.enable_gradient_checkpointing(transformer.streamed.checkpoint)
    save = partial(
        save_step, run, transformer, optimizer, plan, depends_on=depends_on, metadata=metadata
    )
    with closing(Report(run.metrics, run.tensorboard, done)) as report:
        try:
            _train_steps(
                partial(train_step, model, transformer, optimizer, choose, plan),
                lambda: give_way(model, transformer),
                range(done + 1, plan.steps + 1), plan, report, save,
            )  # fmt: skip
        except (KeyboardInterrupt, RuntimeError, OSError):  # a person, the GPU, a disk
            if saved := run.read():
                log.warning("step %d is saved; train with --resume continues there", saved.step)
            raise
    draw_loss(run.metrics, run.loss_picture, plan.title)


def _train_steps(
    take: Callable[[int], "PendingStep"],
    give: Callable[[], str | None],
    steps: range,
    plan: TrainingPlan,
    report: Report,
    save: Callable[[int], None],
) -> None:
    """Take steps; each one's numbers are read while the next one computes.

    Args:
        take: starts a step; does it again where it is asked again.
        give: frees memory of the device, as `with_room` wants it.
        save: keeps a step, whose numbers have been read.
    """
    progress = Progress(plan.title, plan.steps, "step", done=plan.steps - len(steps))
    pending: PendingStep | None = None

    def finish(step: PendingStep) -> None:
        entry = step.read()
        report.add(entry)
        progress.advance(loss=entry.loss)

    with progress, Interruption() as interruption:
        for step in steps:
            try:
                taken = with_room(partial(take, step), give)
            except OutOfMemory:
                if pending is not None:  # the LoRA stands after this step still
                    finish(pending)
                    save(pending.step)
                raise
            if pending is not None:
                finish(pending)
            pending = taken
            if step % plan.checkpoint_every == 0 or step == plan.steps or interruption.asked:
                finish(pending)
                save(step)
                pending = None
            if interruption.asked and pending is None:  # who asks just now gets the next step saved
                raise KeyboardInterrupt


def give_way(model: VideoModel, transformer: Transformer) -> str | None:
    """Free device memory, for this transformer and for those that are loaded after it."""
    changed: str | None = transformer.streamed.give_way(training=True)
    model.placement = transformer.streamed.placement
    return changed


@dataclass(frozen=True)
class PendingStep:
    """An optimizer step that the device may still be computing.

    Attributes:
        step: counted from 1.
        loss: mean over the step's samples, a scalar on the device.
        gradient_norm: before clipping, a scalar on the device.
        noise_level: mean over the step's samples.
        samples: which samples the step saw.
        started, ended: moments of the device.
    """

    step: int
    loss: Tensor
    gradient_norm: Tensor
    noise_level: float
    samples: tuple[str, ...]
    started: Any
    ended: Any

    def read(self) -> StepMetrics:
        """Wait for the step's numbers. Raises Fault where they are not finite."""
        loss, norm = float(self.loss), float(self.gradient_norm)
        if not isfinite(norm):
            raise Fault(
                f"step {self.step}: the gradient is not finite (loss {loss:.3g}), so nothing of "
                f"it is kept; a lower optimizer.lr, or model.dtype = bfloat16 or float32, may help"
            )
        return StepMetrics(
            step=self.step,
            loss=loss,
            gradient_norm=norm,
            noise_level=self.noise_level,
            samples=self.samples,
            seconds=_seconds(self.started, self.ended),
        )


def _moment(device: torch.device) -> Any:
    """The moment at which the device has done what it was told so far."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event


def _seconds(start: Any, end: Any) -> float:
    """The time between two moments; waits for the second."""
    if isinstance(start, float):
        return float(end - start)
    end.synchronize()
    return float(start.elapsed_time(end)) / 1000


def train_step(
    model: VideoModel,
    transformer: Transformer,
    optimizer: torch.optim.Optimizer,
    choose: Chooser,
    plan: TrainingPlan,
    step: int,
) -> PendingStep:
    """One optimizer step over `plan.accumulation` samples, drawn from (seed, step) alone.

    The host does not wait for the device. Where this raises, nothing has changed, so the step may
    be taken again.
    """
    started = _moment(model.device)
    generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + step)
    parameters = lora.trainable(transformer)
    optimizer.zero_grad(set_to_none=True)
    losses, levels, names = [], [], []
    for _ in range(plan.accumulation):
        sample = choose(generator)
        level = draw_noise_level(plan.method, plan.shift, generator, plan.lowest, plan.highest)
        assert sample.target_CTHW is not None
        noise = torch.randn(sample.target_CTHW.shape, generator=generator)
        loss = sample_loss(model, transformer, sample, noise, level, plan.inside_weight)
        (plan.loss_scale * loss / plan.accumulation).backward()
        losses.append(loss.detach())
        levels.append(level.item())  # it lies in host memory
        names.append(sample.name)
    assert all(p.grad is not None for p in parameters), "a LoRA weight got no gradient"
    if plan.loss_scale != 1.0:
        torch._foreach_div_([p.grad for p in parameters if p.grad is not None], plan.loss_scale)
    norm = torch.nn.utils.clip_grad_norm_(parameters, plan.clipping)
    mean_loss = torch.stack(losses).double().mean()
    update(optimizer, parameters)  # the last that may fail: nothing is allocated after it
    return PendingStep(
        step=step,
        loss=mean_loss,
        gradient_norm=norm,
        noise_level=sum(levels) / len(levels),
        samples=tuple(names),
        started=started,
        ended=_moment(model.device),
    )


def sample_loss(
    model: VideoModel,
    transformer: Transformer,
    sample: EncodedSample,
    noise_CTHW: Tensor,
    level: Tensor,
    inside_weight: float,
) -> Tensor:
    """The objective of one sample at one noise level: a scalar with a graph."""
    assert sample.target_CTHW is not None
    device = model.device
    data, noise = upload(sample.target_CTHW, device)[None], upload(noise_CTHW, device)[None]
    level = upload(level, device)
    with at_times(transformer, sample.times):
        answer = model.predict(
            transformer, mix(data, noise, level), TIMESTEPS * level, sample.inputs(model.device)
        )
    weights = region_weights(sample.keep_THW, sample.target_CTHW.shape, inside_weight)
    return flow_loss(answer, data, noise, upload(weights, device))


def save_step(
    run: RunFolder,
    transformer: Transformer,
    optimizer: torch.optim.Optimizer,
    plan: TrainingPlan,
    step: int,
    *,
    depends_on: dict[str, str],
    metadata: dict[str, Any],
) -> None:
    """Write a step's adapter and optimizer, then record it."""
    lora.save(run.adapter(step), transformer, {**metadata, "step": step})
    run.save_optimizer(step, plan.optimizer, optimizer.state_dict())
    run.finish_step(step, depends_on)


def choose_uniformly(samples: Sequence[EncodedSample]) -> Chooser:
    """Every sample equally likely."""
    assert samples

    def choose(generator: torch.Generator) -> EncodedSample:
        return samples[int(torch.randint(len(samples), (1,), generator=generator))]

    return choose


def choose_mixed(
    keyframes: Sequence[EncodedSample], motion: Sequence[EncodedSample], motion_share: float
) -> Chooser:
    """A motion sample with probability `motion_share`, else a keyframe."""
    from_keyframes, from_motion = choose_uniformly(keyframes), choose_uniformly(motion)

    def choose(generator: torch.Generator) -> EncodedSample:
        is_motion = torch.rand(1, generator=generator).item() < motion_share
        return (from_motion if is_motion else from_keyframes)(generator)

    return choose
