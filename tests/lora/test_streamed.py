"""LoRAs on streamed and stored blocks: updates and differences are added to what comes by."""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import init_empty_weights
from torch import nn

from maskora import lora
from maskora.lora import LoraWeights
from maskora.streaming.blocks import precise
from maskora.streaming.formats import FORMATS
from maskora.streaming.placement import Placement
from maskora.streaming.sources import ModuleReader
from maskora.streaming.supply import supply
from tests.lora.tiny import KINDS, noise, random_lora

WAN = KINDS["wan2.1"]
MODULES = ["blocks.0.attn1.to_q", "blocks.1.attn2.to_out.0", "blocks.1.ffn.net.0.proj", "proj_out"]
DIFFERENCES = (
    "blocks.0.attn1.to_q.weight", "blocks.1.attn1.to_v.bias", "blocks.1.norm2.weight",
    "blocks.0.scale_shift_table", "blocks.0.attn2.norm_k.weight", "patch_embedding.weight",
)  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    transformer = WAN.transformer()
    differences = {}
    for seed, name in enumerate(DIFFERENCES):
        key = name.replace(".weight", ".diff").replace(".bias", ".diff_b")
        key = key if ".diff" in key else f"{key}.diff"
        differences[key] = 0.3 * noise(seed, *transformer.get_parameter(name).shape)
    updates = random_lora(transformer, MODULES).updates
    lora.write(tmp_path / "a.safetensors", LoraWeights(updates, differences, {}), "comfyui")
    return tmp_path / "a.safetensors"


def supplied(placement: Placement) -> Any:
    with init_empty_weights():
        empty = WAN.make().requires_grad_(False).eval()
    cpu, reader = torch.device("cpu"), ModuleReader(WAN.transformer())
    empty.supply = supply(empty, empty.blocks, reader, precise(torch.float32), placement, cpu)
    return empty


def stored_as(storage: str) -> Any:
    """A base whose blocks' Linear weights have been through a format."""
    transformer = WAN.transformer()
    for module in transformer.blocks.modules():
        if type(module) is nn.Linear and storage != "same":
            form, weight = FORMATS[storage], module.weight
            height, width = weight.shape
            weight.data = form.decode(form.encode(weight.data), (height, width), weight.dtype)
    return transformer


@pytest.mark.parametrize("storage", ["same", "float8", "int8", "nf4"])
@pytest.mark.parametrize("swap", [0, 2])
def test_a_stack_is_the_same_on_streamed_blocks(path: Path, storage: str, swap: int) -> None:
    if storage == "nf4":
        pytest.importorskip("bitsandbytes")
    streamed = supplied(Placement(swap, storage=storage, ring=1, split_batch=True))
    plain = stored_as(storage)
    bare = WAN.answer(plain)
    for transformer in (streamed, plain):
        lora.stack(transformer, [(path, 0.8), (path, -0.3)], WAN.names)
    expected = WAN.answer(plain)
    for _ in range(2):  # the blocks' buffers have been used for others in between
        assert (WAN.answer(streamed) - expected).abs().max() <= 1e-5
    assert (expected - bare).abs().max() > 1e-2
    streamed.supply.close()
