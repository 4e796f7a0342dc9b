"""Foreign files: they are known by their keys, and scaled rightly."""

import json
from pathlib import Path

import psutil
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from maskora.errors import UserError
from maskora.lora import Update
from tests.lora.files import DOWN, UP, pair, written
from tests.lora.tiny import KINDS, noise

HUNYUAN, HUNYUAN15 = KINDS["hunyuan"].names, KINDS["hunyuan15"].names


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "any name at all.safetensors"


def delta(update: Update) -> Tensor:
    return update.alpha / update.rank * update.up_OR @ update.down_RI


@pytest.mark.parametrize(
    "tensors",
    [
        pair("transformer.blocks.0.attn1.to_q"),
        pair("transformer_2.blocks.0.attn1.to_q"),
        pair("blocks.0.attn1.to_q"),
        pair("base_model.model.blocks.0.attn1.to_q"),
        pair("diffusion_model.blocks.0.attn1.to_q"),
        pair("blocks.0.attn1.to_q", "lora_A.default.weight", "lora_B.default.weight"),
        pair("transformer.blocks.0.attn1.to_q", "lora.down.weight", "lora.up.weight"),
        pair("diffusion_model.blocks.0.self_attn.q"),
        pair("diffusion_model.blocks.0.self_attn.q", "lora_down.weight", "lora_up.weight"),
        pair("model.diffusion_model.blocks.0.self_attn.q"),
        pair("blocks.0.self_attn.q", "lora_down.weight", "lora_up.weight"),
        pair("lora_unet_blocks_0_self_attn_q", "lora_down.weight", "lora_up.weight"),
        pair("lora_unet__blocks_0_self_attn_q", "lora_down.weight", "lora_up.weight"),
    ],
    ids=lambda tensors: next(iter(tensors)),
)
def test_every_layout_is_read(path: Path, tensors: dict[str, Tensor]) -> None:
    weights = written(path, tensors)
    assert weights.updates.keys() == {"blocks.0.attn1.to_q"}
    update = weights.updates["blocks.0.attn1.to_q"]
    assert torch.equal(update.down_RI, DOWN)
    assert torch.equal(update.up_OR, UP)
    assert update.scale == 1.0
    assert (weights.differences, weights.metadata) == ({}, {})


def test_names_without_dots_are_not_guessed(path: Path) -> None:
    flat = {"lora_down.weight": "down", "lora_up.weight": "up"}
    picture, mlp = "lora_unet_blocks_11_cross_attn_k_img", "lora_unet_blocks_1_ffn_0"
    weights = written(path, pair(picture, *flat) | pair(mlp, *flat))
    assert weights.updates.keys() == {"blocks.11.attn2.add_k_proj", "blocks.1.ffn.net.0.proj"}


@pytest.mark.parametrize("alpha", [torch.tensor(3.0), torch.tensor(3), torch.ones(1).bfloat16()])
def test_an_alpha_scales(path: Path, alpha: Tensor) -> None:
    weights = written(
        path, pair("lora_unet_blocks_0_ffn_2", alpha=alpha), lora_adapter_metadata="{}"
    )
    assert weights.updates["blocks.0.ffn.net.2"].scale == float(alpha) / 2


def test_the_settings_of_diffusers_scale(path: Path) -> None:
    tensors = {}
    for name in ("blocks.0.ffn.net.2", "blocks.1.ffn.net.2", "blocks.11.ffn.net.2", "proj_out"):
        tensors |= pair(f"transformer.{name}")
    patterns = {"^blocks.1.ffn.net.2": 8, "proj_out": 1.0}
    described = {
        "transformer.r": 2, "transformer.lora_alpha": 4, "transformer.alpha_pattern": patterns,
        "transformer.rank_pattern": {}, "text_encoder.lora_alpha": 99,
    }  # fmt: skip
    weights = written(path, tensors, lora_adapter_metadata=described)
    alphas = {name: update.alpha for name, update in weights.updates.items()}
    assert alphas == {
        "blocks.0.ffn.net.2": 4, "blocks.1.ffn.net.2": 8, "blocks.11.ffn.net.2": 4, "proj_out": 1,
    }  # fmt: skip


def test_rank_stabilised_scales_are_kept(path: Path) -> None:
    described = {"lora_alpha": 4, "use_rslora": True}
    weights = written(path, pair("blocks.0.attn1.to_q"), lora_adapter_metadata=described)
    assert weights.updates["blocks.0.attn1.to_q"].scale == pytest.approx(4 / 2**0.5)


def test_pefts_settings_lie_beside_its_file(path: Path) -> None:
    config = path.with_name("adapter_config.json")
    config.write_text(json.dumps({"r": 2, "lora_alpha": 32, "alpha_pattern": {"attn1.to_q": 8}}))
    tensors = pair("base_model.model.blocks.0.attn1.to_q")
    tensors |= pair("base_model.model.blocks.0.attn1.to_k")
    updates = written(path, tensors).updates
    assert [updates[f"blocks.0.attn1.to_{x}"].alpha for x in "qk"] == [8, 32]
    assert written(path, pair("transformer.blocks.0.attn1.to_k")).updates.popitem()[1].alpha == 2
    config.write_text("{")
    with pytest.raises(UserError, match=r"adapter_config\.json is damaged"):
        written(path, tensors)


def test_a_bias_of_peft_is_scaled_with_the_update(path: Path) -> None:
    bias = noise(3, 24)
    tensors = pair("blocks.0.attn1.to_q") | {"blocks.0.attn1.to_q.lora_B.bias": bias}
    weights = written(path, tensors, lora_adapter_metadata={"lora_alpha": 6})
    assert torch.equal(weights.differences["blocks.0.attn1.to_q.diff_b"], bias * 3)


def test_differences_find_their_parameters(path: Path) -> None:
    names = {
        "blocks.0.norm3.diff": "blocks.0.norm2.diff",
        "blocks.0.norm3.diff_b": "blocks.0.norm2.diff_b",
        "blocks.1.modulation.diff": "blocks.1.scale_shift_table.diff",
        "blocks.0.diff_m": "blocks.0.scale_shift_table.diff",
        "head.modulation.diff": "scale_shift_table.diff",
        "head.head.diff_b": "proj_out.diff_b",
        "time_projection.1.diff_b": "condition_embedder.time_proj.diff_b",
    }
    tensors = {f"diffusion_model.{name}": noise(i, 6) for i, name in enumerate(names)}
    weights = written(path, tensors)
    assert weights.updates == {}
    assert weights.differences.keys() == set(names.values())
    for theirs, ours in names.items():
        assert torch.equal(weights.differences[ours], tensors[f"diffusion_model.{theirs}"])


@pytest.mark.parametrize(
    "module",
    [
        "transformer.single_blocks.3.linear1",  # diffusion-pipe
        "diffusion_model.single_blocks.3.linear1",
        "lora_unet_single_blocks_3_linear1",
    ],
)
def test_a_fused_matrix_is_split_by_rows(path: Path, module: str) -> None:
    down, up = noise(0, 3, 8), noise(1, 56, 3)
    tensors = {
        f"{module}.lora_down.weight": down, f"{module}.lora_up.weight": up,
        f"{module}.alpha": torch.tensor(6.0), f"{module}.diff_b": torch.arange(1.0, 57.0),
    }  # fmt: skip
    weights = written(path, tensors, HUNYUAN)
    block = "single_transformer_blocks.3"
    names = [*(f"{block}.attn.to_{x}" for x in "qkv"), f"{block}.proj_mlp"]
    assert list(weights.updates) == names
    rows = (2 * up @ down).split([8, 8, 8, 32])
    for name, expected in zip(names, rows, strict=True):
        assert torch.equal(delta(weights.updates[name]), expected)
    assert weights.differences[f"{block}.proj_mlp.diff_b"].tolist() == list(range(25, 57))


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(ranks=st.lists(st.integers(0, 3), min_size=3, max_size=3).filter(any), data=st.data())
def test_unused_columns_of_a_foreign_block_diagonal_are_dropped(
    ranks: list[int], data: st.DataObject, tmp_path: Path
) -> None:
    """In any order: each member keeps the columns that it uses, and its scale."""
    owners = data.draw(st.permutations([m for m, rank in enumerate(ranks) for _ in range(rank)]))
    down, up = noise(0, len(owners), 8), torch.zeros(24, len(owners))
    for column, member in enumerate(owners):
        up[8 * member : 8 * member + 8, column] = noise(column, 8)
    module = "diffusion_model.double_blocks.0.img_attn.qkv"
    tensors = {f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up}
    tensors[f"{module}.alpha"] = torch.tensor(1.5 * len(owners))
    for names in (HUNYUAN, HUNYUAN15):
        updates = written(tmp_path / "a.safetensors", tensors, names).updates
        for member, (x, rank) in enumerate(zip("qkv", ranks, strict=True)):
            update = updates.get(f"transformer_blocks.0.attn.to_{x}")
            assert (update.rank if update else 0) == rank
            if update is not None:
                expected = 1.5 * up[8 * member : 8 * member + 8] @ down
                assert torch.allclose(delta(update), expected, atol=1e-5)
                assert update.scale == pytest.approx(1.5)


def test_a_record_that_does_not_belong_to_the_tensors_is_not_followed(path: Path) -> None:
    """Other tools change a file's tensors and keep its metadata."""
    down, up = noise(0, 4, 8), noise(1, 24, 4)
    module = "diffusion_model.double_blocks.0.img_attn_qkv"
    record = {f"transformer_blocks.0.attn.to_{x}": [2, 2.0] for x in "qk"}
    tensors = {f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up}
    updates = written(path, tensors, HUNYUAN, maskora_joined=record).updates
    assert len(updates) == 3
    for x, expected in zip("qkv", (up @ down).split(8), strict=True):
        assert torch.equal(delta(updates[f"transformer_blocks.0.attn.to_{x}"]), expected)


def test_exchanged_halves_are_exchanged_back(path: Path) -> None:
    module = "diffusion_model.final_layer.adaLN_modulation.1"
    up = torch.arange(1.0, 9.0)[:, None]
    tensors = {f"{module}.lora_A.weight": torch.ones(1, 4), f"{module}.lora_B.weight": up}
    update = written(path, tensors, HUNYUAN).updates["norm_out.linear"]
    assert update.up_OR.flatten().tolist() == [5, 6, 7, 8, 1, 2, 3, 4]


def test_what_the_table_does_not_know_is_told_and_left_out(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tensors = pair("diffusion_model.blocks.0.self_attn.q") | pair("lora_te_text_model_q")
    assert len(written(path, tensors).updates) == 1
    assert "1 of 2 modules are not known (lora_te_text_model_q, …)" in caplog.text


def test_what_was_read_keeps_no_file(path: Path) -> None:
    """On Windows, a LoRA that is still mapped could not be trained anew."""
    found = written(path, pair("blocks.0.attn1.to_q"))
    held = {*psutil.Process().open_files(), *psutil.Process().memory_maps()}
    assert found.updates
    assert not any(file.path == str(path) for file in held)
