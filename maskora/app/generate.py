"""What an inference computes: inputs encoded, the source inverted, a segment denoised per seed."""

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from maskora import lora
from maskora.app.fingerprints import LoraChoice, base_digest
from maskora.config import Config
from maskora.errors import UserError
from maskora.files import digest, sha256_file
from maskora.latents import (
    EncodedSample,
    TensorCache,
    digest_tensors,
    encode_prompts,
    encode_samples,
    encode_videos,
)
from maskora.method.conditioning import inference_sample, to_unit
from maskora.method.segments import noise_seed
from maskora.method.transfer import carried_inside, perturbed
from maskora.models.acceleration import use_cache
from maskora.models.registry import Context, Expert, PromptInput, Transformer, VideoModel
from maskora.sampling import (
    Denoising,
    Inversion,
    LatentLock,
    Lead,
    SourceBranch,
    draw_noise,
    experts_in_use,
)
from maskora.streaming.engine import Streamer

log = logging.getLogger("maskora")
WAY_FORMAT = "1"


@dataclass(frozen=True)
class Passage:
    """A segment as the base is shown it.

    Attributes:
        frames_THWC, labels_THW: of the source, 4k+1, in the order in which they are shown.
        given_THWC: what is shown in place of the first ones, whole: an edited frame, and frames
            that are done.
        caption: what the edit shows.
        flows: the last frame that is given comes right before what is generated; not where an
            anchor alone leads into another shot.
        times: of the latent frames, where they do not follow one another.
    """

    frames_THWC: np.ndarray
    labels_THW: np.ndarray
    given_THWC: np.ndarray
    caption: str
    flows: bool = True
    times: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Encoded:
    """The inputs of sampling, encoded.

    Attributes:
        source: the source as the base is shown it when it is inverted; None where it is not.
        source_CTHW: its latents, where it is inverted.
        carried_CTHW: latents of the edited first frame, carried along the source's flow.
    """

    sample: EncodedSample
    negative: Context
    lock: LatentLock | None = None
    source: EncodedSample | None = None
    source_CTHW: Tensor | None = None
    carried_CTHW: Tensor | None = None

    def tensors(self) -> Context:
        """All of them, by name."""
        lock, source = self.lock, self.source
        shown = {"wanted": self.sample} | ({} if source is None else {"source": source})
        found = {
            **{f"{name} condition": one.condition_CTHW for name, one in shown.items()},
            **{f"{name} keep": one.keep_THW for name, one in shown.items()},
            **{
                f"{name} {key}": tensor
                for name, one in shown.items()
                for key, tensor in one.context.items()
            },
            **{f"negative {key}": tensor for key, tensor in self.negative.items()},
            "lock": None if lock is None else lock.source_CTHW,
            "lock keep": None if lock is None else lock.keep_THW,
            "inverted": self.source_CTHW,
            "carried": self.carried_CTHW,
        }
        return {name: tensor for name, tensor in found.items() if tensor is not None}


def encode(config: Config, shown: Passage, model: VideoModel, cache: TensorCache) -> Encoded:
    """Encode the inference sample, the negative prompt, and of the source what is needed of it."""
    video, transfer = to_unit(torch.from_numpy(shown.frames_THWC)), config.transfer
    keep = torch.from_numpy(shown.labels_THW == 0).float()
    given = to_unit(torch.from_numpy(shown.given_THWC))
    how, prompt = config.inference.conditioning, config.prompt.with_token(shown.caption)
    samples = [inference_sample(video, keep, given, how, prompt, shown.times)]
    videos = {}
    if config.inference.lock == "latent":
        videos["locked"] = video
    if transfer.inverts:
        own = video[:, : given.shape[1]]
        samples.append(inference_sample(video, keep, own, how, "", shown.times))
        videos["inverted"] = perturbed(video, transfer.smooth_noise, seed=0)
    if transfer.start == "flow" and shown.flows:
        flowing = carried_inside(shown.given_THWC, shown.frames_THWC, shown.labels_THW > 0)
        videos["carried"] = to_unit(torch.from_numpy(flowing))
    elif transfer.start == "flow":
        videos["carried"] = video
    items = [PromptInput(one.prompt, one.reference_CHW) for one in samples]
    # All at once, so that each encoder is loaded once; the samples' are cached then.
    negative = model.negative(items[0], config.prompt.negative)
    unwanted, *_ = encode_prompts([negative, *items], model, cache)
    conditions = [model.condition_frames(one.condition_CTHW, one.keep_THW) for one in samples]
    latents = encode_videos([*conditions, *videos.values()], model, cache)[len(conditions) :]
    found = dict(zip(videos, latents, strict=True))
    wanted, *source = encode_samples(samples, model, cache)
    return Encoded(
        wanted, unwanted,
        lock=_lock(model, keep, given.shape[1], found["locked"]) if "locked" in found else None,
        source=source[0] if source else None,
        source_CTHW=found.get("inverted"),
        carried_CTHW=found.get("carried"),
    )  # fmt: skip


def _lock(model: VideoModel, keep_THW: Tensor, given: int, source_CTHW: Tensor) -> LatentLock:
    kept = model.latent_keep(keep_THW)
    kept[: model.grid.latent_frames(given)] = 0  # they hold the edit
    return LatentLock(source_CTHW, kept)


def generate(
    config: Config,
    model: VideoModel,
    encoded: Mapping[int, Encoded],
    loras: list[LoraChoice],
    cache: TensorCache,
    take_seconds: Callable[[float], object],
    keep: Callable[[int, Tensor], object],
    segment: int = 0,
) -> dict[int, Tensor]:
    """Latents (C, T', h, w) by seed; the source is inverted before, where that is asked for.

    Args:
        encoded: by seed; the source is the same in all.
        cache: where the inverted source is kept, so that another seed or edit finds it there.
        take_seconds: called with how long a denoising step took.
        keep: called with each seed and its latents, once they are done.
        segment: which one of the clip it is: each has noise of its own.
    """
    source = _Source(config, model, next(iter(encoded.values())), loras, cache)
    runs: dict[int, Denoising] = {}
    experts = experts_in_use(model, config.inference, config.transfer)
    turns = [(expert, False) for expert in reversed(experts) if source.inversion]
    turns += [(expert, True) for expert in experts]
    for expert, phases in groupby(turns, key=lambda turn: turn[0]):
        with _loaded(model, expert, loras) as transformer:
            for _, denoises in phases:
                if not denoises:
                    source.advance(transformer, expert)
                    continue
                runs = runs or _begun(config, model, encoded, segment, source)
                use_cache(transformer, model.acceleration)
                for seed in _denoised(runs, transformer, expert, model, take_seconds):
                    if expert is experts[-1]:
                        keep(seed, runs[seed].result())
    return {seed: run.result() for seed, run in runs.items()}


def assist(config: Config, model: VideoModel, loras: list[LoraChoice], cache: TensorCache) -> None:
    """Generate what the first of the model's team asks the others to, until it has no more."""
    while (asked := model.team.gathered(None)[0]) is not None:
        encoded, segment = asked
        generate(config, model, encoded, loras, cache, _ignore, _ignore, segment)


def _ignore(*_: object) -> None:
    """What the first one keeps."""


def _begun(
    config: Config,
    model: VideoModel,
    encoded: Mapping[int, Encoded],
    segment: int,
    source: "_Source",
) -> dict[int, Denoising]:
    """A clip for each seed, at its noise."""
    way, found = source.way(), {}
    for seed, own in encoded.items():
        shape = (model.latent_channels, *model.latent_keep(own.sample.keep_THW).shape)
        noise = draw_noise(shape, noise_seed(seed, segment))
        branch = None if way is None or own.source is None else SourceBranch(own.source, way)
        found[seed] = Denoising(
            model, own.sample, own.negative, noise, config.inference, own.lock,
            Lead(config.transfer, branch, own.carried_CTHW),
        )  # fmt: skip
    return found


@contextmanager
def _loaded(model: VideoModel, expert: Expert, loras: list[LoraChoice]) -> Iterator[Transformer]:
    """A transformer with its LoRAs, released on exit.

    Raises:
        UserError: a LoRA is not what it was when it was chosen.
    """
    transformer, own = model.load_transformer(expert), of_expert(loras, expert)
    try:
        lora.stack(transformer, [(one.path, one.strength) for one in own], model.names)
        for one in own:
            if sha256_file(one.path) != one.sha256:
                raise UserError(
                    f"{one.path} was written to while this run went on: run the command again"
                )
        yield transformer
    finally:
        transformer.streamed.close()


def _denoised(
    runs: dict[int, Denoising],
    transformer: Transformer,
    expert: Expert,
    model: VideoModel,
    take_seconds: Callable[[float], object],
) -> Iterator[int]:
    """Take an expert's steps of every clip; gives each seed once it has."""
    taken = 0
    for seed, run in runs.items():
        started = time.perf_counter()
        if steps := run.advance(transformer, expert):
            take_seconds((time.perf_counter() - started) / steps)
        taken += steps
        yield seed
    if taken and model.acceleration.cache != "none":
        log.info("%s", skipped_blocks(transformer.streamed.streamer, taken))


class _Source:
    """The source's way from data to noise: from the cache, else inverted and kept there.

    Attributes:
        inversion: where it has to be inverted.
    """

    def __init__(
        self, config: Config, model: VideoModel, encoded: Encoded, loras: list[LoraChoice],
        cache: TensorCache,
    ) -> None:  # fmt: skip
        self._cache = cache
        self.inversion: Inversion | None = None
        self._way: Tensor | None = None
        if encoded.source is None or encoded.source_CTHW is None:
            return
        self._name = way_name(config, model, encoded, loras)
        known = cache.get(self._name)
        if known is not None:
            self._way = known["way"]
            return
        self.inversion = Inversion(
            model, encoded.source, encoded.source_CTHW, config.inference, config.transfer
        )

    def advance(self, transformer: Transformer, expert: Expert) -> None:
        """Invert with one of the transformers."""
        assert self.inversion is not None
        self.inversion.advance(transformer, expert)

    def _store(self, way_SCTHW: Tensor) -> None:
        """Keep the way; where that fails it is logged, since it is still at hand."""
        try:
            self._cache.put(self._name, {"way": way_SCTHW})
        except OSError as error:
            log.warning(
                "note: the inverted source cannot be kept in %s (%s): the next run inverts anew",
                self._cache.folder, error.strerror,
            )  # fmt: skip

    def way(self) -> Tensor | None:
        """The way, as `SourceBranch` has it; the inversion is done. None where none is needed."""
        if self.inversion is not None and self._way is None:
            self._way = self.inversion.result()
            self._store(self._way)
        return self._way


def way_name(config: Config, model: VideoModel, encoded: Encoded, loras: list[LoraChoice]) -> str:
    """Content name of the source's way: everything that it depends on."""
    source, latents = encoded.source, encoded.source_CTHW
    assert source is not None and latents is not None
    shown = {"latents": latents, "condition": source.condition_CTHW, **source.context}
    inference, transfer = config.inference, config.transfer
    facts = {
        "base": base_digest(config.model.dtype, model),
        "storage": config.model.storage,
        "attention": model.acceleration.attention,
        "experts": [asdict(expert) for expert in model.experts],
        "scheduler": model.source.config("scheduler"),
        "schedule": [inference.steps, inference.shift],
        "guidance": inference.guidance if model.embeds_guidance else 1.0,
        "start": [transfer.start_level if transfer.start != "noise" else 1.0],
        "passes": transfer.inversion_passes,
        "loras": [[one.sha256, one.strength, one.expert] for one in loras],
        **({"times": source.times} if source.times else {}),
        "by": [WAY_FORMAT, str(model.device), torch.__version__],
    }
    return f"way-{digest(json.dumps(facts, sort_keys=True), digest_tensors(shown))}"


def of_expert(loras: list[LoraChoice], expert: Expert) -> list[LoraChoice]:
    """The files that one of the transformers is given."""
    return [one for one in loras if one.expert in ("", expert.name)]


def skipped_blocks(streamer: Streamer, steps: int) -> str:
    """A sentence about the share of blocks that a cache over the steps has skipped."""
    skipped = 1 - streamer.traffic.visits / (steps * len(streamer.blocks))
    if not skipped:
        return "acceleration.cache had no effect: every block computed in every step"
    return f"acceleration.cache: {100 * skipped:.0f} % of the blocks' computations were skipped"
