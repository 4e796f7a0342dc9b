"""Trials of a miniature on unseen scenes: it is given edits whose truth is known, and scored.

Everything runs through the same code as a person's edit: samples, encoding, denoising, decoding.
"""

import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from maskora.config.tables import Inference
from maskora.latents import EncodedSample, TensorCache, encode_samples
from maskora.masks.shapes import final_masks
from maskora.method.conditioning import inference_sample, to_bytes, to_unit
from maskora.miniature.world import FRAMES, SIZE, Clip, Scene, drifting_tones, raster, render
from maskora.models.registry import Transformer, Vae, VideoModel
from maskora.sampling import Denoising, draw_noise
from research.miniature.edits import Edit, edited
from research.miniature.gate import Frames, Truth, psnr, score
from research.miniature.lottery import draw_scene
from research.miniature.verdict import AUTOENCODER, BOXED, PLAIN, Verdict, mean

UNSEEN = 2**32  # seeds from here on are never trained on
MARGIN, STEPS = 0.1, 20
CHANGES: tuple[tuple[Edit, ...], ...] = (("hue",), ("shape",), ("hue", "shape"))


@dataclass(frozen=True)
class Case:
    """An edit of an unseen scene: as it was, as it must become, and the box in which it happens.

    Attributes:
        source, wanted, empty: the scene as it is, edited, and without the sprite.
        keep_THW: 0 in a box around the source's sprite and the edited one, on the latent grid.
        truth: what a result is scored against.
    """

    source: Clip
    wanted: Clip
    empty: Clip
    keep_THW: Tensor
    truth: Truth


def draw_case(number: int, frames: int = FRAMES, size: int = SIZE, cell: int = 8) -> Case:
    """The `number`-th case: a turning sprite of two halves gets another hue, shape, or both."""
    return render_case(*draw_edit(number), frames, size, cell)


def render_case(scene: Scene, changed: Scene, frames: int, size: int, cell: int) -> Case:
    """A scene that is to become another, which differs in the look of its last sprite."""
    sprite = len(scene.sprites) - 1
    source, wanted, empty = (
        render(shown, frames, size) for shown in (scene, changed, scene.without(sprite))
    )
    label = sprite + 1
    both_THW = (source.labels_THW == label) | (wanted.labels_THW == label)
    region_THW, _ = final_masks(both_THW.astype(np.uint8), "box", MARGIN, 1, 0.0, cell)
    beats_T = raster(frames, size)[0]
    truth = Truth(
        edited_THWC=wanted.frames_THWC,
        source_THWC=source.frames_THWC,
        background_THWC=empty.frames_THWC,
        sprite_THW=wanted.labels_THW == label,
        source_sprite_THW=source.labels_THW == label,
        tones_T2C=drifting_tones(changed.sprites[sprite], beats_T).astype(np.float64) * 255,
        source_tones_T2C=drifting_tones(scene.sprites[sprite], beats_T).astype(np.float64) * 255,
        region_THW=region_THW > 0,
    )
    return Case(source, wanted, empty, torch.from_numpy(region_THW == 0).float(), truth)


def draw_edit(number: int) -> tuple[Scene, Scene]:
    """The scene of the `number`-th case and what it is to become; its last sprite is edited."""
    seed = UNSEEN + number
    lot = np.random.default_rng((seed, 2))
    scene = draw_scene(seed)
    sprite = scene.sprites[-1]
    spin = lot.uniform(1.0, 3.2) * (1 if lot.random() < 0.5 else -1)
    plain = replace(sprite.look, texture="halves", part=None, drift=0.0)
    turning = replace(sprite, look=plain, motion=replace(sprite.motion, spin=spin))
    scene = replace(scene, sprites=(*scene.sprites[:-1], turning))
    look = plain
    for change in CHANGES[number % len(CHANGES)]:
        look = edited(look, change, lot)
    return scene, scene.with_look(len(scene.sprites) - 1, look)


def encode_cases(
    cases: Sequence[Case], model: VideoModel, conditioning: str
) -> list[EncodedSample]:
    """What the base is told about cases: their edited first frame, and the box if it is masked."""
    samples = [
        inference_sample(
            unit(case.source.frames_THWC),
            case.keep_THW,
            unit(case.wanted.frames_THWC)[:, 0],
            conditioning,
            prompt="",
        )
        for case in cases
    ]
    with tempfile.TemporaryDirectory() as folder:
        return encode_samples(samples, model, TensorCache(Path(folder)))


def generate(
    model: VideoModel, transformer: Transformer, sample: EncodedSample, seed: int
) -> Tensor:
    """Latents (C, T', h, w) of one case; without guidance, for there are no words."""
    shape = sample.condition_CTHW.shape[1:]
    noise = draw_noise((model.latent_channels, *shape), seed)
    run = Denoising(model, sample, sample.context, noise, Inference(steps=STEPS, guidance=1.0))
    run.advance(transformer)
    return run.result()


def judge(model: VideoModel, cases: Sequence[Case], seed: int = 0) -> Verdict:
    """What a miniature reaches on cases: the autoencoder alone, and the untuned base."""
    made: dict[str, list[Tensor]] = {}
    transformer = model.load_transformer()
    with closing(transformer.supply):
        for name, conditioning in ((PLAIN, "first-frame"), (BOXED, "masked")):
            samples = encode_cases(cases, model, conditioning)
            made[name] = [generate(model, transformer, s, seed + i) for i, s in enumerate(samples)]
    with model.vae() as vae:
        made[AUTOENCODER] = [vae.encode(unit(case.wanted.frames_THWC)) for case in cases]
        scores = {
            name: mean(
                [score(_seen(vae, z), case.truth) for z, case in zip(each, cases, strict=True)]
            )
            for name, each in made.items()
        }
        sources = [case.source.frames_THWC for case in cases]
        again = [_seen(vae, vae.encode(unit(source))) for source in sources]
    whole = np.ones(sources[0].shape[:3], bool)
    decibels = [psnr(one, other, whole) for one, other in zip(again, sources, strict=True)]
    return Verdict(float(np.mean(decibels)), scores)


def _seen(vae: Vae, latents_CTHW: Tensor) -> Frames:
    return to_bytes(vae.decode(latents_CTHW)).cpu().numpy()


def unit(frames_THWC: Frames) -> Tensor:
    """uint8 frames as a video (3, T, H, W) in [-1, 1]."""
    return to_unit(torch.from_numpy(frames_THWC))
