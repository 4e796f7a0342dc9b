"""The one training loop: encoded samples in, a LoRA out."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from maskora import lora
from maskora.errors import Fault
from maskora.latents import EncodedSample
from maskora.models import Transformer, VideoModel
from maskora.models.times import at_times
from maskora.training.checkpoint import RunFolder
from maskora.training.interruption import Interruption
from maskora.training.objective import (
    TIMESTEPS,
    draw_noise_level,
    flow_loss,
    mix,
    region_weights,
)
from maskora.training.optimizer import make_optimizer
from maskora.training.report import Report, StepMetrics, draw_loss

log = logging.getLogger("maskora")


@dataclass(frozen=True)
class TrainingPlan:
    """How one stage trains; see the configuration's tables for the meaning of each number.

    Attributes:
        lowest, highest: noise levels are drawn from this range.
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
        optimizer.load_state_dict(run.load_optimizer(done, plan.optimizer))
    transformer.train()
    transformer.enable_gradient_checkpointing(transformer.supply.checkpoint)
    report = Report(run.metrics, run.tensorboard, done)
    bar = tqdm(total=plan.steps, initial=done, desc=plan.title, unit="step")
    try:
        with bar, Interruption() as interruption:
            for step in range(done + 1, plan.steps + 1):
                entry = train_step(model, transformer, optimizer, choose, plan, step)
                report.add(entry)
                bar.set_postfix(loss=f"{entry.loss:.4f}", refresh=False)
                bar.update()
                due = step % plan.checkpoint_every == 0 or step == plan.steps
                if due or interruption.asked:
                    save_step(run, transformer, optimizer, plan, step, depends_on, metadata)
                if interruption.asked:
                    raise KeyboardInterrupt
    except (KeyboardInterrupt, RuntimeError, OSError):  # a person, the card, a disk
        if saved := run.read():
            log.warning("step %d is saved; train with --resume continues there", saved.step)
        raise
    finally:
        report.close()
    draw_loss(run.metrics, run.loss_picture, plan.title)


def train_step(
    model: VideoModel,
    transformer: Transformer,
    optimizer: torch.optim.Optimizer,
    choose: Chooser,
    plan: TrainingPlan,
    step: int,
) -> StepMetrics:
    """One optimizer step over `plan.accumulation` samples, drawn from (seed, step) alone."""
    started = time.perf_counter()
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
        (loss / plan.accumulation).backward()
        losses.append(loss.item())
        levels.append(level.item())
        names.append(sample.name)
    assert all(p.grad is not None for p in parameters), "a LoRA weight got no gradient"
    norm = torch.nn.utils.clip_grad_norm_(parameters, plan.clipping)
    if not norm.isfinite():
        raise Fault(
            f"step {step}: the gradient is not finite (loss {losses[-1]:.3g}), so nothing was "
            f"changed; a lower optimizer.lr, or model.dtype = bfloat16 or float32, may help"
        )
    optimizer.step()
    return StepMetrics(
        step=step,
        loss=sum(losses) / len(losses),
        gradient_norm=norm.item(),
        noise_level=sum(levels) / len(levels),
        samples=tuple(names),
        seconds=time.perf_counter() - started,
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
    device = model.device
    assert sample.target_CTHW is not None
    data, noise = sample.target_CTHW.to(device)[None], noise_CTHW.to(device)[None]
    level = level.to(device)
    with at_times(transformer, sample.times):
        answer = model.predict(
            transformer, mix(data, noise, level), TIMESTEPS * level, sample.inputs(device)
        )
    weights = region_weights(sample.keep_THW, sample.target_CTHW.shape, inside_weight)
    return flow_loss(answer, data, noise, weights.to(device))


def save_step(
    run: RunFolder,
    transformer: Transformer,
    optimizer: torch.optim.Optimizer,
    plan: TrainingPlan,
    step: int,
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
