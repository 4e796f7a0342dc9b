"""Speed-ups: the same numbers where they must be, fewer computations where that is the point."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from maskora import lora
from maskora.app.generate import skipped_blocks
from maskora.app.preflight import choose_acceleration
from maskora.config import Config
from maskora.config.tables import Acceleration, Inference
from maskora.errors import UserError
from maskora.models.acceleration import use_attention, use_cache
from maskora.models.registry import ModelInputs, Transformer, VideoModel
from maskora.sampling import Denoising, draw_noise
from maskora.streaming.placement import RESIDENT, Placement
from tests.streaming.driving import answer, opened
from tests.test_sampling import SHAPE, noisy_sample

STEPS = 9
SETTINGS = Inference(steps=STEPS, guidance=4.0)
STREAMED = Placement(4, "mapped")
TOLERANCE = 1e-4  # of gradients that are 100 times as large


def denoised(model: VideoModel, transformer: Transformer, seed: int = 0) -> Tensor:
    sample = noisy_sample()
    negative = {**sample.context, "text": torch.zeros(512, 32)}
    run = Denoising(model, sample, negative, draw_noise(SHAPE, seed), SETTINGS)
    run.advance(transformer)
    return run.result()


@pytest.mark.parametrize("placement", [RESIDENT, STREAMED])
@pytest.mark.parametrize("cache", ["first-block", "taylor"])
def test_a_cache_skips_blocks_and_stays_near(
    deep_model: Path, placement: Placement, cache: str
) -> None:
    model = opened(deep_model, placement)
    exact = denoised(model, model.load_transformer())
    transformer = model.load_transformer()
    use_cache(transformer, Acceleration(cache=cache, cache_threshold=0.5))
    first = denoised(model, transformer)
    streamer = transformer.streamed.streamer
    assert STEPS <= streamer.traffic.visits < STEPS * 5
    assert "% of the blocks' computations were skipped" in skipped_blocks(streamer, STEPS)
    assert not torch.equal(first, exact)
    assert (first - exact).abs().mean() < 0.1 * exact.abs().mean()
    assert torch.equal(denoised(model, transformer), first), "a clip remembers nothing of another"


def test_a_cache_that_never_skips_changes_nothing_and_says_so(deep_model: Path) -> None:
    model = opened(deep_model, RESIDENT)
    exact = denoised(model, model.load_transformer())
    transformer = model.load_transformer()
    use_cache(transformer, Acceleration(cache="first-block", cache_threshold=1e-9))
    assert torch.equal(denoised(model, transformer), exact)
    assert "had no effect" in skipped_blocks(transformer.streamed.streamer, STEPS)


def gradients(model: VideoModel) -> dict[str, Tensor]:
    """Of a LoRA of random values after one pass forward and back on random numbers."""
    numbers = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=numbers)

    transformer = model.load_transformer()
    lora.inject(transformer, 2, 2.0, model.lora_targets("attention"), 0)
    with torch.no_grad():
        for parameter in lora.trainable(transformer):
            parameter.copy_(0.1 * noise(*parameter.shape))
    transformer.enable_gradient_checkpointing(transformer.streamed.checkpoint)
    transformer.train()
    context = {"text": noise(1, 512, 32), "image": noise(1, 257, 32)}
    inputs = ModelInputs(noise(1, 20, 3, 4, 6), context)
    velocity = model.predict(transformer, noise(1, *SHAPE), torch.tensor([500.0]), inputs)
    (velocity * noise(*velocity.shape)).sum().backward()
    return {n: p.grad for n, p in transformer.named_parameters() if p.grad is not None}


@pytest.fixture
def compiler() -> None:
    """Skips where there is none; forgets what was compiled before."""
    if shutil.which("g++") is None and shutil.which("c++") is None:
        pytest.skip("torch.compile needs a C++ compiler here")
    torch._dynamo.reset()
    counters.clear()


@pytest.mark.slow
def test_compiled_blocks_give_the_same_gradients(compiler: None, tiny_model: Path) -> None:
    model = opened(tiny_model, Placement(2, "mapped"))
    expected = gradients(model)
    model.acceleration = Acceleration(compile=True)
    compiled = gradients(model)
    assert counters["stats"]["unique_graphs"] > 0
    assert len(expected) == 2 * 2 * 2 * 4, "A and B of two blocks' two attentions, four each"
    for name, plain in expected.items():
        assert plain.abs().max() > 100 * TOLERANCE, f"{name} must be well above the tolerance"
        assert torch.allclose(compiled[name], plain, atol=TOLERANCE, rtol=TOLERANCE), name


def test_compiled_blocks_give_the_same_numbers_and_share_their_code(
    compiler: None, deep_model: Path
) -> None:
    model = opened(deep_model, STREAMED)
    expected = answer(model, model.load_transformer())
    model.acceleration = Acceleration(compile=True)
    assert torch.allclose(answer(model, model.load_transformer()), expected, atol=1e-5)
    assert 0 < counters["stats"]["unique_graphs"] < 5, "five equal blocks share their code"


def test_kernels_whose_package_is_absent_are_told(deep_model: Path) -> None:
    transformer = opened(deep_model, RESIDENT).load_transformer()
    with pytest.raises(UserError, match=r"attention: sage cannot be used here: .*sageattention"):
        use_attention(transformer, "sage")


def config(steps: int = 30, **values: object) -> Config:
    return Config.model_validate({"acceleration": values, "inference": {"steps": steps}})


def test_what_has_no_effect_is_told() -> None:
    sage = config(attention="sage", cache="taylor")
    told, notes = choose_acceleration(sage, "train", "cuda", masked=False)
    assert told.attention == "native"
    assert notes == [
        "acceleration.attention has no effect here: it cannot compute gradients",
        "acceleration.cache has no effect here: caches serve inference alone",
    ]
    told, notes = choose_acceleration(sage, "infer", "cuda", masked=False)
    assert (told.attention, told.cache, notes) == ("sage", "taylor", [])
    told, notes = choose_acceleration(sage, "infer", "cpu", masked=False)
    assert told.attention == "native"
    assert notes == ["acceleration.attention has no effect here: no GPU computes here"]
    _, notes = choose_acceleration(config(steps=3, cache="taylor"), "infer", "cuda", masked=False)
    assert "inference.steps is 3" in notes[0]
    _, notes = choose_acceleration(config(cache_threshold=0.2), "infer", "cuda", masked=False)
    assert notes == ['acceleration.cache_threshold has no effect here: cache is "none"']
    with pytest.raises(UserError, match=r'"sage" takes no mask.*use native'):
        choose_acceleration(sage, "infer", "cuda", masked=True)
