"""Streamed, offloaded, staged, mapped: training and inference give the resident model's bits.

The reference is diffusers' own transformer, loaded by `from_pretrained` and checkpointed by torch.
"""

import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from maskora import lora
from maskora.config.tables import Inference, Optimizer, Training
from maskora.latents import EncodedSample, TensorCache, encode_samples
from maskora.method.conditioning import motion_sample
from maskora.models.registry import Transformer, VideoModel, open_model
from maskora.sampling import Denoising, draw_noise
from maskora.streaming.placement import RESIDENT, Placement
from maskora.training.loop import StageRun, choose_uniformly, train
from maskora.training.report import read_metrics
from maskora.training.run_folder import RunFolder

BLOCKS = 5
PLAN = StageRun("motion", 6, Training(seed=3, checkpoint_every=6), Optimizer(type="adamw", lr=1e-2))
# Every value of every setting, and the pairs that meet in practice.
CASES = [
    Placement(0),
    Placement(5, "pinned", ring=2),
    Placement(5, "pinned", ring=3, activation_offload=True),
    Placement(1, "pageable", ring=2, activation_offload=True),
    Placement(3, "pageable", ring=3),
    Placement(4, "mapped", ring=2),
    Placement(5, "mapped", ring=3, activation_offload=True, recompute="layer"),
    Placement(2, "pinned", ring=2, recompute="layer"),
]
ALL = [
    Placement(swap, where, activation_offload=offload, ring=ring, recompute=recompute)
    for swap, where, offload, ring, recompute in itertools.product(
        range(BLOCKS + 1), ("pinned", "pageable", "mapped"), (False, True), (2, 3),
        ("block", "layer"),
    )
]  # fmt: skip
OTHERS = [pytest.param(one, marks=pytest.mark.slow) for one in ALL if one not in CASES]


@pytest.fixture(scope="module")
def windows(deep_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[EncodedSample]:
    video = torch.rand(3, 9, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    keep = torch.ones(9, 32, 48)
    keep[:, 8:24, 8:32] = 0
    model = open_model("wan2.1-i2v", deep_model, "float32", "cpu")
    samples = [motion_sample(video, keep, s, 5, "masked", "p3rs0n noise") for s in (0, 4)]
    return encode_samples(samples, model, TensorCache(tmp_path_factory.mktemp("cache")))


def diffusers_own(folder: Path) -> Transformer:
    """The model as diffusers loads it, its weights aligned as ours are."""
    transformer = WanTransformer3DModel.from_pretrained(folder / "transformer")
    for parameter in transformer.requires_grad_(False).parameters():
        parameter.data = parameter.data.clone()
    transformer.streamed = SimpleNamespace(checkpoint=None)  # torch's own checkpointing
    return transformer


def trained(
    model: VideoModel, transformer: Transformer, windows: list[EncodedSample], folder: Path
) -> tuple[list[float], dict[str, Tensor]]:
    lora.inject(transformer, 4, 4.0, model.lora_targets("attention"), PLAN.seed)
    run = RunFolder(folder)
    train(model, transformer, choose_uniformly(windows), PLAN, run, {}, {})
    losses = [entry.loss for entry in read_metrics(run.metrics)]
    return losses, lora.read(run.adapter(PLAN.steps)).tensors


def generated(
    model: VideoModel, transformer: Transformer, window: EncodedSample, adapter: Path
) -> Tensor:
    lora.stack(transformer, [(adapter, 1.0)])
    noise = draw_noise((16, *window.condition_CTHW.shape[1:]), seed=1)
    negative = torch.randn(512, 32, generator=torch.Generator().manual_seed(2))
    negative = {**window.context, "text": negative}
    clip = Denoising(model, window, negative, noise, Inference(steps=4))
    clip.advance(transformer)
    return clip.result()


@pytest.fixture(scope="module")
def reference(
    deep_model: Path, windows: list[EncodedSample], tmp_path_factory: pytest.TempPathFactory
) -> SimpleNamespace:
    model = open_model("wan2.1-i2v", deep_model, "float32", "cpu", RESIDENT)
    folder = tmp_path_factory.mktemp("reference")
    losses, tensors = trained(model, diffusers_own(deep_model), windows, folder)
    adapter = RunFolder(folder).adapter(PLAN.steps)
    latents = generated(model, diffusers_own(deep_model), windows[0], adapter)
    assert len(set(losses)) == PLAN.steps
    return SimpleNamespace(losses=losses, tensors=tensors, adapter=adapter, latents=latents)


@pytest.mark.parametrize("placement", [*CASES, *OTHERS], ids=str)
def test_training_and_a_clip_are_the_resident_ones_bit_for_bit(
    placement: Placement,
    deep_model: Path,
    windows: list[EncodedSample],
    reference: SimpleNamespace,
    tmp_path: Path,
) -> None:
    model = open_model("wan2.1-i2v", deep_model, "float32", "cpu", placement)
    losses, tensors = trained(model, model.load_transformer(), windows, tmp_path)
    assert losses == reference.losses
    assert tensors.keys() == reference.tensors.keys()
    assert all(torch.equal(tensors[name], reference.tensors[name]) for name in tensors)
    latents = generated(model, model.load_transformer(), windows[0], reference.adapter)
    assert torch.equal(latents, reference.latents)


def test_the_guidance_branches_one_after_the_other_give_the_same_clip(
    deep_model: Path, windows: list[EncodedSample], reference: SimpleNamespace
) -> None:
    placement = Placement(5, split_batch=True)
    model = open_model("wan2.1-i2v", deep_model, "float32", "cpu", placement)
    transformer = model.load_transformer()
    latents = generated(model, transformer, windows[0], reference.adapter)
    # A matrix product of another height may round otherwise.
    torch.testing.assert_close(latents, reference.latents, rtol=1e-4, atol=1e-4)
    assert transformer.streamed.streamer.traffic.loads == 4 * BLOCKS + 1


def test_every_lora_weight_of_every_block_gets_a_gradient(
    deep_model: Path, windows: list[EncodedSample]
) -> None:
    from maskora.training.loop import sample_loss

    model = open_model("wan2.1-i2v", deep_model, "float32", "cpu", Placement(5))
    transformer = model.load_transformer()
    lora.inject(transformer, 4, 4.0, model.lora_targets("attention+ffn"), 0)
    for name, parameter in transformer.named_parameters():
        if "lora_B" in name:  # zero at first, which would hide lora_A's gradient
            torch.nn.init.normal_(parameter, std=0.02)
    transformer.enable_gradient_checkpointing(transformer.streamed.checkpoint)
    transformer.train()
    target = windows[0].target_CTHW
    assert target is not None
    loss = sample_loss(
        model, transformer, windows[0], torch.randn(target.shape), torch.tensor([0.5]), 1.0
    )
    loss.backward()
    gradients = {n: p.grad for n, p in transformer.named_parameters() if p.requires_grad}
    assert len(gradients) == BLOCKS * 10 * 2
    assert all(gradient is not None and gradient.any() for gradient in gradients.values())
