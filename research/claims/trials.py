"""A clip edited under conditions: samples, LoRA, denoising, figures; all by maskora's functions."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import torch
from torch import Tensor

from maskora import lora
from maskora.app.workspace import Stage
from maskora.config.tables import Inference, Optimizer
from maskora.config.tables import Training as TrainingTable
from maskora.files import digest
from maskora.latents import EncodedSample, TensorCache, encode_samples, encode_videos
from maskora.method.conditioning import (
    COLOUR_ORDERS,
    Sample,
    anchored,
    appearance_sample,
    inference_sample,
    motion_sample,
    recoloured,
    to_bytes,
    window_starts,
)
from maskora.models.registry import Transformer, VideoModel, open_model
from maskora.sampling import Denoising, LatentLock, draw_noise
from maskora.training.loop import (
    Chooser,
    StageRun,
    choose_mixed,
    choose_uniformly,
    train_step,
)
from maskora.training.optimizer import make_optimizer
from research.claims.conditions import Condition, Keyframing, Training
from research.claims.settings import Recipe
from research.claims.subjects import Task
from research.miniature.gate import Frames
from research.miniature.transformer import SHIFT
from research.miniature.trial import STEPS, unit

RANK, STRIDE, MOTION_SHARE = 8, 4, 0.1
ACCUMULATION = 1


class Bench:
    """A task on a base: encodes what it needs once, trains and samples.

    Args:
        cache: where encoded clips are kept between runs.
    """

    def __init__(self, model: VideoModel, task: Task, cache: Path, seed: int) -> None:
        self._model, self._task, self._seed = model, task, seed
        self._cache = TensorCache(cache)
        self._video_CTHW = unit(task.case.source.frames_THWC)
        self._wanted_CTHW = unit(task.case.wanted.frames_THWC)

    def motion(self, training: Training) -> list[EncodedSample]:
        """What the motion LoRA learns from."""
        window = min(training.window, self._video_CTHW.shape[1])
        samples = [
            motion_sample(
                self._video_CTHW, self._task.keep_THW, start, window, training.conditioning, ""
            )
            for start in window_starts(self._video_CTHW.shape[1], window, STRIDE)
        ]
        if training.recoloured:
            samples = [recoloured(sample, order) for sample in samples for order in COLOUR_ORDERS]
        return self._encoded(samples)

    def keyframe(self, how: Keyframing) -> list[EncodedSample]:
        """What the appearance stage learns from: the last frame, edited."""
        first_CHW, edited_CHW = self._wanted_CTHW[:, 0], self._wanted_CTHW[:, -1]
        source_CHW, keep_HW = self._video_CTHW[:, -1], self._task.keep_THW[-1]
        frame = self._video_CTHW.shape[1] - 1
        sample = appearance_sample(frame, edited_CHW, source_CHW, keep_HW, first_CHW, how, "")
        if how == "anchored":
            sample = anchored(sample, first_CHW, frame, self._model.grid.temporal)
        return self._encoded([sample])

    def train(
        self,
        transformer: Transformer,
        choose: Chooser,
        lr: float,
        stops: Sequence[int],
        stage: Stage,
    ) -> Iterator[int]:
        """Train the injected LoRA; pauses after each number of steps in `stops`."""
        run = StageRun(
            stage,
            max(stops),
            TrainingTable(seed=self._seed, shift=SHIFT, gradient_accumulation_steps=ACCUMULATION),
            Optimizer(type="adamw", lr=lr),
        )
        optimizer = make_optimizer(run.optimizer, lora.trainable(transformer))
        for step in range(1, run.steps + 1):
            train_step(self._model, transformer, optimizer, choose, run, step)
            if step in stops:
                yield step

    def sample(self, transformer: Transformer, condition: Condition) -> Tensor:
        """Latents (C, T', h, w) of the edited clip."""
        if condition.shown in ("truth", "source"):
            clip = self._wanted_CTHW if condition.shown == "truth" else self._video_CTHW
            return encode_videos([clip], self._model, self._cache)[0]
        shown = inference_sample(
            self._video_CTHW, self._task.keep_THW, self._wanted_CTHW[:, 0], condition.shown, ""
        )
        (encoded,) = self._encoded([shown])
        shape = (self._model.latent_channels, *encoded.condition_CTHW.shape[1:])
        run = Denoising(
            self._model, encoded, encoded.context, draw_noise(shape, self._seed),
            Inference(steps=STEPS, guidance=1.0), self._lock() if condition.blended else None,
        )  # fmt: skip
        run.advance(transformer)
        return run.result()

    def _lock(self) -> LatentLock:
        """Equation 3; latent frame 0 holds the edit."""
        keep_THW = self._model.latent_keep(self._task.keep_THW)
        keep_THW[0] = 0
        return LatentLock(encode_videos([self._video_CTHW], self._model, self._cache)[0], keep_THW)

    def _encoded(self, samples: list[Sample]) -> list[EncodedSample]:
        return encode_samples(samples, self._model, self._cache)


def open_base(folder: Path) -> VideoModel:
    """The miniature in a folder, in float32 on the CPU. Raises UserError."""
    return open_model("miniature", folder, "float32", "cpu")


def base_name(model: VideoModel) -> str:
    """Content name of a base."""
    return digest(*map(model.identity, model.parts))


def make_clips(
    model: VideoModel, bench: Bench, conditions: Mapping[str, Condition],
    recipes: Mapping[str, Recipe], seed: int,
) -> dict[str, Frames]:  # fmt: skip
    """The edited clips (T, H, W, 3) of conditions that share their motion LoRA.

    Args:
        recipes: "motion" and "appearance", each with its conditioning, as `settings.name` tells.
        seed: of the LoRA's start; the bench has its own.
    """
    training = next(iter(conditions.values())).training
    transformer = model.load_transformer()
    latents = {}
    with closing(transformer.supply):
        windows = bench.motion(training) if training else []
        learned: list[Tensor] = []
        if training is not None:
            inject(model, transformer, seed)
            recipe = recipes[f"motion, {training.conditioning}"]
            run(bench, transformer, choose_uniformly(windows), recipe, "motion")
            learned = snapshot(transformer)
        for name, condition in conditions.items():
            if condition.appearance is not None:
                restore(transformer, learned)
                chooser = choose_mixed(bench.keyframe(condition.appearance), windows, MOTION_SHARE)
                recipe = recipes[f"appearance, {condition.appearance}"]
                run(bench, transformer, chooser, recipe, "appearance")
            latents[name] = bench.sample(transformer, condition)
    return decode(model, latents)


def inject(model: VideoModel, transformer: Transformer, seed: int) -> None:
    """Add a fresh LoRA."""
    lora.inject(transformer, RANK, RANK, model.lora_targets("attention"), seed)


def run(
    bench: Bench, transformer: Transformer, choose: Chooser, recipe: Recipe, stage: Stage
) -> None:
    """Train to a recipe's end."""
    for _ in bench.train(transformer, choose, recipe.lr, (recipe.steps,), stage):
        pass


def snapshot(transformer: Transformer) -> list[Tensor]:
    """A copy of the LoRA's weights."""
    return [parameter.detach().clone() for parameter in lora.trainable(transformer)]


@torch.no_grad()
def restore(transformer: Transformer, weights: Sequence[Tensor]) -> None:
    """Put a snapshot back."""
    for parameter, weight in zip(lora.trainable(transformer), weights, strict=True):
        parameter.copy_(weight)


def decode(model: VideoModel, latents: Mapping[str, Tensor]) -> dict[str, Frames]:
    """Latents by name as frames (T, H, W, 3), uint8."""
    with model.vae() as vae:
        return {name: to_bytes(vae.decode(each)).numpy() for name, each in latents.items()}
