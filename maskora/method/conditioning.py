"""What the model is shown and what it must answer: the heart of the method, in pixel space.

Everything here is pure and knows no model. Legend: T frames, C = 3 colours in [-1, 1], H x W
pixels. A keep mask is 1 where the source is kept and 0 where the model generates. "Empty" is 0,
mid-grey, filled before any encoder sees the picture.

Source: "Controllable first-frame-guided video editing via mask-aware LoRA fine-tuning", section
3.3: equation 2 with V_cond, M_cond and V_target chosen per kind of sample.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise, permutations

import torch
import torch.nn.functional as F
from torch import Tensor

from maskora.method.segments import HELD

EMPTY = 0.0
GRID_FIELDS = 8  # across and down
WHOLE = slice(None)
COLOUR_ORDERS = tuple(permutations(range(3)))


@dataclass(frozen=True)
class Sample:
    """One training or inference example.

    Attributes:
        name: for people: which part of the clip this is.
        target_CTHW: what must come out, in [-1, 1]; None at inference.
        condition_CTHW: what the model sees, empty where it must generate.
        keep_THW: 1 = keep, 0 = generate, as float.
        reference_CHW: the picture for the image encoder.
        prompt: token and caption.
        times: where in the clip its latent frames are; None: one follows another.
        ignored_THW: bool, where the target says nothing and no answer is judged; None: nowhere.
    """

    name: str
    target_CTHW: Tensor | None
    condition_CTHW: Tensor
    keep_THW: Tensor
    reference_CHW: Tensor
    prompt: str
    times: tuple[int, ...] | None = None
    ignored_THW: Tensor | None = None


def to_unit(frames_THWC: Tensor) -> Tensor:
    """uint8 pictures, shape (T, H, W, 3), as float in [-1, 1], shape (3, T, H, W)."""
    return frames_THWC.permute(3, 0, 1, 2).float() / 255.0 * 2.0 - 1.0


def to_bytes(video_CTHW: Tensor) -> Tensor:
    """[-1, 1], shape (3, T, H, W), as uint8, shape (T, H, W, 3), rounded to the nearest."""
    return ((video_CTHW / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 3, 0)


def window_starts(frames: int, window: int, stride: int) -> list[int]:
    """First frames of overlapping windows over a clip; the last window ends on the last frame."""
    assert 1 <= window <= frames and stride >= 1
    last = frames - window
    starts = list(range(0, last + 1, stride))
    return starts if starts[-1] == last else [*starts, last]


def windows(frames: int, cuts: Iterable[int], window: int, stride: int) -> list[range]:
    """Overlapping windows over a clip, of which none crosses a cut; a shorter shot is one.

    Args:
        cuts: numbers of the frames at which its shots begin, but the first.
        window: frames of one at most, 4k+1.
    """
    found = []
    for first, end in pairwise([0, *cuts, frames]):
        length = min(window, (end - first - 1) // HELD * HELD + 1)
        starts = window_starts(end - first, length, stride)
        found += [range(first + start, first + start + length) for start in starts]
    moving = [one for one in found if len(one) > 1]  # a shot of four frames and fewer is none
    return moving or found


def window_name(start: int, window: int) -> str:
    """What a sample of so many frames from `start` on is called."""
    return f"motion {start}-{start + window - 1}"


def motion_sample(
    video_CTHW: Tensor, keep_THW: Tensor, start: int, window: int, conditioning: str, prompt: str
) -> Sample:
    """A window of the source: its first frame whole, later frames without the masked region.

    With conditioning "first-frame" nothing but the first frame is shown (the naive baseline).
    """
    part = slice(start, start + window)
    target_CTHW = video_CTHW[:, part]
    keep = condition_mask(keep_THW[part], conditioning)
    return Sample(
        name=window_name(start, window),
        target_CTHW=target_CTHW,
        condition_CTHW=emptied(target_CTHW, keep),
        keep_THW=keep,
        reference_CHW=target_CTHW[:, 0],
        prompt=prompt,
    )


def without_object(sample: Sample, inside_THW: Tensor) -> Sample:
    """A sample in which an object is neither shown, nor kept, nor to be painted.

    Its place is empty in the first frame, too, and in the picture for the image encoder; what the
    model answers there is not judged.

    Args:
        inside_THW: bool, where the object is.
    """
    keep_THW = sample.keep_THW * ~inside_THW
    condition_CTHW = emptied(sample.condition_CTHW, keep_THW)
    return replace(
        sample,
        condition_CTHW=condition_CTHW,
        keep_THW=keep_THW,
        reference_CHW=condition_CTHW[:, 0],
        ignored_THW=inside_THW,
    )


def grid_keep(
    shape_THW: tuple[int, ...],
    cell: int,
    share: float,
    generator: torch.Generator,
    part: slice = WHOLE,
) -> Tensor:
    """A keep mask (T, H, W) that leaves out a share of a grid's fields, drawn per latent frame.

    IVEDiff's masked motion modelling (section 4.3): 8 x 8 fields, half of them masked; of whole
    latent cells, so that no cell is masked in part.

    Args:
        cell: pixels per latent cell.
        part: the frames whose mask is wanted; it is the same as in that of all of them.
    """
    frames, height, width = shape_THW
    sides = height // cell, width // cell
    rows, columns = (min(GRID_FIELDS, side) for side in sides)
    fields = rows * columns
    latent_frames = -(-(frames - 1) // HELD) + 1
    order_TC = torch.rand(latent_frames, fields, generator=generator).argsort(dim=1).argsort(dim=1)
    keep_TC = (order_TC >= round(share * fields)).float()
    latent = [-(-frame // HELD) for frame in range(frames)[part]]
    keep_T1hw = keep_TC[latent].view(-1, 1, rows, columns)
    cells_Thw = F.interpolate(keep_T1hw, sides, mode="nearest")[:, 0]
    return cells_Thw.repeat_interleave(cell, dim=1).repeat_interleave(cell, dim=2)


def recoloured(sample: Sample, order: tuple[int, ...]) -> Sample:
    """A sample with its colour channels in another order, everything that it shows alike.

    What it asks for is the same motion in another colour. An addition of ours to the paper: a LoRA
    that saw one colouring only learns that colour along with the motion.
    """
    channels = list(order)
    target = None if sample.target_CTHW is None else sample.target_CTHW[channels]
    return replace(
        sample,
        name=f"{sample.name} {''.join('rgb'[channel] for channel in order)}",
        target_CTHW=target,
        condition_CTHW=sample.condition_CTHW[channels],
        reference_CHW=sample.reference_CHW[channels],
    )


def appearance_sample(
    frame: int,
    edited_CHW: Tensor,
    source_CHW: Tensor,
    keep_HW: Tensor,
    reference_CHW: Tensor,
    conditioning: str,
    prompt: str,
) -> Sample:
    """One edited keyframe as a sample of a single frame, so that it carries no motion.

    The model sees the source outside the mask and must paint the edit inside. With conditioning
    "first-frame" it sees the edited frame itself, the shortcut of the paper's appendix B.3.
    """
    target_CTHW = edited_CHW[:, None]
    if conditioning == "first-frame":
        keep_THW, seen_CTHW = torch.ones_like(keep_HW)[None], target_CTHW
    else:
        keep_THW, seen_CTHW = keep_HW[None], source_CHW[:, None]
    return Sample(
        name=f"keyframe {frame}",
        target_CTHW=target_CTHW,
        condition_CTHW=emptied(seen_CTHW, keep_THW),
        keep_THW=keep_THW,
        reference_CHW=reference_CHW,
        prompt=prompt,
    )


def anchored(sample: Sample, first_CHW: Tensor, frame: int, held: int) -> Sample:
    """A keyframe's sample after the edited first frame, which is given whole as at inference.

    The two are as far apart in time as they are in the clip. An addition of ours to the paper:
    alone, a keyframe teaches neither what to do where a first frame of another look is there to be
    copied from, nor when its own look has come.

    Args:
        sample: of a masked keyframe, alone.
        first_CHW: the edited first frame.
        frame: which frame of the clip the keyframe is, after the first.
        held: frames for which the keyframe stands still: those of one latent frame.
    """
    assert sample.target_CTHW is not None
    first_C1HW, keep_THW = first_CHW[:, None], sample.keep_THW
    return replace(
        sample,
        name=f"{sample.name}, anchored",
        target_CTHW=torch.cat([first_C1HW, *[sample.target_CTHW] * held], dim=1),
        condition_CTHW=torch.cat([first_C1HW, *[sample.condition_CTHW] * held], dim=1),
        keep_THW=torch.cat([torch.ones_like(keep_THW), *[keep_THW] * held]),
        times=(0, -(-frame // held)),
    )


def inference_sample(
    video_CTHW: Tensor,
    keep_THW: Tensor,
    given_CTHW: Tensor,
    conditioning: str,
    prompt: str,
    times: tuple[int, ...] | None = None,
) -> Sample:
    """A clip, or a segment of one, whose first frames are given, the rest as in training.

    Args:
        given_CTHW: the edited first frame; in later segments also frames that are done, 4k+1 in
            all.
        times: of the latent frames, where they do not follow one another.
    """
    given = given_CTHW.shape[1]
    keep = condition_mask(keep_THW, conditioning, given)
    seen_CTHW = torch.cat([given_CTHW, video_CTHW[:, given:]], dim=1)
    return Sample(
        name="inference",
        target_CTHW=None,
        condition_CTHW=emptied(seen_CTHW, keep),
        keep_THW=keep,
        reference_CHW=given_CTHW[:, 0],
        prompt=prompt,
        times=times,
    )


def condition_mask(keep_THW: Tensor, conditioning: str, given: int = 1) -> Tensor:
    """M_cond: the first frames are given whole; later ones by the mask, or not at all."""
    mask = keep_THW.clone() if conditioning == "masked" else torch.zeros_like(keep_THW)
    mask[:given] = 1.0
    return mask


def emptied(video_CTHW: Tensor, keep_THW: Tensor) -> Tensor:
    """V_cond: the video where it is kept, empty elsewhere."""
    return torch.where(keep_THW[None] > 0.5, video_CTHW, EMPTY)
