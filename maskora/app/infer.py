"""infer: one edited clip per seed, and everything needed to repeat it."""

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from maskora import lora
from maskora.app.edits import Clip, Edit, load_clip, load_edit, report_leakage
from maskora.app.fingerprints import (
    LoraChoice,
    run_folder,
    stage_run,
    tiling_note,
    trained_lora,
)
from maskora.app.kept_latents import KeptLatents
from maskora.app.open_base import Base, open_base
from maskora.app.outputs import (
    Run,
    make_room,
    record_of_seed,
    result_files,
    run_record,
    write_outputs,
)
from maskora.app.preflight import infer_warnings
from maskora.app.workspace import Workspace, original_video, working
from maskora.config import Config
from maskora.config.tables import Stage
from maskora.errors import Fault, UserError
from maskora.files import digest, lies_in, refuse_inputs, replacing, sha256_file
from maskora.latents import (
    EncodedSample,
    TensorCache,
    decode_video,
    digest_tensors,
    encode_prompts,
    encode_samples,
    encode_videos,
)
from maskora.memory.report import render
from maskora.method.conditioning import inference_sample, to_bytes
from maskora.models.acceleration import use_cache
from maskora.models.registry import Context, Expert, PromptInput, Transformer, VideoModel
from maskora.sampling import Denoising, LatentLock, draw_noise
from maskora.streaming.engine import Streamer

log = logging.getLogger("maskora")
Check = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Encoded:
    """The inputs of sampling, encoded."""

    sample: EncodedSample
    negative: Context
    lock: LatentLock | None

    def tensors(self) -> Context:
        """All of them, by name."""
        sample, lock = self.sample, self.lock
        locked = {} if lock is None else {"lock": lock.source_CTHW, "lock keep": lock.keep_THW}
        return {
            "condition": sample.condition_CTHW,
            "keep": sample.keep_THW,
            **{f"wanted {name}": tensor for name, tensor in sample.context.items()},
            **{f"negative {name}": tensor for name, tensor in self.negative.items()},
            **locked,
        }


def infer_clip(
    config: Config,
    workspace: Workspace,
    edit: str | None,
    seeds: str | None,
    output: Path | None,
    lora_choice: list[str],
) -> None:
    """Generate the edited clip for every seed.

    Args:
        seeds: numbers with commas; None: the configured one.
        output: a copy of edited.mp4.
        lora_choice: LoRA files in place of the clip's own, or "none".

    Raises:
        UserError: the workspace is not complete, or a LoRA is missing or does not fit.
    """
    numbers = parse_seeds(seeds, config.inference.seed)
    folders = {
        seed: workspace.output_dir(edit, seed if n else None) for n, seed in enumerate(numbers)
    }
    infer_into(folders, config, workspace, edit, output, lora_choice)


def infer_into(
    folders: dict[int, Path],
    config: Config,
    workspace: Workspace,
    edit: str | None,
    output: Path | None,
    lora_choice: list[str],
    check: Check | None = None,
) -> None:
    """Generate the edited clip of each seed into a folder of its own.

    Args:
        folders: by seed.
        check: is given the run's record before anything heavy begins, and may refuse it.

    Raises:
        UserError: as `infer_clip`.
    """
    if output is not None:
        _check_output(output, list(folders.values()), workspace)
    workspace.read_source()  # where there is no workspace, nothing is to be held
    with working(workspace):
        run, base = _open(config, workspace, edit, list(folders.values()), output, lora_choice)
        loras = choose_loras(run, lora_choice)
        refuse_inputs(_written(list(folders.values()), output), _read(run, loras))
        record = run_record(run, loras)
        if check is not None:
            check(record)
        base.log_plan()
        with base.explaining_out_of_memory():
            _generate_results(run, base, loras, record, folders)
        base.log_usage()
        if output is not None:
            with replacing(output) as scratch:
                shutil.copyfile(next(iter(folders.values())) / "edited.mp4", scratch)
            log.info("%s", output)


def _open(
    config: Config,
    workspace: Workspace,
    edit: str | None,
    folders: list[Path],
    output: Path | None,
    lora_choice: list[str],
) -> tuple[Run, Base]:
    """Everything that a run begins with, read and checked; nothing heavy is loaded."""
    clip = load_clip(workspace, config)
    # The clip's own LoRA is compared with what it was trained on, which is captioned too.
    trained_on = [] if lora_choice else [workspace.source_frame(0)]
    edited = load_edit(workspace, config, clip, edit, captioned=trained_on)
    original = original_video(clip.source)
    report_leakage(edited, config.appearance.spill)
    for warning in infer_warnings(config):
        log.warning("note: %s", warning)
    make_room(folders, output)  # before the long work
    base = open_base(config, workspace, clip.source, "infer")
    plan = render([base.plan])
    return Run(config, workspace, clip, edited, edit, original, base.model, plan), base


def _generate_results(
    run: Run,
    base: Base,
    loras: list[LoraChoice],
    record: dict[str, Any],
    folders: dict[int, Path],
) -> None:
    """Encode, generate and write the clip of each seed; what was sampled before is used."""
    started = time.perf_counter()
    encoded = encode(run.workspace, run.config, run.clip, run.edited, run.model)
    timings = {"encoding": time.perf_counter() - started}
    made_from = _sampled_from(run, encoded, record)
    names = {seed: f"sampled-{digest(made_from, str(seed))}" for seed in folders}
    kept = KeptLatents(TensorCache(run.workspace.cache_dir), names)
    latents = kept.found()
    if missing := [seed for seed in folders if seed not in latents]:
        remember = partial(base.remember, run.clip.source.frames)
        sampled = generate(run.config, run.model, encoded, loras, missing, remember, kept.put)
        latents.update(zip(missing, sampled, strict=True))
    timings["generating"] = time.perf_counter() - started - timings["encoding"]
    _write_results(run, record, folders, latents, timings, kept)


def _sampled_from(run: Run, encoded: Encoded, record: dict[str, Any]) -> str:
    """A content name for everything that sampled latents depend on, but the seed."""
    config = run.config
    settings = {
        **{key: record[key] for key in ("program", "device", "versions", "model", "loras")},
        "base": config.model.model_dump(mode="json"),
        "acceleration": run.model.acceleration.model_dump(mode="json"),
        "sampling": config.inference.model_dump(include={"steps", "guidance", "shift"}),
    }
    return digest(json.dumps(settings, sort_keys=True), digest_tensors(encoded.tensors()))


def _write_results(
    run: Run,
    record: dict[str, Any],
    folders: dict[int, Path],
    latents: dict[int, Tensor],
    timings: dict[str, float],
    kept: KeptLatents,
) -> None:
    """Decode and write every seed's result; one that fails stops no other, and is raised at last.

    Args:
        folders: by seed.
        latents: (C, T', h, w) by seed.
        kept: where they are kept until the result stands.
    """
    failures: list[Exception] = []
    for seed, folder in folders.items():
        try:
            frames_THWC = to_bytes(decode_video(latents[seed], run.model)).numpy()
            write_outputs(folder, run, record_of_seed(record, seed), frames_THWC, timings)
            kept.drop(seed)
        except (UserError, Fault, OSError) as error:
            failures.append(error)
            continue
        log.info("%s", folder / "edited.mp4")
    for failure in failures[1:]:
        log.error("%s", failure)
    if failures:
        raise failures[0]


def _written(folders: list[Path], output: Path | None) -> list[Path]:
    further = [] if output is None else [output]
    return [*further, *(path for folder in folders for path in result_files(folder))]


def _read(run: Run, loras: list[LoraChoice]) -> Iterator[Path]:
    """Every file that a run reads."""
    yield from run.workspace.given_files(run.clip.source.origin)
    yield from (edited.path for edited in run.edited.all.values())
    yield from (one.path for one in loras)
    source = run.model.source
    yield from (path for part in source.parts() for path in source.paths(part))


def _check_output(output: Path, folders: list[Path], workspace: Workspace) -> None:
    """Check that --output can be written when the time comes. Raises UserError."""
    if len(folders) > 1:
        raise UserError("--output names one file; leave it out for several seeds")
    if output.suffix.lower() != ".mp4":
        raise UserError(f"--output {output}: the result is an .mp4 file")
    if output.is_dir():
        raise UserError(f"--output {output} is a folder; name a file")
    for folder in folders:
        if output.resolve() == (folder / "edited.mp4").resolve():
            raise UserError(f"--output {output}: the result is written there anyway; leave it out")
        if output.resolve() in [path.resolve() for path in result_files(folder)]:
            raise UserError(f"--output {output}: another part of the result is written there")
    for folder in workspace.own_folders:
        if lies_in(output, folder):
            raise UserError(f"--output {output} lies in {folder}, which is read: name another file")
    parents = [parent for parent in output.parents if parent.exists()]
    if not parents[0].is_dir():
        raise UserError(f"--output {output}: {parents[0]} is a file, not a folder")


def parse_seeds(text: str | None, default: int) -> list[int]:
    """ "1,2,3" as numbers; the default where nothing is given. Raises UserError."""
    if text is None:
        return [default]
    parts = [part.strip() for part in text.split(",")]
    numbers = [int(part) for part in parts if part.isdecimal() and part.isascii()]
    valid = len(set(numbers)) == len(parts) and max(numbers) < 2**32
    if not valid:
        raise UserError(
            f"--seed {text}: write different whole numbers below 2^32, as in --seed 1,2,3"
        )
    return numbers


def choose_loras(run: Run, choice: list[str]) -> list[LoraChoice]:
    """The clip's own LoRA (or `--lora`), then those of inference.loras.

    Raises:
        UserError: the clip has no LoRA yet, or a file belongs to a transformer that is not there.
    """
    workspace, config, experts = run.workspace, run.config, run.model.experts
    stage: Stage = "appearance" if run.edited.keyframes else "motion"
    if choice:
        own = [LoraChoice(Path(path)) for path in choice if path != "none"]
    else:
        stages = [stage_run(config, stage, expert) for expert in experts]
        inputs = (workspace, config, run.clip, run.edited, run.edit, run.model)
        own = [trained_lora(*inputs, each) for each in stages]
    extra = [
        LoraChoice(workspace.root / Path(item.path).expanduser(), item.strength, item.expert)
        for item in config.inference.loras
    ]
    loras = [_checked(one, config, run.model) for one in (*own, *extra)]
    _log_loras(run, loras, chosen=bool(choice))
    bare = [e.name for e in experts if not of_expert(loras, e)]
    if loras and bare:
        log.warning("note: no LoRA is for %s noise: that transformer runs bare", " and ".join(bare))
    return loras


def _log_loras(run: Run, loras: list[LoraChoice], *, chosen: bool) -> None:
    """Log every LoRA of a run, and where one that was trained for this edit is passed over.

    Args:
        chosen: the person has named them.
    """
    for one in loras:
        details = [f"strength {one.strength:g}"] if one.strength != 1 else []
        details += [f"for {one.expert} noise"] if one.expert else []
        log.info("LoRA: %s%s", one.path, f" ({', '.join(details)})" if details else "")
    if not loras:
        log.info("LoRA: none")
    if chosen or run.edited.keyframes:
        return
    for expert in run.model.experts:
        folder = run_folder(run.workspace, stage_run(run.config, "appearance", expert), run.edit)
        if (unused := folder.newest_adapter()) is not None:
            log.warning(
                "note: %s was trained for this edit and is not used, because %s holds no edited "
                "frame after the first: put the keyframes back, or remove that run",
                unused, run.workspace.edit_dir(run.edit),
            )  # fmt: skip


def of_expert(loras: list[LoraChoice], expert: Expert) -> list[LoraChoice]:
    """The files that one of the transformers is given."""
    return [one for one in loras if one.expert in ("", expert.name)]


def _checked(one: LoraChoice, config: Config, model: VideoModel) -> LoraChoice:
    """A file whose transformer is known; a wrong one is known before anything is loaded."""
    sha256 = sha256_file(one.path) if one.path.is_file() else ""  # which reading refuses
    metadata = lora.read(one.path, model.names).metadata
    for note in _contradictions(one, metadata, config, model):
        log.warning("note: %s", note)
    expert = one.expert or str(metadata.get("expert", ""))
    names = [each.name for each in model.experts]
    if expert and expert not in names:
        has = f"has {' and '.join(names)}" if names[0] else "has one transformer alone"
        raise UserError(f"{one.path} is for the {expert} noise expert, and this base {has}")
    return replace(one, expert=expert, sha256=sha256)


def _contradictions(
    one: LoraChoice, metadata: dict[str, Any], config: Config, model: VideoModel
) -> list[str]:
    """Notes where a file is used for something else than it was trained for.

    Args:
        metadata: as maskora wrote it into the file; empty for files of other programs.
    """
    family, expert = metadata.get("family"), metadata.get("expert")
    trained, now = metadata.get("storage", "same"), config.model.storage
    notes = []
    if metadata and trained != now:  # it has learned the rounding of its base
        words = {"same": f"uncompressed ({metadata.get('dtype')})"}
        notes.append(
            f"{one.path} was trained against {words.get(trained, trained)} weights, and this run "
            f'uses {words.get(now, now)} ones: model.transformer_dtype = "{trained}" would match'
        )
    if family and family != model.family:
        notes.append(f"{one.path} was trained on {family}, and this base is {model.family}")
    if expert and one.expert and expert != one.expert:
        notes.append(
            f"{one.path} was trained for {expert} noise, and is used for {one.expert} noise, as set"
        )
    if (tiling := tiling_note(one.path, metadata, model)) is not None:
        notes.append(tiling)
    return notes


def encode(
    workspace: Workspace, config: Config, clip: Clip, edited: Edit, model: VideoModel
) -> Encoded:
    """Encode the inference sample, the negative prompt, and the source where the lock needs it."""
    video, keep = clip.video(), clip.keep()
    prompt = config.prompt.with_token(edited.first.caption)
    sample = inference_sample(
        video, keep, edited.first.picture(), config.inference.conditioning, prompt
    )
    cache = TensorCache(workspace.cache_dir)
    item = PromptInput(sample.prompt, sample.reference_CHW)
    # Both at once, so that each encoder is loaded once; the sample's is cached then.
    negative, _ = encode_prompts([model.negative(item, config.prompt.negative), item], model, cache)
    wanted = [model.condition_frames(sample.condition_CTHW, sample.keep_THW)]
    if config.inference.lock == "latent":
        wanted.append(video)
    _, *source_latents = encode_videos(wanted, model, cache)
    (encoded,) = encode_samples([sample], model, cache)
    lock = None
    if config.inference.lock == "latent":
        keep_latent = model.latent_keep(keep)
        keep_latent[0] = 0  # latent frame 0 holds the edited frame
        lock = LatentLock(source_latents[0], keep_latent)
    return Encoded(encoded, negative, lock)


def generate(
    config: Config,
    model: VideoModel,
    encoded: Encoded,
    loras: list[LoraChoice],
    seeds: list[int],
    take_seconds: Callable[[float], object],
    keep: Callable[[int, Tensor], object],
) -> list[Tensor]:
    """Latents (C, T', h, w) per seed; each transformer is loaded once for all, and released.

    Args:
        take_seconds: called with how long a denoising step took.
        keep: called with each seed and its latents, once they are done.
    """
    shape = (model.latent_channels, *model.latent_keep(encoded.sample.keep_THW).shape)
    runs = {
        seed: Denoising(
            model, encoded.sample, encoded.negative, draw_noise(shape, seed), config.inference,
            encoded.lock,
        )
        for seed in seeds
    }  # fmt: skip
    for expert in model.experts:
        transformer = model.load_transformer(expert)
        with closing(transformer.streamed):
            _stack(transformer, of_expert(loras, expert), model)
            use_cache(transformer, model.acceleration)
            taken = 0
            for seed, run in runs.items():
                started = time.perf_counter()
                if steps := run.advance(transformer, expert):
                    take_seconds((time.perf_counter() - started) / steps)
                taken += steps
                if expert is model.experts[-1]:
                    keep(seed, run.result())
            if taken and model.acceleration.cache != "none":
                log.info("%s", skipped_blocks(transformer.streamed.streamer, taken))
    return [run.result() for run in runs.values()]


def _stack(transformer: Transformer, loras: list[LoraChoice], model: VideoModel) -> None:
    """Load LoRAs side by side. Raises UserError where one is not what it was when chosen."""
    lora.stack(transformer, [(one.path, one.strength) for one in loras], model.names)
    for one in loras:
        if sha256_file(one.path) != one.sha256:
            raise UserError(
                f"{one.path} was written to while this run went on: run the command again"
            )


def skipped_blocks(streamer: Streamer, steps: int) -> str:
    """A sentence about the share of blocks that a cache over the steps has skipped."""
    skipped = 1 - streamer.traffic.visits / (steps * len(streamer.blocks))
    if not skipped:
        return "acceleration.cache had no effect: every block computed in every step"
    return f"acceleration.cache: {100 * skipped:.0f} % of the blocks' computations were skipped"
