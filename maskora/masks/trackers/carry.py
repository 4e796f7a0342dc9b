"""Carrying a silhouette from one frame to the next: motion first, evidence where it is unsure.

Everything here is at one size, the frame's; images_HWC are uint8 RGB, motion is pixels (x, y).
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from maskora.masks.shapes import Silhouette, silhouette_box

HUE = 3.0  # by how much Lab's hues are spread
BINS = 16  # of the colours, per channel
STEPS = 10  # of permanence, finer where it is high
SPREAD = (0.1, 0.8, 0.1)  # of a pixel's permanence over neighbouring steps
CLEAN = 0.9  # how much of what the inside has in common with its surroundings is taken off it
RARE = 0.02  # share below which a permanence says nothing
LIMIT = 3.0  # log odds that permanence can give
ENOUGH = 0.3  # of the inside must be unlike its surroundings for the full odds
SMOOTH = 1.2  # pixels over which a colour's belief is averaged

Image = npt.NDArray[np.uint8]
Field = npt.NDArray[np.float32]


def colours(image_HWC: Image) -> Image:
    """Lab with its two hues spread: greys that differ little in RGB come apart."""
    lab_HWC = cv2.cvtColor(image_HWC, cv2.COLOR_RGB2LAB).astype(np.float32)
    lab_HWC[..., 1:] = 128 + HUE * (lab_HWC[..., 1:] - 128)
    return np.clip(lab_HWC, 0, 255).astype(np.uint8)


def learn(colours_HWC: Image, inside_HW: Silhouette) -> Field:
    """(BINS, BINS, BINS), for each colour: how much more common it is inside than outside."""
    bins_HWC = _bins(colours_HWC)
    inside, outside = (_histogram(bins_HWC, part_HW) for part_HW in (inside_HW, ~inside_HW))
    return np.asarray((inside + 1e-6) / (inside + outside + 2e-6), np.float32)


def likeness(colours_HWC: Image, learnt: Field) -> Field:
    """The belief that learnt colours give to each pixel, a little smoothed."""
    belief_HW = learnt[tuple(np.moveaxis(_bins(colours_HWC), -1, 0))]
    return np.asarray(cv2.GaussianBlur(belief_HW, (0, 0), SMOOTH))


def mobility(permanence_HW: Field, inside_HW: Silhouette) -> Field:
    """The belief from how much each pixel comes and goes as the object does.

    0.5 everywhere for an object that stays as its surroundings do, and where these do not stay:
    there the camera's motion is not known.
    """
    if inside_HW.all() or not inside_HW.any():
        return np.full_like(permanence_HW, 0.5)
    bins_HW = (STEPS * np.sqrt(np.clip(1 - permanence_HW, 0, 0.999))).astype(np.intp)
    inside, outside = (
        np.convolve(np.bincount(bins_HW[part_HW], minlength=STEPS) / part_HW.sum(), SPREAD, "same")
        for part_HW in (inside_HW, ~inside_HW)
    )
    usual = outside.argmax()
    mixed = min(float(inside[usual] / outside[usual]), 1.0)  # the surroundings' share of the inside
    own = np.maximum(inside - CLEAN * mixed * outside, 0)
    odds = np.clip(np.log((own / own.sum() + RARE) / (outside + RARE)), -LIMIT, LIMIT)
    steady = float(np.mean(permanence_HW[~inside_HW] > 0.5))
    odds *= min((1 - mixed) / ENOUGH, 1.0) * max(2 * steady - 1, 0.0)
    return np.asarray(1 / (1 + np.exp(-odds[bins_HW])), np.float32)


def weigh(one_HW: Field, other_HW: Field) -> Field:
    """Two beliefs as one: that of the product of their odds."""
    both_HW, neither_HW = one_HW * other_HW, (1 - one_HW) * (1 - other_HW)
    return np.asarray(both_HW / np.maximum(both_HW + neither_HW, 1e-9))


def _bins(colours_HWC: Image) -> npt.NDArray[np.intp]:
    return (colours_HWC // (256 // BINS)).astype(np.intp)


def _histogram(bins_HWC: npt.NDArray[np.intp], part_HW: Silhouette) -> Field:
    """The share of each colour in a part of the picture, a little smoothed."""
    flat = np.ravel_multi_index(tuple(bins_HWC[part_HW].T), (BINS, BINS, BINS))
    counts = np.bincount(flat, minlength=BINS**3).reshape(BINS, BINS, BINS).astype(np.float32)
    for axis in range(3):
        padded = np.pad(counts, [(1, 1) if n == axis else (0, 0) for n in range(3)], mode="edge")
        before, after = (np.take(padded, range(at, at + BINS), axis) for at in (0, 2))
        counts = ((before + 2 * counts + after) / 4).astype(np.float32)
    return (counts / max(float(part_HW.sum()), 1.0)).astype(np.float32)


LONG_SIDE = 424  # pixels
REACH, SAMPLES = 60, 16  # how many frames to either side are looked at, and how many of them
NOISE = 5.0  # colours that differ by this much may still be the same
SHARP = 1 / 6  # of the contrast around a pixel, in addition: the camera is known only so well
WEIGHTS = (0.7, 1.5, 1.5)  # of Lab's channels in that difference
CORNERS, LEAST = 500, 12  # points that are followed to see the camera move; with fewer: it stands
CONSENSUS = 0.5  # of these points must move alike, or they are chosen anew

Affine = npt.NDArray[np.float64]  # (3, 3), maps (x, y, 1)


class Backdrop:
    """The scene of one clip as it would be seen by a camera that stands still."""

    def __init__(self, frames_THWC: Image) -> None:
        """frames_THWC: uint8 RGB."""
        self._height, self._width = frames_THWC.shape[1:3]
        scale = min(1.0, LONG_SIDE / max(self._height, self._width))
        size = max(1, round(self._width * scale)), max(1, round(self._height * scale))
        small = [cv2.resize(one, size, interpolation=cv2.INTER_AREA) for one in frames_THWC]
        self._to_first = camera([cv2.cvtColor(one, cv2.COLOR_RGB2GRAY) for one in small])
        labs = [cv2.cvtColor(cv2.GaussianBlur(one, (0, 0), 1), cv2.COLOR_RGB2LAB) for one in small]
        self._labs_THWC = np.stack(labs)

    def permanence(self, frame: int) -> Field:
        """permanence_HW of a frame's pixels; 0.5 where there is nothing to compare it with."""
        here_HWC = self._labs_THWC[frame].astype(np.float32)
        kernel = np.ones((3, 3), np.uint8)
        contrast_HW = cv2.morphologyEx(here_HWC[..., 0], cv2.MORPH_GRADIENT, kernel)
        tolerance_HW = NOISE + SHARP * contrast_HW
        same_HW: Field = np.zeros(contrast_HW.shape, np.float32)
        seen_HW: Field = np.zeros(contrast_HW.shape, np.float32)
        for other in self._others(frame):
            there_HWC, known_HW = self._seen_from(frame, other)
            apart_HWC = (there_HWC - here_HWC) * np.array(WEIGHTS, np.float32)
            square_HW = np.einsum("hwc,hwc->hw", apart_HWC, apart_HWC)
            same_HW += known_HW * np.asarray(np.exp(-0.5 * square_HW / tolerance_HW**2), np.float32)
            seen_HW += known_HW
        share_HW = np.where(seen_HW > 0, same_HW / np.maximum(seen_HW, 1), np.float32(0.5))
        size = (self._width, self._height)
        return np.asarray(cv2.resize(share_HW, size, interpolation=cv2.INTER_LINEAR), np.float32)

    def close(self) -> None:
        """Free the frames."""
        self._labs_THWC = self._labs_THWC[:0]

    def _others(self, frame: int) -> list[int]:
        first, last = max(frame - REACH, 0), min(frame + REACH, len(self._labs_THWC) - 1)
        spread = np.unique(np.linspace(first, last, SAMPLES).round().astype(int))
        return [number for number in spread.tolist() if number != frame]

    def _seen_from(self, frame: int, other: int) -> tuple[Field, Field]:
        """Another frame's colours where this frame's pixels are, and where it has any."""
        there = (np.linalg.inv(self._to_first[other]) @ self._to_first[frame])[:2]
        height, width = self._labs_THWC.shape[1:3]
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        lab_HWC = cv2.warpAffine(self._labs_THWC[other], there, (width, height), flags=flags)
        whole_HW = np.ones((height, width), np.float32)
        known_HW = cv2.warpAffine(whole_HW, there, (width, height), flags=flags)
        return lab_HWC.astype(np.float32), np.asarray(known_HW >= 1).astype(np.float32)


def camera(greys: list[Image]) -> list[Affine]:
    """For each grey frame: from its pixels to the first frame's, as far as the scene stands still.

    Points are followed from one frame for as long as most of them agree, so that small errors do
    not add up.
    """
    to_first: list[Affine] = [np.eye(3)]
    key = 0
    for number in range(1, len(greys)):
        guess = np.linalg.inv(to_first[number - 1]) @ to_first[key]
        moved, agree = _affine(greys[key], greys[number], guess)
        if agree < CONSENSUS and key != number - 1:
            key = number - 1
            moved, _ = _affine(greys[key], greys[number], np.eye(3))
        to_first.append(to_first[key] @ np.linalg.inv(moved))
    return to_first


def _affine(here_HW: Image, there_HW: Image, guess: Affine) -> tuple[Affine, float]:
    """How most of the scene moves from one picture to another, and what share of it does."""
    points = cv2.goodFeaturesToTrack(here_HW, CORNERS, 0.005, 8)
    if points is None or len(points) < LEAST:
        return guess, 0.0
    points = points.reshape(-1, 2)
    near = (points @ guess[:2, :2].T + guess[:2, 2]).astype(np.float32)
    found, is_found, _ = cv2.calcOpticalFlowPyrLK(
        here_HW, there_HW, points, near.copy(), flags=cv2.OPTFLOW_USE_INITIAL_FLOW
    )
    kept = is_found[:, 0] > 0
    if kept.sum() < LEAST:
        return guess, 0.0
    affine, inliers = cv2.estimateAffine2D(points[kept], found[kept], ransacReprojThreshold=1.5)
    if affine is None or abs(np.linalg.det(affine[:, :2])) < 0.1:
        return guess, 0.0
    return np.vstack([affine, [0, 0, 1]]), float(inliers.sum()) / len(points)


MOST_PIXELS = 160_000  # that are cut at full size
AROUND = 0.4  # of the region's longer side: how much of what lies around it is looked at
ROUNDS = 2  # in which marks are put right by what they gave
PRIOR = 0.7  # belief that a mark of probability stands for
GONE, DOUBTED = 0.2, 0.3  # belief below which nothing is taken, and below which no outline is
OUTLINE = 0.1  # of the object's size: how far from a rough outline the exact one may be

Marks = npt.NDArray[np.uint8]  # GrabCut's four kinds of pixel


def settle(image_HWC: Image, permanence_HW: Field, marks_HW: Marks) -> Silhouette:
    """The silhouette_HW that marks, colours and comings and goings agree upon.

    Each round cuts, learns the colours and the permanence of what it got, and lets these decide
    where they are sure. Marks that are certain stay.

    Args:
        permanence_HW: as in `backdrop`.
    """
    silhouette_HW = np.zeros(marks_HW.shape, np.bool_)
    if not (marks_HW & 1).any():
        return silhouette_HW
    window = window_around(marks_HW != cv2.GC_BGD)
    colours_HWC = colours(image_HWC[window])
    given_HW, kept_HW = marks_HW[window], permanence_HW[window]
    moves_HW = mobility(kept_HW, (given_HW & 1) > 0)
    inside_HW = cut(colours_HWC, _informed(given_HW, moves_HW))
    for _ in range(ROUNDS):
        if not inside_HW.any():
            return silhouette_HW
        alike_HW = likeness(colours_HWC, learn(colours_HWC, inside_HW))
        belief_HW = weigh(alike_HW, mobility(kept_HW, inside_HW))
        inside_HW = _region(colours_HWC, _informed(given_HW, belief_HW), belief_HW)
    silhouette_HW[window] = cut(colours_HWC, _outlined(given_HW, inside_HW, belief_HW))
    return silhouette_HW


def _region(colours_HWC: Image, marks_HW: Marks, belief_HW: Field) -> Silhouette:
    """A rough silhouette_HW: where the belief is high, as far as lightness and hue agree."""
    belief_HW1 = (255 * belief_HW[..., None]).astype(np.uint8)
    return cut(np.dstack([belief_HW1, colours_HWC[..., [0, 2]] // 2]), marks_HW)


def _informed(given_HW: Marks, belief_HW: Field) -> Marks:
    """The marks, which where they are not certain give way to a stronger belief."""
    prior_HW = np.where(given_HW == cv2.GC_PR_FGD, PRIOR, 1 - PRIOR).astype(np.float32)
    both_HW = weigh(belief_HW, prior_HW)
    marks_HW = np.where(both_HW >= 0.5, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    marks_HW[both_HW < GONE] = cv2.GC_BGD
    return _with_certain(marks_HW, given_HW)


def _outlined(given_HW: Marks, inside_HW: Silhouette, belief_HW: Field) -> Marks:
    """Marks for a silhouette of which only the outline is in doubt."""
    band = max(2.0, OUTLINE * float(np.sqrt(inside_HW.sum())))
    depth_HW, away_HW = (
        cv2.distanceTransform(part_HW.astype(np.uint8), cv2.DIST_L2, 3)
        for part_HW in (inside_HW, ~inside_HW)
    )
    marks_HW = np.where(inside_HW, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    marks_HW[(away_HW > band) | (belief_HW < DOUBTED)] = cv2.GC_BGD
    marks_HW[depth_HW > band] = cv2.GC_FGD
    return _with_certain(marks_HW, given_HW)


def _with_certain(marks_HW: Marks, given_HW: Marks) -> Marks:
    certain_HW = (given_HW == cv2.GC_BGD) | (given_HW == cv2.GC_FGD)
    return np.where(certain_HW, given_HW, marks_HW)


def cut(colours_HWC: Image, marks_HW: Marks) -> Silhouette:
    """GrabCut; where nothing is marked as one of the two kinds there is nothing to cut.

    A picture of more than `MOST_PIXELS` is cut at a smaller size.
    """
    is_object_HW = (marks_HW & 1) > 0  # GC_FGD and GC_PR_FGD are odd
    if is_object_HW.all() or not is_object_HW.any():
        return np.asarray(is_object_HW)
    scale = min(1.0, (MOST_PIXELS / marks_HW.size) ** 0.5)
    full = marks_HW.shape[1], marks_HW.shape[0]
    size = max(1, round(full[0] * scale)), max(1, round(full[1] * scale))
    small_HWC = cv2.resize(colours_HWC, size, interpolation=cv2.INTER_AREA)
    cut_HW = cv2.resize(marks_HW, size, interpolation=cv2.INTER_NEAREST)
    cv2.setRNGSeed(0)  # it clusters colours from random seeds
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(small_HWC, cut_HW, (0, 0, 1, 1), *models, 1, cv2.GC_INIT_WITH_MASK)
    share_HW = (np.asarray(cut_HW, np.uint8) & 1).astype(np.float32)
    return np.asarray(cv2.resize(share_HW, full, interpolation=cv2.INTER_LINEAR) >= 0.5)


def keep_parts(silhouette_HW: Silhouette, hint_HW: Silhouette, share: float) -> Silhouette:
    """The connected parts that overlap the hint and have this share of the largest one's area."""
    _, parts_HW, stats, _ = cv2.connectedComponentsWithStats(silhouette_HW.astype(np.uint8))
    areas = stats[:, cv2.CC_STAT_AREA]
    areas[0] = 0  # part 0 is what is not in the silhouette
    kept = [n for n in np.unique(parts_HW[hint_HW]).tolist() if areas[n] >= share * areas.max()]
    return np.isin(parts_HW, [n for n in kept if n > 0])


def window_around(silhouette_HW: Silhouette) -> tuple[slice, slice]:
    """The silhouette's box with its surroundings, as slices of rows and columns."""
    x0, y0, x1, y1 = silhouette_box(silhouette_HW)
    grow = 8 + round(AROUND * max(x1 - x0, y1 - y0))
    return slice(max(y0 - grow, 0), y1 + grow), slice(max(x0 - grow, 0), x1 + grow)


BAND = 0.2  # of the object's size: how far from where motion puts it new parts are looked for
RIM = 1.0  # pixels next to an outline that are always left to GrabCut
LOST, UNLIKE = 0.1, 0.3  # belief below which nothing is taken, and below which motion is doubted
ALIKE = 0.75  # belief from which a place outside may yet be the object's
LEFT_BEHIND = 0.7  # belief that keeps what moves with the surroundings
SPECK = 0.2  # of the largest part: smaller parts are dropped


@dataclass(frozen=True)
class Look:
    """How an object and what is around it looked in the frame where it was anchored.

    Attributes:
        colours_HWC: the frame's `colours`, cut around the object.
        marks_HW: where in it the object is (GC_FGD), and where not (GC_BGD).
        learnt: as from `learn`.
    """

    colours_HWC: Image
    marks_HW: Marks
    learnt: Field


@dataclass(frozen=True)
class Motion:
    """From one frame back to another.

    Attributes:
        back_HW2: the way to where each pixel was before.
        sure_HW: where the flow there leads back here; elsewhere something hid or appeared.
    """

    back_HW2: Field
    sure_HW: Silhouette


def look(image_HWC: Image, silhouette_HW: Silhouette) -> Look:
    """Remember how an object and its surroundings look; the silhouette is not empty."""
    window = window_around(silhouette_HW)
    inside_HW = silhouette_HW[window]
    colours_HWC = colours(image_HWC[window])
    marks_HW = np.where(inside_HW, cv2.GC_FGD, cv2.GC_BGD).astype(np.uint8)
    return Look(colours_HWC, marks_HW, learn(colours_HWC, inside_HW))


def motion(flow: cv2.DISOpticalFlow, grey_HW: Image, before_HW: Image) -> Motion:
    """The motion from one grey frame back to another, and where it can be trusted."""
    still_HW2 = np.zeros((*grey_HW.shape, 2), np.float32)  # what it starts from
    back_HW2 = np.asarray(flow.calc(grey_HW, before_HW, still_HW2.copy()), np.float32)
    forth_HW2 = np.asarray(flow.calc(before_HW, grey_HW, still_HW2.copy()), np.float32)
    returned_HW2 = _fetch(forth_HW2, back_HW2)
    error_HW = np.linalg.norm(back_HW2 + returned_HW2, axis=-1)
    length_HW = np.linalg.norm(back_HW2, axis=-1) + np.linalg.norm(returned_HW2, axis=-1)
    return Motion(back_HW2, np.asarray(error_HW <= 1 + 0.1 * length_HW))


def warp(silhouette_HW: Silhouette, back_HW2: Field) -> Silhouette:
    """A pixel is inside if the place that it came from was; what came from outside is not."""
    return np.asarray(_fetch(silhouette_HW.astype(np.float32), back_HW2) >= 0.5)


def carry(
    image_HWC: Image,
    before_HW: Silhouette,
    moved: Motion,
    memory: Look,
    permanence_HW: Field,
) -> Silhouette:
    """The silhouette_HW in a frame, from the one in the frame before.

    Args:
        moved: from this frame back to the one before.
        memory: how the object looked at its anchor.
        permanence_HW: of this frame, as in `backdrop`.
    """
    warped_HW = warp(before_HW, moved.back_HW2)
    if not _opened(warped_HW & moved.sure_HW).any():
        return np.zeros_like(before_HW)
    window = window_around(warped_HW)
    colours_HWC = colours(image_HWC[window])
    belief_HW = weigh(
        likeness(colours_HWC, memory.learnt),
        mobility(permanence_HW[window], warped_HW[window]),
    )
    moved_there = Motion(moved.back_HW2[window], moved.sure_HW[window])
    marks_HW = _marks(warped_HW[window], moved_there, belief_HW)
    carried_HW = np.zeros_like(before_HW)
    carried_HW[window] = _cut_beside(colours_HWC, marks_HW, memory)
    return keep_parts(carried_HW, warped_HW, SPECK)


def _marks(warped_HW: Silhouette, moved: Motion, belief_HW: Field) -> Marks:
    """What motion and belief are sure of together, and what GrabCut must decide."""
    inside_HW = _opened(warped_HW & moved.sure_HW)
    outside_HW = _opened(~warped_HW & moved.sure_HW)
    band = max(2.0, BAND * float(np.sqrt(warped_HW.sum())))
    depth_HW, away_HW = _depth(inside_HW), _depth(~warped_HW)
    marks_HW = np.full(warped_HW.shape, cv2.GC_PR_BGD, np.uint8)
    marks_HW[inside_HW] = cv2.GC_PR_FGD
    marks_HW[(_depth(outside_HW) > RIM) & (belief_HW < ALIKE)] = cv2.GC_BGD
    marks_HW[away_HW > band] = cv2.GC_BGD
    deep = min(RIM, 0.9 * float(depth_HW.max()))
    marks_HW[(depth_HW > deep) & (belief_HW >= UNLIKE)] = cv2.GC_FGD
    marks_HW[warped_HW & (belief_HW < UNLIKE)] = cv2.GC_PR_BGD
    marks_HW[belief_HW < LOST] = cv2.GC_BGD
    around_HW = ~warped_HW & (away_HW <= band)
    marks_HW[_left_behind(inside_HW, around_HW, warped_HW, moved, belief_HW)] = cv2.GC_PR_BGD
    return marks_HW


def _left_behind(
    inside_HW: Silhouette,
    around_HW: Silhouette,
    warped_HW: Silhouette,
    moved: Motion,
    belief_HW: Field,
) -> Silhouette:
    """Parts that move as the surroundings do while the object moves otherwise."""
    if not inside_HW.any() or not around_HW.any():
        return np.zeros_like(warped_HW)
    own, other = (np.median(moved.back_HW2[part], axis=0) for part in (inside_HW, around_HW))
    apart = float(np.linalg.norm(own - other))
    if apart < 1.5:
        return np.zeros_like(warped_HW)
    stays_HW = np.linalg.norm(moved.back_HW2 - other, axis=-1) < 0.25 * apart
    return np.asarray(warped_HW & stays_HW & (belief_HW < LEFT_BEHIND))


def _cut_beside(colours_HWC: Image, marks_HW: Marks, memory: Look) -> Silhouette:
    """GrabCut whose colours are learnt from the anchor's picture too, laid below this one."""
    height, width = marks_HW.shape
    size = (width, height)
    pictures = [colours_HWC, cv2.resize(memory.colours_HWC, size, interpolation=cv2.INTER_AREA)]
    marks = [marks_HW, cv2.resize(memory.marks_HW, size, interpolation=cv2.INTER_NEAREST)]
    return cut(np.concatenate(pictures), np.concatenate(marks))[:height]


def _fetch(values_HWx: Field, back_HW2: Field) -> Field:
    """The values from where each pixel was before; 0 beyond the picture."""
    height, width = back_HW2.shape[:2]
    y_HW, x_HW = np.mgrid[0:height, 0:width].astype(np.float32)
    return np.asarray(
        cv2.remap(
            values_HWx,
            x_HW + back_HW2[..., 0],
            y_HW + back_HW2[..., 1],
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=0,
        )
    )


def _opened(silhouette_HW: Silhouette) -> Silhouette:
    kernel = np.ones((3, 3), np.uint8)
    return cv2.morphologyEx(silhouette_HW.astype(np.uint8), cv2.MORPH_OPEN, kernel) > 0


def _depth(part_HW: Silhouette) -> Field:
    """How far each pixel of a part is from what is not part of it; the picture's edge is no end."""
    padded = np.pad(part_HW.astype(np.uint8), 1, mode="edge")
    return np.asarray(cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1])
