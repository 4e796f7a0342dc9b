"""One denoising loop for every base: get noise, set the schedule, denoise, decode."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf, prod
from typing import Any

import torch
from torch import Tensor

from maskora.config.tables import Inference, Transfer
from maskora.errors import Fault
from maskora.latents import EncodedSample, on_device
from maskora.matching import Matching
from maskora.method.objective import TIMESTEPS, mix
from maskora.method.transfer import first_step
from maskora.models.registry import Context, Expert, ModelInputs, Transformer, VideoModel
from maskora.models.times import at_times
from maskora.progress import track
from maskora.streaming.out_of_memory import with_room
from maskora.streaming.transfer import upload


@dataclass(frozen=True)
class LatentLock:
    """Equation 3 of the paper: at every step the kept region is replaced by the noised source.

    Attributes:
        source_CTHW: normalised latents of the source clip.
        keep_THW: 1 = replaced, on the latent grid; given latent frames must be 0 (they hold the
            edit).
    """

    source_CTHW: Tensor
    keep_THW: Tensor

    def apply(self, latents: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """Blend (1, C, T', h, w) latents that stand at a noise level with the source at it."""
        source = self.source_CTHW.to(latents)[None]
        keep = self.keep_THW.to(latents)[None, None]
        return latents * (1 - keep) + mix(source, noise, level) * keep


def draw_noise(latent_shape: tuple[int, ...], seed: int) -> Tensor:
    """Starting noise of shape (1, *latent_shape), the same on every device."""
    return torch.randn((1, *latent_shape), generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class SourceBranch:
    """The source on its way from data to noise, which the edit's branch is led by.

    Attributes:
        sample: the source as the base is shown it: its own first frame, no words.
        way_SCTHW: its latents where each step that is denoised begins, and where the last one ends.
    """

    sample: EncodedSample
    way_SCTHW: Tensor


@dataclass(frozen=True)
class Lead:
    """What of the source a denoising is led by ([transfer]).

    Attributes:
        branch: where something is inverted.
        carried_CTHW: latents of the edited first frame, carried along the source's flow.
    """

    transfer: Transfer = field(default_factory=Transfer)
    branch: SourceBranch | None = None
    carried_CTHW: Tensor | None = None


class Denoising:
    """One clip on its way from noise to data.

    A base of several experts takes turns: each goes on where the one before has stopped.

    Args:
        sample: the encoded inference sample.
        negative: the context that guidance steers away from.
        noise_BCTHW: starting noise, batch of one.
        settings: steps, guidance and shift count here. A guidance of 1 turns it off; otherwise both
            branches run as a batch of two, or the base is given the number, if it embeds it. Of two
            processes (`model.team`) each computes a branch of every step.
        lock: blend the background at every step.
        lead: what of the source it starts from, and what it takes from it on the way.
    """

    def __init__(
        self,
        model: VideoModel,
        sample: EncodedSample,
        negative: Context,
        noise_BCTHW: Tensor,
        settings: Inference,
        lock: LatentLock | None = None,
        lead: Lead | None = None,
    ) -> None:
        guidance = settings.guidance
        self._model, self._lock, self._guidance = model, lock, guidance
        self._times = sample.times
        self._guided = guidance > 1 and not model.embeds_guidance
        self._shared = self._guided and model.team.count > 1
        assert not self._shared or model.team.count == 2
        self._inputs = _inputs(
            sample, negative if self._guided else None, model.device, guidance,
            model.team.rank if self._shared else None,
        )  # fmt: skip
        self._scheduler = model.scheduler(settings.steps, _shift(settings))
        self._noise = noise_BCTHW.to(model.device)
        self._lead = lead or Lead()
        self._first = self._done = begins_at(self._scheduler, self._lead.transfer)
        self._latents = self._start()
        self._both = self._beside_source() if self._lead.transfer.takes else None

    def _start(self) -> Tensor:
        """The latents that denoising starts from, at its first step's noise level."""
        transfer, branch = self._lead.transfer, self._lead.branch
        if transfer.start == "noise":
            return self._model.initial_latents(self._noise, self._inputs.condition_BCTHW[:1])
        if self._first:
            self._scheduler.set_begin_index(self._first)
        if transfer.start == "inverted":
            assert branch is not None
            return upload(branch.way_SCTHW[0].float(), self._model.device)[None]
        assert self._lead.carried_CTHW is not None
        carried_BCTHW = upload(self._lead.carried_CTHW, self._model.device)[None]
        level = self._scheduler.sigmas[self._first].to(self._noise)
        return mix(carried_BCTHW, self._noise, level)

    def _beside_source(self) -> ModelInputs:
        """The source's inputs as a first row before the edit's."""
        assert self._lead.branch is not None
        return _rows([self._lead.branch.sample.inputs(self._model.device), self._inputs])

    @torch.inference_mode()
    def advance(self, transformer: Transformer, expert: Expert | None = None) -> int:
        """Take the steps that are an expert's (all, if none is given); returns how many.

        Args:
            transformer: the expert, as the model loads it.
        """
        lowest = expert.lowest if expert else 0.0
        remaining = self._scheduler.timesteps[self._done :]
        levels = remaining.tolist()  # asked once, not for every step
        steps = remaining[: sum(level >= lowest * TIMESTEPS for level in levels)]
        if transformer.is_cache_enabled:  # what it remembers is another clip's
            transformer._reset_stateful_cache()
        matching = self._matching(transformer)
        title = f"denoise ({expert.name} noise)" if expert and expert.name else "denoise"
        with at_times(transformer, self._times):
            for timestep in track(steps, title, len(steps), "step"):
                self._step(transformer, timestep, matching)
                self._done += 1
        return len(steps)

    def _matching(self, transformer: Transformer) -> Matching | None:
        """What the edit takes from the source in this transformer."""
        if self._both is None:
            return None
        blocks = [b for name in self._model.block_lists for b in getattr(transformer, name)]
        tokens = prod(self._latents.shape[2:]) // self._model.grid.patch**2
        steps = len(self._scheduler.timesteps) - self._first
        return Matching(blocks, self._lead.transfer, steps, tokens)

    def result(self) -> Tensor:
        """Normalised latents of shape (C, T', h, w). Raises Fault where they are not finite."""
        assert self._done == len(self._scheduler.timesteps)
        if not self._latents.isfinite().all():
            raise Fault(
                "the generated latents are not finite; a lower inference.guidance, or model.dtype "
                "= bfloat16 or float32, may help"
            )
        return self._latents[0].cpu()

    def _step(self, transformer: Transformer, timestep: Tensor, matching: Matching | None) -> None:
        rows = with_room(
            partial(self._velocities, transformer, timestep, matching),
            partial(_give_way, self._model, transformer),
        )
        answer = self._guide(self._of_both(rows) if self._shared else rows)
        latents = self._scheduler.step(answer, timestep, self._latents, return_dict=False)[0]
        if self._lock is not None:
            # The noise level that the latents stand at after this step.
            level = self._scheduler.sigmas[self._done + 1]
            latents = self._lock.apply(latents, self._noise, level)
        self._latents = latents

    def _velocities(
        self, transformer: Transformer, timestep: Tensor, matching: Matching | None
    ) -> Tensor:
        """The velocity (B, C, T', h, w) of each row of inputs; changes nothing of this clip."""
        rows = len(self._inputs.condition_BCTHW)
        latents = self._latents.expand(rows, *self._latents.shape[1:])
        if matching is not None and matching.takes(self._done - self._first):
            return self._led_velocity(transformer, timestep, matching, latents)
        caches = transformer.is_cache_enabled
        with transformer.cache_context("both") if caches else nullcontext():
            times = timestep.expand(rows)
            return self._model.predict(transformer, latents, times, self._inputs)

    def _of_both(self, own_1CTHW: Tensor) -> Tensor:
        """The velocity of both branches, of which the other process computes one."""
        both_2CTHW = torch.zeros(2, *own_1CTHW.shape[1:], device=own_1CTHW.device)
        both_2CTHW[self._model.team.rank] = own_1CTHW[0]
        self._model.team.add_up([both_2CTHW])  # to what is 0 in the other's
        return both_2CTHW

    def _guide(self, rows_BCTHW: Tensor) -> Tensor:
        """The guided velocity (1, C, T', h, w)."""
        if not self._guided:
            return rows_BCTHW
        wanted, negative = rows_BCTHW.chunk(2)
        return negative + self._guidance * (wanted - negative)

    def _led_velocity(
        self, transformer: Transformer, timestep: Tensor, matching: Matching, latents: Tensor
    ) -> Tensor:
        """The velocity of each row of latents, which go through the blocks beside the source."""
        assert self._both is not None and self._lead.branch is not None
        step = self._done - self._first
        source = upload(self._lead.branch.way_SCTHW[step].float(), self._model.device)
        rows = torch.cat([source[None], latents])
        with matching.during(step, len(rows)):
            times = timestep.expand(len(rows))
            return self._model.predict(transformer, rows, times, self._both)[1:]


class Inversion:
    """The source on its way from data to noise: the denoising's equation, backwards.

    AnyV2V's section 4.2, for rectified flow: without words, with the source's first frame. Each
    step looks for the latents from which the denoising's Euler step would come to where it stands.

    Args:
        sample: the source as the base is shown it.
        latents_CTHW: of the source.
        settings, transfer: the schedule, up to where denoising starts, and evaluations per step.
    """

    def __init__(
        self, model: VideoModel, sample: EncodedSample, latents_CTHW: Tensor, settings: Inference,
        transfer: Transfer,
    ) -> None:  # fmt: skip
        scheduler = model.scheduler(settings.steps, _shift(settings))
        first = begins_at(scheduler, transfer)
        self._model, self._passes = model, transfer.inversion_passes
        self._times = sample.times
        self._levels = scheduler.sigmas[first:].tolist()
        self._timesteps = scheduler.timesteps[first:]
        self._inputs = _inputs(sample, None, model.device, settings.guidance)
        self._latents = upload(latents_CTHW.float(), model.device)[None]
        self._way = [latents_CTHW.half()]

    @torch.inference_mode()
    def advance(self, transformer: Transformer, expert: Expert) -> None:
        """Take the steps that are an expert's; the one for the least noise goes first."""
        steps = self._timesteps[: len(self._timesteps) - len(self._way) + 1].flip(0)
        highest = expert.highest * TIMESTEPS if expert.highest < 1 else inf
        own = steps[: sum(level < highest for level in steps.tolist())]
        title = f"invert ({expert.name} noise)" if expert.name else "invert"
        with at_times(transformer, self._times):
            for timestep in track(own, title, len(own), "step"):
                self._step(transformer, timestep)

    def _step(self, transformer: Transformer, timestep: Tensor) -> None:
        after = len(self._levels) - len(self._way)
        change = self._levels[after - 1] - self._levels[after]
        guess = self._latents
        for _ in range(self._passes):
            guess = self._latents + change * self._velocity(transformer, timestep, guess)
        self._latents = guess
        self._way.append(guess[0].half().cpu())

    def result(self) -> Tensor:
        """The way as `SourceBranch` has it, (S, C, T', h, w). Raises Fault: it is not finite."""
        assert len(self._way) == len(self._levels)
        way_SCTHW = torch.stack(self._way[::-1])
        if not way_SCTHW.isfinite().all():
            raise Fault(
                "the inverted latents are not finite; model.dtype = bfloat16 or float32 may help"
            )
        return way_SCTHW

    def _velocity(self, transformer: Transformer, timestep: Tensor, latents: Tensor) -> Tensor:
        predict = partial(
            self._model.predict, transformer, latents, timestep.expand(1), self._inputs
        )
        return with_room(predict, partial(_give_way, self._model, transformer))


def begins_at(scheduler: Any, transfer: Transfer) -> int:
    """The step of a scheduler's timesteps at which denoising begins."""
    if transfer.start == "noise":
        return 0
    return first_step(scheduler.sigmas.tolist(), transfer.start_level)


def experts_in_use(
    model: VideoModel, settings: Inference, transfer: Transfer
) -> tuple[Expert, ...]:
    """A base's transformers that have a step to take, the noisiest levels first."""
    scheduler = model.scheduler(settings.steps, _shift(settings))
    remaining = scheduler.timesteps[begins_at(scheduler, transfer) :].tolist()
    used = []
    for expert in model.experts:
        own = [level for level in remaining if level >= expert.lowest * TIMESTEPS]
        remaining = remaining[len(own) :]
        used += [expert] if own else []
    return tuple(used)


def _shift(settings: Inference) -> float | None:
    return None if settings.shift == "model" else settings.shift


def _give_way(model: VideoModel, transformer: Transformer) -> str | None:
    """Free device memory, for this transformer and for those that are loaded after it."""
    if transformer.is_cache_enabled:  # it may hold half of the failed step
        transformer._reset_stateful_cache()
    changed: str | None = transformer.streamed.give_way(training=False)
    model.placement = transformer.streamed.placement
    return changed


def _inputs(
    sample: EncodedSample, negative: Context | None, device: torch.device, guidance: float,
    branch: int | None = None,
) -> ModelInputs:  # fmt: skip
    """The wanted branch, and beside it the negative one, which differs in its context alone.

    Args:
        branch: of both, this one alone.
    """
    single = replace(sample.inputs(device), guidance=guidance)
    if negative is None:
        return single
    context = {name: on_device(negative[name], device)[None] for name in single.context}
    both = [single, replace(single, context=context)]
    return _rows(both) if branch is None else both[branch]


def _rows(inputs: Sequence[ModelInputs]) -> ModelInputs:
    """Inputs as rows of one batch; guidance is the last one's."""
    context = {name: torch.cat([one.context[name] for one in inputs]) for name in inputs[0].context}
    conditions = torch.cat([one.condition_BCTHW for one in inputs])
    return replace(inputs[-1], condition_BCTHW=conditions, context=context)
