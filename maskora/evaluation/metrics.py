"""Measures of one frame: pure functions of uint8 RGB pictures (H, W, 3) and bool masks (H, W).

In this order: how pictures differ, how the inside moves, whether an edit is still there by its
colours, and where the edited object is where the true one is known.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial import KDTree
from skimage.metrics import structural_similarity

from maskora.video.differences import VISIBLE, differs

PEAK = 255.0
SIGMA, RADIUS = 1.5, 5  # of SSIM's Gaussian window, 11 x 11 pixels (Wang et al. 2004)
MOVES = 0.5  # pixels per frame: slower than that counts as standing still
LEAST = 0.01  # share of a region that must be seen in both frames for a number to mean something
BINS = 16  # per colour
RARE = 0.002  # of the density that all colours alike have: what is rarer in the edit is not its own
BLUR = 0.75  # bins: neighbouring colours count for each other
TELLING = 0.3  # what the source has of the edit's colours must be less, relative to the edit
SHADES = 32  # steps per colour of an object's palette
FOUND = 0.25  # share of the true object's area below which nothing is said of the object
ALIKE = 0.1  # share of the most that turning changes, below which a turned object looks the same
ROUND = 25.0  # mean squared levels: an object that turning changes less has no direction


@dataclass(frozen=True)
class Difference:
    """The difference of two pictures in a region.

    Attributes:
        mse: mean squared difference, in levels of 255, squared; 0 where they are identical.
        l1: mean absolute difference, in levels of 255.
        ssim: structural similarity, 1 for identical pictures: the mean over windows that lie wholly
            in the region; None where it has room for none.
    """

    mse: float
    l1: float
    ssim: float | None


def compare(one_HWC: np.ndarray, other_HWC: np.ndarray, where_HW: np.ndarray) -> Difference | None:
    """Compare two uint8 RGB pictures where a mask is True; None where it is nowhere."""
    if not where_HW.any():
        return None
    return Difference(
        mse=mean_squared_error(one_HWC, other_HWC, where_HW),
        l1=mean_difference(one_HWC, other_HWC, where_HW),
        ssim=ssim(one_HWC, other_HWC, where_HW),
    )


def mean_squared_error(one: np.ndarray, other: np.ndarray, where: np.ndarray) -> float:
    """Mean squared difference of pictures or clips (..., 3) where a mask (...) is True."""
    return float(np.square(one[where].astype(np.float64) - other[where]).mean())


def mean_difference(one: np.ndarray, other: np.ndarray, where: np.ndarray) -> float:
    """Mean absolute difference of pictures or clips (..., 3) where a mask (...) is True."""
    return float(np.abs(one[where].astype(np.float64) - other[where]).mean())


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


@dataclass(frozen=True)
class Flow:
    """Optical flow between two frames, both ways.

    Attributes:
        forward_HW2: from the first to the second.
        seen_HW: pixels of the first that are seen in the second: the flow there and back meets.
    """

    forward_HW2: np.ndarray
    seen_HW: np.ndarray


def measure_flow(first_HWC: np.ndarray, second_HWC: np.ndarray) -> Flow:
    """Dense inverse search flow (Kroeger et al. 2016) of two uint8 RGB frames.

    A pixel is seen in the second frame where it stays in the picture and the way there and back is
    closed, by the bound of Sundaram et al. 2010.
    """
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (first_HWC, second_HWC)]
    finder = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    still_HW2 = np.zeros((*grey[0].shape, 2), np.float32)  # what it starts from
    forward_HW2 = np.asarray(finder.calc(grey[0], grey[1], still_HW2.copy()))
    backward_HW2 = np.asarray(finder.calc(grey[1], grey[0], still_HW2.copy()))
    back_HW2, inside_HW = sample(backward_HW2, forward_HW2)
    gap = np.square(forward_HW2 + back_HW2).sum(axis=-1)
    lengths = np.square(forward_HW2).sum(axis=-1) + np.square(back_HW2).sum(axis=-1)
    return Flow(forward_HW2, inside_HW & (gap <= 0.01 * lengths + 0.5))


def sample(image_HWC: np.ndarray, flow_HW2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bring a frame to where its pixels come from; and which of them lie in the picture."""
    height, width = flow_HW2.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    x, y = x + flow_HW2[..., 0], y + flow_HW2[..., 1]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    moved = cv2.remap(image_HWC, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved), inside


def warp_error(
    first_HWC: np.ndarray, second_HWC: np.ndarray, flow: Flow, where_HW: np.ndarray
) -> float | None:
    """The difference of a frame from the one before, brought along its flow (Lai et al. 2018).

    Args:
        flow: from the first to the second, of these frames or of others that move alike.
        where_HW: the pixels of the first that count.

    Returns:
        the mean absolute difference in levels of 255 over the pixels seen in both; None where
        there are too few.
    """
    counted = where_HW & flow.seen_HW
    if counted.sum() <= LEAST * where_HW.sum():
        return None
    back_HWC, _ = sample(second_HWC, flow.forward_HW2)
    return mean_difference(first_HWC, back_HWC, counted)


def frame_warp_error(first_HWC: np.ndarray, second_HWC: np.ndarray, flow: Flow) -> float | None:
    """The warp error of whole frames as Lai et al. 2018 define it, and IVEDiff reports it.

    Args:
        flow: the source's, from the first to the second.

    Returns:
        the mean squared difference over the pixels seen in both, colours being 0 to 1; None where
        there are too few.
    """
    if flow.seen_HW.mean() <= LEAST:
        return None
    back_HWC, _ = sample(second_HWC, flow.forward_HW2)
    return mean_squared_error(first_HWC, back_HWC, flow.seen_HW) / PEAK**2


def motion_sums(result: Flow, source: Flow, where_HW: np.ndarray) -> dict[str, float] | None:
    """The agreement of the result's motion with the source's, where that one moves.

    Returns:
        sums over pixels, which may be added up over frames: "motion_along" of the dot products of
        the two flows, "motion_source" of the source's squared lengths, "motion_speed_sum" and
        "motion_speed_source" of the result's and the source's lengths. None where the source
        stands still (or is hidden in the next frame) nearly everywhere.
    """
    speeds_HW = np.linalg.norm(source.forward_HW2, axis=-1)
    moving = where_HW & source.seen_HW & (speeds_HW >= MOVES)
    if moving.sum() <= LEAST * where_HW.sum():
        return None
    ours_N2, theirs_N2 = (f.forward_HW2[moving].astype(np.float64) for f in (result, source))
    return {
        "motion_along": float((ours_N2 * theirs_N2).sum()),
        "motion_source": float(np.square(theirs_N2).sum()),
        "motion_speed_sum": float(np.linalg.norm(ours_N2, axis=-1).sum()),
        "motion_speed_source": float(np.linalg.norm(theirs_N2, axis=-1).sum()),
    }


def crop_region(picture_HWC: np.ndarray, where_HW: np.ndarray) -> np.ndarray | None:
    """The square part of a picture around a mask, for a model that sees squares.

    It is as wide as the mask's longer side, and less where the picture has no room for that. None
    where the mask is nowhere.
    """
    x, y, width, height = cv2.boundingRect(where_HW.astype(np.uint8))
    if not width:
        return None
    rows, columns = where_HW.shape
    side = max(width, height)
    return picture_HWC[_span(y, height, side, rows), _span(x, width, side, columns)]


def _span(start: int, length: int, side: int, room: int) -> slice:
    """So many pixels around a stretch, moved into the picture; all of it where that is smaller."""
    side = min(side, room)
    begin = min(max(start - (side - length) // 2, 0), room - side)
    return slice(begin, begin + side)


@dataclass(frozen=True)
class EditColours:
    """The colours that an edit has brought in.

    Attributes:
        density: how often each colour is among the edited pixels, (16, 16, 16), sums to 1.
        share: how much of the first frame's mask the edit's colours cover there.
        change: how much the edited first frame differs from its source inside the mask, mean
            absolute difference in levels of 255.
        telling: whether the colours tell the edit from the source: an edit of the shape alone has
            the source's own.
    """

    density: np.ndarray
    share: float
    change: float
    telling: bool


def edit_colours(frames: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> EditColours:
    """Learn the colours of an edit from its edited frames, the first frame first.

    Args:
        frames: for each the edited frame and its source (uint8 RGB), and where the mask is.
    """
    given = list(frames)
    density = _density(
        np.concatenate([edited[mask & differs(edited, source)] for edited, source, mask in given])
    )
    edited_HWC, source_HWC, inside_HW = given[0]
    share = _edit_coloured(edited_HWC, source_HWC, inside_HW, density)
    return EditColours(
        density=density,
        share=share,
        change=_change(edited_HWC, source_HWC, inside_HW) or 0.0,
        telling=_edit_coloured(source_HWC, source_HWC, inside_HW, density) < TELLING * share,
    )


def colours_kept(
    result_HWC: np.ndarray, source_HWC: np.ndarray, inside_HW: np.ndarray, edit: EditColours
) -> float | None:
    """The share of the mask that has the edit's colours, relative to the edited first frame.

    A pixel has them where its colour is more frequent in the edit than in the source frame's mask
    (the ratio histogram of Swain and Ballard 1991). None without a mask, or where the edit's
    colours are the source's.
    """
    if not edit.telling or not inside_HW.any():
        return None
    return _edit_coloured(result_HWC, source_HWC, inside_HW, edit.density) / edit.share


def change_kept(
    result_HWC: np.ndarray, source_HWC: np.ndarray, inside_HW: np.ndarray, edit: EditColours
) -> float | None:
    """A frame's difference from its source inside the mask, relative to the edited first frame.

    None without a mask, or where the edited first frame is its source.
    """
    change = _change(result_HWC, source_HWC, inside_HW)
    return change / edit.change if change is not None and edit.change else None


def _edit_coloured(
    picture_HWC: np.ndarray, source_HWC: np.ndarray, inside_HW: np.ndarray, density: np.ndarray
) -> float:
    """The share of the mask that has colours of the edit rather than of the source; 0 for none.

    The far tails of the smoothing are no colours of the edit: they reach over much of what noise
    has.
    """
    rival = np.maximum(_density(source_HWC[inside_HW]), RARE / BINS**3)
    r, g, b = (picture_HWC[inside_HW] // (256 // BINS)).T
    likely_N = density[r, g, b] > rival[r, g, b]
    return float(likely_N.mean()) if likely_N.size else 0.0


def _density(colours_N3: np.ndarray) -> np.ndarray:
    """A smooth histogram of uint8 colours, which sums to 1 (to 0 where there are none)."""
    r, g, b = (colours_N3 // (256 // BINS)).T.astype(np.int64)
    counts = np.bincount((r * BINS + g) * BINS + b, minlength=BINS**3).reshape(BINS, BINS, BINS)
    smooth = gaussian_filter(counts.astype(np.float64), BLUR)
    return np.asarray(smooth / max(smooth.sum(), 1e-12))


def _change(one_HWC: np.ndarray, other_HWC: np.ndarray, inside_HW: np.ndarray) -> float | None:
    return mean_difference(one_HWC, other_HWC, inside_HW) if inside_HW.any() else None


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
    return float(nearer(result_HWC, [truth_HWC], rivals)[counted].mean())


def nearer(
    result: np.ndarray,
    wanted: Sequence[np.ndarray],
    rivals: Sequence[np.ndarray],
    *,
    ties: bool = False,
) -> np.ndarray:
    """The pixels of a picture or clip (..., 3) whose colour is nearer to one wanted than to any
    rival, by Euclidean distance; bool (...).

    Args:
        wanted, rivals: colours (..., 3), in 0 to 255; of the result's shape or one that broadcasts.
        ties: a pixel that is as near to both counts, too.
    """
    to_wanted, to_rivals = (
        np.min([colour_distance(result, each) for each in colours], axis=0)
        for colours in (wanted, rivals)
    )
    return np.asarray(to_wanted <= to_rivals if ties else to_wanted < to_rivals)


def colour_distance(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Euclidean distance of colours (..., 3), in levels of 255."""
    return np.asarray(np.linalg.norm(one.astype(np.float64) - other, axis=-1))


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
    """The pixels that show an object, wherever it may have got to; bool (H, W).

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


def centroid_error(found_HW: np.ndarray, true_HW: np.ndarray, least: float = FOUND) -> float | None:
    """The distance of two objects' centroids, in pixels.

    Args:
        least: share of the true area of which less is found; then there is no number.
    """
    if not is_found(found_HW, true_HW, least):
        return None
    (x, y), (true_x, true_y) = centroid(found_HW), centroid(true_HW)
    return float(np.hypot(x - true_x, y - true_y))


def is_found(found_HW: np.ndarray, true_HW: np.ndarray, least: float = FOUND) -> bool:
    """True where enough of an object was found, as a share of its true area, to measure it."""
    found, true = int(found_HW.sum()), int(true_HW.sum())
    return found > 0 and true > 0 and found >= least * true


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
