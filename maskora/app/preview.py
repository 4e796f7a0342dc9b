"""preview: how an edit will move: small, in few steps, and with nothing trained."""

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from maskora.app.edits import Clip, Edit
from maskora.app.fingerprints import LoraChoice
from maskora.app.infer import choose_loras, read_files, read_inputs, sampled_name
from maskora.app.open_base import Base, check_grid, open_base
from maskora.app.outputs import (
    Run,
    locked_frames,
    make_room,
    run_record,
    with_edited_frame,
    write_comparison,
)
from maskora.app.passages import generated
from maskora.app.plan import CONFIGS
from maskora.app.workspace import PREVIEW, Workspace, working
from maskora.config import Config
from maskora.files import refuse_inputs
from maskora.frames import Frames, LazyFrames
from maskora.memory.report import render
from maskora.models.files.model_files import resolve_base
from maskora.models.registry import read_grid
from maskora.video.fit import fit_image, fit_labels, place

log = logging.getLogger("maskora")
STEPS = 12  # of denoising; half as many lose much, twice as many gain little (docs/transfer.md)
SMALLEST = 12  # tokens of the base along the shorter side: 192 pixels, on most


def preview_clip(
    config: Config, workspace: Workspace, edit: str | None, scale: float, steps: int | None
) -> Path:
    """Generate the edited clip at a small size and write it beside the source, as preview.mp4.

    Args:
        config: with the preset.
        scale: of the workspace's sides.
        steps: of denoising; None: few, and no more than are configured.

    Raises:
        UserError: the workspace is not complete.
    """
    workspace.read_source()  # where there is no workspace, nothing is to be held
    with working(workspace):
        run, base, loras = _open(_quick(config, steps), workspace, edit, scale)
        target = workspace.output_dir(edit, None) / PREVIEW
        refuse_inputs([target], read_files(run, loras))
        make_room(target.parent, [target])  # before the long work
        base.log_plan()
        seed, name = run.config.inference.seed, partial(sampled_name, run, run_record(run, loras))
        with (
            base.explaining_out_of_memory(),
            generated(run, base, loras, [seed], name) as takes,
        ):
            write_comparison(target, run, _finished(run, takes.frames(seed)))
            takes.finish(seed)
        base.log_usage()
    log.info("%s", target)
    return target


def _quick(config: Config, steps: int | None) -> Config:
    """The settings, with few steps, and without what pays in long runs alone."""
    asked = config.acceleration
    if asked.cache != "none" or asked.compile:
        log.warning("note: acceleration.cache and .compile have no effect here: this is a preview")
    few = min(STEPS, config.inference.steps) if steps is None else steps
    return config.model_copy(
        update={
            "inference": config.inference.model_copy(update={"steps": few}),
            "acceleration": asked.model_copy(update={"cache": "none", "compile": False}),
        }
    )


def _open(
    config: Config, workspace: Workspace, edit: str | None, scale: float
) -> tuple[Run, Base, list[LoraChoice]]:
    """The run at its small size, read and checked; nothing heavy is loaded."""
    clip, edited, original = read_inputs(config, workspace, edit, [])
    found = resolve_base(config.model, workspace.root, CONFIGS)
    grid = read_grid(config.model.family, found)
    check_grid(clip.source, grid, found)
    size = preview_size(clip.source.size, scale, grid.multiple)
    log.info("preview: %dx%d of %dx%d, in %d steps", *size, *clip.source.size,
             config.inference.steps)  # fmt: skip
    small = shrunk_clip(clip, size)
    base = open_base(config, workspace, small.source, "infer")
    plan = render([base.plan])
    run = Run(config, workspace, clip, edited, edit, original, base.model, plan)
    loras = choose_loras(run, [])  # of the clip as it was trained on
    feather = config.inference.feather * size[0] / clip.source.size[0]
    inference = config.inference.model_copy(update={"feather": feather})
    config = config.model_copy(update={"inference": inference})
    return replace(run, config=config, clip=small, edited=shrunk_edit(edited, size)), base, loras


def preview_size(size: tuple[int, int], scale: float, multiple: int) -> tuple[int, int]:
    """A share of a (width, height) on the base's grid; what is small stays as large as it is.

    Args:
        multiple: which both sides are multiples of.
    """
    scale = max(scale, min(1.0, SMALLEST * multiple / min(size)))
    width, height = (round(side * scale / multiple) * multiple for side in size)
    return width, height


def shrunk_clip(clip: Clip, size: tuple[int, int]) -> Clip:
    """A clip at a smaller (width, height); its masks cover what they covered.

    Masks in whole latent cells, as boxes are, stay so.
    """
    placement, cell = place(clip.source.size, size, "stretch"), clip.source.cell
    in_cells = all(np.array_equal(one_HW, _in_cells(one_HW, cell)) for one_HW in clip.labels_THW)

    def labels(number: int) -> np.ndarray:
        small_HW = fit_labels(clip.labels_THW[number], placement)
        return _in_cells(small_HW, cell) if in_cells else small_HW

    shape = len(clip.labels_THW), size[1], size[0]
    return Clip(
        clip.source.model_copy(update={"size": size}),
        LazyFrames(lambda n: fit_image(clip.frames_THWC[n], placement), (*shape, 3)),
        LazyFrames(labels, shape),
    )


def _in_cells(labels_HW: np.ndarray, cell: int) -> np.ndarray:
    """Labels in whole cells: one that holds several, or a part of one, is the highest one's."""
    height, width = labels_HW.shape
    cells = labels_HW.reshape(height // cell, cell, width // cell, cell).max(axis=(1, 3))
    return cells.repeat(cell, axis=0).repeat(cell, axis=1)


def shrunk_edit(edited: Edit, size: tuple[int, int]) -> Edit:
    """The edited frames at a smaller (width, height)."""
    placement = place(edited.first.fitted_HWC.shape[1::-1], size, "stretch")
    small = {
        frame: replace(
            one,
            fitted_HWC=fit_image(one.fitted_HWC, placement),
            image_HWC=fit_image(one.image_HWC, placement),
        )
        for frame, one in edited.all.items()
    }
    return Edit(small.pop(0), small)


def _finished(run: Run, frames_THWC: Frames) -> Frames:
    """The finished frames at the small size, of those that were generated."""
    if run.config.inference.lock != "pixel":
        return frames_THWC
    return locked_frames(run, with_edited_frame(run, frames_THWC))
