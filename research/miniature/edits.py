"""Edits of a sprite, by lot: what a person would do to the first frame, known for every frame."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, get_args

import numpy as np

from maskora.miniature.world import SHAPES, Look, Part, Texture

Edit = Literal["hue", "shape", "texture", "part", "bloom", "drift"]


def edited(look: Look, edit: Edit, lot: np.random.Generator) -> Look:
    """A look after an edit. A removed sprite is `Scene.without`.

    Args:
        edit: "hue" (another colour), "shape", "texture", "part" (a disc at the rim), "bloom" (a
            disc that grows over the sprite) or "drift" (a hue that changes with time).
    """
    return EDITS[edit](look, lot)


def _hue(look: Look, lot: np.random.Generator) -> Look:
    return replace(look, hue=_hue_of(look) + lot.uniform(0.25, 0.75))


def _shape(look: Look, lot: np.random.Generator) -> Look:
    others = [shape for shape in SHAPES if shape != look.shape]
    return replace(look, shape=others[int(lot.integers(len(others)))])


def _texture(look: Look, lot: np.random.Generator) -> Look:
    others = [texture for texture in get_args(Texture) if texture != look.texture]
    return replace(look, texture=others[int(lot.integers(len(others)))])


def _part(look: Look, lot: np.random.Generator) -> Look:
    return replace(look, part=rim_part(lot, _hue_of(look)))


def _bloom(look: Look, lot: np.random.Generator) -> Look:
    return replace(look, part=blooming_part(lot, _hue_of(look)))


def _drift(look: Look, lot: np.random.Generator) -> Look:
    return replace(look, drift=drawn_drift(lot))


EDITS: dict[Edit, Callable[[Look, np.random.Generator], Look]] = {
    "hue": _hue,
    "shape": _shape,
    "texture": _texture,
    "part": _part,
    "bloom": _bloom,
    "drift": _drift,
}


def rim_part(lot: np.random.Generator, hue: float) -> Part:
    """A disc of another hue than its sprite's, at the rim."""
    return Part(_other_hue(lot, hue), _angle(lot), distance=0.9, size=lot.uniform(0.4, 0.55))


def blooming_part(lot: np.random.Generator, hue: float) -> Part:
    """A disc of another hue, near the middle, that grows from nothing."""
    growth, size = lot.uniform(0.6, 1.2), lot.uniform(0.6, 0.8)
    return Part(_other_hue(lot, hue), _angle(lot), distance=0.2, size=size, growth=growth)


def drawn_drift(lot: np.random.Generator) -> float:
    """A drift of the hue, either way."""
    amount = lot.uniform(0.1, 0.35)
    return amount if lot.random() < 0.5 else -amount


def _other_hue(lot: np.random.Generator, hue: float) -> float:
    return hue + lot.uniform(0.25, 0.75)


def _angle(lot: np.random.Generator) -> float:
    return lot.uniform(0, 2 * np.pi)


def _hue_of(look: Look) -> float:
    return 0.0 if look.hue is None else look.hue
