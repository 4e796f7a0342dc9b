"""A tiny model and two encoded windows of a random clip."""

from pathlib import Path

import pytest
import torch

from maskora import lora
from maskora.latents import EncodedSample, TensorCache, encode_samples
from maskora.method.conditioning import motion_sample
from maskora.models.registry import Transformer, VideoModel, open_model


def injected(model: VideoModel, seed: int = 0, rank: int = 4) -> Transformer:
    """The model's transformer with a LoRA, as training has it."""
    transformer = model.load_transformer()
    lora.inject(transformer, rank, float(rank), model.lora_targets("attention"), seed)
    transformer.train()
    transformer.enable_gradient_checkpointing(transformer.streamed.checkpoint)
    return transformer


@pytest.fixture(scope="session")
def model(tiny_model: Path) -> VideoModel:
    return open_model("wan2.1-i2v", tiny_model, "float32", "cpu")


@pytest.fixture(scope="session")
def windows(model: VideoModel, tmp_path_factory: pytest.TempPathFactory) -> list[EncodedSample]:
    video = torch.rand(3, 9, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    keep = torch.ones(9, 32, 48)
    keep[:, 8:24, 8:32] = 0
    samples = [motion_sample(video, keep, s, 5, "masked", "p3rs0n noise") for s in (0, 4)]
    return encode_samples(samples, model, TensorCache(tmp_path_factory.mktemp("cache")))
