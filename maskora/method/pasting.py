"""Masks over background: what taking a thing away, or adding one, is learned from.

Pure functions. A mask `inside_THW` is a bool array, True where the model generates. A *place* is
(down, across), by how many pixels a mask is moved.

Source: "VIVID-10M", sections 3.2 (deletion: a mask's whole track pasted over background, whose true
pixels are known, or a mask that background carries along) and 3.3 (masks of other shapes).
"""

from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from maskora.config.tables import PLACES, MaskVariant, Motion, Task
from maskora.masks import Silhouette
from maskora.masks.shapes import grow_silhouette, hull, silhouette_box
from maskora.method.conditioning import Sample, condition_mask, emptied, to_bytes, without_object
from maskora.method.transfer import carried

Inside = npt.NDArray[np.bool_]
Place = tuple[int, int]
IN_VIEW = 0.5  # of a moved mask, over all frames, lies within the picture at least
GROWTH = (0.05, 0.25)  # of an expanded mask, in square roots of a part's area: from, to


def masked_samples(
    window: Sample, inside_THW: Tensor, motion: Motion, cell: int, seed: tuple[int, int]
) -> list[Sample]:
    """A motion window under every mask that its task and `motion.mask_shapes` ask for.

    Where a thing is to be removed, the masks are elsewhere, and the thing itself is neither shown
    nor asked for; there may be none, where it leaves no free place.

    Args:
        window: as `motion_sample` gives it.
        inside_THW: bool, the window's own mask.
        cell: pixels per latent cell.
        seed: of what is drawn for this window.
    """
    task, variants = motion.trained_task, motion.trained_shapes
    if task == "change" and not variants:
        return [window]
    target_CTHW = window.target_CTHW
    assert target_CTHW is not None
    rng = np.random.default_rng(seed)
    masks = shown_masks(
        inside_THW.numpy(), to_bytes(target_CTHW).numpy(), task, variants, cell, rng
    )
    samples = []
    for name, mask_THW in masks.items():
        keep_THW = condition_mask(torch.from_numpy(~mask_THW).float(), "masked")
        sample = replace(
            window,
            name=f"{window.name} {name}".strip(),
            condition_CTHW=emptied(target_CTHW, keep_THW),
            keep_THW=keep_THW,
        )
        samples.append(without_object(sample, inside_THW) if task == "remove" else sample)
    return samples


def shown_masks(
    inside_THW: Inside,
    frames_THWC: npt.NDArray[np.uint8],
    task: Task,
    variants: tuple[MaskVariant, ...],
    cell: int,
    rng: np.random.Generator,
) -> dict[str, Inside]:
    """The masks under which a window of the source is shown, by what was done with its own.

    Args:
        inside_THW: the window's own mask.
        frames_THWC: the window.
        task: "change": the mask where it is. "remove": its track moved to places where the object
            is in no frame; none where there is no such place. "add": where it is, and elsewhere,
            carried along with what it covers in the window's first frame.
        variants: further shapes of the mask, of each of which the same is shown.
        cell: pixels per latent cell; a track is moved by whole ones.
    """
    shown: dict[str, Inside] = {}
    for name, mask_THW in _shapes(inside_THW, variants, rng).items():
        if task == "remove":
            places = free_places(mask_THW, inside_THW, cell)
            moved = {place: shifted(mask_THW, place) for place in drawn(places, rng)}
        else:
            shown[name] = mask_THW
            first_1HW = mask_THW[:1]
            places = free_places(first_1HW, first_1HW, cell) if task == "add" else []
            moved = carried_masks(first_1HW[0], drawn(places, rng), frames_THWC)
        for (down, across), moved_THW in moved.items():
            shown[f"{name} moved {across:+d},{down:+d}".strip()] = moved_THW
    return shown


def _shapes(
    inside_THW: Inside, variants: tuple[MaskVariant, ...], rng: np.random.Generator
) -> dict[str, Inside]:
    """The mask itself, and its variants where they differ from what is there already."""
    shapes: dict[str, Inside] = {"": inside_THW}
    for variant in variants:
        shaped_THW = reshaped(inside_THW, variant, rng.uniform(*GROWTH))
        if not any(np.array_equal(shaped_THW, other) for other in shapes.values()):
            shapes[variant] = shaped_THW
    return shapes


def reshaped(inside_THW: Inside, variant: MaskVariant, growth: float) -> Inside:
    """A mask in another shape; each connected part of it for itself.

    Args:
        growth: by which share of the square root of its area an expanded part grows; of the largest
            one, in all frames alike, so that it does not pulse.
    """
    shape, _, expanded = variant.partition("+")
    draw = {"box": _box, "hull": lambda part_HW: hull(part_HW, 0.0)}.get(shape)
    parts = [_parts(inside_HW) for inside_HW in inside_THW]
    if draw is not None:
        parts = [[draw(part_HW) for part_HW in each] for each in parts]
    shaped_THW = np.stack(
        [np.any([np.zeros_like(inside_HW), *each], axis=0) for inside_HW, each in
         zip(inside_THW, parts, strict=True)]
    )  # fmt: skip
    if "expanded" not in (shape, expanded):
        return shaped_THW
    area = max((int(part_HW.sum()) for each in parts for part_HW in each), default=0)
    return np.stack([grow_silhouette(one_HW, growth * area**0.5) for one_HW in shaped_THW])


def _parts(inside_HW: Silhouette) -> list[Silhouette]:
    count, parts_HW = cv2.connectedComponents(inside_HW.astype(np.uint8), connectivity=8)
    return [parts_HW == number for number in range(1, count)]


def _box(part_HW: Silhouette) -> Silhouette:
    x0, y0, x1, y1 = silhouette_box(part_HW)
    box_HW = np.zeros_like(part_HW)
    box_HW[y0:y1, x0:x1] = True
    return box_HW


def free_places(inside_THW: Inside, taken_THW: Inside, cell: int) -> list[Place]:
    """Where a mask's track can be moved to, so that it meets in no frame what is taken there.

    No cell of it is one of a taken pixel, and most of it stays in the picture (`IN_VIEW`).
    """
    mask_Thw, taken_Thw = _cells(inside_THW, cell), _cells(taken_THW, cell)
    if not mask_Thw.any():
        return []
    # Of every shift at once: correlations by the Fourier transform, whole numbers but for rounding.
    size = 2 * mask_Thw.shape[1], 2 * mask_Thw.shape[2]
    moved_Thw, there_Thw, all_hw = (
        np.fft.rfft2(cells, s=size) for cells in (mask_Thw, taken_Thw, np.ones_like(mask_Thw[0]))
    )
    met_hw = np.fft.irfft2((moved_Thw.conj() * there_Thw).sum(axis=0), s=size)
    seen_hw = np.fft.irfft2(moved_Thw.conj().sum(axis=0) * all_hw, s=size)
    free_hw = (met_hw < 0.5) & (seen_hw > IN_VIEW * mask_Thw.sum() - 0.25)
    half = np.array(mask_Thw.shape[1:])
    steps_N2 = (np.argwhere(free_hw) + half) % (2 * half) - half
    return [(int(down) * cell, int(across) * cell) for down, across in steps_N2]


def _cells(inside_THW: Inside, cell: int) -> npt.NDArray[np.float64]:
    """1 for every cell that holds a pixel of the mask."""
    _, height, width = inside_THW.shape
    padding = ((0, 0), (0, -height % cell), (0, -width % cell))
    padded_THW = np.pad(inside_THW, padding)
    frames, height, width = padded_THW.shape
    split = padded_THW.reshape(frames, height // cell, cell, width // cell, cell)
    return np.asarray(split.any(axis=(2, 4)), np.float64)


def drawn(places: list[Place], rng: np.random.Generator) -> list[Place]:
    """A few of the places, at random."""
    return [places[n] for n in rng.permutation(len(places))[:PLACES]]


def shifted(inside_THW: Inside, place: Place) -> Inside:
    """A mask moved; what leaves the picture is gone."""
    down, across = place
    _, height, width = inside_THW.shape
    moved_THW = np.zeros_like(inside_THW)
    rows = slice(max(down, 0), height + min(down, 0))
    columns = slice(max(across, 0), width + min(across, 0))
    from_rows = slice(max(-down, 0), height - max(down, 0))
    from_columns = slice(max(-across, 0), width - max(across, 0))
    moved_THW[:, rows, columns] = inside_THW[:, from_rows, from_columns]
    return moved_THW


def carried_masks(
    first_HW: Silhouette, places: list[Place], frames_THWC: npt.NDArray[np.uint8]
) -> dict[Place, Inside]:
    """A first frame's mask at other places, from there carried along the optical flow."""
    if not places:
        return {}
    firsts = [shifted(first_HW[None], place)[0] for place in places]
    carried_THWK = carried(np.stack(firsts, axis=-1).astype(np.uint8) * 255, frames_THWC)
    return {place: carried_THWK[..., n] >= 128 for n, place in enumerate(places)}
