"""Tiny transformers of the real classes with random weights, and random LoRAs for them."""

import copy
import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    HunyuanVideo15Transformer3DModel,
    HunyuanVideoTransformer3DModel,
    WanTransformer3DModel,
)
from torch import Tensor, nn

from maskora.lora import LoraWeights, Update
from maskora.models.hunyuan.names import HUNYUAN
from maskora.models.hunyuan15.names import HUNYUAN15
from maskora.models.names import Names
from maskora.models.wan.names import WAN

FRAMES, HEIGHT, WIDTH, WORDS = 2, 4, 6, 5


def noise(seed: int, *shape: int) -> Tensor:
    """Normal random values."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _wan(picture: int | None) -> nn.Module:
    return WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=36, out_channels=16,
        text_dim=32, freq_dim=32, ffn_dim=48, num_layers=2, image_dim=picture,
        added_kv_proj_dim=picture and 24,
    )  # fmt: skip


def _hunyuan() -> nn.Module:
    return HunyuanVideoTransformer3DModel(
        in_channels=33, num_attention_heads=2, attention_head_dim=12, num_layers=1,
        num_single_layers=2, num_refiner_layers=1, text_embed_dim=32, pooled_projection_dim=8,
        rope_axes_dim=(4, 4, 4), image_condition_type="latent_concat",
    )  # fmt: skip


def _hunyuan15() -> nn.Module:
    return HunyuanVideo15Transformer3DModel(
        num_attention_heads=2, attention_head_dim=12, num_layers=2, num_refiner_layers=1,
        text_embed_dim=32, text_embed_2_dim=16, image_embed_dim=8, rope_axes_dim=(4, 4, 4),
    )  # fmt: skip


@functools.cache
def _frozen(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformer = make()
    for seed, parameter in enumerate(transformer.parameters()):
        if parameter.std() == 0:
            parameter.data += 0.1 * noise(seed, *parameter.shape)
    return transformer.requires_grad_(False).eval()


@dataclass(frozen=True)
class Kind:
    """A kind of base: its table, its transformer, and what that is given besides latents."""

    names: Names
    make: Callable[[], nn.Module]
    channels: int
    inputs: dict[str, Tensor]

    def transformer(self) -> Any:
        """Frozen, always with the same random weights, none of them zero."""
        return copy.deepcopy(_frozen(self.make))

    def answer(self, transformer: Any) -> Tensor:
        """What it says to the same noise every time."""
        latents = noise(1, 1, self.channels, FRAMES, HEIGHT, WIDTH)
        dtype = next(transformer.parameters()).dtype
        inputs = {name: value.to(dtype) for name, value in self.inputs.items()}
        with torch.inference_mode():
            answer: Tensor = transformer(
                hidden_states=latents.to(dtype),
                timestep=torch.tensor([500.0]),
                **inputs,
                return_dict=False,
            )[0]
        return answer.float()


TEXT = {"encoder_hidden_states": noise(2, 1, WORDS, 32)}
MASKED = {**TEXT, "encoder_attention_mask": torch.ones(1, WORDS)}
PICTURE = {"encoder_hidden_states_image": noise(3, 1, 257, 32)}
POOLED = {"pooled_projections": noise(4, 1, 8), "guidance": torch.tensor([6000.0])}
GLYPHS = {
    "encoder_hidden_states_2": noise(5, 1, 3, 16), "encoder_attention_mask_2": torch.ones(1, 3),
    "image_embeds": noise(6, 1, 4, 8),
}  # fmt: skip
KINDS = {
    "wan2.1": Kind(WAN, lambda: _wan(32), 36, TEXT | PICTURE),
    "wan2.2": Kind(WAN, lambda: _wan(None), 36, TEXT),
    "hunyuan": Kind(HUNYUAN, _hunyuan, 33, MASKED | POOLED),
    "hunyuan15": Kind(HUNYUAN15, _hunyuan15, 65, MASKED | GLYPHS),
}


def linears(transformer: nn.Module) -> dict[str, nn.Linear]:
    """Every Linear by its name."""
    found = transformer.named_modules()
    return {name: module for name, module in found if isinstance(module, nn.Linear)}


def random_lora(
    transformer: nn.Module,
    modules: Iterable[str],
    rank: Callable[[int], int] = lambda _: 2,
    alpha: Callable[[int], float] = lambda _: 2.0,
    dtype: torch.dtype = torch.float32,
) -> LoraWeights:
    """Random updates of some Linears; rank and alpha may differ by the number of the module."""
    known, updates = linears(transformer), {}
    for index, name in enumerate(modules):
        height, width = known[name].weight.shape
        down, up = noise(index, rank(index), width), 0.2 * noise(-index - 1, height, rank(index))
        updates[name] = Update(down.to(dtype), up.to(dtype), alpha(index))
    return LoraWeights(updates, {}, {"stage": "motion", "step": 3, "token": "p3rs0n"})
