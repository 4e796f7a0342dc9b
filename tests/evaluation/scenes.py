"""A rendered scene whose truth is known, and results that fail in a known way.

A two-toned disc rolls and turns over a background that pans; the edit paints it anew.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from maskora.evaluation.judge import FrameSet, Numbers, Scorers, Truth, gather, judge
from maskora.evaluation.metrics import edit_colours

WIDTH, HEIGHT, FRAMES, RADIUS = 128, 96, 13, 17
BLUE = ((70, 110, 220), (30, 50, 120))
ORANGE = ((250, 170, 60), (170, 80, 20))


@dataclass(frozen=True)
class Scene:
    """Frames (T, H, W, 3) uint8, and where the object and its box are (T, H, W) bool."""

    source: np.ndarray
    truth: np.ndarray
    background: np.ndarray
    object: np.ndarray
    box: np.ndarray


def _draw_scene(turn: float = 0.25) -> Scene:
    background = np.stack([_background(n) for n in range(FRAMES)])
    return Scene(
        source=np.stack([draw_disc(background[n], n, BLUE, turn) for n in range(FRAMES)]),
        truth=np.stack([draw_disc(background[n], n, ORANGE, turn) for n in range(FRAMES)]),
        background=background,
        object=np.stack([_disc(n)[0] <= RADIUS for n in range(FRAMES)]),
        box=np.stack([_box(n) for n in range(FRAMES)]),
    )


def draw_disc(
    background: np.ndarray,
    number: int,
    tones: tuple[tuple[int, int, int], tuple[int, int, int]],
    turn: float = 0.25,
    shift: tuple[float, float] = (0.0, 0.0),
) -> np.ndarray:
    """A frame: a disc of two halves, with a dot on the bright one."""
    distance, across, along = _disc(number, turn, shift)
    bright, dark = (np.asarray(tone, np.float64) for tone in tones)
    frame = background.copy()
    colours = np.where((across > 0)[..., None], bright, dark)
    colours[np.hypot(across - RADIUS / 2, along - 3) < 4] = (245, 245, 235)
    inside = distance <= RADIUS
    frame[inside] = colours[inside].astype(np.uint8)
    return frame


def _centre(number: int) -> tuple[float, float]:
    return 30 + 5.0 * number, 50 - 12 * float(np.sin(number / 4))


def _disc(
    number: int, turn: float = 0.0, shift: tuple[float, float] = (0.0, 0.0)
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float64)
    x, y = x - _centre(number)[0] - shift[0], y - _centre(number)[1] - shift[1]
    angle = 0.4 + turn * number
    across = np.cos(angle) * x + np.sin(angle) * y
    along = np.cos(angle) * y - np.sin(angle) * x
    return np.hypot(x, y), across, along


def _box(number: int) -> np.ndarray:
    x, y = (round(c) for c in _centre(number))
    box = np.zeros((HEIGHT, WIDTH), bool)
    reach = RADIUS + 5
    box[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1] = True
    return box


def _background(number: int) -> np.ndarray:
    """A window that pans over a wide picture of blurred noise in greens."""
    noise = np.random.default_rng(3).normal(size=(HEIGHT, WIDTH + 2 * FRAMES, 3))
    coarse = cv2.GaussianBlur(noise, (0, 0), 6) * 500 + cv2.GaussianBlur(noise, (0, 0), 1.5) * 60
    picture = np.clip(coarse + np.array([70, 120, 70]), 0, 255).astype(np.uint8)
    return picture[:, 2 * number : 2 * number + WIDTH].copy()


SCENE = _draw_scene()


def good() -> np.ndarray:
    """What a model does well: the truth, a little blurred and noisy inside; outside the source."""
    noise = np.random.default_rng(5).normal(0, 4, SCENE.truth.shape)
    blurred = [cv2.GaussianBlur(frame, (0, 0), 0.8) for frame in SCENE.truth]
    return _inside(np.clip(np.stack(blurred) + noise, 0, 255).astype(np.uint8))


def frozen() -> np.ndarray:
    """The inside stands still: always the edited first frame."""
    return _inside(np.repeat(SCENE.truth[:1], FRAMES, axis=0))


def stiff() -> np.ndarray:
    """The object slides along with its box, but does not turn."""
    frames = [draw_disc(SCENE.background[n], n, ORANGE, turn=0.0) for n in range(FRAMES)]
    return _inside(np.stack(frames))


def faded() -> np.ndarray:
    """The edit turns into the source."""
    return _inside(_blend(SCENE.truth, SCENE.source))


def vanished() -> np.ndarray:
    """The edited object dissolves into the background."""
    return _inside(_blend(SCENE.truth, SCENE.background))


def drifting() -> np.ndarray:
    """The inside is good; the background slips away, by a pixel in four frames."""
    frames = good()
    moved = [np.roll(frame, n // 4, axis=1) for n, frame in enumerate(frames)]
    return np.where(SCENE.box[..., None], frames, np.stack(moved))


def flickering() -> np.ndarray:
    """The inside is right, under noise that is new in every frame."""
    noise = np.random.default_rng(6).normal(0, 45, SCENE.truth.shape)
    return _inside(np.clip(SCENE.truth + noise, 0, 255).astype(np.uint8))


BAD: dict[str, Callable[[], np.ndarray]] = {
    made.__name__: made for made in (frozen, stiff, faded, vanished, drifting, flickering)
}


def _inside(frames: np.ndarray) -> np.ndarray:
    return np.where(SCENE.box[..., None], frames, SCENE.source)


def _blend(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """From the first to the second, over the first two thirds of the clip."""
    share = np.clip(np.arange(FRAMES) / (FRAMES * 2 / 3), 0, 1)[:, None, None, None]
    return np.rint(first * (1 - share) + second * share).astype(np.uint8)


@cache
def judged_as(name: str, *, truth: bool = True) -> Numbers:
    """The numbers of the good result or of a bad one."""
    return judged({"good": good, **BAD}[name](), truth=truth)


def judged(result: np.ndarray, *, truth: bool = True) -> Numbers:
    """The numbers of a result of the scene, with the truth or without."""
    frames = (
        FrameSet(
            result_HWC=result[n],
            source_HWC=SCENE.source[n],
            inside_HW=SCENE.box[n],
            truth=Truth(SCENE.truth[n], SCENE.object[n], SCENE.background[n]) if truth else None,
        )
        for n in range(len(result))
    )
    edit = edit_colours([(SCENE.truth[0], SCENE.source[0], SCENE.box[0])])
    return gather(list(judge(frames, edit, Scorers(SCENE.truth[0]))))
