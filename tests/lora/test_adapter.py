"""The LoRA that is trained: what it is injected into, its precision, and its file."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model_state_dict

from maskora import lora
from maskora.errors import UserError
from tests.lora.tiny import KINDS, linears, noise, random_lora

WAN = KINDS["wan2.1"]
TARGETS = r"blocks\.\d+\.attn[12]\.(to_q|to_k|to_v|to_out\.0)"


def injected(
    dtype: torch.dtype = torch.float32, rank: int = 4, alpha: float = 8.0, seed: int = 1
) -> Any:
    transformer = WAN.transformer().to(dtype)
    lora.inject(transformer, rank, alpha, TARGETS, seed)
    return transformer


def trained_file(path: Path, dtype: torch.dtype = torch.float32, **size: float) -> Path:
    """A LoRA file with random values in both halves, as after training."""
    transformer = injected(dtype, **size)
    for seed, parameter in enumerate(lora.trainable(transformer)):
        parameter.data = 0.2 * noise(seed, *parameter.shape)
    lora.save(path, transformer, {"stage": "motion", "step": 3})
    return path


def test_a_fresh_lora_changes_nothing_and_carries_what_it_is_told_to() -> None:
    transformer = injected()
    assert torch.equal(WAN.answer(transformer), WAN.answer(WAN.transformer()))
    carriers = {name for name in linears(WAN.transformer()) if re.fullmatch(TARGETS, name)}
    names = [name for name, p in transformer.named_parameters() if p.requires_grad]
    assert {re.split(r"\.lora_[AB]\.", name)[0] for name in names} == carriers
    assert len(lora.trainable(transformer)) == 2 * len(carriers)


def test_the_seed_decides_the_first_values_alone() -> None:
    state = torch.random.get_rng_state()
    one, other = injected(), injected()
    assert torch.equal(torch.random.get_rng_state(), state)
    for a, b in zip(lora.trainable(one), lora.trainable(other), strict=True):
        assert torch.equal(a, b)
    another = get_peft_model_state_dict(injected(seed=2), adapter_name=lora.adapter.TRAINED)
    for name, a in get_peft_model_state_dict(one, adapter_name=lora.adapter.TRAINED).items():
        assert torch.equal(a, another[name]) == name.endswith("lora_B.weight"), name


def test_the_file_says_what_it_is_and_stacks_to_what_was_trained(tmp_path: Path) -> None:
    path = trained_file(tmp_path / "a.safetensors", alpha=2.0)
    weights = lora.read(path, WAN.names)
    assert weights.metadata == {"stage": "motion", "step": 3}
    assert {(one.rank, one.alpha) for one in weights.updates.values()} == {(4, 2.0)}
    trained, stacked = injected(alpha=2.0), WAN.transformer()
    lora.fill(trained, weights, path)
    lora.stack(stacked, [(path, 1.0)], WAN.names)
    assert torch.equal(WAN.answer(trained), WAN.answer(stacked))


def test_on_a_half_precision_base_the_lora_is_trained_and_saved_in_float32(tmp_path: Path) -> None:
    path = trained_file(tmp_path / "a.safetensors", torch.bfloat16)
    transformer = injected(torch.bfloat16)
    parameters = lora.trainable(transformer)
    assert {parameter.dtype for parameter in parameters} == {torch.float32}
    assert transformer.blocks[0].attn1.to_q.base_layer.weight.dtype == torch.bfloat16
    lora.fill(transformer, lora.read(path, WAN.names), path)
    assert {parameter.dtype for parameter in parameters} == {torch.float32}
    assert {t.dtype for t in lora.read(path, WAN.names).tensors.values()} == {torch.float32}
    assert WAN.answer(transformer).isfinite().all()


def test_only_a_lora_of_the_same_shape_fills_one(tmp_path: Path) -> None:
    path = trained_file(tmp_path / "a.safetensors", rank=3)
    with pytest.raises(UserError, match=r"a\.safetensors does not fit \[adapter\] and the base"):
        lora.fill(injected(), lora.read(path, WAN.names), path)
    other = random_lora(WAN.transformer(), ["proj_out"])
    with pytest.raises(UserError, match="34 tensors differ"):
        lora.fill(injected(), other, path)
