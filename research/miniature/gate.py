"""The gate: a miniature is given edits of unseen scenes whose truth is rendered, and is scored.

Everything runs through the same code as a person's edit: samples, encoding, denoising, decoding.
Clips are (T, H, W, 3), masks (T, H, W) bool. Frame 0 is given to the model, so it has no score.
"""

import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from maskora.config.tables import Inference
from maskora.config.tables import Mask as MaskTable
from maskora.evaluation import metrics
from maskora.evaluation.metrics import centroid, mean_squared_error, nearer
from maskora.latents import EncodedSample, TensorCache, encode_samples
from maskora.masks.shapes import final_masks
from maskora.method.conditioning import inference_sample, to_bytes, to_unit
from maskora.miniature.world import FRAMES, SIZE, Scene, drifting_tones, raster, render
from maskora.models.registry import Transformer, Vae, VideoModel
from maskora.sampling import Denoising, draw_noise
from research.miniature.scenes import Edit, draw_scene, edited

Shown = Literal["first-frame", "boxes"]  # what a base was taught to go by; with boxes half of it
Frames = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Array = npt.NDArray[np.float64]

UNSEEN = 2**32  # seeds from here on are never trained on
MARGIN, STEPS = 0.1, 20
CHANGES: tuple[tuple[Edit, ...], ...] = (("hue",), ("shape",), ("hue", "shape"))
CHANCE_ANGLE = 90.0  # degrees: what a guess is off by on average
RECONSTRUCTION, HIT, CENTROID = 32.0, 0.7, 3.0  # dB, share, pixels
LASTING = 0.8  # share
AUTOENCODER, PLAIN, BOXED = "autoencoder", "base, plain I2V mask", "base, moving box"
GUESSED = "autoencoder, new turn"


@dataclass(frozen=True)
class Case:
    """One edit of a clip, rendered.

    Attributes:
        source_THWC, edited_THWC, background_THWC: the clip as it is, edited, and without the
            sprite; uint8.
        source_sprite_THW, sprite_THW: where the sprite was, and where the edited one is.
        source_tones_T2C, tones_T2C: their light and dark tone per frame, in 0 to 255.
        region_THW: where results are judged.
        keep_THW: the mask that the model is shown: 1 keep, 0 generate.
        still_THWC: where the edit's look changes with time: the edited clip without that.
        guessed_THWC: the edited clip, the sprite turned otherwise: no box tells how it turns.
    """

    source_THWC: Frames
    edited_THWC: Frames
    background_THWC: Frames
    source_sprite_THW: Mask
    sprite_THW: Mask
    source_tones_T2C: Array
    tones_T2C: Array
    region_THW: Mask
    keep_THW: Tensor
    still_THWC: Frames | None = None
    guessed_THWC: Frames | None = None

    @property
    def edits_THWC(self) -> list[Array | Frames]:
        """The edited clip, and the same with the sprite's tones exchanged."""
        turned_THWC = swapped(self.edited_THWC, self.sprite_THW, self.tones_T2C)
        return [self.edited_THWC, turned_THWC]

    @property
    def sources_THWC(self) -> list[Array | Frames]:
        """The source, and the same with the sprite's tones exchanged."""
        turned_THWC = swapped(self.source_THWC, self.source_sprite_THW, self.source_tones_T2C)
        return [self.source_THWC, turned_THWC]


@dataclass(frozen=True)
class Score:
    """The figures of an edit over frames 1 to T - 1.

    Attributes:
        lasting: how near the area of the edit's colours, anywhere in the picture, comes to the
            sprite's, whichever is smaller as a share of the other.
        hit: share of the sprite's pixels nearer to the edit, in either of its two tones, than to
            background or source.
        strict: share of its pixels that hit, and are nearer to the right tone.
        centroid: how far the sprite is from where it should be, in pixels.
        angle: how far its light half points elsewhere, in degrees.
        inside_db, background_db: PSNR in the generated region and outside of it.
    """

    hit: float
    strict: float
    centroid: float
    angle: float
    inside_db: float
    background_db: float
    lasting: float


@dataclass(frozen=True)
class Verdict:
    """A miniature's figures on unseen scenes, means over cases.

    Attributes:
        shown: what it was taught to go by, which decides what it must reach: with boxes, that it
            follows them; without, that sprites last where their way is its own choice.
        reconstruction: PSNR of the autoencoder on whole clips, in dB.
        scores: by `AUTOENCODER` (the ceiling), by `GUESSED` (that of who follows a box
            and cannot know the turn) and by the untuned base with either mask.
    """

    shown: Shown
    reconstruction: float
    scores: dict[str, Score]

    @property
    def passed(self) -> bool:
        """True where the gate is passed."""
        plain, boxed = self.scores[PLAIN], self.scores[BOXED]
        follows = boxed.hit >= HIT and boxed.centroid <= CENTROID
        lasts = plain.lasting >= LASTING
        return self.reconstruction >= RECONSTRUCTION and (
            follows if self.shown == "boxes" else lasts
        )

    def table(self) -> str:
        """The figures as a table, and what they amount to."""
        names = [field.name for field in fields(Score)]
        wanted = f"with the moving box hit {HIT:g}, centroid {CENTROID:g} px"
        if self.shown == "first-frame":
            wanted = f"with the first frame alone lasting {LASTING:g}"
        rows = [
            f"{name:22}" + "".join(f"{getattr(each, figure):14.2f}" for figure in names)
            for name, each in self.scores.items()
        ]
        return "\n".join(
            [
                f"reconstruction {self.reconstruction:.1f} dB",
                " " * 22 + "".join(f"{name:>14}" for name in names),
                *rows,
                f"the gate (reconstruction {RECONSTRUCTION:g} dB; {wanted}): "
                f"{'passed' if self.passed else 'NOT passed'}",
            ]
        )

    def record(self) -> dict[str, object]:
        """The content of gate.json."""
        return {"passed": self.passed, **asdict(self)}


def draw_case(number: int, frames: int = FRAMES, size: int = SIZE, cell: int = 4) -> Case:
    """The `number`-th case: a turning sprite of two halves gets another hue, shape, or both.

    It happens in a box around the source's sprite and the edited one, on the latent grid.
    """
    scene, changed = draw_edit(number)
    case = render_case(scene, changed, frames, size, cell)
    sprite, spin = changed.sprites[-1], _draw_spin(np.random.default_rng((UNSEEN + number, 4)))
    turned = replace(sprite, motion=replace(sprite.motion, spin=spin))
    guess = replace(changed, sprites=(*changed.sprites[:-1], turned))
    return replace(case, guessed_THWC=render(guess, frames, size).frames_THWC)


def draw_edit(number: int) -> tuple[Scene, Scene]:
    """The scene of the `number`-th case and what it is to become; its last sprite is edited."""
    seed = UNSEEN + number
    rng = np.random.default_rng((seed, 2))
    scene = draw_scene(seed)
    sprite = scene.sprites[-1]
    spin = _draw_spin(rng)
    plain = replace(sprite.look, texture="halves", part=None, drift=0.0)
    turning = replace(sprite, look=plain, motion=replace(sprite.motion, spin=spin))
    scene = replace(scene, sprites=(*scene.sprites[:-1], turning))
    look = plain
    for change in CHANGES[number % len(CHANGES)]:
        look = edited(look, change, rng)
    return scene, scene.with_look(len(scene.sprites) - 1, look)


def _draw_spin(rng: np.random.Generator) -> float:
    """Radians per beat, either way."""
    return rng.uniform(1.0, 3.2) * (1 if rng.random() < 0.5 else -1)


def render_case(scene: Scene, changed: Scene, frames: int, size: int, cell: int) -> Case:
    """A scene that is to become another, which differs in the look of its last sprite."""
    sprite = len(scene.sprites) - 1
    source, wanted, empty = (
        render(shown, frames, size) for shown in (scene, changed, scene.without(sprite))
    )
    label = sprite + 1
    source_sprite_THW, sprite_THW = source.labels_THW == label, wanted.labels_THW == label
    both_THW = (source_sprite_THW | sprite_THW).astype(np.uint8)
    settings = MaskTable(margin=MARGIN, smooth=1, min_area=0.0)
    region_THW = final_masks(both_THW, settings, cell)[0][:] > 0
    beats_T = raster(frames, size)[0]
    return Case(
        source_THWC=source.frames_THWC,
        edited_THWC=wanted.frames_THWC,
        background_THWC=empty.frames_THWC,
        source_sprite_THW=source_sprite_THW,
        sprite_THW=sprite_THW,
        source_tones_T2C=drifting_tones(scene.sprites[sprite], beats_T).astype(np.float64) * 255,
        tones_T2C=drifting_tones(changed.sprites[sprite], beats_T).astype(np.float64) * 255,
        region_THW=region_THW,
        keep_THW=torch.from_numpy(~region_THW).float(),
    )


def judge_model(
    model: VideoModel, cases: Sequence[Case], shown: Shown = "boxes", seed: int = 0
) -> Verdict:
    """Judge a miniature on cases: the autoencoder alone, and the untuned base.

    Args:
        shown: what it was taught to go by.
    """
    made: dict[str, list[Tensor]] = {}
    transformer = model.load_transformer()
    with closing(transformer.streamed):
        for name, conditioning in ((PLAIN, "first-frame"), (BOXED, "masked")):
            samples = encode_cases(cases, model, conditioning)
            made[name] = [generate(model, transformer, s, seed + i) for i, s in enumerate(samples)]
    with model.vae() as vae:
        made[AUTOENCODER] = [vae.encode(unit(case.edited_THWC)) for case in cases]
        made[GUESSED] = [
            vae.encode(unit(case.guessed_THWC)) for case in cases if case.guessed_THWC is not None
        ]
        scores = {
            name: mean_score(
                [score(_decode(vae, z), case) for z, case in zip(each, cases, strict=True)]
            )
            for name, each in made.items()
        }
        decibels = [
            psnr(_decode(vae, vae.encode(unit(case.source_THWC))), case.source_THWC)
            for case in cases
        ]
    return Verdict(shown, float(np.mean(decibels)), scores)


def encode_cases(
    cases: Sequence[Case], model: VideoModel, conditioning: str
) -> list[EncodedSample]:
    """Cases as the base is shown them: the edited first frame, and the box if it is masked."""
    samples = [
        inference_sample(
            unit(case.source_THWC),
            case.keep_THW,
            unit(case.edited_THWC)[:, :1],
            conditioning,
            prompt="",
        )
        for case in cases
    ]
    with tempfile.TemporaryDirectory() as folder:
        return list(encode_samples(samples, model, TensorCache(Path(folder))))


def generate(
    model: VideoModel, transformer: Transformer, sample: EncodedSample, seed: int
) -> Tensor:
    """Latents (C, T', h, w) of one case; without guidance, for there are no words."""
    shape = sample.condition_CTHW.shape[1:]
    noise = draw_noise((model.latent_channels, *shape), seed)
    run = Denoising(model, sample, sample.context, noise, Inference(steps=STEPS, guidance=1.0))
    run.advance(transformer)
    return run.result()


def _decode(vae: Vae, latents_CTHW: Tensor) -> Frames:
    return to_bytes(vae.decode(latents_CTHW)).cpu().numpy()


def unit(frames_THWC: Frames) -> Tensor:
    """uint8 frames as a video (3, T, H, W) in [-1, 1]."""
    return to_unit(torch.from_numpy(frames_THWC))


def score(result_THWC: Frames, case: Case) -> Score:
    """All figures of a result."""
    hits_THW, strict_THW = hits(result_THWC, case)
    shown, wanted = result_THWC[1:], case.edited_THWC[1:]
    return Score(
        hit=share_of(hits_THW, case.sprite_THW),
        strict=share_of(strict_THW, case.sprite_THW),
        centroid=centroid_error(result_THWC, case),
        angle=angle_error(result_THWC, case),
        inside_db=psnr(shown, wanted, case.region_THW[1:]),
        background_db=psnr(shown, wanted, ~case.region_THW[1:]),
        lasting=lasting(result_THWC, case),
    )


def mean_score(scores: Sequence[Score]) -> Score:
    """The mean of each figure."""
    return Score(*(float(np.mean([getattr(s, f.name) for s in scores])) for f in fields(Score)))


def psnr(
    result: npt.NDArray[np.generic], truth: npt.NDArray[np.generic], where: Mask | None = None
) -> float:
    """PSNR in dB of the pixels of a mask, of all frames together; infinite where they are equal."""
    if where is None:
        where = np.ones(result.shape[:-1], bool)
    assert result.shape == truth.shape and result.shape[:-1] == where.shape
    return metrics.psnr(mean_squared_error(result, truth, where))


def hits(result_THWC: Frames, case: Case) -> tuple[Mask, Mask]:
    """The pixels as near to the edit's colours as to any other, and those in the right tone."""
    rivals = [*case.sources_THWC, case.background_THWC]
    hits_THW = nearer(result_THWC, case.edits_THWC, rivals, ties=True)
    right_THWC, wrong_THWC = case.edits_THWC
    return hits_THW, hits_THW & nearer(result_THWC, [right_THWC], [wrong_THWC], ties=True)


def lasting(result_THWC: Frames, case: Case) -> float:
    """How near the area that shows the edit's tones comes to the sprite's, mean over frames."""
    tones = [case.tones_T2C[:, tone, None, None] for tone in (0, 1)]
    shown_T, wanted_T = (
        nearer(frames_THWC, tones, [case.background_THWC])[1:].sum(axis=(1, 2))
        for frames_THWC in (result_THWC, case.edited_THWC)
    )
    smaller_T, larger_T = np.minimum(shown_T, wanted_T), np.maximum(shown_T, wanted_T)
    return float(np.mean(smaller_T / np.maximum(larger_T, 1)))


def swapped(frames_THWC: Frames, sprite_THW: Mask, tones_T2C: Array) -> Array:
    """Frames whose sprite has its light tone where the dark one is, and the other way round."""
    turned_THWC = tones_T2C.sum(axis=1)[:, None, None] - frames_THWC
    return np.where(sprite_THW[..., None], turned_THWC, frames_THWC)


def share_of(hits_THW: Mask, sprite_THW: Mask) -> float:
    """The share of a sprite's pixels, of all frames but the first together, that are hits."""
    assert hits_THW.shape == sprite_THW.shape
    return float(hits_THW[1:][sprite_THW[1:]].mean())


def found(result_THWC: Frames, case: Case) -> tuple[Mask, Mask]:
    """The pixels that show the sprite's light and its dark tone, anywhere in the region.

    A pixel shows the tone that it is nearest to, if it is nearer to it than to the background.
    """
    light, dark = (case.tones_T2C[:, tone, None, None] for tone in (0, 1))
    shown_THW = case.region_THW & nearer(result_THWC, [light, dark], [case.background_THWC])
    light_THW = nearer(result_THWC, [light], [dark], ties=True)
    return shown_THW & light_THW, shown_THW & ~light_THW


def centroid_error(result_THWC: Frames, case: Case) -> float:
    """Pixels between the middle of what is found and of what should be, mean over frames.

    Where nothing is found it is half the side of the picture.
    """
    light_THW, dark_THW = found(result_THWC, case)
    lost = result_THWC.shape[1] / 2
    errors = []
    for shown_HW, sprite_HW in zip((light_THW | dark_THW)[1:], case.sprite_THW[1:], strict=True):
        if sprite_HW.any():
            error = metrics.centroid_error(shown_HW, sprite_HW, least=0.0)
            errors.append(lost if error is None else error)
    return float(np.mean(errors))


def angle_error(result_THWC: Frames, case: Case) -> float:
    """Degrees between the ways from the dark half's middle to the light half's, mean over frames.

    Where a half is not found it is 90. NaN where the truth has no way.
    """
    halves, true_halves = found(result_THWC, case), found(case.edited_THWC, case)
    errors = []
    for frame in range(1, len(result_THWC)):
        way, true_way = (
            _direction(light_THW[frame], dark_THW[frame])
            for light_THW, dark_THW in (halves, true_halves)
        )
        if true_way is not None:
            turn = None if way is None else abs((way - true_way + 180) % 360 - 180)
            errors.append(CHANCE_ANGLE if turn is None else turn)
    return float(np.mean(errors)) if errors else float("nan")


def _direction(light_HW: Mask, dark_HW: Mask) -> float | None:
    """The way from the dark half's middle to the light one's in degrees; None without a half."""
    if not light_HW.any() or not dark_HW.any():
        return None
    x, y = np.subtract(centroid(light_HW), centroid(dark_HW))
    return float(np.degrees(np.arctan2(y, x)))
