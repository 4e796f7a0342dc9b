"""The tracker without a model, pointed at as people do: one click, sloppy boxes, corrections."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from maskora.masks import Silhouette
from maskora.masks.prompts import Box, Click, Prompt
from maskora.masks.shapes import silhouette_box
from maskora.masks.trackers.simple import Backdrop, SimpleTracker, camera
from maskora.video.fit import fit_image, place
from maskora.video.probe import probe
from maskora.video.read import read_frames
from tests.masks.trackers.test_simple import DOG, box_overlap, nothing_on, overlap

LEAST_OVERLAP = 0.45  # mean, of the dog's boxes; fixed before it was measured
FRAMES, PAN = 16, 3


@pytest.fixture(scope="module")
def dog(real_clips: Path) -> SimpleTracker:
    info = probe(real_clips / "dog.mp4")
    placement = place((info.width, info.height), (848, 480), "crop")
    return SimpleTracker(
        np.stack([fit_image(frame, placement) for frame in read_frames(info, 0, 49)])
    )


@pytest.mark.parametrize(
    ("name", "sides"),
    [("tighter", (0.1, 0.1, 0.9, 0.9)), ("shifted", (0.12, 0.05, 1.15, 1.1)), ("a click", None)],
)
@pytest.mark.slow
def test_the_dog_is_followed_however_it_is_pointed_at(
    dog: SimpleTracker, name: str, sides: tuple[float, float, float, float] | None
) -> None:
    left, top, right, bottom = DOG[0]
    wide, high = right - left, bottom - top
    prompt: Prompt = Click(0, left + 0.5 * wide, top + 0.4 * high)
    if sides:
        x0, y0, x1, y1 = sides
        prompt = Box(0, left + x0 * wide, top + y0 * high, (x1 - x0) * wide, (y1 - y0) * high)
    found = follow(dog, prompt, np.zeros((480, 848), np.uint8), 49)
    overlaps = [
        box_overlap(silhouette_box(found[frame]), label) if found[frame].any() else 0.0
        for frame, label in DOG.items()
    ]
    print(name, np.round(overlaps, 2))
    assert np.mean(overlaps) >= LEAST_OVERLAP


def follow(
    tracker: SimpleTracker, prompt: Prompt, before_HW: np.ndarray, frames: int
) -> list[Silhouette]:
    found = tracker.segment(0, [prompt], before_HW)
    return [one[1] for one in tracker.propagate(range(frames), {0: found})]


def texture(seed: int, height: int, width: int, low: int, high: int) -> np.ndarray:
    rough_HWC = np.random.default_rng(seed).integers(low, high, (height // 12, width // 12, 3))
    rough_HWC = rough_HWC.astype(np.float32)
    return cv2.resize(rough_HWC, (width, height), interpolation=cv2.INTER_CUBIC)


def panned() -> tuple[np.ndarray, np.ndarray]:
    """A lorry of its surroundings' colours, followed by the camera; frames_THWC, truth_THW."""
    meadow_HWC, skin_HWC = texture(1, 240, 480, 60, 180), texture(2, 72, 96, 80, 200)
    shape_HW = np.zeros((72, 96), np.bool_)
    shape_HW[:48, 20:80] = shape_HW[24:60] = True
    frames_THWC = np.zeros((FRAMES, 240, 400, 3), np.uint8)
    truth_THW = np.zeros((FRAMES, 240, 400), np.bool_)
    for number in range(FRAMES):
        picture_HWC = meadow_HWC[:, PAN * number : PAN * number + 400].copy()
        place_HW = slice(90, 162), slice(120 + number, 216 + number)
        picture_HWC[place_HW][shape_HW] = skin_HWC[shape_HW]
        frames_THWC[number] = np.clip(picture_HWC, 0, 255)
        truth_THW[number][place_HW] = shape_HW
    return frames_THWC, truth_THW


@pytest.mark.parametrize(
    "prompt",
    [Click(0, 168, 130), Box(0, 106, 80, 124, 80), Box(0, 130, 97, 76, 46)],
    ids=["a click", "a loose box", "a tight box"],
)
def test_what_moves_otherwise_than_the_camera_is_found_and_followed(prompt: Prompt) -> None:
    frames_THWC, truth_THW = panned()
    found = follow(SimpleTracker(frames_THWC), prompt, nothing_on(frames_THWC), FRAMES)
    overlaps = [overlap(*both) for both in zip(found, truth_THW, strict=True)]
    print(np.round(overlaps, 2))
    assert min(overlaps) > 0.7


def test_the_camera_is_told_from_what_moves_in_front_of_it() -> None:
    frames_THWC, truth_THW = panned()
    greys = [cv2.cvtColor(frame_HWC, cv2.COLOR_RGB2GRAY) for frame_HWC in frames_THWC]
    last = camera(greys)[-1]
    assert np.allclose(last[:2, 2], [PAN * (FRAMES - 1), 0], atol=0.5)
    assert np.allclose(last[:2, :2], np.eye(2), atol=0.01)
    permanence_HW = Backdrop(frames_THWC).permanence(8)
    assert permanence_HW[truth_THW[8]].mean() < 0.4
    assert permanence_HW[~truth_THW.any(axis=0)].mean() > 0.9


def test_corrections_change_what_is_around_them_and_nothing_else() -> None:
    frames_THWC, truth_THW = panned()
    tracker = SimpleTracker(frames_THWC)
    before_HW = truth_THW[8].astype(np.uint8)
    before_HW[90:162, 128:150] = 0  # the rear is missing
    for click in (Click(8, 139, 130), Click(8, 190, 130), Click(8, 176, 98, positive=False)):
        found_HW = tracker.segment(8, [click], before_HW)[1]
        assert found_HW.sum() > 0.7 * before_HW.sum()
        near_HW = np.hypot(*(np.indices(found_HW.shape) - [[[click.y]], [[click.x]]])) < 60
        assert (found_HW == (before_HW > 0))[~near_HW].all()
    assert overlap(tracker.segment(8, [Click(8, 139, 130)], before_HW)[1], truth_THW[8]) > 0.8


def test_a_click_elsewhere_starts_anew() -> None:
    frames_THWC, truth_THW = panned()
    before_HW = nothing_on(frames_THWC)
    before_HW[10:40, 320:360] = 1  # a tracker that has lost its way
    found_HW = SimpleTracker(frames_THWC).segment(0, [Click(0, 168, 130)], before_HW)[1]
    assert overlap(found_HW, truth_THW[0]) > 0.7
    assert not found_HW[10:40, 320:360].any()
