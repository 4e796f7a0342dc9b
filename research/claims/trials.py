"""A clip edited under a condition by the functions of `train.py` and `infer.py`; its figures."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from maskora import lora
from maskora.config.tables import Inference, Mask, MaskShape, Motion, Optimizer, Stage
from maskora.config.tables import Training as TrainingTable
from maskora.evaluation.metrics import colour_distance, nearer
from maskora.files import digest
from maskora.latents import EncodedSample, TensorCache, encode_samples, encode_videos
from maskora.masks.shapes import final_masks
from maskora.method.conditioning import (
    COLOUR_ORDERS,
    Sample,
    anchored,
    appearance_sample,
    grid_keep,
    inference_sample,
    motion_sample,
    recoloured,
    to_bytes,
    window_starts,
)
from maskora.method.pasting import masked_sample, shown_masks
from maskora.method.transfer import carried_inside, perturbed
from maskora.miniature.world import SIZE, render
from maskora.models.registry import Transformer, VideoModel, open_model
from maskora.sampling import (
    Denoising,
    Inversion,
    LatentLock,
    Lead,
    SourceBranch,
    draw_noise,
)
from maskora.training.loop import Chooser, StageRun, choose_mixed, choose_uniformly, train_step
from maskora.training.optimizer import make_optimizer
from research.claims.claims import Condition, Keyframing, Subject, Training
from research.miniature import gate
from research.miniature.gate import Case, Frames
from research.miniature.scenes import Edit, edited
from research.miniature.transformer import SHIFT

MARGIN, CELL = 0.1, 4  # of the sprite's box; pixels
EVOLUTIONS: tuple[Edit, ...] = ("bloom", "drift")
EARLY, LATE = slice(1, -4), slice(-4, None)  # frames before the last latent frame; its own
CLEAR = 40.0  # levels from which two looks are distinguished
RANK, STRIDE, MOTION_SHARE = 8, 4, 0.1
SAMPLING = Inference(steps=gate.STEPS, guidance=1.0)


@dataclass(frozen=True)
class Recipe:
    """The learning rate and steps of a stage."""

    lr: float
    steps: int


def recipe_name(stage: str, conditioning: str) -> str:
    """The name of a recipe: its stage and conditioning."""
    return f"{stage}, {conditioning}"


def draw_task(number: int, subject: Subject) -> Case:
    """The `number`-th case as a clip to edit; its region is the box, whatever the model is shown.

    The mask comes from where the source's sprite is: a person does not know the edited one either.
    """
    scene, changed = gate.draw_edit(number)
    still_THWC = None
    if subject.evolving:
        still_THWC = render(changed, subject.frames).frames_THWC
        last = len(changed.sprites) - 1
        rng = np.random.default_rng((gate.UNSEEN + number, 3))
        evolution = EVOLUTIONS[number % len(EVOLUTIONS)]
        changed = changed.with_look(last, edited(changed.sprites[last].look, evolution, rng))
    case = gate.render_case(scene, changed, subject.frames, SIZE, CELL)
    box_THW, masked_THW = (_region(case, shape) for shape in ("box", subject.mask))
    keep_THW = torch.from_numpy(~masked_THW).float()
    wanted_THWC = case.background_THWC if subject.removing else case.edited_THWC
    return replace(
        case, edited_THWC=wanted_THWC, region_THW=box_THW, keep_THW=keep_THW, still_THWC=still_THWC
    )


def _region(case: Case, shape: MaskShape) -> np.ndarray:
    """The region in which the model generates, (T, H, W) bool, by the source's sprite alone."""
    labels_THW = case.source_sprite_THW.astype(np.uint8)
    mask = Mask(shape=shape, margin=MARGIN, smooth=1, min_area=0.0)
    return final_masks(labels_THW, mask, CELL)[0][:] > 0


def figures(result_THWC: Frames, case: Case) -> Mapping[str, float]:
    """The gate's figures, those beyond the source's outline, and how the look has evolved."""
    hits_THW, _ = gate.hits(result_THWC, case)
    beyond_THW = case.sprite_THW & ~case.source_sprite_THW
    within_THW = case.sprite_THW & case.source_sprite_THW
    faded_THW = nearer(result_THWC, case.sources_THWC, [*case.edits_THWC, case.background_THWC])
    found = {
        **asdict(gate.score(result_THWC, case)),
        "grown": gate.share_of(hits_THW, beyond_THW) if beyond_THW[1:].any() else np.nan,
        "faded": gate.share_of(faded_THW, within_THW),
    }
    if case.still_THWC is None:
        return found
    early, late = (
        (result_THWC[part], case.edited_THWC[part], case.region_THW[part]) for part in (EARLY, LATE)
    )
    rivals = case.still_THWC[LATE], case.background_THWC[LATE]
    return {
        **found,
        "evolved": evolved(result_THWC[LATE], case.edited_THWC[LATE], *rivals,
                           case.sprite_THW[LATE]),
        "early_db": gate.psnr(*early),
        "late_db": gate.psnr(*late),
    }  # fmt: skip


def evolved(
    result_THWC: Frames,
    truth_THWC: Frames,
    still_THWC: Frames,
    background_THWC: Frames,
    sprite_THW: np.ndarray,
) -> float:
    """Of the sprite's pixels whose look has clearly evolved, the share that shows it.

    Such a pixel is nearer to the evolved look than to the one before and to the background.
    """
    shown_THW = nearer(result_THWC, [truth_THWC], [still_THWC, background_THWC])
    counted_THW = sprite_THW & (colour_distance(truth_THWC, still_THWC) > CLEAR)
    return float(shown_THW[counted_THW].mean())


class Bench:
    """A case on a base: encodes what it needs once, trains and samples.

    Args:
        cache: where encoded clips are kept between runs.
    """

    def __init__(self, model: VideoModel, case: Case, cache: Path, seed: int) -> None:
        self._model, self._case, self._seed = model, case, seed
        self._cache = TensorCache(cache)
        self._video_CTHW = gate.unit(case.source_THWC)
        self._wanted_CTHW = gate.unit(case.edited_THWC)

    def motion(self, training: Training) -> list[EncodedSample]:
        """The samples of the motion LoRA."""
        window = min(training.window, self._video_CTHW.shape[1])
        keep_THW = self._case.keep_THW
        if training.removing:
            return self._encoded(self.over_background(window))
        masks = [keep_THW]
        if training.gridded:
            generator = torch.Generator().manual_seed(self._seed)
            masks.append(grid_keep(tuple(keep_THW.shape), CELL, Motion().grid_share, generator))
        samples = [
            motion_sample(self._video_CTHW, mask, start, window, training.conditioning, "")
            for mask in masks
            for start in window_starts(self._video_CTHW.shape[1], window, STRIDE)
        ]
        if training.recoloured:
            samples = [recoloured(sample, order) for sample in samples for order in COLOUR_ORDERS]
        return self._encoded(samples)

    def over_background(self, window: int) -> list[Sample]:
        """Windows whose mask is moved over background, of which a thing's removal is learned."""
        inside_THW, motion, samples = self._case.keep_THW == 0, Motion(task="remove"), []
        for start in window_starts(self._video_CTHW.shape[1], window, STRIDE):
            own_THW = inside_THW[start : start + window]
            whole = motion_sample(
                self._video_CTHW, self._case.keep_THW, start, window, "masked", ""
            )
            shown = shown_masks(own_THW.numpy(), motion, CELL, (self._seed, start))
            samples += [masked_sample(whole, own_THW, mask, "remove") for mask in shown]
        return samples

    def keyframe(self, how: Keyframing) -> list[EncodedSample]:
        """The samples of the appearance stage: the last frame, edited."""
        first_CHW, edited_CHW = self._wanted_CTHW[:, 0], self._wanted_CTHW[:, -1]
        source_CHW, keep_HW = self._video_CTHW[:, -1], self._case.keep_THW[-1]
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
            TrainingTable(seed=self._seed, shift=SHIFT),
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
            self._video_CTHW, self._case.keep_THW, self._wanted_CTHW[:, :1], condition.shown, ""
        )
        (encoded,) = self._encoded([shown])
        shape = (self._model.latent_channels, *encoded.condition_CTHW.shape[1:])
        run = Denoising(
            self._model, encoded, encoded.context, draw_noise(shape, self._seed), SAMPLING,
            self._lock() if condition.blended else None, self._lead(transformer, condition),
        )  # fmt: skip
        run.advance(transformer)
        return run.result()

    def _lead(self, transformer: Transformer, condition: Condition) -> Lead:
        """What of the source the denoising is led by: inverted with the same transformer."""
        transfer, video_CTHW = condition.transfer, self._video_CTHW
        wanted = [perturbed(video_CTHW, transfer.smooth_noise, self._seed)]
        if transfer.start == "flow":
            first_THWC, region_THW = self._case.edited_THWC[:1], self._case.keep_THW.numpy() == 0
            wanted.append(gate.unit(carried_inside(first_THWC, self._case.source_THWC, region_THW)))
        source_CTHW, *carried_CTHW = encode_videos(wanted, self._model, self._cache)
        if not transfer.inverts:
            return Lead(transfer, carried_CTHW=next(iter(carried_CTHW), None))
        first_C1HW = video_CTHW[:, :1]
        shown = inference_sample(video_CTHW, self._case.keep_THW, first_C1HW, condition.shown, "")
        (sample,) = self._encoded([shown])
        inversion = Inversion(self._model, sample, source_CTHW, SAMPLING, transfer)
        inversion.advance(transformer, self._model.experts[0])
        return Lead(transfer, SourceBranch(sample, inversion.result()))

    def _lock(self) -> LatentLock:
        """Equation 3; latent frame 0 holds the edit."""
        keep_THW = self._model.latent_keep(self._case.keep_THW)
        keep_THW[0] = 0
        return LatentLock(encode_videos([self._video_CTHW], self._model, self._cache)[0], keep_THW)

    def _encoded(self, samples: list[Sample]) -> list[EncodedSample]:
        return list(encode_samples(samples, self._model, self._cache))


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
        recipes: "motion" and "appearance", each with its conditioning, named by `recipe_name`.
        seed: of the LoRA's start; the bench has its own.
    """
    training = next(iter(conditions.values())).training
    transformer = model.load_transformer()
    latents = {}
    with closing(transformer.streamed):
        windows = bench.motion(training) if training else []
        learned: list[Tensor] = []
        if training is not None:
            recipe = recipes[recipe_name("motion", training.conditioning)]
            learn(model, transformer, bench, windows, recipe, training, seed)
            learned = snapshot(transformer)
        for name, condition in conditions.items():
            if condition.appearance is not None:
                restore(transformer, learned)
                chooser = choose_mixed(bench.keyframe(condition.appearance), windows, MOTION_SHARE)
                recipe = recipes[recipe_name("appearance", condition.appearance)]
                run(bench, transformer, chooser, recipe, "appearance")
            latents[name] = bench.sample(transformer, condition)
    return decode(model, latents)


def learn(
    model: VideoModel, transformer: Transformer, bench: Bench, windows: list[EncodedSample],
    recipe: Recipe, training: Training, seed: int,
) -> None:  # fmt: skip
    """Add a fresh motion LoRA and train it."""
    inject(model, transformer, training, seed)
    run(bench, transformer, choose_uniformly(windows), recipe, "motion")


def inject(model: VideoModel, transformer: Transformer, training: Training, seed: int) -> None:
    """Add a fresh LoRA."""
    targets = model.lora_targets("attention")
    if training.late:
        blocks = len(transformer.blocks)
        later = "|".join(map(str, range(blocks // 2, blocks)))
        targets = rf"(?=blocks\.({later})\.)({targets})"
    lora.inject(transformer, RANK, RANK, targets, seed)


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
