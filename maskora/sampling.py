"""One denoising loop for every base: get noise, set the schedule, denoise, decode."""

from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from maskora.config.tables import Inference
from maskora.errors import Fault
from maskora.latents import EncodedSample, on_device
from maskora.method.objective import TIMESTEPS, mix
from maskora.models.registry import Context, Expert, ModelInputs, Transformer, VideoModel
from maskora.progress import track
from maskora.streaming.out_of_memory import with_room


@dataclass(frozen=True)
class LatentLock:
    """Equation 3 of the paper: at every step the kept region is replaced by the noised source.

    Attributes:
        source_CTHW: normalised latents of the source clip.
        keep_THW: 1 = replaced, on the latent grid; latent frame 0 must be 0 (it holds the edit).
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


class Denoising:
    """One clip on its way from noise to data.

    A base of several experts takes turns: each goes on where the one before has stopped.

    Args:
        sample: the encoded inference sample.
        negative: the context that guidance steers away from.
        noise_BCTHW: starting noise, batch of one.
        settings: steps, guidance and shift count here. A guidance of 1 turns it off; otherwise both
            branches run as a batch of two, or the base is given the number, if it embeds it.
        lock: blend the background at every step.
    """

    def __init__(
        self,
        model: VideoModel,
        sample: EncodedSample,
        negative: Context,
        noise_BCTHW: Tensor,
        settings: Inference,
        lock: LatentLock | None = None,
    ) -> None:
        guidance = settings.guidance
        shift = None if settings.shift == "model" else settings.shift
        self._model, self._lock, self._guidance = model, lock, guidance
        self._guided = guidance > 1 and not model.embeds_guidance
        self._inputs = _inputs(sample, negative if self._guided else None, model.device, guidance)
        self._scheduler = model.scheduler(settings.steps, shift)
        self._noise = noise_BCTHW.to(model.device)
        self._latents = model.initial_latents(self._noise, self._inputs.condition_BCTHW[:1])
        self._done = 0

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
        title = f"denoise ({expert.name} noise)" if expert and expert.name else "denoise"
        for timestep in track(steps, title, len(steps), "step"):
            self._step(transformer, timestep)
            self._done += 1
        return len(steps)

    def result(self) -> Tensor:
        """Normalised latents of shape (C, T', h, w). Raises Fault where they are not finite."""
        assert self._done == len(self._scheduler.timesteps)
        if not self._latents.isfinite().all():
            raise Fault(
                "the generated latents are not finite; a lower inference.guidance, or model.dtype "
                "= bfloat16 or float32, may help"
            )
        return self._latents[0].cpu()

    def _step(self, transformer: Transformer, timestep: Tensor) -> None:
        answer = with_room(
            partial(self._velocity, transformer, timestep), partial(self._give_way, transformer)
        )
        latents = self._scheduler.step(answer, timestep, self._latents, return_dict=False)[0]
        if self._lock is not None:
            # The noise level that the latents stand at after this step.
            level = self._scheduler.sigmas[self._done + 1]
            latents = self._lock.apply(latents, self._noise, level)
        self._latents = latents

    def _velocity(self, transformer: Transformer, timestep: Tensor) -> Tensor:
        """The guided velocity (1, C, T', h, w) at the latents; changes nothing of this clip."""
        doubled = self._latents.expand(2 if self._guided else 1, *self._latents.shape[1:])
        times = timestep.expand(len(doubled))
        caches = transformer.is_cache_enabled
        with transformer.cache_context("both") if caches else nullcontext():
            answer = self._model.predict(transformer, doubled, times, self._inputs)
        if not self._guided:
            return answer
        wanted, negative = answer.chunk(2)
        return negative + self._guidance * (wanted - negative)

    def _give_way(self, transformer: Transformer) -> str | None:
        """Free device memory, for this transformer and for those that are loaded after it."""
        if transformer.is_cache_enabled:  # it may hold half of the failed step
            transformer._reset_stateful_cache()
        changed: str | None = transformer.streamed.give_way(training=False)
        self._model.placement = transformer.streamed.placement
        return changed


def _inputs(
    sample: EncodedSample, negative: Context | None, device: torch.device, guidance: float
) -> ModelInputs:
    """The wanted branch, and beside it the negative one, which differs in its context alone."""
    single = replace(sample.inputs(device), guidance=guidance)
    if negative is None:
        return single
    both = {
        name: torch.cat([tensor, on_device(negative[name], device)[None]])
        for name, tensor in single.context.items()
    }
    return replace(single, condition_BCTHW=torch.cat([single.condition_BCTHW] * 2), context=both)
