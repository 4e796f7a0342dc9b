"""The gate: its figures rank results as a person would, and it opens where every bound holds."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from maskora.method.conditioning import to_bytes
from maskora.miniature.world import Scene
from maskora.models.registry import VideoModel, open_model
from research.miniature import autoencoder, gate, transformer
from research.miniature.gate import Case, Score, Verdict, score
from research.miniature.transformer import Latents

LIGHT, DARK, GREY = (250, 120, 120), (130, 20, 20), (120, 120, 120)
SOURCE_LIGHT, SOURCE_DARK = (120, 120, 250), (20, 20, 130)
T, H, W, SIDE = 5, 32, 40, 10


def clip(
    places: list[tuple[int, int]], light: tuple[int, ...], dark: tuple[int, ...]
) -> np.ndarray:
    """A square whose upper half is light, at (x, y) per frame, on grey."""
    frames = np.full((T, H, W, 3), GREY, np.uint8)
    for frame, (x, y) in zip(frames, places, strict=True):
        frame[y : y + SIDE, x : x + SIDE] = dark
        frame[y : y + SIDE // 2, x : x + SIDE] = light
    return frames


def tones(light: tuple[int, ...], dark: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(np.array([light, dark], float), (T, 2, 3))


PLACES = [(4 + 4 * t, 6 + 2 * t) for t in range(T)]


@pytest.fixture
def case() -> Case:
    sprite, region = np.zeros((2, T, H, W), bool)
    for mask, box, (x, y) in zip(sprite, region, PLACES, strict=True):
        mask[y : y + SIDE, x : x + SIDE] = True
        box[y - 4 : y + SIDE + 4, x - 4 : x + SIDE + 4] = True
    return Case(
        edited_THWC=clip(PLACES, LIGHT, DARK),
        source_THWC=clip(PLACES, SOURCE_LIGHT, SOURCE_DARK),
        background_THWC=np.full((T, H, W, 3), GREY, np.uint8),
        sprite_THW=sprite,
        source_sprite_THW=sprite,
        tones_T2C=tones(LIGHT, DARK),
        source_tones_T2C=tones(SOURCE_LIGHT, SOURCE_DARK),
        region_THW=region,
        keep_THW=torch.from_numpy(~region).float(),
    )


def test_truth_against_truth_is_perfect(case: Case) -> None:
    perfect = score(case.edited_THWC, case)
    assert (perfect.hit, perfect.strict, perfect.centroid, perfect.angle) == (1, 1, 0, 0)
    assert perfect.inside_db == perfect.background_db == np.inf


def test_the_source_and_the_background_do_not_hit(case: Case) -> None:
    assert score(case.source_THWC, case).hit == 0
    vanished = score(case.background_THWC, case)
    assert vanished.hit == 0
    assert vanished.centroid == H / 2
    assert vanished.angle == 90


def test_each_frame_but_the_first_is_compared_with_its_own(case: Case) -> None:
    """Against a wrongly broadcast frame 0, a clip of another order would be perfect."""
    backwards = score(case.edited_THWC[::-1], case)
    assert backwards.hit < 0.6
    assert backwards.centroid > 2
    for frame, hit in ((2, 0.75), (0, 1)):
        result = case.edited_THWC.copy()
        result[frame] = GREY
        assert score(result, case).hit == pytest.approx(hit)


def test_displaced_frozen_and_vanished_are_worse_and_worse(case: Case) -> None:
    moved = score(clip([(x + 3, y) for x, y in PLACES], LIGHT, DARK), case)
    assert moved.centroid == pytest.approx(3)
    assert moved.hit == pytest.approx(0.7)
    assert moved.angle == pytest.approx(0, abs=1e-6)
    frozen = score(clip([PLACES[0]] * T, LIGHT, DARK), case)
    vanished = score(case.background_THWC, case)
    assert moved.hit > frozen.hit > vanished.hit
    assert moved.centroid < frozen.centroid < vanished.centroid


def test_upside_down_hits_but_not_strictly(case: Case) -> None:
    turned = clip(PLACES, DARK, LIGHT)
    assert np.array_equal(gate.swapped(case.edited_THWC, case.sprite_THW, case.tones_T2C), turned)
    figures = score(turned, case)
    assert (figures.hit, figures.strict, figures.centroid) == (1, 0, 0)
    assert figures.angle == pytest.approx(180)


def test_a_quarter_turn_is_90_degrees(case: Case) -> None:
    turned = case.edited_THWC.copy()
    for frame, (x, y) in zip(turned, PLACES, strict=True):
        frame[y : y + SIDE, x : x + SIDE] = DARK
        frame[y : y + SIDE, x : x + SIDE // 2] = LIGHT
    assert gate.angle_error(turned, case) == pytest.approx(90)
    assert gate.centroid_error(turned, case) == 0


def test_what_lies_outside_the_region_is_no_sprite(case: Case) -> None:
    result = case.edited_THWC.copy()
    result[:, :3, -3:] = LIGHT
    figures = score(result, case)
    assert figures.centroid == 0
    assert figures.inside_db == np.inf
    assert figures.background_db < 40


def test_pixels_that_edit_and_source_share_are_hits(case: Case) -> None:
    """A shape that keeps its colour: where both are the same, the same is right."""
    same = replace(case, source_THWC=case.edited_THWC, source_tones_T2C=case.tones_T2C)
    assert score(case.edited_THWC, same).hit == 1
    assert score(case.background_THWC, same).hit == 0


def test_the_source_upside_down_does_not_hit(case: Case) -> None:
    """A source whose tones are nearer to the edit's than to the background and to each other."""
    light, dark = (250, 200, 60), (130, 100, 0)
    near = replace(case, source_THWC=clip(PLACES, light, dark), source_tones_T2C=tones(light, dark))
    assert score(near.source_THWC, near).hit == 0
    assert score(clip(PLACES, dark, light), near).hit == 0


def test_the_share_is_of_the_sprites_pixels() -> None:
    hits, sprite = np.zeros((2, 2, 3), bool), np.zeros((2, 2, 3), bool)
    sprite[1, 0] = True
    hits[1, 0, 0] = hits[1, 1] = hits[0] = True
    assert gate.share_of(hits, sprite) == pytest.approx(1 / 3)
    with pytest.raises(AssertionError):
        gate.share_of(hits[:, 0], sprite)


def test_psnr_is_in_decibels_of_255() -> None:
    black, where = np.zeros((1, 4, 4, 3), np.uint8), np.ones((1, 4, 4), bool)
    assert gate.psnr(black, black + 255, where) == 0
    assert gate.psnr(black, black + 51, where) == pytest.approx(20 * np.log10(5))


JUST = Score(
    gate.HIT, strict=0.0, centroid=gate.CENTROID, angle=180.0, inside_db=0.0, background_db=0.0,
    lasting=gate.LASTING,
)  # fmt: skip
BAD = replace(JUST, hit=0.0, centroid=99.0, lasting=0.0)


def verdict(boxed: Score, reconstruction: float = gate.RECONSTRUCTION) -> Verdict:
    """Whose other rows are bad: they are no condition."""
    scores = {gate.PLAIN: BAD, gate.BOXED: boxed, gate.AUTOENCODER: BAD}
    return Verdict("boxes", reconstruction, scores)


def unboxed(plain: Score, reconstruction: float = gate.RECONSTRUCTION) -> Verdict:
    """The same of a base that has never seen a box."""
    scores = {gate.PLAIN: plain, gate.BOXED: BAD, gate.AUTOENCODER: BAD}
    return Verdict("first-frame", reconstruction, scores)


@pytest.mark.parametrize("just", [verdict(JUST), unboxed(JUST)], ids=["boxes", "first-frame"])
def test_what_just_reaches_every_bound_passes(just: Verdict) -> None:
    assert just.passed
    assert just.table().endswith(": passed")
    assert just.record()["passed"] is True


@pytest.mark.parametrize(
    "short",
    [
        verdict(replace(JUST, hit=gate.HIT - 0.01)),
        verdict(replace(JUST, centroid=gate.CENTROID + 0.01)),
        verdict(JUST, gate.RECONSTRUCTION - 0.01),
        unboxed(replace(JUST, lasting=gate.LASTING - 0.01)),
        unboxed(JUST, gate.RECONSTRUCTION - 0.01),
    ],
    ids=["hit", "centroid", "reconstruction", "lasting", "reconstruction without boxes"],
)
def test_what_falls_short_of_one_bound_does_not_pass(short: Verdict) -> None:
    assert not short.passed
    assert short.table().endswith(": NOT passed")
    assert short.record()["passed"] is False


def test_a_mean_is_of_every_figure() -> None:
    one, other = Score(0, 1, 2, 3, 4, 5, 0), Score(2, 5, 4, 9, 8, 6, 1)
    assert gate.mean_score([one, other]) == Score(1, 3, 3, 6, 6, 5.5, 0.5)


def test_what_fades_or_spreads_does_not_last() -> None:
    case = gate.draw_case(0)
    assert gate.lasting(case.edited_THWC, case) == 1
    gone = case.edited_THWC.copy()
    gone[5:] = case.background_THWC[5:]
    assert gate.lasting(gone, case) == pytest.approx(0.5)
    spread = case.edited_THWC.copy()
    spread[:] = case.tones_T2C[0, 0]
    assert 0 < gate.lasting(spread, case) < 0.5


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
    trained, judged = Seeds(autoencoder, monkeypatch), Seeds(gate, monkeypatch)
    rng = Highest(np.random.PCG64(0))
    autoencoder.cropped_clips(rng, 1)
    autoencoder.whole_clips(rng, 1)

    def encode_nothing(vae: object, frames: int, seeds: range) -> Latents:
        trained.extend(seeds)
        return Latents(Tensor(1), Tensor(1), Tensor(1))

    monkeypatch.setattr(transformer, "_encode_clips", encode_nothing)
    transformer.encode_set(None, tmp_path, 1.0)
    assert len(trained) == 2 + sum(transformer.CLIPS.values())
    for number in range(3):
        gate.draw_edit(number)
    assert len(judged) == 3
    assert min(judged) > max(trained)


def reached(model: VideoModel, case: Case, conditioning: str) -> Score:
    """What the base reaches on a case, shown it in one way."""
    (sample,) = gate.encode_cases([case], model, conditioning)
    loaded = model.load_transformer()
    with closing(loaded.streamed):
        latents = gate.generate(model, loaded, sample, 0)
    with model.vae() as vae:
        return score(to_bytes(vae.decode(latents)).cpu().numpy(), case)


def test_each_row_is_told_of_its_own_mask(untrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "STEPS", 2)
    model, case = open_model("miniature", untrained, "float32", "cpu"), gate.draw_case(0, frames=5)
    scores = gate.judge_model(model, [case]).scores
    assert scores.keys() == {gate.PLAIN, gate.BOXED, gate.AUTOENCODER, gate.GUESSED}
    assert case.guessed_THWC is not None
    with model.vae() as vae:
        guess_THWC = to_bytes(vae.decode(vae.encode(gate.unit(case.guessed_THWC)))).numpy()
    assert scores[gate.GUESSED] == score(guess_THWC, case)
    assert scores[gate.PLAIN] != scores[gate.BOXED]
    assert scores[gate.PLAIN] == reached(model, case, "first-frame")
    assert scores[gate.BOXED] == reached(model, case, "masked")
