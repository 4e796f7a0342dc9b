"""Scenes as data.

Lengths are in sides of the picture, which is square; hues in turns; angles in radians, clockwise
as one sees it. Time is in beats of eight frames, so that a longer clip of a scene continues a
shorter one, and a larger one shows the same.
"""

from dataclasses import dataclass, replace

from maskora.miniature.looks import Shape, Texture

BEAT = 8  # frames
MARGIN = 0.22  # sprites turn back so far from the picture's edge


@dataclass(frozen=True)
class Part:
    """A disc fixed to a sprite, in units of the sprite's radius.

    Attributes:
        angle, distance: where its centre is.
        size: its radius when it is fully grown.
        growth: beats it takes to grow from nothing at the clip's start; 0 if it is there at once.
    """

    hue: float
    angle: float
    distance: float
    size: float
    growth: float = 0.0


@dataclass(frozen=True)
class Look:
    """What a sprite looks like; an edit changes this and nothing else.

    Attributes:
        hue: of both tones; None is dark grey.
        drift: turns of hue per beat.
    """

    shape: Shape
    texture: Texture
    hue: float | None
    drift: float = 0.0
    part: Part | None = None


@dataclass(frozen=True)
class Motion:
    """How a sprite moves: straight on, thrown back near the picture's edge.

    Attributes:
        start, velocity: (x, y), per beat.
        angle, spin: at the start, and per beat.
        pulse: by which share its size swings, with a period of four beats.
    """

    start: tuple[float, float]
    velocity: tuple[float, float]
    angle: float
    spin: float
    pulse: float


@dataclass(frozen=True)
class Sprite:
    """A thing that moves."""

    look: Look
    motion: Motion
    radius: float


@dataclass(frozen=True)
class Wave:
    """A ripple of the background: cycles per side (x, y), phase in turns, and its colour."""

    cycles: tuple[float, float]
    phase: float
    colour: tuple[float, float, float]


@dataclass(frozen=True)
class Backdrop:
    """A background of ripples around a colour (0 to 1), which pans by so much per beat."""

    colour: tuple[float, float, float]
    waves: tuple[Wave, ...]
    pan: tuple[float, float]


@dataclass(frozen=True)
class Scene:
    """A background and what moves before it, the hindmost first."""

    backdrop: Backdrop
    sprites: tuple[Sprite, ...]

    def with_look(self, index: int, look: Look) -> "Scene":
        """The scene with one sprite looking otherwise; it moves as before."""
        changed = replace(self.sprites[index], look=look)
        return replace(self, sprites=(*self.sprites[:index], changed, *self.sprites[index + 1 :]))

    def without(self, index: int) -> "Scene":
        """The scene with one sprite gone."""
        return replace(self, sprites=(*self.sprites[:index], *self.sprites[index + 1 :]))
