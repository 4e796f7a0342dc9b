"""The published sizes, built without weights on the meta device."""

import re

import pytest
import torch
from diffusers import WanTransformer3DModel

from maskora.models.wan.model import ATTENTION, FEED_FORWARD

SIZES = {
    "Wan2.1-I2V-14B": {"num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40},
    "Wan2.1-Fun-1.3B-InP": {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30},
}


def build(name: str) -> WanTransformer3DModel:
    size = SIZES[name]
    with torch.device("meta"):
        return WanTransformer3DModel(
            in_channels=36,
            out_channels=16,
            text_dim=4096,
            image_dim=1280,
            added_kv_proj_dim=128 * size["num_attention_heads"],
            **size,
        )


@pytest.mark.parametrize(
    ("name", "billions"), [("Wan2.1-I2V-14B", 16.4), ("Wan2.1-Fun-1.3B-InP", 1.56)]
)
def test_the_published_size_takes_a_lora_on_every_attention(name: str, billions: float) -> None:
    model, layers = build(name), SIZES[name]["num_layers"]
    assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(billions, rel=0.02)
    names = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    attention = [name for name in names if re.fullmatch(ATTENTION, name)]
    assert len(attention) == layers * 2 * 4
    assert not any("add_" in name for name in attention)
    assert sum(bool(re.fullmatch(FEED_FORWARD, name)) for name in names) == layers * 2


@pytest.mark.parametrize("name", SIZES)
def test_the_published_size_takes_our_packed_input(name: str) -> None:
    model = build(name)
    frames, height, width = 3, 60, 104  # latents of 9 frames at 832x480
    with torch.device("meta"):
        answer = model(
            hidden_states=torch.empty(1, 16 + 4 + 16, frames, height, width),
            timestep=torch.empty(1),
            encoder_hidden_states=torch.empty(1, 512, 4096),
            encoder_hidden_states_image=torch.empty(1, 257, 1280),
            return_dict=False,
        )[0]
    assert answer.shape == (1, 16, frames, height, width)
