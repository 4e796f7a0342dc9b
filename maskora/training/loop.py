"""The one training loop: encoded samples in, a LoRA out."""

import logging
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from math import isfinite
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from maskora import interruption, lora
from maskora.config.tables import Optimizer, Stage, Training
from maskora.errors import Fault, OutOfMemory
from maskora.files import remove
from maskora.latents import EncodedSample
from maskora.method.objective import TIMESTEPS, draw_noise_level, flow_loss, mix, region_weights
from maskora.models.registry import Expert, Transformer, VideoModel
from maskora.models.times import at_times
from maskora.progress import Progress
from maskora.ranks import Ranks
from maskora.streaming.out_of_memory import first_line, ran_out_of, with_room
from maskora.streaming.transfer import upload
from maskora.system import INTERRUPTIONS
from maskora.training.optimizer import available, leaves_out, make_optimizer, restore, update
from maskora.training.report import MetricsWriter, StepMetrics, draw_loss
from maskora.training.run_folder import RunFolder

log = logging.getLogger("maskora")
LAUNCHERS = 5.0  # seconds in which a launcher passes an interruption on


class NotFinite(Fault):
    """A step's loss or gradient is not a number, or infinite."""


class Interruption:
    """While active, the first Ctrl-C (SIGTERM, Ctrl-Break) asks for a stop; the second stops.

    What was saved before stays whole either way.
    """

    def __init__(self, patience: float = 0.0) -> None:
        """`patience`: seconds in which a second one is the first one once more."""
        self.asked, self._patience, self._when = False, patience, 0.0

    def __enter__(self) -> "Interruption":
        interruption.check()
        self._before = {number: signal.signal(number, self._ask) for number in INTERRUPTIONS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.asked and now - self._when >= self._patience:
            raise KeyboardInterrupt
        if self.asked:
            return
        self.asked, self._when = True, now
        log.warning("interrupted: this step is finished and saved first (again: stop at once)")


@dataclass(frozen=True)
class StageRun:
    """One stage's training of one of the base's transformers.

    Attributes:
        steps: optimizer steps in all.
        training, optimizer: the configuration's tables.
        expert: the transformer; noise levels are drawn from its range.
    """

    stage: Stage
    steps: int
    training: Training = field(default_factory=Training)
    optimizer: Optimizer = field(default_factory=Optimizer)
    expert: Expert = field(default_factory=Expert)

    @property
    def title(self) -> str:
        """The stage, and which transformer where the base has several."""
        return f"{self.stage} ({self.expert.name} noise)" if self.expert.name else self.stage

    @property
    def seed(self) -> int:
        """Of the LoRA's start and of every step; the two stages have different ones."""
        return self.training.seed + (self.stage == "appearance")


# Chooses a step's sample from the step's own random numbers.
Chooser = Callable[[torch.Generator], EncodedSample]


def train(
    model: VideoModel,
    transformer: Transformer,
    choose: Chooser,
    run: StageRun,
    folder: RunFolder,
    depends_on: dict[str, str],
    metadata: dict[str, Any],
    show: Callable[[int], None] | None = None,
) -> None:
    """Train the injected LoRA from its last saved step to `run.steps`.

    A fresh and a continued run share this path. On Ctrl-C the step in hand is finished and saved.
    Of several processes (`model.ranks`) the first alone writes.

    Args:
        transformer: as the model loads it, with a trainable LoRA injected (and filled).
        choose: picks a sample for each micro step.
        folder: where checkpoints and metrics go; what it holds must belong to this run.
        depends_on: recorded with every checkpoint.
        metadata: written into every LoRA file.
        show: shows what the LoRA does after a step, every `preview_every` steps.
    """
    parameters, writes = lora.trainable(transformer), model.ranks.rank == 0
    settings = available(run.optimizer, model.device)
    optimizer, done = _optimizer_as_saved(settings, parameters, folder)
    transformer.train()
    transformer.enable_gradient_checkpointing(transformer.streamed.checkpoint)
    if writes and folder.loss_picture.is_file():
        remove(folder.loss_picture)  # of fewer steps
    model.ranks.gathered(None)  # all have read what is written from now on
    save = partial(
        save_step, folder, transformer, optimizer, settings.type, depends_on=depends_on,
        metadata=metadata,
    )  # fmt: skip
    opened = closing(MetricsWriter(folder.metrics, folder.tensorboard, done)) if writes else None
    with opened or nullcontext() as report:
        try:
            _Steps(
                model.ranks, partial(train_step, model, transformer, optimizer, choose, run),
                lambda: give_way(model, transformer), run, report, save, show,
            ).go(range(done + 1, run.steps + 1))  # fmt: skip
        except (KeyboardInterrupt, RuntimeError, OSError, MemoryError):  # a person, a machine
            if saved := folder.read():
                log.warning("step %d is saved; train with --resume continues there", saved.step)
            raise
    if writes:
        draw_loss(folder.metrics, folder.loss_picture, run.title)


def _optimizer_as_saved(
    settings: Optimizer, parameters: list[torch.nn.Parameter], folder: RunFolder
) -> tuple[torch.optim.Optimizer, int]:
    """The optimizer after the last saved step, and which one that is; 0 where none is."""
    optimizer, record = make_optimizer(settings, parameters), folder.read()
    if record and record.step:
        restore(optimizer, folder.load_optimizer(record.step, settings.type))
    return optimizer, record.step if record else 0


@dataclass
class _Steps:
    """Optimizer steps one after another; each one's numbers are read while the next one computes.

    Attributes:
        take: starts a step; does it again where it is asked again.
        give: frees memory of the device, as `with_room` wants it.
        report: where numbers are written; None where another process writes.
        save: keeps a step, whose numbers have been read.
        show: is given each step that is to be shown, once it is saved.
    """

    ranks: Ranks
    take: Callable[[int], "PendingStep"]
    give: Callable[[], str | None]
    run: StageRun
    report: MetricsWriter | None
    save: Callable[[int], None]
    show: Callable[[int], None] | None
    _pending: "PendingStep | None" = field(default=None, init=False)
    _first: int = field(init=False)
    _progress: Progress = field(init=False)

    def go(self, steps: range) -> None:
        """Take these steps, and save those that are due."""
        run, ranks = self.run, self.ranks
        self._first = steps.start
        self._progress = Progress(run.title, run.steps, "step", done=run.steps - len(steps))
        # A launcher sends to each process what the terminal has sent to all of them.
        stop = Interruption(LAUNCHERS if ranks.count > 1 else 0.0)
        with self._progress, stop:
            for step in steps:
                self._begin(step)
                if is_due(step, run) or ranks.any(stop.asked):
                    self._settle()
                if self.show is not None and not stop.asked and is_shown(step, run):
                    self.show(step)
                # Who asks just now gets the next step saved; nobody leaves before a step is saved.
                if self._pending is None and ranks.any(stop.asked):
                    raise KeyboardInterrupt

    def _begin(self, step: int) -> None:
        """Start a step, and read the one before."""
        try:
            taken = with_room(partial(self.take, step), self.give)
        except (OutOfMemory, NotFinite):
            self._settle()  # the LoRA stands after the step before still
            raise
        self._read()
        self._pending = taken

    def _settle(self) -> None:
        """Read the step that is under way, if one is, and save it."""
        if step := self._read():
            self._keep(step)

    def _read(self) -> int | None:
        """Wait for the numbers of the step that is under way; returns which one that was."""
        if (pending := self._pending) is None:
            return None
        self._pending = None
        try:
            entry = pending.read()
        except NotFinite:
            if pending.step > self._first:  # the device has left out its update and later ones
                self._keep(pending.step - 1)
            raise
        if self.report is not None:
            self.report.add(entry)
        self._progress.advance(loss=entry.loss)
        return pending.step

    def _keep(self, step: int) -> None:
        if self.report is not None:
            self.report.flush()
            self.save(step)


def is_due(step: int, run: StageRun) -> bool:
    """True for a step that is saved: every few, the last one, and those that are shown."""
    every = run.training.checkpoint_every
    return step % every == 0 or step == run.steps or is_shown(step, run)


def is_shown(step: int, run: StageRun) -> bool:
    """True for a step after which a preview is due."""
    every = run.training.preview_every
    return every > 0 and step % every == 0


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
        started, ended: time stamps of the device.
    """

    step: int
    loss: Tensor
    gradient_norm: Tensor
    noise_level: float
    samples: tuple[str, ...]
    started: Any
    ended: Any

    def read(self) -> StepMetrics:
        """Wait for the step's numbers. Raises NotFinite."""
        loss, norm = float(self.loss), float(self.gradient_norm)
        check_finite(self.step, self.samples, loss, norm)
        return StepMetrics(
            step=self.step,
            loss=loss,
            gradient_norm=norm,
            noise_level=self.noise_level,
            samples=self.samples,
            seconds=_seconds(self.started, self.ended),
        )


def check_finite(step: int, samples: tuple[str, ...], loss: float, gradient_norm: float) -> None:
    """Raise NotFinite with the step, its samples and advice, where a number is no number."""
    if isfinite(loss) and isfinite(gradient_norm):
        return
    raise NotFinite(
        f"step {step}: the gradient is not finite ({', '.join(samples)}: loss {loss:.3g}, norm of "
        f"the gradient {gradient_norm:.3g}), so nothing of this step is kept. The cached samples "
        f"are what was written, so a lower optimizer.lr, or model.dtype = bfloat16 or float32, "
        f"may help"
    )


def _time_stamp(device: torch.device) -> Any:
    """A time stamp: when the device has done all that was asked of it so far."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event


def _seconds(start: Any, end: Any) -> float:
    """Seconds between two time stamps; waits for the second."""
    if isinstance(start, float):
        return float(end - start)
    end.synchronize()
    return float(start.elapsed_time(end)) / 1000


def train_step(
    model: VideoModel,
    transformer: Transformer,
    optimizer: torch.optim.Optimizer,
    choose: Chooser,
    run: StageRun,
    step: int,
) -> PendingStep:
    """One optimizer step over its accumulated samples, drawn from (seed, step) alone.

    The host does not wait for the device. Where this raises, nothing has changed, so the step may
    be taken again; but for several processes, of which the others have gone on.
    """
    started, ranks = _time_stamp(model.device), model.ranks
    parameters = lora.trainable(transformer)
    optimizer.zero_grad(set_to_none=True)
    losses, levels, names = _accumulate(model, transformer, choose, run, step)
    assert all(p.grad is not None for p in parameters), "a LoRA weight got no gradient"
    gradients = [p.grad for p in parameters if p.grad is not None]
    if (scale := loss_scale(model.dtype)) != 1.0:
        torch._foreach_div_(gradients, scale)
    ranks.add_up([*gradients, losses])
    with nullcontext() if ranks.count == 1 else _final():
        norm = torch.nn.utils.clip_grad_norm_(parameters, run.training.gradient_clipping)
        mean_loss = losses.double().mean()
        if not leaves_out(optimizer):
            check_finite(step, names, mean_loss.item(), norm.item())
        finite = mean_loss.isfinite() & norm.isfinite()
        update(optimizer, parameters, finite)  # the last that may fail: nothing is allocated later
    return PendingStep(
        step=step,
        loss=mean_loss,
        gradient_norm=norm,
        noise_level=sum(levels) / len(levels),
        samples=names,
        started=started,
        ended=_time_stamp(model.device),
    )


def _accumulate(
    model: VideoModel, transformer: Transformer, choose: Chooser, run: StageRun, step: int
) -> tuple[Tensor, list[float], tuple[str, ...]]:
    """The gradients of a step's samples: all are drawn, and this process computes its share.

    Returns:
        the samples' losses, 0 of those that others compute; their noise levels and names.
    """
    settings, scale = run.training, loss_scale(model.dtype)
    count = settings.gradient_accumulation_steps
    method, bounds = settings.timestep_sample_method, (run.expert.lowest, run.expert.highest)
    generator = torch.Generator().manual_seed(run.seed * 1_000_003 + step)
    losses, levels, names = torch.zeros(count, device=model.device), [], []
    for number in range(count):
        sample = choose(generator)
        level = draw_noise_level(method, settings.shift, generator, *bounds)
        assert sample.target_CTHW is not None
        noise = torch.randn(sample.target_CTHW.shape, generator=generator)
        levels.append(level.item())  # it lies in host memory
        names.append(sample.name)
        if number in share(model.ranks, count):
            loss = sample_loss(model, transformer, sample, noise, level, settings.inside_weight)
            (scale * loss / count).backward()
            losses[number] = loss.detach()
    return losses, levels, tuple(names)


def share(ranks: Ranks, samples: int) -> range:
    """Which of a step's samples this process computes: an even share, to a sample."""
    first, last = (samples * place // ranks.count for place in (ranks.rank, ranks.rank + 1))
    return range(first, last)


@contextmanager
def _final() -> Iterator[None]:
    """Where memory runs out, that is the end, since other processes have gone on. Raises Fault."""
    try:
        yield
    except RuntimeError as error:
        if ran_out_of(error) is None:
            raise
        raise Fault(
            f"memory ran out in an update of the LoRA ({first_line(error)}); train with --resume "
            f"goes on from the last saved step"
        ) from error


def loss_scale(dtype: torch.dtype) -> float:
    """A power of two by which the loss is multiplied, and the gradients are divided again.

    In float16 gradients of a mean over a whole latent are too small to be held without it.
    """
    return 2.0**14 if dtype == torch.float16 else 1.0


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
        noisy = mix(data, noise, level)
        answer = model.predict(transformer, noisy, TIMESTEPS * level, sample.inputs(device))
    shape, ignored_THW = sample.target_CTHW.shape, sample.ignored_THW
    weights = region_weights(sample.keep_THW, shape, inside_weight, ignored_THW)
    return flow_loss(answer, data, noise, upload(weights, device))


def save_step(
    folder: RunFolder,
    transformer: Transformer,
    optimizer: torch.optim.Optimizer,
    kind: str,
    step: int,
    *,
    depends_on: dict[str, str],
    metadata: dict[str, Any],
) -> None:
    """Write a step's adapter and optimizer, then record it."""
    lora.save(folder.adapter(step), transformer, {**metadata, "step": step})
    folder.save_optimizer(step, kind, optimizer.state_dict())
    folder.finish_step(step, depends_on)


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
