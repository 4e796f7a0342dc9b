"""What a person looks at after the demo: a picture of some frames, and a video of all."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from maskora.commands.demo_clip import KEYFRAME, DemoClip
from maskora.commands.origin import placement_of
from maskora.masks.files import read_labels
from maskora.video.fit import unfit_mask
from maskora.video.images import read_image, write_png
from maskora.video.overview import contact_sheet
from maskora.video.probe import probe
from maskora.video.read import read_frames
from maskora.video.write import write_mp4
from maskora.workspace import Workspace

COLUMNS, WIDTH, ROUNDS = 5, 1300, 4


@dataclass(frozen=True)
class Shown:
    """A frame of the clip in all its versions, each (H, W, 3) uint8, and its box (H, W)."""

    number: int
    source_HWC: np.ndarray
    box_HW: np.ndarray
    result_HWC: np.ndarray
    truth_HWC: np.ndarray


def write_pictures(
    folder: Path, clip: DemoClip, workspace: Workspace, rate: Fraction
) -> tuple[Path, Path]:
    """Write demo.png and demo.mp4, and tell where they are."""
    frames = _read(clip, workspace)
    picture, video = folder / "demo.png", folder / "demo.mp4"
    write_png(picture, _picture(frames))
    moving = [_side_by_side(frame) for frame in frames]
    write_mp4(video, iter(moving * ROUNDS), rate)
    return picture, video


def _read(clip: DemoClip, workspace: Workspace) -> list[Shown]:
    placement = placement_of(workspace.read_source())
    sources = read_frames(probe(clip.video))
    results = read_frames(probe(workspace.output_dir(None, None) / "edited.mp4"))
    return [
        Shown(
            number,
            source_HWC,
            unfit_mask(read_labels(workspace.mask(number)) > 0, placement).astype(np.uint8),
            result_HWC,
            read_image(clip.truth_frame(number)),
        )
        for number, (source_HWC, result_HWC) in enumerate(zip(sources, results, strict=True))
    ]


def _picture(frames: Sequence[Shown]) -> np.ndarray:
    """Rows: the source with its box, the frames edited by hand, the result, the truth."""
    numbers = np.linspace(0, len(frames) - 1, COLUMNS).round().astype(int)
    chosen = [frames[number] for number in numbers]
    blank = np.full_like(frames[0].source_HWC, 24)
    by_hand = [f.truth_HWC if f.number in (0, KEYFRAME) else blank for f in chosen]
    rows = {
        "source": [f.source_HWC for f in chosen],
        "edited by hand": by_hand,
        "maskora": [f.result_HWC for f in chosen],
        "the truth": [f.truth_HWC for f in chosen],
    }
    cells = [
        (cell, frame.box_HW if name == "source" else np.zeros_like(frame.box_HW),
         "" if cell is blank else f"{name} {frame.number}")
        for name, row in rows.items()
        for cell, frame in zip(row, chosen, strict=True)
    ]  # fmt: skip
    pictures, boxes, captions = zip(*cells, strict=True)
    return contact_sheet(pictures, boxes, captions, columns=COLUMNS, width=WIDTH)


def _side_by_side(frame: Shown) -> np.ndarray:
    views = {
        "source": frame.source_HWC,
        "maskora": frame.result_HWC,
        "the truth": frame.truth_HWC,
    }
    boxes = [frame.box_HW, *[np.zeros_like(frame.box_HW)] * 2]
    return contact_sheet(list(views.values()), boxes, list(views), columns=3, width=1180)
