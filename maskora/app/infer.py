"""infer: one edited clip per seed, and everything needed to repeat it."""

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

from maskora import lora, ranks
from maskora.app.edits import Clip, Edit, load_clip, load_edit, report_leakage
from maskora.app.fingerprints import (
    LoraChoice,
    run_folder,
    stage_run,
    tiling_note,
    trained_lora,
)
from maskora.app.generate import Encoded, of_expert
from maskora.app.open_base import Base, open_base
from maskora.app.outputs import (
    Run,
    Settle,
    make_room,
    record_of_seed,
    result_files,
    run_record,
    write_outputs,
)
from maskora.app.passages import Takes, generated, segments_from
from maskora.app.plan import segments_of
from maskora.app.preflight import infer_warnings
from maskora.app.shared_inference import Crew
from maskora.app.together import blocks_held_once, working_together
from maskora.app.versions import keep_starred, keep_version
from maskora.app.workspace import Workspace, original_video
from maskora.config import Config
from maskora.config.tables import Stage
from maskora.errors import Fault, UserError
from maskora.files import digest, lies_in, refuse_inputs, replacing, sha256_file
from maskora.latents import digest_tensors
from maskora.memory.report import render
from maskora.models.registry import VideoModel
from maskora.ranks import first_then_others
from maskora.streaming.placement import gb
from maskora.video.probe import VideoInfo

log = logging.getLogger("maskora")
Check = Callable[[dict[str, Any]], None]


def infer_clip(
    config: Config,
    workspace: Workspace,
    edit: str | None,
    seeds: str | None,
    output: Path | None,
    lora_choice: list[str],
    again: int | None = None,
    keep: bool = False,
) -> None:
    """Generate the edited clip for every seed.

    Args:
        seeds: numbers with commas; None: the configured one.
        output: a copy of edited.mp4.
        lora_choice: LoRA files in place of the clip's own, or "none".
        again: the number of a segment, from 1: from there on it is generated anew.
        keep: the result that is there becomes an earlier version.

    Raises:
        UserError: the workspace is not complete, or a LoRA is missing or does not fit.
    """
    numbers = parse_seeds(seeds, config.inference.seed)
    seedless = config.transfer.start == "inverted" and config.inference.lock != "latent"
    if len(numbers) > 1 and seedless:
        log.warning('note: transfer.start is "inverted": every seed gives the same clip')
    folders = {
        seed: workspace.output_dir(edit, seed if n else None) for n, seed in enumerate(numbers)
    }
    infer_into(folders, config, workspace, edit, output, lora_choice, again=again, keep=keep)


def infer_into(
    folders: dict[int, Path],
    config: Config,
    workspace: Workspace,
    edit: str | None,
    output: Path | None,
    lora_choice: list[str],
    check: Check | None = None,
    again: int | None = None,
    keep: bool = False,
) -> None:
    """Generate the edited clip of each seed into a folder of its own.

    Several processes share the seeds.

    Args:
        folders: by seed.
        again: the number of a segment, from 1: from there on it is generated anew.
        check: is given the run's record before anything heavy begins, and may refuse it.
        keep: the results that are there become earlier versions; else only one with the star does.

    Raises:
        UserError: as `infer_clip`.
    """
    if output is not None:
        _check_output(output, list(folders.values()), workspace)
    workspace.read_source()  # where there is no workspace, nothing is to be held
    together = ranks.joined()
    with working_together(workspace):
        run, base = first_then_others(
            together,
            lambda: _open(config, workspace, edit, list(folders.values()), output, lora_choice),
        )
        loras = choose_loras(run, lora_choice)
        refuse_inputs(_written(list(folders.values()), output), read_files(run, loras))
        record = run_record(run, loras)
        if check is not None:
            check(record)
        _check_disk(run, len(folders))
        base.log_plan()
        with base.explaining_out_of_memory():
            _generate_results(
                run, base, loras, record, folders, again, keep_version if keep else keep_starred
            )
        base.log_usage()
        if output is not None and together.rank == 0:
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
    clip, edited, original = read_inputs(config, workspace, edit, lora_choice)
    make_room(folders[0], _written(folders, output))  # before the long work
    base = open_base(config, workspace, clip.source, "infer")
    plan = render([base.plan])
    return Run(config, workspace, clip, edited, edit, original, base.model, plan), base


def _check_disk(run: Run, seeds: int) -> None:
    """Raises Fault where a clip of several segments has too little room for frames that wait."""
    if len(run.segments) == 1:
        return
    needed = seeds * run.clip.source.frames * prod(run.clip.frames_THWC.shape[1:])
    free = shutil.disk_usage(run.workspace.root).free
    if free < needed:
        raise Fault(
            f"{gb(needed)} GB of frames wait in {run.workspace.cache_dir} while the clip is "
            f"generated, and {gb(free)} GB are free there: make room"
            + (", or generate fewer seeds at a time" if seeds > 1 else "")
        )


def read_inputs(
    config: Config, workspace: Workspace, edit: str | None, lora_choice: list[str]
) -> tuple[Clip, Edit, VideoInfo]:
    """The clip, its edit and the original, read and checked; what a person should know is logged.

    Raises:
        UserError: the workspace is not complete, or the original is another video now.
    """
    clip = load_clip(workspace, config)
    # The clip's own LoRA is compared with what it was trained on, which is captioned too.
    own = not lora_choice and config.inference.lora == "trained"
    trained_on = [workspace.source_frame(0)] if own else []
    edited = load_edit(workspace, config, clip, edit, captioned=trained_on)
    original = original_video(clip.source)
    report_leakage(edited, config.appearance.spill)
    if config.inference.lora == "none" and (unseen := _unseen(config, clip, edited)):
        log.warning(
            "note: edited frames %s have no effect here: no segment begins with them, and a look "
            'is learned, but inference.lora is "none"', ", ".join(map(str, unseen)),
        )  # fmt: skip
    for warning in infer_warnings(config):
        log.warning("note: %s", warning)
    return clip, edited, original


def _unseen(config: Config, clip: Clip, edited: Edit) -> list[int]:
    """The edited frames after the first that no segment is shown."""
    source = clip.source
    segments = segments_of(config.inference, source.frames, edited.all, source.shot_starts)
    return sorted(edited.keyframes.keys() - {segment.edited for segment in segments})


def _generate_results(
    run: Run,
    base: Base,
    loras: list[LoraChoice],
    record: dict[str, Any],
    folders: dict[int, Path],
    again: int | None,
    settle: Settle,
) -> None:
    """Generate and write the clip of each seed; one that fails stops no other, and is raised last.

    Args:
        folders: by seed.
        again: the number of the first segment that is generated anew whatever is kept.
        settle: as of `write_outputs`.
    """
    anew, name = segments_from(run, again), partial(sampled_name, run, record)
    failures: list[Exception] = []
    with blocks_held_once(run.model):
        crew = Crew(run, base, loras, [*folders], name, ranks.joined())
        ahead = 0.0
        if crew.sharing.ahead:
            ahead, anew = crew.generate_ahead(anew), range(0)

        def write() -> None:
            own = dict(crew.own([*folders.items()]))
            if not own:
                return
            with generated(run, base, loras, list(own), name, anew) as takes:
                takes.seconds["generating"] += ahead
                failures.extend(_write_results(run, record, own, takes, settle))

        crew.do(write)  # a launcher stops all where one ends
    for failure in failures[1:]:
        log.error("%s", failure)
    if failures:
        raise failures[0]


def _write_results(
    run: Run, record: dict[str, Any], folders: dict[int, Path], takes: Takes, settle: Settle
) -> list[Exception]:
    """Write the clip of each seed; gives what has stopped some of them."""
    failures: list[Exception] = []
    for seed, folder in folders.items():
        try:
            frames_THWC, seeded = takes.frames(seed), record_of_seed(record, seed)
            write_outputs(folder, run, seeded, frames_THWC, takes.seconds, settle)
            takes.finish(seed)
        except (UserError, Fault, OSError) as error:
            failures.append(error)
            continue
        log.info("%s", folder / "edited.mp4")
    return failures


def sampled_name(run: Run, record: dict[str, Any], encoded: Encoded, seed: int) -> str:
    """A content name for sampled latents: for everything that they depend on."""
    config = run.config
    settings = {
        **{key: record[key] for key in ("program", "device", "versions", "model", "loras")},
        "base": config.model.model_dump(mode="json"),
        "acceleration": run.model.acceleration.model_dump(mode="json"),
        "sampling": config.inference.model_dump(include={"steps", "guidance", "shift"}),
        "transfer": config.transfer.model_dump(mode="json"),
        **({"times": encoded.sample.times} if encoded.sample.times else {}),
    }
    made_from = digest(json.dumps(settings, sort_keys=True), digest_tensors(encoded.tensors()))
    return f"sampled-{digest(made_from, str(seed))}"


def _written(folders: list[Path], output: Path | None) -> list[Path]:
    further = [] if output is None else [output]
    return [*further, *(path for folder in folders for path in result_files(folder))]


def read_files(run: Run, loras: list[LoraChoice]) -> Iterator[Path]:
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
    choice = choice or (["none"] if config.inference.lora == "none" else [])
    if choice:
        own = [LoraChoice(Path(path)) for path in choice if path != "none"]
    else:
        stages = [stage_run(config, stage, expert) for expert in experts]
        inputs = (workspace, config, run.clip, run.edited, run.edit, run.model)
        own = [trained_lora(*inputs, each) for each in stages]
    return complete_loras(run, own, chosen=bool(choice))


def complete_loras(run: Run, own: list[LoraChoice], *, chosen: bool) -> list[LoraChoice]:
    """Some LoRAs and those of inference.loras, each checked and logged. Raises UserError.

    Args:
        chosen: it needs no telling where one that was trained for this edit is passed over.
    """
    workspace, config, experts = run.workspace, run.config, run.model.experts
    extra = [
        LoraChoice(workspace.root / Path(item.path).expanduser(), item.strength, item.expert)
        for item in config.inference.loras
    ]
    loras = [_checked(one, config, run.model) for one in (*own, *extra)]
    _log_loras(run, loras, chosen=chosen)
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
