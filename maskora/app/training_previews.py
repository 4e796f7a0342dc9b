"""Previews while training: what the LoRA as it then is makes of the edit, small and in few steps.

They are made by the transformer that is being trained, between two of its steps, with random
numbers of their own: what is trained is the same to the bit with them and without.
"""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor

from maskora.app import timings
from maskora.app.edits import Clip, Edit, load_edit
from maskora.app.generate import Encoded, encode
from maskora.app.open_base import Base
from maskora.app.outputs import Run, write_comparison
from maskora.app.passages import passage_of
from maskora.app.plan import PREVIEW_SCALE, preview_size, preview_steps
from maskora.app.preview import finished, shrunk_clip, shrunk_edit
from maskora.app.workspace import PREVIEW_NAME, Workspace, original_video
from maskora.config import Config
from maskora.config.tables import Transfer
from maskora.errors import Fault, UserError
from maskora.files import remove
from maskora.frames import LazyFrames
from maskora.latents import TensorCache, decode_video
from maskora.method.conditioning import to_bytes
from maskora.method.segments import noise_seed
from maskora.models.registry import Transformer
from maskora.progress import within
from maskora.sampling import Denoising, draw_noise
from maskora.training.loop import StageRun

log = logging.getLogger("maskora")


def shown_edit(
    config: Config, workspace: Workspace, clip: Clip, edit: str | None, loaded: Edit | None
) -> Edit | None:
    """The edit that previews show, with its captions; None where its first frame is missing.

    Args:
        loaded: the edit, where training has read it.
    """
    is_there = workspace.edited_files(edit, 0) or config.motion.task == "remove"
    if loaded is None and not is_there:
        log.warning(
            "note: training.preview_every has no effect here: the edited first frame is not in %s",
            workspace.edit_dir(edit),
        )
        return None
    return loaded or load_edit(workspace, config, clip, edit)


def open_previews(
    config: Config, workspace: Workspace, clip: Clip, edited: Edit, edit: str | None, base: Base
) -> "TrainingPreviews | None":
    """Previews of an edit at their small size; None where the base can make none alone.

    Raises:
        UserError: the original video is gone, or another one now.
    """
    if len(base.model.experts) > 1:
        log.warning(
            "note: training.preview_every has no effect here: this base has two transformers, and "
            "one of them alone makes no clip"
        )
        return None
    if config.transfer != Transfer():
        log.warning("note: [transfer] has no effect in the previews of a training")
    size = preview_size(clip.source.size, PREVIEW_SCALE, base.model.grid.multiple)
    feather = config.inference.feather * size[0] / clip.source.size[0]
    update = {"steps": preview_steps(config), "feather": feather}
    inference = config.inference.model_copy(update=update)
    config = config.model_copy(update={"inference": inference, "transfer": Transfer()})
    small, shrunk = shrunk_clip(clip, size), shrunk_edit(edited, size)
    original = original_video(clip.source)
    run = Run(config, workspace, small, shrunk, edit, original, base.model, plan="")
    return TrainingPreviews(run, base)


@dataclass(frozen=True)
class TrainingPreviews:
    """Makes previews of one edit; of a long clip they show its first segment.

    Attributes:
        run: at the previews' size.
    """

    run: Run
    base: Base

    def begin(self, stage: StageRun, done: int) -> Callable[[Transformer, int], None]:
        """Encode what they need, while no transformer is loaded; those of later steps go.

        Args:
            done: the step that the stage's training goes on from.

        Returns:
            makes a preview with the transformer as it is after a step.
        """
        run = self.run
        for path in run.workspace.previews(run.edit):
            named = PREVIEW_NAME.fullmatch(path.name)
            if named and named[1] == stage.stage and int(named[2]) > done:
                remove(path)
        segment, model = run.segments[0], run.model
        nothing_THWC = run.clip.frames_THWC[:0]
        shown = passage_of(segment, run.clip, run.edited, nothing_THWC, model.longest)
        with _own_random_numbers():
            encoded = encode(run.config, shown, model, TensorCache(run.workspace.cache_dir))
        return partial(self._show, encoded, stage)

    def _show(self, encoded: Encoded, stage: StageRun, transformer: Transformer, step: int) -> None:
        """Write a preview; where that fails it is logged, and training goes on."""
        model, path = self.run.model, self.run.workspace.training_preview(
            self.run.edit, stage.stage, step
        )  # fmt: skip
        tile = model.placement.vae_tile
        transformer.eval()
        try:
            with within("preview"), _own_random_numbers():
                self._write(path, self._sampled(encoded, transformer))
        except (Fault, UserError, OSError) as error:
            log.warning("note: %s could not be made, and training goes on: %s", path, error)
        finally:
            transformer.train()
            # What is encoded later is encoded as before, whatever room there was for this.
            model.placement = replace(model.placement, vae_tile=tile)

    def _sampled(self, encoded: Encoded, transformer: Transformer) -> Tensor:
        """Latents (C, T', h, w) from the transformer as it is."""
        model, inference = self.run.model, self.run.config.inference
        shape = (model.latent_channels, *model.latent_keep(encoded.sample.keep_THW).shape)
        noise = draw_noise(shape, noise_seed(inference.seed, 0))
        denoising = Denoising(
            model, encoded.sample, encoded.negative, noise, inference, encoded.lock
        )
        started = perf_counter()
        steps = denoising.advance(transformer)
        latents_CTHW = denoising.result()
        seconds, plan = (perf_counter() - started) / steps, self.base.plan
        if plan.job.look is not None and model.placement == plan.placement:
            timings.record(plan.look_key(plan.job.look), seconds)
        return latents_CTHW

    def _write(self, path: Path, latents_CTHW: Tensor) -> None:
        run, segment = self.run, self.run.segments[0]
        frames_THWC = to_bytes(decode_video(latents_CTHW, run.model)).numpy()
        count = segment.stop - segment.start
        short = replace(run, clip=_shortened(run.clip, count))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_comparison(path, short, finished(short, frames_THWC[:count]))
        log.info("%s", path)


def _own_random_numbers() -> AbstractContextManager[None]:
    """What is drawn in the context leaves torch's own generators as they were."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    return torch.random.fork_rng([*devices])


def _shortened(clip: Clip, count: int) -> Clip:
    """The first frames of a clip."""
    frames, labels = clip.frames_THWC, clip.labels_THW
    return Clip(
        clip.source.model_copy(update={"frames": count}),
        LazyFrames(lambda number: frames[number], (count, *frames.shape[1:])),
        LazyFrames(lambda number: labels[number], (count, *labels.shape[1:])),
    )
