"""The edited object against the truth: is it there, where is it, how is it turned."""

import cv2
import numpy as np
from scipy.spatial import KDTree

VISIBLE = 20  # levels of 255 in some colour: pictures that differ by less look alike here
SHADES = 32  # steps per colour of an object's palette
FOUND = 0.25  # share of the true object's area below which nothing is said of the object
ALIKE = 0.1  # share of the most that turning changes, below which a turned object looks the same
ROUND = 25.0  # mean squared levels: an object that turning changes less has no direction


def differs(one_HWC: np.ndarray, other_HWC: np.ndarray) -> np.ndarray:
    """Where two uint8 RGB pictures differ visibly: by more than 20 levels in some colour."""
    difference = cv2.absdiff(one_HWC, other_HWC)
    return np.asarray(difference.max(axis=-1) > VISIBLE)


def hit_rate(
    result_HWC: np.ndarray,
    truth_HWC: np.ndarray,
    rivals: list[np.ndarray],
    object_HW: np.ndarray,
) -> float | None:
    """The share of the true edited object's pixels that are nearer to the truth than to the rivals.

    Args:
        rivals: what a failed edit shows: the source, and the scene without the object.
        object_HW: the true object. Of it only pixels count where the truth differs visibly from
            every rival, so that the truth itself has 1 and each rival 0.

    Returns:
        a share, by the Euclidean distance of colours; None where no pixel counts.
    """
    counted = object_HW.copy()
    for rival_HWC in rivals:
        counted &= differs(truth_HWC, rival_HWC)
    if not counted.any():
        return None
    to_truth = _distance(result_HWC, truth_HWC)[counted]
    to_rivals = np.min([_distance(result_HWC, rival)[counted] for rival in rivals], axis=0)
    return float((to_truth < to_rivals).mean())


def palette(picture_HWC: np.ndarray, object_HW: np.ndarray) -> np.ndarray:
    """The distinct colours of an object, (N, 3) float, in 32 steps per colour.

    Its outermost pixels, which show the background too, count where there are no others.
    """
    step, grid = 256 // SHADES, np.ones((3, 3), np.uint8)
    inner = cv2.erode(object_HW.astype(np.uint8), grid, borderValue=1) > 0
    colours = np.unique(picture_HWC[inner if inner.any() else object_HW] // step, axis=0)
    return colours * float(step) + (step - 1) / 2


def find_object(
    picture_HWC: np.ndarray, colours_N3: np.ndarray, rivals: list[np.ndarray], where_HW: np.ndarray
) -> np.ndarray:
    """Where a picture shows an object, wherever it may have got to; bool (H, W).

    These are the pixels of a region whose colour is nearer to one of the object's colours than to
    what each rival shows at that place. A rival that shows a colour of the object there itself has
    no say. Single pixels are dropped (a median over 3 x 3).
    """
    found = np.zeros(where_HW.shape, bool)
    if not where_HW.any() or not len(colours_N3):
        return found
    tree = KDTree(colours_N3)
    pixels_N3 = picture_HWC[where_HW].astype(np.float64)
    nearest_N = tree.query(pixels_N3)[0]
    hits_N = np.ones(len(pixels_N3), bool)
    for rival_HWC in rivals:
        rival_N3 = rival_HWC[where_HW].astype(np.float64)
        silent_N = tree.query(rival_N3)[0] <= VISIBLE
        hits_N &= silent_N | (nearest_N < np.linalg.norm(pixels_N3 - rival_N3, axis=-1))
    found[where_HW] = hits_N
    return np.asarray(cv2.medianBlur(found.astype(np.uint8), 3)) > 0


def centroid(object_HW: np.ndarray) -> tuple[float, float]:
    """The mean (x, y) of an object's pixels."""
    y, x = np.nonzero(object_HW)
    return float(x.mean()), float(y.mean())


def centroid_error(found_HW: np.ndarray, true_HW: np.ndarray) -> float | None:
    """How far two objects' centroids are apart, in pixels; None where nearly nothing was found."""
    if not is_found(found_HW, true_HW):
        return None
    (x, y), (true_x, true_y) = centroid(found_HW), centroid(true_HW)
    return float(np.hypot(x - true_x, y - true_y))


def is_found(found_HW: np.ndarray, true_HW: np.ndarray) -> bool:
    """Whether enough of an object was found to say something of it."""
    return bool(true_HW.any() and found_HW.sum() >= FOUND * true_HW.sum())


def orientation_error(
    result_HWC: np.ndarray, found_HW: np.ndarray, truth_HWC: np.ndarray, true_HW: np.ndarray
) -> float | None:
    """By how many degrees the found object is turned against the true one, 0 to 180.

    Both are unrolled around their own centroids (angle by radius; shape and colours, each less its
    mean), and the turn is the one that brings them together best, to a degree. Where the true
    object looks the same after a turn (a half turn of a bar, say), that turn is no error.

    Returns:
        degrees; None where nearly nothing was found, or the true object looks alike all around.
    """
    if not is_found(found_HW, true_HW):
        return None
    y, x = np.nonzero(true_HW)
    centre = centroid(true_HW)
    reach = float(np.hypot(x - centre[0], y - centre[1]).max()) + 1
    truth, found = _unroll(truth_HWC, true_HW, reach), _unroll(result_HWC, found_HW, reach)
    own = _turning_errors(truth, truth)
    if own.max() < ROUND:
        return None
    lower = (own <= np.roll(own, 1)) & (own <= np.roll(own, -1)) & (own <= ALIKE * own.max())
    turn = int(_turning_errors(found, truth).argmin())
    gaps = np.abs(np.nonzero(lower)[0] - turn)
    return float(np.minimum(gaps, 360 - gaps).min())


def _distance(one_HWC: np.ndarray, other_HWC: np.ndarray) -> np.ndarray:
    distance: np.ndarray = np.linalg.norm(one_HWC.astype(np.float64) - other_HWC, axis=-1)
    return distance


def _unroll(picture_HWC: np.ndarray, object_HW: np.ndarray, reach: float) -> np.ndarray:
    """An object around its centroid, (360, R, 4): colours less their mean, and its shape.

    Outer rings have more pixels and weigh more. Beyond the object all is 0.
    """
    shape_HW = object_HW.astype(np.float32)
    colours_HWC = picture_HWC.astype(np.float32) - picture_HWC[object_HW].mean(axis=0)
    layers = np.concatenate([colours_HWC, np.full((*shape_HW.shape, 1), 64, np.float32)], axis=-1)
    rings = max(2, round(reach))
    flags = cv2.INTER_LINEAR | cv2.WARP_FILL_OUTLIERS  # else what is beyond the picture is random
    flat = cv2.warpPolar(
        layers * shape_HW[..., None], (rings, 360), centroid(object_HW), reach, flags
    )
    return np.asarray(flat) * np.sqrt(np.linspace(0, 1, rings))[None, :, None]


def _turning_errors(turned: np.ndarray, still: np.ndarray) -> np.ndarray:
    """Mean squared difference of two unrolled objects after each turn of the second, (360,)."""
    spectra = np.fft.rfft(turned, axis=0) * np.conj(np.fft.rfft(still, axis=0))
    along = np.fft.irfft(spectra.sum(axis=(1, 2)), n=360)
    total = np.square(turned).sum() + np.square(still).sum()
    return np.asarray((total - 2 * along) / (turned.shape[0] * turned.shape[1]))
