"""Random scenes of the miniature's world, and random edits of them. A seed gives the same scene."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from maskora.masks.shapes import silhouette_box
from maskora.miniature import world
from maskora.miniature.world import Backdrop, Look, Scene, Sprite, SpritePart

Edit = Literal["hue", "shape", "texture", "part", "bloom", "drift"]
Name = TypeVar("Name", bound=str)
HUES = 8
SPRITE_RADIUS, DISTRACTOR_RADIUS = (0.16, 0.20), (0.07, 0.12)  # sides
SHORTEST_WAY = 0.1  # sides per beat


def draw_scene(seed: int) -> Scene:
    """A background and one sprite; in every second scene a distractor moves behind it."""
    rng = np.random.default_rng((seed, 0))
    sprite = Sprite(_draw_look(rng), _draw_motion(rng), rng.uniform(*SPRITE_RADIUS))
    backdrop = _draw_backdrop(rng)
    if rng.random() < 0.5:
        return Scene(backdrop, (sprite,))
    look = Look(_draw_shape(rng), "halves", None)
    distractor = Sprite(look, _draw_motion(rng), rng.uniform(*DISTRACTOR_RADIUS))
    return Scene(backdrop, (distractor, sprite))


def _draw_look(rng: np.random.Generator) -> Look:
    """Mostly two halves of one hue; some have another texture, a part, or a hue that drifts."""
    hue = int(rng.integers(HUES)) / HUES
    look = Look(_draw_shape(rng), "halves", hue)
    kind = rng.random()
    if kind < 0.15:
        other: tuple[world.Texture, ...] = ("bands", "core", "plain")
        look = replace(look, texture=other[int(rng.integers(3))])
    elif kind < 0.29:
        bloom = rng.random() < 0.3
        part = blooming_part(rng, hue) if bloom else rim_part(rng, hue)
        look = replace(look, part=part)
    elif kind < 0.33:
        look = replace(look, drift=drawn_drift(rng))
    return look


def _draw_shape(rng: np.random.Generator) -> world.Shape:
    return tuple(world.SHAPES)[int(rng.integers(len(world.SHAPES)))]


def _draw_motion(rng: np.random.Generator) -> world.SpriteMotion:
    """Within a beat it crosses a part of the picture; three of five turn, some swing in size."""
    start, end = np.zeros(2), np.zeros(2)
    while np.hypot(*(end - start)) < SHORTEST_WAY:
        start, end = rng.uniform(world.MARGIN, 1 - world.MARGIN, (2, 2))
    turns, swings = rng.random() < 0.6, rng.random() < 0.3
    spin = rng.uniform(1.0, 3.2) * (1 if rng.random() < 0.5 else -1)
    pulse = rng.uniform(-0.15, 0.15)
    return world.SpriteMotion(
        start=(float(start[0]), float(start[1])),
        velocity=(float(end[0] - start[0]), float(end[1] - start[1])),
        angle=rng.uniform(0, 2 * np.pi),
        spin=spin if turns else 0.0,
        pulse=pulse if swings else 0.0,
    )


def _draw_backdrop(rng: np.random.Generator) -> Backdrop:
    """Muted, so that sprites stand out, and of long ripples."""
    colour = rng.uniform(0.35, 0.6) + rng.uniform(-0.06, 0.06, 3)
    waves = []
    for _ in range(3):
        direction, cycles = rng.uniform(0, 2 * np.pi), rng.uniform(0.8, 2.8)
        tint = rng.uniform(0.03, 0.07) * np.array([1, 1, 1]) + rng.uniform(-0.02, 0.02, 3)
        waves.append(
            world.Wave(
                (float(cycles * np.cos(direction)), float(cycles * np.sin(direction))),
                rng.uniform(0, 1),
                (float(tint[0]), float(tint[1]), float(tint[2])),
            )
        )
    pan = rng.uniform(-0.12, 0.12, 2)
    return Backdrop(
        (float(colour[0]), float(colour[1]), float(colour[2])),
        tuple(waves),
        (float(pan[0]), float(pan[1])),
    )


def edited(look: Look, edit: Edit, rng: np.random.Generator) -> Look:
    """A look after an edit. A removed sprite is `Scene.without`.

    Args:
        edit: "hue" (another colour), "shape", "texture", "part" (a disc at the rim), "bloom" (a
            disc that grows over the sprite) or "drift" (a hue that changes with time).
    """
    hue = 0.0 if look.hue is None else look.hue
    match edit:
        case "hue":
            return replace(look, hue=_other_hue(rng, hue))
        case "shape":
            return replace(look, shape=_another(rng, tuple(world.SHAPES), look.shape))
        case "texture":
            return replace(look, texture=_another(rng, get_args(world.Texture), look.texture))
        case "part":
            return replace(look, part=rim_part(rng, hue))
        case "bloom":
            return replace(look, part=blooming_part(rng, hue))
        case "drift":
            return replace(look, drift=drawn_drift(rng))


def _another(rng: np.random.Generator, names: Sequence[Name], but: Name) -> Name:
    others = [name for name in names if name != but]
    return others[int(rng.integers(len(others)))]


def rim_part(rng: np.random.Generator, hue: float) -> SpritePart:
    """A disc of another hue than its sprite's, at the rim."""
    return SpritePart(_other_hue(rng, hue), _angle(rng), distance=0.9, size=rng.uniform(0.4, 0.55))


def blooming_part(rng: np.random.Generator, hue: float) -> SpritePart:
    """A disc of another hue, near the middle, that grows from nothing."""
    growth, size = rng.uniform(0.6, 1.2), rng.uniform(0.6, 0.8)
    return SpritePart(_other_hue(rng, hue), _angle(rng), distance=0.2, size=size, growth=growth)


def drawn_drift(rng: np.random.Generator) -> float:
    """A drift of the hue, either way."""
    amount = rng.uniform(0.1, 0.35)
    return amount if rng.random() < 0.5 else -amount


def _other_hue(rng: np.random.Generator, hue: float) -> float:
    return hue + rng.uniform(0.25, 0.75)


def _angle(rng: np.random.Generator) -> float:
    return rng.uniform(0, 2 * np.pi)


def sprite_boxes(clip: world.RenderedClip, label: int) -> npt.NDArray[np.float64]:
    """A sprite's box in every frame, (T, 4): x0, y0, x1, y1, half-open; NaN where unseen."""
    boxes_T4 = np.full((len(clip.labels_THW), 4), np.nan)
    for box_4, labels_HW in zip(boxes_T4, clip.labels_THW, strict=True):
        if (labels_HW == label).any():
            box_4[:] = silhouette_box(labels_HW == label)
    return boxes_T4
