"""Unseen clips to edit, masks as a person would draw them, and what is told about a result.

The mask comes from where the source's sprite is: the edited one is not known to a person either.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from torch import Tensor

from maskora.masks.shapes import MaskShape, final_masks
from maskora.miniature.world import SIZE, render
from research.claims.conditions import Subject
from research.miniature.edits import Edit, edited
from research.miniature.gate import (
    Frames,
    Truth,
    colour_distance,
    distances,
    hits,
    psnr,
    score,
    share_of,
)
from research.miniature.trial import CHANGES, UNSEEN, Case, draw_edit, render_case

FIRST, FIRST_TO_CHOOSE = 3000, 6000  # numbers of cases: those reported, those chosen on
MARGIN, CELL = 0.1, 8  # of the sprite's box; pixels
EVOLUTIONS: tuple[Edit, ...] = ("bloom", "drift")
EARLY, LATE = slice(1, -4), slice(-4, None)  # frames before the last latent frame; its own
CLEAR = 40.0  # levels from which two looks are told apart


@dataclass(frozen=True)
class Task:
    """A clip to edit.

    Attributes:
        case: the clip, the edit and their truth; its region is the box, whatever the model is told.
        keep_THW: the mask that the model is told.
        still_THWC: where the look evolves: the edited clip without that.
    """

    case: Case
    keep_THW: Tensor
    still_THWC: Frames | None


def kind(number: int) -> str:
    """What a case changes: "hue", "shape" or "hue+shape"."""
    return "+".join(CHANGES[number % len(CHANGES)])


def draw_task(number: int, subject: Subject) -> Task:
    """The `number`-th case as a clip to edit."""
    scene, changed = draw_edit(number)
    still_THWC = None
    if subject.evolving:
        still_THWC = render(changed, subject.frames).frames_THWC
        last = len(changed.sprites) - 1
        lot = np.random.default_rng((UNSEEN + number, 3))
        evolution = EVOLUTIONS[number % len(EVOLUTIONS)]
        changed = changed.with_look(last, edited(changed.sprites[last].look, evolution, lot))
    case = render_case(scene, changed, subject.frames, SIZE, CELL)
    box_THW = region(case.truth, "box")
    truth = replace(case.truth, region_THW=box_THW)
    keep_THW = torch.from_numpy(~region(truth, subject.mask)).float()
    return Task(replace(case, truth=truth), keep_THW, still_THWC)


def region(truth: Truth, shape: MaskShape) -> np.ndarray:
    """Where the model generates, (T, H, W) bool, by the source's sprite alone."""
    labels_THW = truth.source_sprite_THW.astype(np.uint8)
    return final_masks(labels_THW, shape, MARGIN, 1, 0.0, CELL)[0] > 0


def figures(result_THWC: Frames, task: Task) -> Mapping[str, float]:
    """The gate's figures, those beyond the source's outline, and how the look has evolved."""
    truth = task.case.truth
    hits_THW, _ = hits(result_THWC, truth)
    beyond_THW = truth.sprite_THW & ~truth.source_sprite_THW
    grown = share_of(hits_THW, beyond_THW) if beyond_THW[1:].any() else np.nan
    told = {
        **asdict(score(result_THWC, truth)),
        "grown": grown,
        "faded": share_of(faded(result_THWC, truth), truth.sprite_THW & truth.source_sprite_THW),
    }
    if task.still_THWC is None:
        return told
    early = result_THWC[EARLY], truth.edited_THWC[EARLY]
    late = result_THWC[LATE], truth.edited_THWC[LATE]
    return {
        **told,
        "evolved": evolved(*late, task.still_THWC[LATE], truth.background_THWC[LATE],
                           truth.sprite_THW[LATE]),
        "early_db": psnr(*early, truth.region_THW[EARLY]),
        "late_db": psnr(*late, truth.region_THW[LATE]),
    }  # fmt: skip


def faded(result_THWC: Frames, truth: Truth) -> np.ndarray:
    """Where a result's colour is nearer to the source's sprite than to edit and background."""
    right_THW, wrong_THW, source_THW, background_THW = distances(result_THWC, truth)
    return source_THW < np.minimum.reduce([right_THW, wrong_THW, background_THW])


def evolved(
    result_THWC: Frames,
    truth_THWC: Frames,
    still_THWC: Frames,
    background_THWC: Frames,
    sprite_THW: np.ndarray,
) -> float:
    """Of the sprite's pixels whose look has clearly evolved, the share that shows it.

    Such a pixel is nearer to the evolved look than to the one before and to the background.
    """
    right_THW = colour_distance(result_THWC, truth_THWC)
    wrong_THW = np.minimum(
        colour_distance(result_THWC, still_THWC), colour_distance(result_THWC, background_THWC)
    )
    counted_THW = sprite_THW & (colour_distance(truth_THWC, still_THWC) > CLEAR)
    return float((right_THW < wrong_THW)[counted_THW].mean())
