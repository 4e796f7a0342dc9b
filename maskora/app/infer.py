"""infer: one edited clip per seed, and everything needed to repeat it."""

import logging
import shutil
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from maskora import lora
from maskora.app import fingerprints as stages
from maskora.app.edits import Clip, Edit, load_clip, load_edit, report_leakage
from maskora.app.effects import infer_warnings
from maskora.app.loras import Stacked, choose_loras, of_expert
from maskora.app.results import Generated, make_room, write_outputs
from maskora.app.setup import open_base
from maskora.app.workspace import Workspace, original_video
from maskora.config import Config
from maskora.errors import UserError
from maskora.files import replacing
from maskora.latents import (
    EncodedSample,
    TensorCache,
    decode_video,
    encode_cues,
    encode_samples,
    encode_videos,
)
from maskora.method.conditioning import inference_sample, to_bytes, to_unit
from maskora.models.acceleration import use_cache
from maskora.models.registry import Context, Cue, VideoModel
from maskora.sampling import Denoising, LatentLock, draw_noise
from maskora.streaming.engine import Streamer

log = logging.getLogger("maskora")


@dataclass(frozen=True)
class Encoded:
    """What sampling needs, encoded."""

    sample: EncodedSample
    unwanted: Context
    lock: LatentLock | None


def infer_clip(
    config: Config,
    workspace: Workspace,
    edit: str | None,
    seeds: str | None,
    output: Path | None,
    lora_choice: list[str],
) -> None:
    """Generate the edited clip for every seed."""
    numbers = parse_seeds(seeds, config.inference.seed)
    if output is not None and len(numbers) > 1:
        raise UserError("--output names one file; leave it out for several seeds")
    result_file = workspace.output_dir(edit, None) / "edited.mp4"
    if output is not None:
        check_output(output, result_file)
    clip = load_clip(workspace, config)
    # The clip's own LoRA is compared with what it was trained on, which is captioned too.
    trained_on = [] if lora_choice else [workspace.source_frame(0)]
    edited = load_edit(workspace, config, clip, edit, captioned=trained_on)
    origin = original_video(clip.source)
    report_leakage(edited, config.appearance.spill)
    for warning in infer_warnings(config):
        log.warning("note: %s", warning)
    folders = [workspace.output_dir(edit, s if n else None) for n, s in enumerate(numbers)]
    make_room(folders, output)  # before the long work
    base = open_base(config, workspace, clip.source, "infer")
    model = base.model
    loras = choose_loras(workspace, config, clip, edited, edit, model, lora_choice)
    base.tell_plan()
    with base.telling_what_needs_less():
        encoded = encode(workspace, config, clip, edited, model)
        latents = generate(
            config, model, encoded, loras, numbers, lambda s: base.remember(clip.source.frames, s)
        )
        for index, seed in enumerate(numbers):
            frames = to_bytes(decode_video(latents[index], model)).numpy()
            folder = workspace.output_dir(edit, seed if index else None)
            told = stages.prompt(config, edited.first.caption)
            result = Generated(frames, seed, loras, edit, told, workspace.root)
            write_outputs(folder, config, model, clip, edited, origin, result)
            log.info("%s", folder / "edited.mp4")
    base.tell_usage()
    if output is not None:
        with replacing(output) as scratch:
            shutil.copyfile(result_file, scratch)
        log.info("%s", output)


def check_output(output: Path, result_file: Path) -> None:
    """--output can be written when the time comes. Raises UserError."""
    if output.suffix.lower() != ".mp4":
        raise UserError(f"--output {output}: the result is an .mp4 file")
    if output.is_dir():
        raise UserError(f"--output {output} is a folder; name a file")
    if output.resolve() == result_file.resolve():
        raise UserError(f"--output {output}: the result is written there anyway; leave it out")
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


def encode(
    workspace: Workspace, config: Config, clip: Clip, edited: Edit, model: VideoModel
) -> Encoded:
    """Encode the inference sample, the negative prompt, and the source where the lock needs it."""
    video, keep = clip.video(), clip.keep()
    first_CHW = to_unit(torch.from_numpy(edited.first.image_HWC)[None])[:, 0]
    sample = inference_sample(
        video,
        keep,
        first_CHW,
        config.inference.conditioning,
        stages.prompt(config, edited.first.caption),
    )
    cache = TensorCache(workspace.cache_dir)
    cue = Cue(sample.prompt, sample.reference_CHW)
    # Both at once, so that each encoder is loaded once; the sample's is cached then.
    unwanted, _ = encode_cues([model.unwanted(cue, config.prompt.negative), cue], model, cache)
    wanted = [model.shown(sample.condition_CTHW, sample.keep_THW)]
    if config.inference.lock == "latent":
        wanted.append(video)
    _, *source_latents = encode_videos(wanted, model, cache)
    (encoded,) = encode_samples([sample], model, cache)
    lock = None
    if config.inference.lock == "latent":
        keep_latent = model.latent_keep(keep)
        keep_latent[0] = 0  # latent frame 0 holds the edited frame
        lock = LatentLock(source_latents[0], keep_latent)
    return Encoded(encoded, unwanted, lock)


def generate(
    config: Config,
    model: VideoModel,
    encoded: Encoded,
    loras: list[Stacked],
    seeds: list[int],
    take_seconds: Callable[[float], object],
) -> list[Tensor]:
    """Latents (C, T', h, w) per seed; each transformer is loaded once for all, and released.

    Args:
        take_seconds: is told how long a denoising step took.
    """
    runs = [_start(config, model, encoded, seed) for seed in seeds]
    for expert in model.experts:
        transformer = model.load_transformer(expert)
        with closing(transformer.supply):
            lora.stack(transformer, of_expert(loras, expert), model.names)
            use_cache(transformer, model.acceleration)
            taken = 0
            for run in runs:
                started = time.perf_counter()
                if steps := run.advance(transformer, expert):
                    take_seconds((time.perf_counter() - started) / steps)
                taken += steps
            if taken and model.acceleration.cache != "none":
                log.info("%s", told_skipped(transformer.supply.streamer, taken))
    return [run.result() for run in runs]


def told_skipped(streamer: Streamer, steps: int) -> str:
    """What a cache over the steps was good for, by the blocks that have computed."""
    skipped = 1 - streamer.traffic.visits / (steps * len(streamer.blocks))
    if not skipped:
        return "acceleration.cache had no effect: every block computed in every step"
    return f"acceleration.cache: {100 * skipped:.0f} % of the blocks' computations were skipped"


def _start(config: Config, model: VideoModel, encoded: Encoded, seed: int) -> Denoising:
    """One seed's clip, all noise."""
    inference = config.inference
    frames_Thw = model.latent_keep(encoded.sample.keep_THW).shape
    return Denoising(
        model,
        encoded.sample,
        encoded.unwanted,
        draw_noise((model.latent_channels, *frames_Thw), seed),
        inference.steps,
        inference.guidance,
        None if inference.shift == "model" else inference.shift,
        encoded.lock,
    )
