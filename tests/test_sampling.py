"""The denoising loop: its lock, its noise and its guidance."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import torch

from maskora.config.tables import Inference
from maskora.latents import EncodedSample
from maskora.models.registry import VideoModel, open_model
from maskora.ranks import Alone
from maskora.sampling import Denoising, LatentLock, draw_noise

SHAPE = (16, 3, 4, 6)


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> VideoModel:
    return open_model("wan2.1-i2v", tiny_model, "float32", "cpu")


def noisy_sample() -> EncodedSample:
    """A sample of random numbers."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return EncodedSample(
        name="inference",
        target_CTHW=None,
        condition_CTHW=noise(20, *SHAPE[1:]),
        keep_THW=torch.ones(9, 32, 48),
        context={"text": noise(512, 32), "image": noise(257, 32)},
    )


@pytest.fixture(scope="module")
def sample() -> EncodedSample:
    return noisy_sample()


def run(
    model: VideoModel,
    sample: EncodedSample,
    seed: int = 0,
    guidance: float = 1.0,
    lock: LatentLock | None = None,
    negative: torch.Tensor | None = None,
) -> torch.Tensor:
    text = torch.zeros(512, 32) if negative is None else negative
    negative = {**sample.context, "text": text}
    settings = Inference(steps=4, guidance=guidance)
    clip = Denoising(model, sample, negative, draw_noise(SHAPE, seed), settings, lock)
    assert clip.advance(model.load_transformer()) == 4
    return clip.result()


def test_the_seed_decides(model: VideoModel, sample: EncodedSample) -> None:
    assert torch.equal(run(model, sample, seed=3), run(model, sample, seed=3))
    assert not torch.equal(run(model, sample, seed=3), run(model, sample, seed=4))


def test_the_locked_latents_end_as_the_source(model: VideoModel, sample: EncodedSample) -> None:
    source = torch.randn(SHAPE, generator=torch.Generator().manual_seed(5))
    keep = torch.zeros(SHAPE[1:])
    keep[1:, :, :3] = 1
    result = run(model, sample, lock=LatentLock(source, keep))
    free = run(model, sample)
    locked = keep.bool().expand(SHAPE)
    assert torch.allclose(result[locked], source[locked], atol=1e-5)
    assert not torch.allclose(result[~locked], source[~locked], atol=0.1)
    assert not torch.allclose(result[:, 0], free[:, 0]), "the locked part is seen by the rest"


def test_a_blend_stands_at_the_level_it_is_given() -> None:
    source, noise, latents = (torch.randn(1, *SHAPE) for _ in range(3))
    lock = LatentLock(source[0], torch.ones(SHAPE[1:]))
    level = torch.tensor(0.3)
    assert torch.allclose(lock.apply(latents, noise, level), 0.7 * source + 0.3 * noise)


class Watched:
    """The real model, keeping what its transformer is shown and at which timestep."""

    def __init__(self, model: VideoModel) -> None:
        self._model = model
        self.shown: list[tuple[torch.Tensor, float]] = []
        self.rows: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def predict(self, transformer: Any, noisy: torch.Tensor, timestep: Any, inputs: Any) -> Any:
        self.shown.append((noisy[0].clone(), timestep[0].item()))
        self.rows.append(len(noisy))
        return self._model.predict(transformer, noisy, timestep, inputs)


def test_the_locked_source_is_as_noisy_as_the_timestep_says(
    model: VideoModel, sample: EncodedSample
) -> None:
    watched = Watched(model)
    source = torch.randn(SHAPE, generator=torch.Generator().manual_seed(5))
    result = run(watched, sample, seed=3, lock=LatentLock(source, torch.ones(SHAPE[1:])))
    noise = draw_noise(SHAPE, 3)[0]
    assert len(watched.shown) == 4
    for latents, timestep in watched.shown:
        level = timestep / 1000
        # Timesteps are rounded down to whole numbers.
        assert torch.allclose(latents, (1 - level) * source + level * noise, atol=1e-2)
    assert torch.allclose(result, source, atol=1e-6)


def test_guidance_is_the_published_combination(model: VideoModel, sample: EncodedSample) -> None:
    """With the negative prompt equal to the prompt, guidance of any strength changes nothing."""
    plain = run(model, sample)
    same = run(model, sample, guidance=7.0, negative=sample.context["text"])
    other = run(model, sample, guidance=7.0)
    assert torch.allclose(plain, same, atol=1e-4)
    assert not torch.allclose(plain, other, atol=1e-3)


@dataclass
class Meeting:
    """Where two threads add up what each has."""

    barrier: Barrier = field(default_factory=lambda: Barrier(2, timeout=60))
    given: list[torch.Tensor] = field(default_factory=list)


class Thread(Alone):
    """One of two threads that work together."""

    count = 2

    def __init__(self, rank: int, meeting: Meeting) -> None:
        self.rank, self.meeting = rank, meeting

    def add_up(self, tensors: Any) -> None:
        (tensor,) = tensors
        self.meeting.given.append(tensor.clone())
        self.meeting.barrier.wait()
        tensor.copy_(sum(self.meeting.given[-2:]))
        self.meeting.barrier.wait()


def test_two_processes_compute_a_guidance_branch_each(
    tiny_model: Path, sample: EncodedSample
) -> None:
    """Of rows that are no batch the sums are rounded in another order."""
    meeting, settings = Meeting(), Inference(steps=4, guidance=7.0)
    negative = {**sample.context, "text": torch.zeros(512, 32)}
    models = [Watched(open_model("wan2.1-i2v", tiny_model, "float32", "cpu")) for _ in range(3)]
    for rank in range(2):
        models[rank].team = Thread(rank, meeting)
    clips = [Denoising(one, sample, negative, draw_noise(SHAPE, 0), settings) for one in models]
    transformers = [one.load_transformer() for one in models]
    with ThreadPoolExecutor(3) as pool:
        assert [*pool.map(Denoising.advance, clips, transformers)] == [4] * 3
    first, second, alone = (clip.result() for clip in clips)
    assert [one.rows for one in models] == [[1] * 4, [1] * 4, [2] * 4]
    assert torch.equal(first, second)
    torch.testing.assert_close(first, alone, rtol=0, atol=1e-4)
