"""preview: how an edit will move: small, in few steps, with what is trained so far, or nothing."""

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from maskora.app.edits import Clip, Edit
from maskora.app.fingerprints import LoraChoice, run_folder, stage_run, trained_lora
from maskora.app.infer import complete_loras, read_files, read_inputs, sampled_name
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
from maskora.app.plan import CONFIGS, preview_size, preview_steps
from maskora.app.workspace import PREVIEW, Workspace, working
from maskora.config import Config, load_config
from maskora.config.tables import Stage
from maskora.files import refuse_inputs
from maskora.frames import Frames, LazyFrames
from maskora.memory.report import render
from maskora.models.files.model_files import resolve_base
from maskora.models.registry import read_grid
from maskora.training.loop import StageRun
from maskora.video.fit import fit_image, fit_labels, place

log = logging.getLogger("maskora")
INSTANT = "instant"  # the preset for what nothing is trained for yet


def preview_config(
    file: Path, overrides: list[str], preset: str | None, lora: str | None
) -> Config:
    """The settings of a preview: without a LoRA those of `instant`, where no preset is named.

    Args:
        file: edit.toml.
        overrides, preset: as `load_config` has them.
        lora: "newest", "none" or a file; None: the newest where there is one, unless the settings
            want none.

    Raises:
        UserError: the configuration is wrong.
    """
    config = load_config(file, overrides, preset)
    uses = lora != "none"
    if lora is None:
        is_there = any(Workspace(file.parent).runs_dir.glob("motion*/run.json"))
        uses = config.inference.lora == "trained" and (is_there or preset is not None)
    if not uses and preset is None:
        config = load_config(file, overrides, INSTANT)
    inference = config.inference.model_copy(update={"lora": "trained" if uses else "none"})
    return config.model_copy(update={"inference": inference})


def preview_clip(
    config: Config,
    workspace: Workspace,
    edit: str | None,
    scale: float,
    steps: int | None,
    lora: Path | None = None,
) -> Path:
    """Generate the edited clip at a small size and write it beside the source, as preview.mp4.

    Args:
        config: as `preview_config` makes it.
        scale: of the workspace's sides.
        steps: of denoising; None: few, and no more than are configured.
        lora: a file in place of the newest LoRA that was trained for the edit.

    Raises:
        UserError: the workspace is not complete.
    """
    workspace.read_source()  # where there is no workspace, nothing is to be held
    with working(workspace):
        run, base, loras = _open(_settings(config, steps), workspace, edit, scale, lora)
        target = workspace.output_dir(edit, None) / PREVIEW
        refuse_inputs([target], read_files(run, loras))
        make_room(target.parent, [target])  # before the long work
        base.log_plan()
        seed, name = run.config.inference.seed, partial(sampled_name, run, run_record(run, loras))
        with (
            base.explaining_out_of_memory(),
            generated(run, base, loras, [seed], name) as takes,
        ):
            write_comparison(target, run, finished(run, takes.frames(seed)))
            takes.finish(seed)
        base.log_usage()
    log.info("%s", target)
    return target


def _quick(config: Config, steps: int | None) -> Config:
    """The settings, with few steps, and without what pays in long runs alone."""
    asked = config.acceleration
    if asked.cache != "none" or asked.compile:
        log.warning("note: acceleration.cache and .compile have no effect here: this is a preview")
    few = preview_steps(config) if steps is None else steps
    return config.model_copy(
        update={
            "inference": config.inference.model_copy(update={"steps": few}),
            "acceleration": asked.model_copy(update={"cache": "none", "compile": False}),
        }
    )


def _settings(config: Config, steps: int | None) -> Config:
    """The settings, quick; with a step-distilled LoRA as that works: in its steps, unguided."""
    if not config.preview.distilled:
        return _quick(config, steps)
    unguided = config.inference.model_copy(update={"guidance": 1.0})
    few = config.preview.distilled_steps if steps is None else steps
    return _quick(config.model_copy(update={"inference": unguided}), few)


def _open(
    config: Config,
    workspace: Workspace,
    edit: str | None,
    scale: float,
    lora: Path | None,
) -> tuple[Run, Base, list[LoraChoice]]:
    """The run at its small size, read and checked; nothing heavy is loaded."""
    named = [] if lora is None else [str(lora)]
    clip, edited, original = read_inputs(config, workspace, edit, named)
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
    own = [LoraChoice(lora)] if lora else _newest_loras(run)  # of the clip as it was trained on
    loras = complete_loras(run, [*own, *_distilled_loras(run)], chosen=True)
    feather = config.inference.feather * size[0] / clip.source.size[0]
    inference = config.inference.model_copy(update={"feather": feather})
    config = config.model_copy(update={"inference": inference})
    return replace(run, config=config, clip=small, edited=shrunk_edit(edited, size)), base, loras


def _newest_loras(run: Run) -> list[LoraChoice]:
    """The newest LoRA of each transformer: of the look, where that has one, else of the motion.

    Raises:
        UserError: none was trained.
    """
    if run.config.inference.lora == "none":
        return []
    stages: list[Stage] = ["appearance", "motion"] if run.edited.keyframes else ["motion"]
    found = [
        next((one for one in ways if _is_trained(run, one)), None)
        for ways in ([stage_run(run.config, s, e) for s in stages] for e in run.model.experts)
    ]
    ways = [one for one in found if one is not None]
    if not ways:  # which says what is missing
        ways = [stage_run(run.config, "motion", run.model.experts[0])]
    inputs = (run.workspace, run.config, run.clip, run.edited, run.edit, run.model)
    return [trained_lora(*inputs, one) for one in ways]


def _is_trained(run: Run, stage: StageRun) -> bool:
    return run_folder(run.workspace, stage, run.edit).newest_adapter() is not None


def _distilled_loras(run: Run) -> list[LoraChoice]:
    """The step-distilled LoRA of [preview], where one is named."""
    path = run.config.preview.distilled
    return [LoraChoice(run.workspace.root / Path(path).expanduser())] if path else []


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


def finished(run: Run, frames_THWC: Frames) -> Frames:
    """The finished frames at the small size, of those that were generated."""
    if run.config.inference.lock != "pixel":
        return frames_THWC
    return locked_frames(run, with_edited_frame(run, frames_THWC))
