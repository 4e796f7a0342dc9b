"""A tiny model, opened as a placement says, and one answer of it."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskora.models.registry import ModelInputs, Transformer, VideoModel, open_model
from maskora.streaming.placement import Placement


def opened(folder: Path, placement: Placement, dtype: str = "float32") -> VideoModel:
    return open_model("wan2.1-i2v", folder, dtype, "cpu", placement)


def encoder(model: VideoModel, name: str) -> AbstractContextManager[Any]:
    """One of a model's encoders."""
    return next(one for one in model.encoders() if one.name == name).load()


def empty_inputs() -> ModelInputs:
    """A sample of 3 latent frames of 4x6 cells that says nothing."""
    context = {"text": torch.zeros(1, 512, 32), "image": torch.zeros(1, 257, 32)}
    return ModelInputs(torch.zeros(1, 20, 3, 4, 6), context)


def answer(model: VideoModel, transformer: Transformer) -> Tensor:
    """One forward pass on fixed numbers."""
    numbers = torch.Generator().manual_seed(0)
    inputs = ModelInputs(
        condition_BCTHW=torch.randn(1, 20, 3, 4, 6, generator=numbers),
        context={
            "text": torch.randn(1, 512, 32, generator=numbers),
            "image": torch.randn(1, 257, 32, generator=numbers),
        },
    )
    noisy = torch.randn(1, 16, 3, 4, 6, generator=numbers)
    with torch.no_grad():
        return model.predict(transformer, noisy, torch.tensor([500.0]), inputs)
