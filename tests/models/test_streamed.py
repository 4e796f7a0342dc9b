"""Streamed, a base of two streams gives the resident model's bits.

The reference is diffusers' own transformer, loaded by `from_pretrained` and checkpointed by torch.
(Wan2.1 is held to the same in tests/streaming/test_equality.py.)
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import HunyuanVideo15Transformer3DModel, HunyuanVideoTransformer3DModel
from torch import Tensor

from maskora import lora
from maskora.config.tables import Inference
from maskora.latents import EncodedSample, TensorCache, encode_samples
from maskora.method.conditioning import motion_sample
from maskora.models.hunyuan15.model import UnpaddedAttention
from maskora.models.registry import Transformer, VideoModel
from maskora.sampling import Denoising, draw_noise
from maskora.streaming.placement import Placement
from maskora.training.loop import sample_loss
from tests.models.bases import HUNYUAN, HUNYUAN15, opened
from tests.models.conftest import Tiny

BLOCKS, STEPS = 5, 3
DOUBLE, SINGLE = 2, 3
OPTIONS = {HUNYUAN: {"double": DOUBLE, "single": SINGLE}, HUNYUAN15: {"layers": BLOCKS}}
ADAPTERS = {HUNYUAN: DOUBLE * 6 + SINGLE * 5, HUNYUAN15: BLOCKS * 6}
CLASSES: dict[str, Any] = {
    HUNYUAN: HunyuanVideoTransformer3DModel,
    HUNYUAN15: HunyuanVideo15Transformer3DModel,
}
CASES = [
    Placement(0),
    Placement(5, "pinned", ring=2),
    Placement(5, "mapped", ring=3, activation_offload=True, recompute="layer"),
    Placement(3, "pageable", ring=3, activation_offload=True),
    Placement(2, "pinned", recompute="layer"),
    Placement(4, "mapped", ring=2),
]


@pytest.fixture(scope="module", params=OPTIONS)
def folder(request: pytest.FixtureRequest, tiny: Tiny) -> Path:
    """Five blocks; the folder is called as its family."""
    return tiny(request.param, **OPTIONS[request.param])


@pytest.fixture(scope="module")
def window(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> EncodedSample:
    video = torch.rand(3, 5, 48, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    keep = torch.ones(5, 48, 64)
    keep[:, 16:32, 16:48] = 0
    sample = motion_sample(video, keep, 0, 5, "masked", 'a sign "Open"')
    cache = TensorCache(tmp_path_factory.mktemp("cache"))
    return encode_samples([sample], opened(folder), cache)[0]


def diffusers_own(folder: Path) -> Transformer:
    """The model as diffusers loads it, its weights aligned as ours are."""
    transformer = CLASSES[folder.name].from_pretrained(folder / "transformer")
    for parameter in transformer.requires_grad_(False).parameters():
        parameter.data = parameter.data.clone()
    if folder.name == HUNYUAN15:
        for block in transformer.transformer_blocks:
            block.attn.set_processor(UnpaddedAttention())
    transformer.streamed = SimpleNamespace(checkpoint=None)  # torch's own checkpointing
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
    transformer.enable_gradient_checkpointing(transformer.streamed.checkpoint)
    transformer.train()
    assert window.target_CTHW is not None
    noise = torch.randn(window.target_CTHW.shape, generator=torch.Generator().manual_seed(2))
    for level in (0.9, 0.4):
        transformer.zero_grad()
        loss = sample_loss(model, transformer, window, noise, torch.tensor([level]), 1.0)
        loss.backward()
    return loss, {n: p.grad for n, p in transformer.named_parameters() if p.requires_grad}


def generated(model: VideoModel, transformer: Transformer, window: EncodedSample) -> Tensor:
    """Latents after guided steps; the negative text is shorter, so one branch is padded."""
    mask = window.context["text_mask"].clone()
    mask[40:] = False
    negative = {**window.context, "text": -window.context["text"], "text_mask": mask}
    noise = draw_noise((model.latent_channels, *window.condition_CTHW.shape[1:]), seed=1)
    clip = Denoising(model, window, negative, noise, Inference(steps=STEPS))
    clip.advance(with_lora(model, transformer))
    return clip.result()


@pytest.fixture(scope="module")
def reference(folder: Path, window: EncodedSample) -> SimpleNamespace:
    model = opened(folder)
    loss, trained = gradients(model, diffusers_own(folder), window)
    latents = generated(model, diffusers_own(folder), window)
    return SimpleNamespace(loss=loss, gradients=trained, latents=latents)


@pytest.mark.parametrize("placement", CASES, ids=str)
def test_gradients_and_a_clip_are_the_resident_ones_bit_for_bit(
    placement: Placement, folder: Path, window: EncodedSample, reference: SimpleNamespace
) -> None:
    model = opened(folder, placement=placement)
    loss, trained = gradients(model, model.load_transformer(), window)
    assert torch.equal(loss, reference.loss)
    assert len(trained) == 2 * ADAPTERS[folder.name]
    for name, gradient in trained.items():
        assert gradient is not None, name
        assert gradient.any(), name
        assert torch.equal(gradient, reference.gradients[name]), name
    latents = generated(model, model.load_transformer(), window)
    assert torch.equal(latents, reference.latents)


def test_the_guidance_branches_one_after_the_other_give_the_same_clip(
    folder: Path, window: EncodedSample, reference: SimpleNamespace
) -> None:
    model = opened(folder, placement=Placement(BLOCKS, split_batch=True))
    transformer = model.load_transformer()
    latents = generated(model, transformer, window)
    # A matrix product of another height may round otherwise.
    torch.testing.assert_close(latents, reference.latents, rtol=1e-4, atol=1e-4)
    assert transformer.streamed.streamer.traffic.loads == STEPS * BLOCKS + 1


@pytest.mark.parametrize("storage", ["float8", "int8", "nf4"])
def test_compressed_blocks_stream_as_they_lie(
    storage: str, folder: Path, window: EncodedSample
) -> None:
    latents = []
    for swap in (0, BLOCKS):
        model = opened(folder, placement=Placement(swap, storage=storage))
        latents.append(generated(model, model.load_transformer(), window))
    assert torch.equal(*latents)
