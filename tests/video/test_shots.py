"""Cuts and fades are found where they are, and nothing else is taken for one."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskora.miniature.world import render
from maskora.video.probe import probe
from maskora.video.read import read_frames
from maskora.video.shots import ShotChange, find_shots
from research.miniature.scenes import draw_scene

HEIGHT, WIDTH, FRAMES = 108, 192, 40
Frames = np.ndarray


@cache
def texture(seed: int, height: int = 3 * HEIGHT, width: int = 8 * WIDTH) -> Frames:
    """A coloured picture with the spectrum of photographs, whose amplitude falls as 1/f."""
    rng = np.random.default_rng(seed)
    across, down = np.fft.fftfreq(width) * width, np.fft.fftfreq(height)[:, None] * height
    amplitude = 1 / np.maximum(np.hypot(across, down), 1)
    phases = np.exp(2j * np.pi * rng.random((3, height, width)))
    planes = np.fft.ifft2(amplitude * phases).real
    tones = rng.integers(70, 180, 3)[:, None, None] + 45 * planes / planes.std()
    return tones.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)


def view(picture: Frames, x: float, y: float = HEIGHT) -> Frames:
    left, top = round(x), round(y)
    return picture[top : top + HEIGHT, left : left + WIDTH]


def pan(seed: int, speed: float = 1, frames: int = FRAMES) -> Frames:
    picture = texture(seed)
    return np.stack([view(picture, speed * number) for number in range(frames)])


def scaled(frames: Frames, factors: list[float]) -> Frames:
    """Each frame at a brightness."""
    pairs = zip(frames.astype(np.float32), factors, strict=True)
    return np.stack([(frame * factor).clip(0, 255) for frame, factor in pairs]).astype(np.uint8)


def fade(one: Frames, other: Frames, length: int) -> tuple[Frames, int]:
    """A cross-fade of so many frames from one clip to another, and the first of them."""
    share = (np.arange(1, length + 1) / (length + 1))[:, None, None, None]
    mixed = (1 - share) * one[len(one) - length :] + share * other[:length]
    parts = [one[: len(one) - length], np.rint(mixed).astype(np.uint8), other[length:]]
    return np.concatenate(parts), len(one) - length


def is_fade(change: ShotChange, first: int, length: int, tolerance: int) -> bool:
    last = first + length - 1
    near = max(abs(change.first - first), abs(change.last - last)) <= tolerance
    middle = (change.first + change.last + 1) // 2
    return change.kind == "fade" and near and change.frame == middle


@pytest.fixture(scope="module")
def dog(real_clips: Path) -> Frames:
    return real(real_clips / "dog.mp4")


@pytest.fixture(scope="module")
def man(real_clips: Path) -> Frames:
    """He walks to the camera and back."""
    frames = real(real_clips / "man_walking" / "source.mp4")
    return np.concatenate([frames, frames[::-1], frames])


def real(path: Path) -> Frames:
    info = probe(path)
    frames = (cv2.resize(frame, (320, 180)) for frame in read_frames(info, 0, info.frames))
    return np.stack(list(frames))


@pytest.mark.parametrize("at", [1, 7, 33, 70, 74])
def test_a_cut(at: int) -> None:
    frames = np.concatenate([pan(1, 3, at), pan(2, 3, 75 - at)])
    assert find_shots(iter(frames)) == (ShotChange("cut", at, at, at),)


def test_every_cut_of_a_clip_longer_than_what_is_kept() -> None:
    begins = [60, 80, 200]
    lengths = np.diff([0, *begins, 230])
    frames = np.concatenate([pan(seed, 2, length) for seed, length in enumerate(lengths)])
    assert [(one.kind, one.frame) for one in find_shots(frames)] == [("cut", at) for at in begins]


@pytest.mark.parametrize("speeds", [(0, 0), (1, 2), (0, 2)])
@pytest.mark.parametrize("length", [4, 8, 16, 24])
def test_a_cross_fade(length: int, speeds: tuple[float, float]) -> None:
    frames, first = fade(pan(3, speeds[0]), pan(4, speeds[1]), length)
    (change,) = find_shots(frames)
    assert is_fade(change, first, length, tolerance=length // 4)


def test_a_mixture_of_both_at_a_cut_is_one_change() -> None:
    """As rates are converted."""
    frames, first = fade(pan(3, 2), pan(4, 2), 1)
    (change,) = find_shots(frames)
    assert change.frame - first in (0, 1)


@pytest.mark.parametrize("tone", [0, 255])
@pytest.mark.parametrize("held", [1, 8])
def test_a_fade_through_black_or_white(tone: int, held: int) -> None:
    steps, still = list(np.linspace(1, 0, 11)[:-1]), [1.0] * (FRAMES - 10)
    one, other = scaled(pan(5), still + steps), scaled(pan(6), steps[::-1] + still)
    between = np.zeros((held, HEIGHT, WIDTH, 3), np.uint8)
    frames = np.concatenate([one, between, other])
    if tone:
        frames = 255 - frames
    (change,) = find_shots(frames)
    assert change.kind == "fade"
    assert change.first - 2 <= FRAMES <= change.frame <= FRAMES + held <= change.last + 3


STILL: dict[str, Callable[[], Frames]] = {
    "slow pan": lambda: pan(7, 3),
    "fast pan": lambda: pan(7, 18),
    "very fast pan": lambda: pan(7, 30),
    "whip pan": lambda: np.stack(
        [view(texture(8), x) for x in [0] * 15 + [60, 120, 180] + [180] * 15]
    ),
    "jolt": lambda: np.stack([view(texture(8), x) for x in [0] * 15 + [25] * 15]),
    "shake": lambda: np.stack(
        [view(texture(9), x, y) for x, y in np.random.default_rng(0).normal(100, 10, (40, 2))]
    ),
    "every third frame": lambda: pan(10, 40, 20).repeat(3, axis=0),
    "bright flash": lambda: scaled(pan(11), [1] * 20 + [2.2] + [1] * 19),
    "another picture for two frames": lambda: np.concatenate(
        [pan(11)[:20], pan(12)[:2], pan(11)[20:]]
    ),
    "black frame": lambda: scaled(pan(11), [1] * 20 + [0] + [1] * 19),
    "light goes out": lambda: scaled(pan(11), [1] * 20 + [0.3] * 20),
    "light goes down": lambda: scaled(pan(11), [1] * 10 + list(np.linspace(1, 0.2, 30))),
    "begins black": lambda: scaled(pan(11), list(np.linspace(0, 1, 20)) + [1] * 20),
    "object passes": lambda: passing(6),
    "object passes fast": lambda: passing(40),
    "black": lambda: np.zeros((20, HEIGHT, WIDTH, 3), np.uint8),
    "few frames": lambda: pan(12, 5, 3),
    "one frame": lambda: pan(12, 5, 1),
}  # fmt: skip


def passing(speed: float) -> Frames:
    """A disc, as high as the picture, passes before a still background."""
    background, surface = pan(13, 0), texture(14)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    for number, frame in enumerate(background):
        centre = speed * number - HEIGHT / 2
        inside = np.hypot(x - centre, y - HEIGHT / 2) < HEIGHT / 2
        frame[inside] = view(surface, 4 * WIDTH - centre % WIDTH)[inside]
    return background


@pytest.mark.parametrize("name", STILL)
def test_one_shot(name: str) -> None:
    assert find_shots(STILL[name]()) == ()


def test_a_flash_of_white_is_no_cut() -> None:
    frames = pan(11).copy()
    frames[20:22] = 255
    assert find_shots(frames) == ()


def test_a_flash_does_not_hide_a_cut() -> None:
    frames = np.concatenate([pan(1), pan(2)])
    frames[FRAMES] = 255
    (change,) = find_shots(frames)
    assert change.frame == FRAMES


@pytest.mark.parametrize("size", [64, 128])
def test_the_miniatures_world_is_one_shot(size: int) -> None:
    for seed in (*range(20), 1050, 1167, 1283):
        assert find_shots(render(draw_scene(seed), 41, size).frames_THWC) == ()


def test_a_cut_between_two_miniature_worlds() -> None:
    clips = [render(draw_scene(seed), 17).frames_THWC for seed in (0, 1)]
    (change,) = find_shots(np.concatenate(clips))
    assert (change.kind, change.frame) == ("cut", 17)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=90), st.integers(0, 30))
@settings(max_examples=30, deadline=None)
def test_changes_are_in_the_clip_and_in_order(pictures: list[int], grain: int) -> None:
    """Whatever the frames are."""
    rng = np.random.default_rng(grain)
    stills = rng.integers(0, 256, (6, 48, 48, 3))
    noise = rng.normal(0, grain, (len(pictures), 48, 48, 3))
    changes = find_shots((stills[pictures] + noise).clip(0, 255).astype(np.uint8))
    begins = [0, *(change.frame for change in changes), len(pictures)]
    assert begins == sorted(set(begins))
    assert all(1 <= one.first <= one.frame <= one.last < len(pictures) for one in changes)


@pytest.mark.parametrize("held", [0.3, 0.7])
def test_a_double_exposure_that_is_held_is_a_change_within_the_clip(held: float) -> None:
    """Its share hardly rises, so where a fade would have its middle says little."""
    one, other = (view(texture(seed), 0).astype(np.float32) for seed in (1, 2))
    shares = [0.0] * 20 + [held + 0.001 * number for number in range(40)] + [1.0] * 20
    frames = np.stack([np.rint(one + share * (other - one)) for share in shares]).astype(np.uint8)
    for change in find_shots(frames):
        assert 1 <= change.first <= change.frame <= change.last < len(frames)
        assert change.last >= 19
        assert change.first <= 61


def test_real_clips_of_one_shot(dog: Frames, man: Frames) -> None:
    assert find_shots(dog) == ()
    assert find_shots(man) == ()


def test_a_cut_between_real_clips(dog: Frames, man: Frames) -> None:
    frames = np.concatenate([dog[:100], man, dog[100:150]])
    cuts = [(one.kind, one.frame) for one in find_shots(frames)]
    assert cuts == [("cut", 100), ("cut", 100 + len(man))]


@pytest.mark.parametrize("length", [8, 16])
def test_a_cross_fade_between_real_clips(dog: Frames, man: Frames, length: int) -> None:
    for one, other in ((dog[:60], man), (man, dog[:60])):
        frames, first = fade(one, other, length)
        (change,) = find_shots(frames)
        assert is_fade(change, first, length, tolerance=length // 2)
