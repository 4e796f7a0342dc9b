"""train: run the stages that are needed, and skip what is done."""

import logging
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

from maskora import __version__, lora
from maskora.app import fingerprints as stages
from maskora.app.captions import source_caption
from maskora.app.edits import Clip, Edit, load_clip, load_edit, report_leakage
from maskora.app.effects import train_warnings
from maskora.app.fingerprints import Turn
from maskora.app.setup import Base, open_base
from maskora.app.workspace import Workspace
from maskora.config import Config
from maskora.errors import UserError
from maskora.latents import TensorCache, encode_samples
from maskora.method.conditioning import Sample
from maskora.models.registry import Expert, VideoModel
from maskora.training.checkpoint import RunFolder
from maskora.training.loop import Chooser, choose_mixed, choose_uniformly, train
from maskora.training.report import read_metrics

log = logging.getLogger("maskora")
Standing = Literal["done", "continues", "new"]


@dataclass(frozen=True)
class Job:
    """What both stages need, read and checked once."""

    config: Config
    workspace: Workspace
    base: Base
    clip: Clip
    caption: str
    resume: bool

    @property
    def model(self) -> VideoModel:
        """The base's model."""
        return self.base.model


def train_stages(
    config: Config, workspace: Workspace, stage: str, edit: str | None, resume: bool
) -> None:
    """Train `motion`, `appearance` or `all`; a stage that is done already is skipped."""
    if stage not in ("motion", "appearance", "all"):
        raise UserError(f"--stage {stage}: choose motion, appearance or all")
    clip = load_clip(workspace, config)
    edited = _find_edit(workspace, config, clip, edit, stage)
    caption = source_caption(workspace, config)
    base = open_base(config, workspace, clip.source, "train")
    for warning in train_warnings(config, edited, base.model.device.type):
        log.warning("note: %s", warning)
    job = Job(config, workspace, base, clip, caption, resume)
    depends = stages.motion_depends(clip, caption, config, base.model)
    with base.telling_what_needs_less():
        for expert in base.model.experts:
            if stage == "appearance":
                _trained_motion(job, expert, depends)  # of all, before anything is loaded
            else:
                _train_motion(job, expert, depends)
        for expert in base.model.experts:
            if stage != "motion" and edited is not None:
                _train_appearance(job, expert, edited, edit, depends)


def _find_edit(
    workspace: Workspace, config: Config, clip: Clip, edit: str | None, stage: str
) -> Edit | None:
    """The edit that stage 2 is about; None where it has nothing to learn from."""
    if stage == "motion":
        return None
    files = workspace.find_edits(edit, clip.source.frames)
    if not files.keyframes:
        if stage == "appearance":
            raise UserError(
                f"{files.folder} holds no edited keyframe besides frame 0, so there is nothing "
                f"for the appearance stage to learn: save one as {files.folder / '00024.png'}, say"
            )
        log.info("appearance: skipped, there is no edited keyframe besides frame 0")
        return None
    loaded = load_edit(workspace, config, clip, edit, captioned=[workspace.source_frame(0)])
    report_leakage(loaded, config.appearance.spill)
    return loaded


def _train_motion(job: Job, expert: Expert, depends: dict[str, str]) -> None:
    turn = Turn("motion", expert)
    run = stages.run_folder(job.workspace, turn, None)
    standing = _standing(run, turn, depends, job)
    if standing == "done":
        return
    job.base.tell_plan()
    samples = stages.motion_samples(job.clip, job.caption, job.config)
    encoded = encode_samples(samples, job.model, TensorCache(job.workspace.cache_dir))
    with run.renewed() if standing == "new" else nullcontext():
        _run(job, turn, run, depends, choose_uniformly(encoded), samples, start_from=None)


def _trained_motion(
    job: Job, expert: Expert, motion_depends: dict[str, str]
) -> tuple[RunFolder, Path]:
    """The motion run that appearance starts from, and its LoRA. Raises UserError."""
    motion = stages.run_folder(job.workspace, Turn("motion", expert), None)
    record, start_from = motion.read(), motion.newest_adapter()
    levels = f" for {expert.name} noise" if expert.name else ""
    if record is None or start_from is None:
        raise UserError(
            f"the appearance stage starts from the motion LoRA{levels}: train --stage all"
        )
    if changed := stages.changes(record.depends_on, motion_depends):
        raise UserError(
            f"the motion LoRA{levels} was trained with other {', '.join(changed)}: "
            f"train --stage all"
        )
    if record.step < job.config.motion.steps:
        raise UserError(
            f"the motion stage{levels} stands at step {record.step} of "
            f"{job.config.motion.steps}: train --stage all --resume"
        )
    return motion, start_from


def _train_appearance(
    job: Job, expert: Expert, edited: Edit, name: str | None, motion_depends: dict[str, str]
) -> None:
    turn = Turn("appearance", expert)
    motion, start_from = _trained_motion(job, expert, motion_depends)
    depends = stages.appearance_depends(
        job.clip, edited, job.config, job.model, motion_depends, stages.adapter_digest(motion)
    )
    run = stages.run_folder(job.workspace, turn, name)
    standing = _standing(run, turn, depends, job)
    if standing == "done":
        return
    job.base.tell_plan()
    keyframes = stages.appearance_samples(job.clip, edited, job.config, job.model.grid.temporal)
    windows = stages.motion_samples(job.clip, job.caption, job.config)
    cache = TensorCache(job.workspace.cache_dir)
    encoded = encode_samples([*keyframes, *windows], job.model, cache)
    choose = choose_mixed(
        encoded[: len(keyframes)], encoded[len(keyframes) :], job.config.appearance.motion_share
    )
    with run.renewed() if standing == "new" else nullcontext():
        _run(job, turn, run, depends, choose, keyframes, start_from)


def _standing(run: RunFolder, turn: Turn, depends: dict[str, str], job: Job) -> Standing:
    """How a turn stands; where it cannot be skipped or continued, why."""
    record, steps, title = run.read(), stages.steps(job.config, turn.stage), turn.title
    if record is None:
        return "new"
    changed = stages.changes(record.depends_on, depends)
    if not changed and record.step == steps:
        log.info("%s: done already (%s)", title, run.adapter(record.step))
        return "done"
    if changed:
        log.warning("%s: trains again, because of changed %s", title, ", ".join(changed))
    elif record.step > steps:
        log.warning("%s: trains again, with %d steps instead of %d", title, steps, record.step)
    elif job.resume:
        log.info("%s: continues after step %d of %d", title, record.step, steps)
        return "continues"
    else:
        log.warning("%s: starts again (--resume would continue after step %d)", title, record.step)
    return "new"


def _run(
    job: Job,
    turn: Turn,
    run: RunFolder,
    depends: dict[str, str],
    choose: Chooser,
    samples: list[Sample],
    start_from: Path | None,
) -> None:
    """Inject the LoRA, fill it where the run continues or builds on another, and train."""
    adapter = job.config.adapter
    plan = stages.plan(job.config, turn, job.model)
    log.info("%s: %d steps on %s", plan.title, plan.steps, _named(samples))
    metadata = _metadata(job, turn, depends, samples)
    transformer = job.model.load_transformer(turn.expert)
    with closing(transformer.streamed):
        targets = job.model.lora_targets(adapter.targets)
        lora.inject(transformer, adapter.rank, adapter.alpha, targets, plan.seed)
        source = run.newest_adapter() or start_from
        if source is not None:
            lora.fill(transformer, lora.read(source, job.model.names), source)
        train(job.model, transformer, choose, plan, run, depends, metadata)
    log.info("%s: done, %s", plan.title, run.newest_adapter())
    job.base.tell_usage()
    _remember_seconds(job, run, samples)


def _remember_seconds(job: Job, run: RunFolder, samples: list[Sample]) -> None:
    """Keep the usual time of a step on the stage's own samples; the first one only warms up."""
    names = {sample.name for sample in samples}
    entries = read_metrics(run.metrics)[1:]
    if seconds := [entry.seconds for entry in entries if names.issuperset(entry.samples)]:
        job.base.remember(len(samples[0].keep_THW), median(seconds))


def _named(samples: list[Sample]) -> str:
    names = [sample.name for sample in samples]
    return ", ".join(names if len(names) < 5 else [*names[:2], "…", names[-1]])


def _metadata(
    job: Job, turn: Turn, depends: dict[str, str], samples: list[Sample]
) -> dict[str, Any]:
    config = job.config
    return {
        "program": f"maskora {__version__}",
        "stage": turn.stage,
        "expert": turn.expert.name,
        "family": config.model.family,
        "base": config.model.base,
        "files": config.model.files,
        "base_hash": depends["base"],
        "dtype": config.model.dtype,
        "storage": config.model.storage,
        "rank": config.adapter.rank,
        "alpha": config.adapter.alpha,
        "token": config.prompt.token,
        "prompts": sorted({sample.prompt for sample in samples}),
    }
