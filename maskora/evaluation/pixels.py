"""How much two pictures differ where a mask says so: L1, PSNR, SSIM."""

from dataclasses import dataclass

import cv2
import numpy as np
from skimage.metrics import structural_similarity

PEAK = 255.0
SIGMA, RADIUS = 1.5, 5  # of SSIM's Gaussian window, 11 x 11 pixels (Wang et al. 2004)


@dataclass(frozen=True)
class Difference:
    """How much two pictures differ in a region.

    Attributes:
        mse: mean squared difference, in levels of 255, squared; 0 where they are identical.
        l1: mean absolute difference, in levels of 255.
        ssim: structural similarity, 1 for identical pictures: the mean over windows that lie wholly
            in the region; None where it has room for none.
    """

    mse: float
    l1: float
    ssim: float | None

    @property
    def psnr(self) -> float:
        """Peak signal-to-noise ratio in dB; infinite for identical pictures."""
        return psnr(self.mse)


def compare(one_HWC: np.ndarray, other_HWC: np.ndarray, where_HW: np.ndarray) -> Difference | None:
    """Compare two uint8 RGB pictures where a mask is True; None where it is nowhere."""
    if not where_HW.any():
        return None
    error = one_HWC[where_HW].astype(np.float64) - other_HWC[where_HW]
    return Difference(
        mse=float(np.square(error).mean()),
        l1=float(np.abs(error).mean()),
        ssim=ssim(one_HWC, other_HWC, where_HW),
    )


def psnr(mse: float) -> float:
    """Peak signal-to-noise ratio in dB of a mean squared error; infinite for none."""
    return float(10 * np.log10(PEAK**2 / mse)) if mse else float("inf")


def ssim(one_HWC: np.ndarray, other_HWC: np.ndarray, where_HW: np.ndarray) -> float | None:
    """Mean structural similarity of two uint8 RGB pictures over a mask.

    Only windows wholly within the mask and the picture count, so that what lies beyond the mask has
    no say. None where there are none.
    """
    kernel = np.ones((2 * RADIUS + 1, 2 * RADIUS + 1), np.uint8)
    centres = cv2.erode(
        where_HW.astype(np.uint8), kernel, borderType=cv2.BORDER_CONSTANT, borderValue=(0.0,)
    )
    x, y, width, height = cv2.boundingRect(centres)
    if not width:
        return None
    window = (slice(y - RADIUS, y + height + RADIUS), slice(x - RADIUS, x + width + RADIUS))
    _, map_HWC = structural_similarity(
        one_HWC[window],
        other_HWC[window],
        channel_axis=-1,
        data_range=PEAK,
        gaussian_weights=True,
        sigma=SIGMA,
        use_sample_covariance=False,
        full=True,
    )
    return float(map_HWC[centres[window] > 0].mean())
