"""What speaks for a pixel being the object's: its colour, and whether it comes and goes with it.

Beliefs are from 0 (surroundings) to 1 (object); 0.5 says nothing. images_HWC are uint8 RGB.
"""

import cv2
import numpy as np
import numpy.typing as npt

from maskora.masks.silhouettes import Silhouette

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
