"""The miniature as a base like any other."""

from contextlib import closing
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan
from torch._subclasses.fake_tensor import FakeTensorMode

from maskora import lora
from maskora.latents import TensorCache, encode_prompts
from maskora.memory.profile import read_profile
from maskora.models.base import Grid
from maskora.models.registry import ModelInputs, PromptInput, VideoModel, read_grid
from tests.models.counting import make_fake, on_meta, peak_of

CLOSE = 0.02


def test_its_grid_takes_64_pixels(untrained: Path) -> None:
    grid = read_grid("miniature", untrained)
    assert grid == Grid(cell=4, patch=2, temporal=4)
    assert 64 % grid.multiple == 0


def test_prompts_and_pictures_have_no_effect(model: VideoModel, tmp_path: Path) -> None:
    prompts = [
        PromptInput("a red disc", torch.zeros(3, 64, 64)),
        PromptInput("a blue one", torch.ones(3, 64, 64)),
    ]
    one, other = encode_prompts(prompts, model, TensorCache(tmp_path))
    assert one.keys() == {"text"}
    assert one["text"].shape == (1, 16)
    assert not one["text"].any()
    assert torch.equal(one["text"], other["text"])


def test_it_answers_with_the_shape_of_the_latents(model: VideoModel) -> None:
    keep = torch.zeros(9, 64, 64)
    keep[0] = 1
    condition = model.pack_condition(keep, torch.randn(16, 3, 16, 16))
    assert condition.shape == (20, 3, 16, 16)
    inputs = ModelInputs(condition[None], {"text": torch.zeros(1, 1, 16)})
    transformer = model.load_transformer()
    with closing(transformer.streamed), torch.no_grad():
        answer = model.predict(transformer, torch.randn(1, 16, 3, 16, 16), torch.ones(1), inputs)
    assert answer.shape == (1, 16, 3, 16, 16)


def test_its_parameters_are_counted_from_its_configuration(
    untrained: Path, model: VideoModel
) -> None:
    told = read_profile("miniature", untrained, "float32", "attention")
    transformer = model.load_transformer()
    transformer.streamed.close()
    vae = AutoencoderKLWan.from_config(model.source.config("vae"))
    assert told.vae_bytes() == 4 * sum(p.numel() for p in vae.parameters())
    assert told.parameters == sum(p.numel() for p in transformer.parameters())
    assert told.encoders("float32") == {}


@pytest.mark.parametrize("what", ["encode", "decode"])
@pytest.mark.parametrize(("frames", "side"), [(9, 64), (21, 64), (13, 128)])
def test_its_vaes_planned_peak_is_near_the_counted_one(
    untrained: Path, model: VideoModel, what: str, frames: int, side: int
) -> None:
    config = model.source.config("vae")
    vae, mode = on_meta(lambda: AutoencoderKLWan.from_config(config)), FakeTensorMode()
    with mode:
        make_fake(vae, lambda n, p: torch.float32)

    def compute() -> torch.Tensor:
        if what == "encode":
            return vae.encode(torch.empty(1, 3, frames, side, side)).latent_dist.mode()
        return vae.decode(torch.empty(1, 16, frames // 4 + 1, side // 4, side // 4)).sample

    with torch.no_grad():
        counted = peak_of(vae.parameters(), compute, mode)[1]
    told = read_profile("miniature", untrained, "float32", "attention")
    arithmetic = told.vae_encode_bytes if what == "encode" else told.vae_decode_bytes
    assert arithmetic(frames, side, side, None) == pytest.approx(counted, rel=CLOSE)


@pytest.mark.parametrize("targets", ["attention", "attention+ffn"])
def test_its_lora_is_counted_and_all_of_it_learns(
    untrained: Path, model: VideoModel, targets: str
) -> None:
    transformer = model.load_transformer()
    with closing(transformer.streamed):
        lora.inject(transformer, 4, 4, model.lora_targets(targets), seed=0)
        weights = lora.trainable(transformer)
        told = read_profile("miniature", untrained, "float32", targets)
        planned = told.lora_parameters(4, targets)
        assert sum(weight.numel() for weight in weights) == planned
        inputs = ModelInputs(torch.randn(1, 20, 3, 16, 16), {"text": torch.zeros(1, 1, 16)})
        noisy = torch.randn(1, 16, 3, 16, 16)
        transformer.train()
        transformer.enable_gradient_checkpointing(transformer.streamed.checkpoint)
        model.predict(transformer, noisy, torch.ones(1), inputs).square().mean().backward()
        ups = [p for name, p in transformer.named_parameters() if "lora_B" in name]
        learned = [bool(up.grad.abs().max() > 0) for up in ups]
    assert learned
    assert all(learned)
