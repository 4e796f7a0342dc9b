"""Signs on a real clip: a recoloured inside, as it should be and failed on purpose."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from maskora.evaluation.judge import Moment, Sight, judge
from maskora.evaluation.measures import gather
from maskora.evaluation.metrics import edit_colours
from maskora.evaluation.verdict import bad_signs
from maskora.video.probe import probe
from maskora.video.read import read_frames

FRAMES, SIDE = 13, 256
INSIDE = np.zeros((SIDE, SIDE), bool)
INSIDE[60:250, 75:185] = True


@pytest.fixture(scope="module")
def source(real_clips: Path) -> np.ndarray:
    """A man who walks towards the camera."""
    frames = read_frames(probe(real_clips / "man_walking" / "source.mp4"), 0, FRAMES)
    size = (SIDE, SIDE)
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames])


def recoloured(frame_HWC: np.ndarray) -> np.ndarray:
    """The inside in other hues."""
    hsv = cv2.cvtColor(frame_HWC, cv2.COLOR_RGB2HSV).astype(int)
    hsv[..., 0] = (hsv[..., 0] + 60) % 180
    hsv[..., 1] = np.clip(hsv[..., 1] * 1.3 + 40, 0, 255)
    shown = cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB)
    return np.where(INSIDE[..., None], shown, frame_HWC)


def signs(source: np.ndarray, result: np.ndarray) -> list[str]:
    first = recoloured(source[0])
    moments = (Moment(result[n], source[n], INSIDE) for n in range(FRAMES))
    rows = judge(moments, edit_colours([(first, source[0], INSIDE)]), Sight(first))
    return [sign.name for sign in bad_signs(gather(list(rows)))]


def test_a_good_result_has_none(source: np.ndarray) -> None:
    blurred = [cv2.GaussianBlur(recoloured(frame), (0, 0), 1) for frame in source]
    assert signs(source, np.where(INSIDE[..., None], np.stack(blurred), source)) == []


def test_a_frozen_inside_is_told(source: np.ndarray) -> None:
    assert signs(source, np.where(INSIDE[..., None], recoloured(source[0]), source)) == ["frozen"]


def test_an_edit_that_fades_is_told(source: np.ndarray) -> None:
    edited = np.stack([recoloured(frame) for frame in source])
    share = np.clip(np.arange(FRAMES) / 8, 0, 1)[:, None, None, None]
    faded = np.rint(edited * (1 - share) + source * share).astype(np.uint8)
    assert signs(source, faded) == ["vanished"]


def test_a_background_that_drifts_is_told(source: np.ndarray) -> None:
    frames = [np.roll(frame, n // 4, axis=1) for n, frame in enumerate(source)]
    edited = np.stack([recoloured(frame) for frame in source])
    assert signs(source, np.where(INSIDE[..., None], edited, np.stack(frames))) == ["background"]
