"""A training step and a denoising step start without a wait for the device; copies are counted."""

from collections import Counter
from collections.abc import Callable
from math import nan
from pathlib import Path
from typing import Literal

import pytest
import torch

from maskora import lora
from maskora.config.tables import Inference, Transfer
from maskora.latents import EncodedSample, TensorCache, encode_samples
from maskora.method.conditioning import motion_sample
from maskora.models.registry import VideoModel, open_model
from maskora.models.tiny import write_tiny_model
from maskora.sampling import Denoising, Lead, SourceBranch, draw_noise
from maskora.streaming.placement import Placement
from maskora.training.loop import NotFinite, choose_uniformly, train_step
from maskora.training.optimizer import make_optimizer
from tests.models import tiny_hunyuan, tiny_hunyuan15
from tests.simulated import Bus
from tests.training.conftest import injected
from tests.training.test_loop import PLAN

STREAMED, RING = 5, 2


# How a base of so many layers is written.
FAMILIES: dict[str, Callable[[Path, int], object]] = {
    "wan2.1-i2v": lambda folder, layers: write_tiny_model(folder, layers=layers),
    "hunyuan-video-i2v": lambda folder, n: tiny_hunyuan.write(folder, double=2, single=n - 2),
    "hunyuan-video-1.5-i2v": lambda folder, layers: tiny_hunyuan15.write(folder, layers=layers),
}
# diffusers' own forward pass of HunyuanVideo-1.5 asks whether the picture is empty, and sorts the
# tokens by their masks, once for all blocks.
ASKED_BY_DIFFUSERS = {"hunyuan-video-1.5-i2v"}


def encoded(model: VideoModel, cache: Path) -> EncodedSample:
    video = torch.rand(3, 5, 48, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    keep = torch.ones(5, 48, 64)
    keep[:, 16:32, 16:48] = 0
    sample = motion_sample(video, keep, 0, 5, "masked", 'a sign "Open"')
    return encode_samples([sample], model, TensorCache(cache))[0]


def training_traffic(
    family: str, folder: Path, window: EncodedSample, monkeypatch: pytest.MonkeyPatch
) -> Counter[str]:
    """What the second step of training moves; the first makes the optimizer's states."""
    monkeypatch.setattr("maskora.training.loop.leaves_out", lambda _: True)  # as on a GPU
    placement = Placement(STREAMED, ring=RING, activation_offload=True)
    model = open_model(family, folder, "float32", "meta", placement)
    transformer = injected(model)
    optimizer = make_optimizer(PLAN.optimizer, lora.trainable(transformer))
    for step in (1, 2):
        with Bus() as bus:
            train_step(model, transformer, optimizer, choose_uniformly([window]), PLAN, step)
    transformer.streamed.close()
    return bus.traffic


@pytest.mark.parametrize("family", FAMILIES)
def test_a_training_step_waits_for_nothing(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}
    for layers in (5, 6):
        folder = tmp_path / str(layers)
        FAMILIES[family](folder, layers)
        window = encoded(open_model(family, folder, "float32", "cpu"), tmp_path / "cache")
        seen[layers] = training_traffic(family, folder, window, monkeypatch)
    traffic = seen[5]
    assert traffic["up, waited for"] == 0
    assert traffic["wait"] == 0 or family in ASKED_BY_DIFFUSERS
    assert seen[5]["wait"] == seen[6]["wait"]  # whatever there is comes once, not in every block
    # Kept inputs go down but at the turn, and come back; blocks come up but at the turns.
    masks = sum(not tensor.is_floating_point() for tensor in window.context.values())
    context = len(window.context) - masks + (1 if masks else 0)
    sample = 5 + context  # target, noise, level, condition, weights
    assert traffic["up"] == sample + 2 * (STREAMED - RING) + traffic["down"]


def test_an_optimizer_that_leaves_nothing_out_is_given_no_step_that_is_not_finite(
    tmp_path: Path,
) -> None:
    """8-bit AdamW on a GPU: its LoRA and states would be no numbers either."""
    family = "wan2.1-i2v"
    write_tiny_model(tmp_path / "wan")
    window = encoded(open_model(family, tmp_path / "wan", "float32", "cpu"), tmp_path / "cache")
    model = open_model(family, tmp_path / "wan", "float32", "meta", Placement(0))
    transformer = injected(model)
    optimizer = make_optimizer(PLAN.optimizer, lora.trainable(transformer))
    with Bus(answer=nan), pytest.raises(NotFinite):
        train_step(model, transformer, optimizer, choose_uniformly([window]), PLAN, 1)
    assert not optimizer.state
    with Bus(answer=1.0):
        train_step(model, transformer, optimizer, choose_uniformly([window]), PLAN, 1)
    assert optimizer.state


@pytest.mark.parametrize("attention", ["none", "qk", "difference"])
def test_a_denoising_step_waits_for_nothing(
    attention: Literal["none", "qk", "difference"], tmp_path: Path
) -> None:
    folder, family = tmp_path / "wan", "wan2.1-i2v"
    write_tiny_model(folder, layers=5)
    window = encoded(open_model(family, folder, "float32", "cpu"), tmp_path / "cache")
    model = open_model(family, folder, "float32", "meta", Placement(STREAMED, ring=RING))
    transformer = model.load_transformer()
    noise = draw_noise((16, *window.condition_CTHW.shape[1:]), seed=1)
    lead = Lead(
        Transfer(attention=attention),
        SourceBranch(window, noise.half().expand(5, *noise.shape[1:])),
    )
    clip = Denoising(model, window, window.context, noise, Inference(steps=4), None, lead)
    matching = clip._matching(transformer)
    timestep = clip._scheduler.timesteps[0]
    for _ in range(2):
        with Bus() as bus, torch.no_grad():
            clip._guide(clip._velocities(transformer, timestep, matching))
    # The source's row comes up with the blocks, which come no second time for it.
    assert bus.traffic == {"up": STREAMED + (matching is not None)}
