"""One case, in a process of its own: the user's path on random pixels, phase by phase.

    python -m benchmarks.cases JOB.json RESULT.json

`benchmarks/memory.py` starts it, so that every case has clean peaks, and a case that is killed
takes nothing else with it. The result is written after every phase.
"""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.jobs import Job
from benchmarks.measure import (
    Phase,
    default_device,
    high_water_mark,
    limit_gpu,
    measured,
    synchronize,
)
from benchmarks.one_block import one_block_folder, repeat_block
from maskora import lora
from maskora.config.tables import Inference, Optimizer
from maskora.errors import Fault, OutOfMemory, UserError
from maskora.files import write_text
from maskora.latents import (
    EncodedSample,
    TensorCache,
    encode_prompts,
    encode_samples,
    encode_videos,
    encode_with,
)
from maskora.method.conditioning import Sample, inference_sample, motion_sample
from maskora.models.registry import Context, PromptInput, Transformer, VideoModel, open_model
from maskora.sampling import Denoising, draw_noise
from maskora.streaming.out_of_memory import first_line, ran_out_of
from maskora.streaming.placement import Placement
from maskora.training.loop import StageRun, choose_uniformly, train_step
from maskora.training.optimizer import available, make_optimizer

PROMPT, NEGATIVE = "p3rs0n, a walk through a forest", "blurred, still"
GUIDANCE = 5.0


class Record:
    """What a case has shown so far, kept in its file."""

    def __init__(self, path: Path, device: torch.device) -> None:
        self._path, self._device = path, device
        self.facts: dict[str, Any] = {"outcome": "stopped", "phases": []}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure a phase and write it down, also where it fails."""
        with measured(name, self._device, self._add):
            yield

    def put(self, **facts: Any) -> None:
        """Add facts, and write all down."""
        self.facts |= facts
        self.facts["high_water_mark"] = high_water_mark()
        write_text(self._path, json.dumps(self.facts, indent=2) + "\n")

    def _add(self, phase: Phase) -> None:
        self.put(phases=[*self.facts["phases"], asdict(phase)])


class StepClock:
    """Seconds and moved bytes from one step to the next; the first step warms up."""

    def __init__(self, device: torch.device, transformer: Transformer) -> None:
        self._device, self._transformer = device, transformer
        self._seconds: list[float] = []
        self._bytes: list[int] = []

    def tick(self) -> None:
        """A step ends here, and the next begins."""
        synchronize(self._device)
        self._seconds.append(time.perf_counter())
        self._bytes.append(self._transformer.streamed.streamer.traffic.bytes)

    def facts(self) -> dict[str, Any]:
        """Seconds and bytes of every step after the first."""
        pairs = zip(self._seconds[1:], self._seconds[2:], strict=False)
        moved = zip(self._bytes[1:], self._bytes[2:], strict=False)
        return {
            "step_seconds": [end - start for start, end in pairs],
            "step_bytes": [end - start for start, end in moved],
        }


def run(job: Job, record: Record, device: torch.device) -> None:
    """Run a job; an end that the machine or the arguments force is an outcome, not an error."""
    try:
        if job.cap_gb is not None and device.type == "cuda":
            limit_gpu(job.cap_gb, device)
        _run_case(job, record, device)
        record.put(outcome="ok")
    except OutOfMemory as error:
        record.put(outcome=f"out of memory: {first_line(error)}")
    except (UserError, Fault) as error:
        record.put(outcome=f"refused: {first_line(error)}")
    except (RuntimeError, MemoryError) as error:
        if ran_out_of(error) is None:
            raise
        record.put(outcome=f"out of memory: {first_line(error)}")


def _run_case(job: Job, record: Record, device: torch.device) -> None:
    folder = Path(job.model)
    if job.one_block:
        folder = one_block_folder(folder, Path(job.scratch) / "one-block", job.dtype)
    placement = Placement(**job.placement)
    model = open_model("wan2.1-i2v", folder, job.dtype, str(device), placement)
    _check_clip(job, model)
    if job.kind == "load":
        with record.phase("load transformer"):
            transformer = model.load_transformer()
        transformer.streamed.close()
        return
    encoded, negative = _encode(job, record, model)
    with record.phase("load transformer"):
        transformer = model.load_transformer()
        lora.inject(transformer, job.rank, job.rank, model.lora_targets("attention"), seed=0)
        if job.one_block:
            repeat_block(transformer, job.layers)
    record.put(parameters=sum(p.numel() for p in lora.trainable(transformer)))
    if job.kind == "train":
        _train(job, record, model, transformer, encoded)
        transformer.streamed.close()
        return
    latents = _denoise(job, record, model, transformer, encoded, negative)
    transformer.streamed.close()
    if not job.one_block:
        with record.phase("VAE decode"), model.vae() as vae:
            vae.decode(latents)


def _check_clip(job: Job, model: VideoModel) -> None:
    """The clip fits the model's grid. Raises UserError."""
    multiple, temporal = model.grid.multiple, model.grid.temporal
    if job.width % multiple or job.height % multiple:
        raise UserError(f"{job.width}x{job.height} pixels: write multiples of {multiple}")
    if job.frames and (job.frames - 1) % temporal:
        raise UserError(f"{job.frames} frames: write one more than a multiple of {temporal}")


def random_sample(kind: str, frames: int, width: int, height: int) -> Sample:
    """A clip of random pixels with a box in its middle, as training or inference shows it."""
    generator = torch.Generator().manual_seed(0)
    video_CTHW = torch.rand(3, frames, height, width, generator=generator) * 2 - 1
    keep_THW = torch.ones(frames, height, width)
    keep_THW[:, height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = 0
    if kind == "train":
        return motion_sample(video_CTHW, keep_THW, 0, frames, "masked", PROMPT)
    return inference_sample(video_CTHW, keep_THW, video_CTHW[:, :1].flip(2), "masked", PROMPT)


def _encode(job: Job, record: Record, model: VideoModel) -> tuple[EncodedSample, Context]:
    """The sample and the negative prompt, encoded; one phase per encoder."""
    sample = random_sample(job.kind, job.frames, job.width, job.height)
    cache = TensorCache(Path(job.scratch) / "cache")
    videos = [v for v in (sample.condition_CTHW, sample.target_CTHW) if v is not None]
    wanted = PromptInput(PROMPT, sample.reference_CHW)
    negative = model.negative(wanted, NEGATIVE)
    for encoder in model.encoders():
        with record.phase(f"{encoder.name} encoder"):
            encode_with(encoder, [negative, wanted], model, cache)
    with record.phase("VAE encode"):
        encode_videos(videos, model, cache)
    (encoded,) = encode_samples([sample], model, cache)  # all of it from the cache
    (context,) = encode_prompts([negative], model, cache)
    return encoded, context


def _train(
    job: Job, record: Record, model: VideoModel, transformer: Transformer, encoded: EncodedSample
) -> None:
    """A warm-up step and `job.steps` more, as the training loop runs them."""
    settings = available(Optimizer(type="adamw8bit"), model.device)
    optimizer = make_optimizer(settings, lora.trainable(transformer))
    plan = StageRun("motion", job.steps, optimizer=settings)
    transformer.train()
    transformer.enable_gradient_checkpointing(transformer.streamed.checkpoint)
    choose = choose_uniformly([encoded])
    clock = StepClock(model.device, transformer)
    with record.phase("train"):
        clock.tick()
        for step in range(1, job.steps + 2):
            train_step(model, transformer, optimizer, choose, plan, step)
            clock.tick()
    record.put(optimizer=settings.type, **clock.facts())


def _denoise(
    job: Job,
    record: Record,
    model: VideoModel,
    transformer: Transformer,
    encoded: EncodedSample,
    negative: Context,
) -> Tensor:
    """A warm-up step and `job.steps` more, guided, with the LoRA frozen as inference has it."""
    transformer.requires_grad_(False)
    shape = (model.latent_channels, *encoded.condition_CTHW.shape[1:])
    clock = StepClock(model.device, transformer)
    hook = transformer.register_forward_pre_hook(lambda *_: clock.tick())
    with record.phase("denoise"):
        noise = draw_noise(shape, 0)
        clip = Denoising(
            model, encoded, negative, noise, Inference(steps=job.steps + 1, guidance=GUIDANCE)
        )
        clip.advance(transformer)
        latents = clip.result()
        clock.tick()
    hook.remove()
    record.put(**clock.facts())
    return latents


def main() -> None:
    """Run the job of the first argument, write what came of it to the second."""
    device = default_device()
    job = Job(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    run(job, Record(Path(sys.argv[2]), device), device)


if __name__ == "__main__":
    main()
