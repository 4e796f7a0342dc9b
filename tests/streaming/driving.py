"""A tiny model, opened as a placement says, and one answer of it."""

from pathlib import Path

import torch
from torch import Tensor

from maskora.models import ModelInputs, Transformer, VideoModel, open_model
from maskora.streaming.plan import Placement


def opened(folder: Path, placement: Placement, dtype: str = "float32") -> VideoModel:
    return open_model("wan2.1-i2v", folder, dtype, "cpu", placement)


def answer(model: VideoModel, transformer: Transformer) -> Tensor:
    """One forward pass on fixed numbers."""
    numbers = torch.Generator().manual_seed(0)
    inputs = ModelInputs(
        condition_BCTHW=torch.randn(1, 20, 3, 4, 6, generator=numbers),
        text_BLD=torch.randn(1, 512, 32, generator=numbers),
        image_BND=torch.randn(1, 257, 32, generator=numbers),
    )
    noisy = torch.randn(1, 16, 3, 4, 6, generator=numbers)
    with torch.no_grad():
        return model.predict(transformer, noisy, torch.tensor([500.0]), inputs)
