"""train: run the stages that are needed, and skip what is done."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
from torch import Tensor

from maskora import __version__, lora, ranks
from maskora.app.captions import source_caption
from maskora.app.edits import Clip, Edit, load_clip, load_keyframes
from maskora.app.fingerprints import (
    TILING,
    Fingerprint,
    adapter_digest,
    all_tilings,
    appearance_fingerprint,
    changed_inputs,
    motion_fingerprint,
    run_folder,
    stage_run,
    tiling_note,
)
from maskora.app.open_base import Base, open_base
from maskora.app.preflight import train_warnings
from maskora.app.together import check_shares, working_together
from maskora.app.training_previews import TrainingPreviews, open_previews, shown_edit
from maskora.app.workspace import Workspace
from maskora.config import Config
from maskora.config.tables import Stage
from maskora.errors import UserError
from maskora.latents import EncodedSamples, OnDemand, TensorCache, encode_together
from maskora.method.conditioning import (
    COLOUR_ORDERS,
    Sample,
    anchored,
    appearance_sample,
    emptied,
    grid_keep,
    motion_sample,
    recoloured,
    window_name,
    windows,
    without_object,
)
from maskora.method.pasting import ShownMask, masked_sample, shown_masks
from maskora.models.registry import Expert
from maskora.ranks import first_then_others
from maskora.training.loop import Chooser, StageRun, choose_mixed, choose_uniformly, train
from maskora.training.report import draw_loss, read_metrics
from maskora.training.run_folder import RunFolder, RunRecord

log = logging.getLogger("maskora")
RunStatus = Literal["done", "continues", "new"]


def train_stages(
    config: Config,
    workspace: Workspace,
    stage: Stage | Literal["all"],
    edit: str | None,
    resume: bool,
) -> None:
    """Train one stage, or all; a stage that is done already is skipped.

    Args:
        edit: the edit that the appearance stage is about, by name.
        resume: continue an interrupted run where it can be.

    Raises:
        UserError: the workspace is not complete, or what the stage starts from is not trained.
    """
    workspace.read_source()  # where there is no workspace, nothing is to be held
    check_shares(config.training, ranks.joined())
    if config.inference.lora == "none":
        log.info(
            'inference.lora is "none": there is nothing to train (with --set '
            "inference.lora=trained there is)"
        )
        return
    with working_together(workspace):
        _train_stages(config, workspace, stage, edit, resume)


def _train_stages(
    config: Config,
    workspace: Workspace,
    stage: Stage | Literal["all"],
    edit: str | None,
    resume: bool,
) -> None:
    together = ranks.joined()
    clip = load_clip(workspace, config)
    edited, first = None, partial(first_then_others, together)
    if stage != "motion":
        required = stage == "appearance"
        edited = first(lambda: load_keyframes(workspace, config, clip, edit, required=required))
    caption = first(lambda: source_caption(workspace, config))
    shown = None
    if config.training.preview_every:
        shown = first(lambda: shown_edit(config, workspace, clip, edit, edited))
    base = first(lambda: open_base(config, workspace, clip.source, "train"))
    base.model.ranks = together
    for warning in train_warnings(config, has_keyframes=edited is not None):
        log.warning("note: %s", warning)
    motion = motion_fingerprint(clip, caption, config, base.model)
    previews = None
    if shown is not None and together.rank == 0:  # who alone writes
        previews = open_previews(config, workspace, clip, shown, edit, base)
    training = _Training(config, workspace, base, clip, caption, resume, motion, previews)
    with base.explaining_out_of_memory():
        for expert in base.model.experts:
            if stage == "appearance":
                training.motion_lora(expert)  # of all, before anything is loaded
            else:
                training.train_motion(expert)
        for expert in base.model.experts:
            if edited is not None:
                training.train_appearance(expert, edited, edit)


@dataclass(frozen=True)
class _Training:
    """The stages of one clip, with everything that they share read and checked.

    Attributes:
        motion: the motion stage's fingerprint.
        previews: what is shown meanwhile; None where nothing is.
    """

    config: Config
    workspace: Workspace
    base: Base
    clip: Clip
    caption: str
    resume: bool
    motion: Fingerprint
    previews: TrainingPreviews | None

    def train_motion(self, expert: Expert) -> None:
        """Stage 1, on windows of the source."""
        run = stage_run(self.config, "motion", expert)
        folder = run_folder(self.workspace, run, None)
        status = self._status(folder, run, self.motion)
        if status == "done":
            return
        self.base.log_plan()
        windows = self._encode(motion_samples(self.clip, self.caption, self.config))
        with self._renewed(folder, status):
            self._train(run, folder, self.motion, choose_uniformly(windows), windows)

    def motion_lora(self, expert: Expert) -> tuple[RunFolder, Path]:
        """The motion run that appearance starts from, and its LoRA. Raises UserError."""
        run = stage_run(self.config, "motion", expert)
        folder = run_folder(self.workspace, run, None)
        record, adapter = folder.read(), folder.newest_adapter()
        levels = f" for {expert.name} noise" if expert.name else ""
        if record is None or adapter is None:
            raise UserError(
                f"the appearance stage starts from the motion LoRA{levels}: train --stage all"
            )
        if changed := changed_inputs(record.depends_on, self.motion):
            raise UserError(
                f"the motion LoRA{levels} was trained with other {', '.join(changed)}: "
                f"train --stage all"
            )
        if record.step < run.steps:
            raise UserError(
                f"the motion stage{levels} stands at step {record.step} of {run.steps}: "
                f"train --stage all --resume"
            )
        return folder, adapter

    def train_appearance(self, expert: Expert, edited: Edit, edit: str | None) -> None:
        """Stage 2, on edited keyframes and a share of the motion windows."""
        config, clip = self.config, self.clip
        motion_folder, start_from = self.motion_lora(expert)
        fingerprint = appearance_fingerprint(
            clip, edited, config, self.motion, adapter_digest(motion_folder)
        )
        run = stage_run(config, "appearance", expert)
        folder = run_folder(self.workspace, run, edit)
        status = self._status(folder, run, fingerprint)
        if status == "done":
            return
        self.base.log_plan()
        keyframes = appearance_samples(clip, edited, config, self.base.model.grid.temporal)
        windows = motion_samples(clip, self.caption, config)
        count = len(keyframes)
        encoded = self._encode(
            OnDemand(
                lambda number: keyframes[number] if number < count else windows[number - count],
                count + len(windows),
            )
        )
        choose = choose_mixed(encoded[:count], encoded[count:], config.appearance.motion_share)
        with self._renewed(folder, status):
            self._train(run, folder, fingerprint, choose, encoded[:count], start_from)

    def _status(self, folder: RunFolder, run: StageRun, fingerprint: Fingerprint) -> RunStatus:
        """`run_status`, as the first process finds it; it puts the folder in order."""
        together, status = self.base.model.ranks, None
        if together.rank == 0:
            status = run_status(folder, run, fingerprint, self.resume)
            if status == "done":
                draw_missing(folder, run)
        found = together.gathered(status)[0]
        assert found is not None
        return found

    @contextmanager
    def _renewed(self, folder: RunFolder, status: RunStatus) -> Iterator[None]:
        """`RunFolder.renewed` by the first process where a run is new; the others wait for it."""
        together = self.base.model.ranks
        with folder.renewed() if status == "new" and together.rank == 0 else nullcontext():
            together.gathered(None)
            yield
        together.gathered(None)

    def _encode(self, samples: Sequence[Sample]) -> EncodedSamples:
        return encode_together(samples, self.base.model, TensorCache(self.workspace.cache_dir))

    def _train(
        self,
        run: StageRun,
        folder: RunFolder,
        fingerprint: Fingerprint,
        choose: Chooser,
        samples: EncodedSamples,
        start_from: Path | None = None,
    ) -> None:
        """Inject the LoRA, fill it where the run continues or builds on another, and train.

        Args:
            samples: the stage's own, for the log and the LoRA's metadata.
        """
        adapter, model = self.config.adapter, self.base.model
        log.info("%s: %d steps on %s", run.title, run.steps, _listed(samples.names))
        look = None
        if self.previews is not None:
            record = folder.read()
            look = self.previews.begin(run, record.step if record else 0)
        transformer = model.load_transformer(run.expert)
        with closing(transformer.streamed):
            targets = model.lora_targets(adapter.targets)
            lora.inject(transformer, adapter.rank, adapter.alpha, targets, run.seed)
            earlier = {}
            if (source := folder.newest_adapter() or start_from) is not None:
                weights = lora.read(source, model.names)
                lora.fill(transformer, weights, source)
                earlier = weights.metadata
                if (note := tiling_note(source, earlier, model)) is not None:
                    log.warning("note: %s", note)
            metadata = self._metadata(run, samples, fingerprint["base"], earlier)
            show = None if look is None else partial(look, transformer)
            train(model, transformer, choose, run, folder, fingerprint, metadata, show)
        log.info("%s: done, %s", run.title, folder.adapter(run.steps))
        self.base.log_usage()
        if model.ranks.count == 1:  # plans are of one process
            self._remember_seconds(folder, samples)

    def _metadata(
        self, run: StageRun, samples: EncodedSamples, base_hash: str, earlier: dict[str, Any]
    ) -> dict[str, object]:
        """The metadata of the LoRA file; `earlier`: of the one that it is made from."""
        model, adapter = self.config.model, self.config.adapter
        return {
            "program": f"maskora {__version__}",
            "stage": run.stage,
            "expert": run.expert.name,
            "family": model.family,
            "base": model.base,
            "files": model.files,
            "base_hash": base_hash,
            "dtype": model.dtype,
            "storage": model.storage,
            TILING: all_tilings(earlier, self.base.model),
            "rank": adapter.rank,
            "alpha": adapter.alpha,
            "token": self.config.prompt.token,
            "prompts": sorted(set(samples.prompts)),
        }

    def _remember_seconds(self, folder: RunFolder, samples: EncodedSamples) -> None:
        """Keep the usual time of a step on the stage's own samples; the first one only warms up."""
        names = set(samples.names)
        entries = read_metrics(folder.metrics)[1:]
        if seconds := [entry.seconds for entry in entries if names.issuperset(entry.samples)]:
            self.base.remember(samples.lengths[0], median(seconds))


def run_status(
    folder: RunFolder, run: StageRun, fingerprint: Fingerprint, resume: bool
) -> RunStatus:
    """Decide if a run is done, can continue or starts anew; logs why.

    What it continues after is then the last step in its folder.
    """
    folder.settle()
    record, steps, title = folder.read(), run.steps, run.title
    if record is None:
        return "new"
    changed = changed_inputs(record.depends_on, fingerprint)
    damage = folder.damage(record, record.step)
    if not changed and record.step == steps and not damage:
        folder.look_over(record)
        log.info("%s: done already (%s)", title, folder.adapter(record.step))
        return "done"
    if changed:
        log.warning("%s: retraining: %s changed", title, ", ".join(changed))
    elif record.step > steps:
        log.warning("%s: retraining with %d steps instead of %d", title, steps, record.step)
    elif resume:
        return _continued(folder, record, run)
    elif damage:
        log.warning("%s: starts again because %s (--resume goes back a step)", title, damage)
    else:
        log.warning("%s: starts again (--resume would continue after step %d)", title, record.step)
    return "new"


def _continued(folder: RunFolder, record: RunRecord, run: StageRun) -> RunStatus:
    """Go on after the newest step whose files are whole, if there is one."""
    step = folder.whole_step(record)
    if step == 0:
        log.warning("%s: starts again: no step is whole that it could continue after", run.title)
        return "new"
    folder.rewind(record, step)
    folder.look_over(record)
    log.info("%s: continues after step %d of %d", run.title, step, run.steps)
    return "continues"


def draw_missing(folder: RunFolder, run: StageRun) -> None:
    """Draw the loss of a run that was killed between its last step and this."""
    if not folder.loss_picture.exists():
        draw_loss(folder.metrics, folder.loss_picture, run.title)


def _listed(names: list[str]) -> str:
    return ", ".join(names if len(names) < 5 else [*names[:2], "…", names[-1]])


def motion_samples(clip: Clip, caption: str, config: Config) -> Sequence[Sample]:
    """Stage 1: sliding windows over the source, or the whole of it, each made on demand."""
    motion, seed = config.motion, config.training.seed
    frames, cell = clip.source.frames, clip.source.cell
    window, prompt = motion.window_length(frames), config.prompt.with_token(caption)
    parts = windows(frames, clip.source.shot_starts, window, motion.stride)
    shown: list[tuple[range, ShownMask | None]] = [
        (part, mask)
        for part in parts
        for mask in shown_masks(
            clip.labels_THW[part.start : part.stop] > 0, motion, cell, (seed, part.start)
        )
    ]
    free = {part for part, _ in shown}
    _report_crowded([part.start for part in parts if part not in free], len(parts), window)
    gridded = [(part, None) for part in parts if part in free] if motion.gridded else []
    orders = (None,) if motion.augment == "none" else COLOUR_ORDERS
    wanted = [*product([*shown, *gridded], orders)]

    def make(number: int) -> Sample:
        (own, mask), order = wanted[number]
        part, how, task = slice(own.start, own.stop), motion.conditioning, motion.trained_task
        keep_THW = own_THW = clip.keep(part)
        if mask is None:
            generator = torch.Generator().manual_seed(seed)
            shape = clip.labels_THW.shape
            keep_THW = grid_keep(shape, cell, motion.grid_share, generator, part)
        sample = motion_sample(clip.video(part), keep_THW, 0, len(own), how, prompt)
        sample = replace(sample, name=window_name(own.start, len(own)))
        if mask is not None:
            sample = masked_sample(sample, own_THW == 0, mask, task)
        elif task == "remove":
            sample = without_object(sample, own_THW == 0)
        return sample if order is None else recoloured(sample, order)

    return OnDemand(make, len(wanted))


def _report_crowded(starts: list[int], total: int, window: int) -> None:
    """Say which windows have no free place for a mask. Raises UserError where all have none.

    Args:
        starts: of those windows.
    """
    if len(starts) == total:
        raise UserError(
            '[motion] task is "remove", which is learned from the mask moved over background, and '
            "in no window is there a free place for it: the mask is too large, or nowhere. Make it "
            'smaller ([mask] shape = "tight", a smaller margin), or the windows shorter ([motion] '
            'window), or leave the base as it is (inference.lora = "none")'
        )
    if starts:
        log.warning(
            "note: left out, because the mask leaves no free place to move it to, or is not "
            "there: %s", ", ".join(window_name(start, window) for start in starts),
        )  # fmt: skip


def appearance_samples(clip: Clip, edit: Edit, config: Config, held: int) -> list[Sample]:
    """Stage 2: every edited keyframe after the first as a sample of its own.

    Args:
        held: frames per latent frame of the base.
    """
    how, first_CHW, samples = config.appearance.conditioning, edit.first.picture(), []
    for frame, edited in edit.keyframes.items():
        part = slice(frame, frame + 1)
        source_CHW, keep_HW = clip.video(part)[:, 0], clip.keep(part)[0]
        reference = _reference(config.appearance.reference, first_CHW, source_CHW, keep_HW)
        words = config.prompt.with_token(edited.caption)
        sample = appearance_sample(
            frame, edited.picture(), source_CHW, keep_HW, reference, how, words
        )
        samples.append(anchored(sample, first_CHW, frame, held) if how == "anchored" else sample)
    for (one, sample), (other, following) in pairwise(zip(edit.keyframes, samples, strict=True)):
        if sample.times is not None and sample.times == following.times:
            log.warning(
                "edited frames %d and %d are in one latent frame of this base, and contradict each "
                "other as anchored keyframes: keep one of them", one, other,
            )  # fmt: skip
    return samples


def _reference(kind: str, first_CHW: Tensor, source_CHW: Tensor, keep_HW: Tensor) -> Tensor:
    """The image encoder's picture: never the keyframe itself, which would leak the answer."""
    if kind == "edited-first-frame":
        return first_CHW
    if kind == "masked":
        return emptied(source_CHW[:, None], keep_HW[None])[:, 0]
    return source_CHW
