"""Scenes by lot. A seed always gives the same scene."""

from dataclasses import replace

import numpy as np

from maskora.miniature.world import (
    MARGIN,
    SHAPES,
    Backdrop,
    Look,
    Motion,
    Scene,
    Shape,
    Sprite,
    Texture,
    Wave,
)
from research.miniature.edits import blooming_part, drawn_drift, rim_part

HUES = 8
SPRITE_RADIUS, DISTRACTOR_RADIUS = (0.16, 0.20), (0.07, 0.12)  # sides
SHORTEST_WAY = 0.1  # sides per beat


def draw_scene(seed: int) -> Scene:
    """A scene by lot: a background and one sprite, in every second scene a distractor behind it."""
    lot = np.random.default_rng((seed, 0))
    sprite = Sprite(_draw_look(lot), _draw_motion(lot), lot.uniform(*SPRITE_RADIUS))
    backdrop = _draw_backdrop(lot)
    if lot.random() < 0.5:
        return Scene(backdrop, (sprite,))
    look = Look(_draw_shape(lot), "halves", None)
    distractor = Sprite(look, _draw_motion(lot), lot.uniform(*DISTRACTOR_RADIUS))
    return Scene(backdrop, (distractor, sprite))


def _draw_look(lot: np.random.Generator) -> Look:
    """Mostly two halves of one hue; some have another texture, a part, or a hue that drifts."""
    hue = int(lot.integers(HUES)) / HUES
    look = Look(_draw_shape(lot), "halves", hue)
    kind = lot.random()
    if kind < 0.15:
        other: tuple[Texture, ...] = ("bands", "core", "plain")
        look = replace(look, texture=other[int(lot.integers(3))])
    elif kind < 0.29:
        bloom = lot.random() < 0.3
        part = blooming_part(lot, hue) if bloom else rim_part(lot, hue)
        look = replace(look, part=part)
    elif kind < 0.33:
        look = replace(look, drift=drawn_drift(lot))
    return look


def _draw_shape(lot: np.random.Generator) -> Shape:
    return tuple(SHAPES)[int(lot.integers(len(SHAPES)))]


def _draw_motion(lot: np.random.Generator) -> Motion:
    """Within a beat it crosses a part of the picture; three of five turn, some swing in size."""
    start, end = np.zeros(2), np.zeros(2)
    while np.hypot(*(end - start)) < SHORTEST_WAY:
        start, end = lot.uniform(MARGIN, 1 - MARGIN, (2, 2))
    turns, swings = lot.random() < 0.6, lot.random() < 0.3
    spin = lot.uniform(1.0, 3.2) * (1 if lot.random() < 0.5 else -1)
    pulse = lot.uniform(-0.15, 0.15)
    return Motion(
        start=(float(start[0]), float(start[1])),
        velocity=(float(end[0] - start[0]), float(end[1] - start[1])),
        angle=lot.uniform(0, 2 * np.pi),
        spin=spin if turns else 0.0,
        pulse=pulse if swings else 0.0,
    )


def _draw_backdrop(lot: np.random.Generator) -> Backdrop:
    """Muted, so that sprites stand out, and of long ripples."""
    colour = lot.uniform(0.35, 0.6) + lot.uniform(-0.06, 0.06, 3)
    waves = []
    for _ in range(3):
        direction, cycles = lot.uniform(0, 2 * np.pi), lot.uniform(0.8, 2.8)
        tint = lot.uniform(0.03, 0.07) * np.array([1, 1, 1]) + lot.uniform(-0.02, 0.02, 3)
        waves.append(
            Wave(
                (float(cycles * np.cos(direction)), float(cycles * np.sin(direction))),
                lot.uniform(0, 1),
                (float(tint[0]), float(tint[1]), float(tint[2])),
            )
        )
    pan = lot.uniform(-0.12, 0.12, 2)
    return Backdrop(
        (float(colour[0]), float(colour[1]), float(colour[2])),
        tuple(waves),
        (float(pan[0]), float(pan[1])),
    )
