"""The source's motion without training: AnyV2V's, I2VEdit's and IVEDiff's ways, as pure functions.

Noise levels run from 0 (data) to 1 (noise); a velocity is noise minus data.
"""

from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

ROUNDING = 1e-5  # of levels in single precision
SMOOTH = 0.001  # the Sobel gradient below which I2VEdit takes an area for smooth (section 4.1)
SOBEL = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8


def first_step(levels: Sequence[float], start_level: float) -> int:
    """The first step of a schedule that begins at a noise level or below; the last one at most.

    Args:
        levels: where each step begins, falling, and where the last one ends.
    """
    below = (i for i, level in enumerate(levels[:-1]) if level <= start_level + ROUNDING)
    return next(below, len(levels) - 2)


def steps_within(share: float, steps: int) -> int:
    """How many first steps are a share of all; of a share that is not 0 at least one."""
    return max(round(share * steps), int(share > 0))


def matched(source_1ND: Tensor, edited_BND: Tensor, threshold: float) -> Tensor:
    """Attention's answers for the edit, drawn to the source's where the two differ little.

    I2VEdit's equations 7 and 8. Its difference is that of two attention maps, which sum up to one,
    halved, so that it lies in 0 to 1; here it is that of two answers of length one.
    """
    apart = F.normalize(source_1ND.float(), dim=-1) - F.normalize(edited_BND.float(), dim=-1)
    difference_BN1 = apart.norm(dim=-1, keepdim=True) / 2
    own_BN1 = torch.where(difference_BN1 > threshold, 1.0, difference_BN1).to(edited_BND)
    return own_BN1 * edited_BND + (1 - own_BN1) * source_1ND


def perturbed(video_CTHW: Tensor, amount: float, seed: int) -> Tensor:
    """A clip with a little noise where it is smooth: I2VEdit's equation 5.

    Areas of one colour have no noise of their own; inverted, they are far from what a model takes
    for noise.

    Args:
        video_CTHW: pixels in [-1, 1].
        amount: the noise's deviation, of values in [0, 1].
    """
    grey_T1HW = ((video_CTHW.mean(dim=0) + 1) / 2)[:, None]
    padded = F.pad(grey_T1HW, (1, 1, 1, 1), mode="replicate")
    across, down = (F.conv2d(padded, kernel[None, None]) for kernel in (SOBEL, SOBEL.T))
    smooth_THW = torch.hypot(across, down)[:, 0] < SMOOTH
    noise = torch.randn(video_CTHW.shape, generator=torch.Generator().manual_seed(seed))
    return torch.where(smooth_THW, video_CTHW + 2 * amount * noise, video_CTHW)


def carried(first_HWC: np.ndarray, frames_THWC: np.ndarray) -> np.ndarray:
    """A picture in place of a clip's first frame, carried along the clip's optical flow.

    IVEDiff's prior (section 4.2) without its network. What comes into view is drawn out of what
    was there.

    Args:
        first_HWC, frames_THWC: uint8; the picture may have one channel, too.

    Returns:
        as many frames, the first being the picture.
    """
    finder = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    greys = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames_THWC]
    here_HW2 = np.stack(np.meshgrid(*map(np.arange, greys[0].shape[::-1])), axis=-1)
    here_HW2 = here_HW2.astype(np.float32)
    origin_HW2, results = here_HW2, [first_HWC]
    for before, now in pairwise(greys):
        back_HW2 = np.asarray(finder.calc(now, before, np.zeros_like(here_HW2)))
        origin_HW2 = _looked_up(origin_HW2, here_HW2 + back_HW2)
        results.append(_looked_up(first_HWC, origin_HW2))
    return np.stack(results)


def carried_inside(
    given_THWC: np.ndarray, frames_THWC: np.ndarray, inside_THW: np.ndarray
) -> np.ndarray:
    """A clip with other first frames, of which the last is carried along inside a mask.

    Outside it is the clip itself.
    """
    before = len(given_THWC) - 1
    carried_THWC = carried(given_THWC[-1], frames_THWC[before:])
    later, inside_T1 = slice(before + 1, None), inside_THW[..., None]
    carried_THWC[1:] = np.where(inside_T1[later], carried_THWC[1:], frames_THWC[later])
    return np.concatenate([given_THWC[:-1], carried_THWC])


def _looked_up(values: np.ndarray, places_HW2: np.ndarray) -> np.ndarray:
    """What a picture shows at other places, beyond its edge what is at the edge."""
    x, y = places_HW2[..., 0], places_HW2[..., 1]
    found = cv2.remap(values, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(found).reshape(*x.shape, values.shape[2])  # of one channel, none is left
