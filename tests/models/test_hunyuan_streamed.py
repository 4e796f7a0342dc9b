"""Streamed, HunyuanVideo-I2V gives the resident model's bits: two kinds of block, two streams.

The reference is diffusers' own transformer, loaded by `from_pretrained` and checkpointed by torch.
"""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import HunyuanVideoTransformer3DModel
from torch import Tensor

from maskora import lora
from maskora.config.tables import Inference
from maskora.latents import EncodedSample, TensorCache, encode_samples
from maskora.method.conditioning import motion_sample
from maskora.models.registry import Transformer, VideoModel, open_model
from maskora.sampling import Denoising, draw_noise
from maskora.streaming.plan import RESIDENT, Placement
from maskora.training.loop import sample_loss
from tests.models import tiny_hunyuan

FAMILY = "hunyuan-video-i2v"
DOUBLE, SINGLE = 2, 3
BLOCKS = DOUBLE + SINGLE
CASES = [
    Placement(0),
    Placement(BLOCKS, "pinned", ring=2),
    Placement(BLOCKS, "mapped", ring=3, activation_offload=True, recompute="layer"),
    Placement(3, "pageable", ring=2, activation_offload=True),
    Placement(2, "pinned", ring=2, recompute="layer"),
    Placement(4, "mapped", ring=2),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "hunyuan"
    return tiny_hunyuan.write(path, double=DOUBLE, single=SINGLE)


@pytest.fixture(scope="module")
def window(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> EncodedSample:
    video = torch.rand(3, 5, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    keep = torch.ones(5, 32, 48)
    keep[:, 8:24, 8:32] = 0
    model = open_model(FAMILY, folder, "float32", "cpu")
    sample = motion_sample(video, keep, 0, 5, "masked", "p3rs0n noise")
    return encode_samples([sample], model, TensorCache(tmp_path_factory.mktemp("cache")))[0]


def diffusers_own(folder: Path) -> Transformer:
    """The model as diffusers loads it, its weights aligned as ours are."""
    transformer = HunyuanVideoTransformer3DModel.from_pretrained(folder / "transformer")
    for parameter in transformer.requires_grad_(False).parameters():
        parameter.data = parameter.data.clone()
    transformer.supply = SimpleNamespace(checkpoint=None)  # torch's own checkpointing
    return transformer


def with_lora(model: VideoModel, transformer: Transformer) -> Transformer:
    """A LoRA on every layer that can carry one, none of its matrices zero."""
    lora.inject(transformer, 4, 4.0, model.lora_targets("attention+ffn"), 0)
    numbers = torch.Generator().manual_seed(1)
    for parameter in lora.trainable(transformer):
        torch.nn.init.normal_(parameter, std=0.1, generator=numbers)
    return transformer


def gradients(
    model: VideoModel, transformer: Transformer, window: EncodedSample
) -> tuple[Tensor, dict[str, Tensor | None]]:
    """Two training steps' last loss and gradients, so that the ring turns."""
    with_lora(model, transformer)
    transformer.enable_gradient_checkpointing(transformer.supply.checkpoint)
    transformer.train()
    assert window.target_CTHW is not None
    noise = torch.randn(window.target_CTHW.shape, generator=torch.Generator().manual_seed(2))
    for level in (0.9, 0.4):
        transformer.zero_grad()
        loss = sample_loss(model, transformer, window, noise, torch.tensor([level]), 1.0)
        loss.backward()
    return loss, {n: p.grad for n, p in transformer.named_parameters() if p.requires_grad}


def generated(model: VideoModel, transformer: Transformer, window: EncodedSample) -> Tensor:
    """Latents after three guided steps."""
    unwanted = {**window.context, "text": window.context["text"].flip(0)}
    noise = draw_noise((16, *window.condition_CTHW.shape[1:]), seed=1)
    clip = Denoising(model, window, unwanted, noise, Inference(steps=3))
    clip.advance(with_lora(model, transformer))
    return clip.result()


@pytest.fixture(scope="module")
def reference(folder: Path, window: EncodedSample) -> SimpleNamespace:
    model = open_model(FAMILY, folder, "float32", "cpu", RESIDENT)
    loss, trained = gradients(model, diffusers_own(folder), window)
    latents = generated(model, diffusers_own(folder), window)
    return SimpleNamespace(loss=loss, gradients=trained, latents=latents)


@pytest.mark.parametrize("placement", CASES, ids=str)
def test_gradients_and_a_clip_are_the_resident_ones_bit_for_bit(
    placement: Placement, folder: Path, window: EncodedSample, reference: SimpleNamespace
) -> None:
    model = open_model(FAMILY, folder, "float32", "cpu", placement)
    loss, trained = gradients(model, model.load_transformer(), window)
    assert torch.equal(loss, reference.loss)
    assert len(trained) == 2 * (DOUBLE * 6 + SINGLE * 5)
    for name, gradient in trained.items():
        assert gradient is not None, name
        assert gradient.any(), name
        assert torch.equal(gradient, reference.gradients[name]), name
    latents = generated(model, model.load_transformer(), window)
    assert torch.equal(latents, reference.latents)


def test_the_guidance_branches_one_after_the_other_give_the_same_clip(
    folder: Path, window: EncodedSample, reference: SimpleNamespace
) -> None:
    model = open_model(FAMILY, folder, "float32", "cpu", Placement(BLOCKS, split_batch=True))
    transformer = model.load_transformer()
    latents = generated(model, transformer, window)
    # A matrix product of another height may round otherwise.
    torch.testing.assert_close(latents, reference.latents, rtol=1e-4, atol=1e-4)
    assert transformer.supply.streamer.traffic.loads == 3 * BLOCKS + 1


@pytest.mark.parametrize("storage", ["float8", "int8", "nf4"])
def test_compressed_blocks_stream_as_they_lie(
    storage: str, folder: Path, window: EncodedSample
) -> None:
    latents = [
        generated(model, model.load_transformer(), window)
        for model in (
            open_model(FAMILY, folder, "float32", "cpu", Placement(swap, storage=storage))
            for swap in (0, BLOCKS)
        )
    ]
    assert torch.equal(*latents)
