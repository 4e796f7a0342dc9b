"""Masks over background: what taking a thing away, or adding one, is learned from.

Pure functions. A mask `inside_THW` is a bool array, True where the model generates. A *place* is
(down, across), by how many pixels a mask is moved.

Source: "VIVID-10M", sections 3.2 (deletion: a mask's whole track pasted over background, whose true
pixels are known, or a mask that background carries along) and 3.3 (masks of other shapes).
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from maskora.config.tables import PLACES, MaskVariant, Motion, Task
from maskora.masks import Silhouette
from maskora.masks.shapes import grow_silhouette, hull, silhouette_box
from maskora.method.conditioning import (
    Sample,
    condition_mask,
    emptied,
    to_bytes,
    to_unit,
    without_object,
)
from maskora.method.transfer import carried

Inside = npt.NDArray[np.bool_]
Place = tuple[int, int]
IN_VIEW = 0.5  # of a moved mask, over all frames, lies within the picture at least
BESIDE = 0.2  # and so much beside the object, where it meets that at every such place
GROWTH = (0.05, 0.25)  # of an expanded mask, in square roots of a part's area: from, to


@dataclass(frozen=True)
class ShownMask:
    """How a window's mask is shown: in which shape, and where.

    Attributes:
        variant: another shape than its own.
        growth: of an expanded variant, in square roots of a part's area.
        place: where it is moved to.
        thing: seed of a thing that is pasted inside.
    """

    variant: MaskVariant | None = None
    growth: float = 0.0
    place: Place | None = None
    thing: int | None = None

    @property
    def name(self) -> str:
        """For people: what is done with the mask; empty where it is shown as it is."""
        moved = "" if self.place is None else "moved {1:+d},{0:+d}".format(*self.place)
        return f"{self.variant or ''} {moved}".strip()

    def shaped(self, inside_THW: Inside) -> Inside:
        """The mask in this shape, where it is."""
        return reshaped(inside_THW, self.variant, self.growth) if self.variant else inside_THW


def shown_masks(
    inside_THW: Inside, motion: Motion, cell: int, seed: tuple[int, int]
) -> list[ShownMask]:
    """How the mask of a motion window is shown, a sample each, by the task and the shapes wanted.

    "change": where it is. "remove": its track moved to places beside the object; none where there
    is no such place. "add": where it is, and at other places, with a thing pasted inside.

    Args:
        cell: pixels per latent cell; masks are moved by whole ones.
        seed: of what is drawn for this window.
    """
    rng, task = np.random.default_rng(seed), motion.trained_task
    shown, shapes = list[ShownMask](), list[Inside]()
    for variant in (None, *motion.trained_shapes):
        mask = ShownMask(variant, rng.uniform(*GROWTH) if variant else 0.0)
        mask_THW = mask.shaped(inside_THW)
        if any(np.array_equal(mask_THW, other_THW) for other_THW in shapes):
            continue  # the box of a box, say
        shapes.append(mask_THW)
        if task == "change":
            shown.append(mask)
            continue
        of_first = slice(1) if task == "add" else slice(None)  # or of the whole track
        places = free_places(mask_THW[of_first], inside_THW[of_first], cell)
        chosen = [places[number] for number in rng.permutation(len(places))[:PLACES]]
        if task == "remove":
            shown += [replace(mask, place=place) for place in chosen]
        else:
            things = rng.integers(2**32, size=1 + PLACES).tolist()
            pairs = zip((None, *chosen), things, strict=False)
            shown += [replace(mask, place=place, thing=thing) for place, thing in pairs]
    return shown


def masked_sample(window: Sample, inside_THW: Tensor, mask: ShownMask, task: Task) -> Sample:
    """A motion window under its mask as it is to be shown.

    "remove": the moved mask is cut where it meets the object, and the object is neither shown nor
    asked for. "add": a mask, or what is pasted into it, is carried along with what it covers in the
    first frame.

    Args:
        window: as `motion_sample` gives it.
        inside_THW: bool, the window's own mask.
    """
    if mask == ShownMask():
        return window
    assert window.target_CTHW is not None
    own_THW, frames_THWC = inside_THW.numpy(), to_bytes(window.target_CTHW).numpy()
    mask_THW, target_CTHW = mask.shaped(own_THW), window.target_CTHW
    if mask.place is not None and task == "remove":
        mask_THW = shifted(mask_THW, mask.place) & ~own_THW
    elif mask.place is not None:
        mask_THW = carried_mask(shifted(mask_THW[:1], mask.place)[0], frames_THWC)
    if mask.thing is not None and mask_THW[0].any():
        shown_THWC = with_thing(frames_THWC, mask_THW, np.random.default_rng(mask.thing))
        target_CTHW = to_unit(torch.from_numpy(shown_THWC))
    keep_THW = condition_mask(torch.from_numpy(~mask_THW).float(), "masked")
    sample = replace(
        window,
        name=f"{window.name} {mask.name}".strip(),
        target_CTHW=target_CTHW,
        condition_CTHW=emptied(target_CTHW, keep_THW),
        keep_THW=keep_THW,
        reference_CHW=target_CTHW[:, 0],
    )
    return without_object(sample, inside_THW) if task == "remove" else sample


def with_thing(
    frames_THWC: npt.NDArray[np.uint8], inside_THW: Inside, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """A window with a thing in its mask that moves as what it covers: an addition of ours.

    It is an oval, of pixels of elsewhere in the first frame in other and stronger colours. Of
    background alone a LoRA learns that masks hold background, whatever the first frame shows.

    Args:
        inside_THW: something of it is in the first frame.
    """
    first_HWC = frames_THWC[0]
    height, width = first_HWC.shape[:2]
    x0, y0, x1, y1 = silhouette_box(inside_THW[0])
    across, down = rng.uniform(0.5, 0.9, 2) * (x1 - x0, y1 - y0) / 2
    x, y = rng.uniform(x0 + across, x1 - across), rng.uniform(y0 + down, y1 - down)
    rows_H1, columns_W = np.arange(height)[:, None] + 0.5, np.arange(width) + 0.5
    edge_HW = 1 - np.hypot((columns_W - x) / across, (rows_H1 - y) / down)
    share_HW1 = np.clip(0.5 + edge_HW * min(across, down), 0, 1)[..., None]
    moved_HWC = np.roll(first_HWC, rng.integers((height, width)), (0, 1))[..., rng.permutation(3)]
    darkest, brightest = (
        np.quantile(moved_HWC[share_HW1[..., 0] > 0.5], q, axis=0) for q in (0, 1)
    )
    stretched_HWC = np.clip((moved_HWC - darkest) / np.maximum(brightest - darkest, 1), 0, 1)
    thing_HWC = np.where(rng.random(3) < 0.5, 1 - stretched_HWC, stretched_HWC)
    picture_HW4 = np.rint(255 * np.dstack([thing_HWC, share_HW1])).astype(np.uint8)
    carried_THW4 = carried(picture_HW4, frames_THWC)
    share_THW1 = carried_THW4[..., 3:] / 255 * inside_THW[..., None]
    mixed_THWC = frames_THWC + share_THW1 * (carried_THW4[..., :3] - frames_THWC.astype(float))
    return np.rint(mixed_THWC).astype(np.uint8)


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
    """Where a mask's track can be moved to, so that in no frame it meets what is taken.

    Most of it stays in the picture (`IN_VIEW`). Where it meets what is taken at every such place,
    those count at which enough of it lies beside (`BESIDE`).
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
    total, half = mask_Thw.sum(), np.array(mask_Thw.shape[1:])
    found_hw = (met_hw < 0.5) & (seen_hw > IN_VIEW * total - 0.25)
    if not found_hw.any():
        found_hw = seen_hw - met_hw > BESIDE * total - 0.25
    found_N2 = np.argwhere(found_hw)
    steps_N2 = (found_N2 + half) % (2 * half) - half
    return [(int(down) * cell, int(across) * cell) for down, across in steps_N2]


def _cells(inside_THW: Inside, cell: int) -> npt.NDArray[np.float64]:
    """1 for every cell that holds a pixel of the mask."""
    _, height, width = inside_THW.shape
    padding = ((0, 0), (0, -height % cell), (0, -width % cell))
    padded_THW = np.pad(inside_THW, padding)
    frames, height, width = padded_THW.shape
    split = padded_THW.reshape(frames, height // cell, cell, width // cell, cell)
    return np.asarray(split.any(axis=(2, 4)), np.float64)


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


def carried_mask(first_HW: Silhouette, frames_THWC: npt.NDArray[np.uint8]) -> Inside:
    """A first frame's mask, carried along the optical flow."""
    first_HW1 = first_HW[..., None].astype(np.uint8) * 255
    return carried(first_HW1, frames_THWC)[..., 0] >= 128
