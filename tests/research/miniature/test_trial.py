"""Trials: of scenes that are never trained on, and each row with the mask that it is named by."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from maskora.method.conditioning import to_bytes
from maskora.miniature.world import Scene
from maskora.models.registry import VideoModel, open_model
from research.miniature import autoencoder, latent_set, trial
from research.miniature.gate import Score, score
from research.miniature.latent_set import Latents
from research.miniature.trial import Case, draw_case, draw_edit, encode_cases, generate, judge
from research.miniature.verdict import AUTOENCODER, BOXED, PLAIN


class Highest(np.random.Generator):
    """Draws the highest whole number that it may."""

    def integers(self, high: int) -> int:
        return high - 1


class Seeds(list[int]):
    """Notes the seeds of the scenes that are drawn."""

    def __init__(self, module: object, monkeypatch: pytest.MonkeyPatch) -> None:
        self._draw = module.draw_scene
        monkeypatch.setattr(module, "draw_scene", self.draw)

    def draw(self, seed: int) -> Scene:
        self.append(seed)
        return self._draw(seed)


def test_judged_scenes_are_never_trained_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trained, judged = Seeds(autoencoder, monkeypatch), Seeds(trial, monkeypatch)
    lot = Highest(np.random.PCG64(0))
    autoencoder.cropped_clips(lot, 1)
    autoencoder.whole_clips(lot, 1)

    def encode_nothing(vae: object, frames: int, seeds: range) -> Latents:
        trained.extend(seeds)
        return Latents(Tensor(1), Tensor(1))

    monkeypatch.setattr(latent_set, "_encode_clips", encode_nothing)
    latent_set.encode_set(None, tmp_path, 1.0)
    assert len(trained) == 2 + sum(latent_set.CLIPS.values())
    for number in range(3):
        draw_edit(number)
    assert len(judged) == 3
    assert min(judged) > max(trained)


def reached(model: VideoModel, case: Case, conditioning: str) -> Score:
    """What the base reaches on a case, told of it in one way."""
    (sample,) = encode_cases([case], model, conditioning)
    transformer = model.load_transformer()
    with closing(transformer.streamed):
        latents = generate(model, transformer, sample, 0)
    with model.vae() as vae:
        return score(to_bytes(vae.decode(latents)).cpu().numpy(), case.truth)


def test_each_row_is_told_of_its_own_mask(untrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "STEPS", 2)
    model, case = open_model("miniature", untrained, "float32", "cpu"), draw_case(0, frames=5)
    scores = judge(model, [case]).scores
    assert scores.keys() == {PLAIN, BOXED, AUTOENCODER}
    assert scores[PLAIN] != scores[BOXED]
    assert scores[PLAIN] == reached(model, case, "first-frame")
    assert scores[BOXED] == reached(model, case, "masked")
