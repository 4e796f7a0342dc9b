"""Stacked LoRAs: strengths, differences of weights, what the base lacks, and its precision."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from maskora import lora
from maskora.errors import UserError
from maskora.lora import LoraWeights, Update
from maskora.streaming.blocks import precise
from maskora.streaming.formats import FORMATS
from maskora.streaming.placement import Placement
from maskora.streaming.tensor_files import ModuleReader
from maskora.streaming.weights import stream_weights
from tests.lora.tiny import KINDS, linears, noise, random_lora

WAN = KINDS["wan2.1"]
ATTENTION = [f"blocks.{i}.attn{j}.to_{x}" for i in (0, 1) for j in (1, 2) for x in "qkv"]
MODULES = ["blocks.0.attn1.to_q", "blocks.1.attn2.to_out.0", "blocks.1.ffn.net.0.proj", "proj_out"]


def file(path: Path, weights: LoraWeights, layout: str = "comfyui") -> Path:
    lora.write(path, weights, layout, WAN.names)
    return path


def with_loras(*files: tuple[Path, float]) -> Tensor:
    transformer = WAN.transformer()
    lora.stack(transformer, files, WAN.names)
    return WAN.answer(transformer)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder, transformer = tmp_path_factory.mktemp("loras"), WAN.transformer()
    return (
        file(folder / "a.safetensors", random_lora(transformer, ATTENTION), "diffusers"),
        file(folder / "b.safetensors", random_lora(transformer, ["proj_out", *ATTENTION[::-2]])),
    )


def merged(weights: LoraWeights, strength: float) -> Tensor:
    """The answer of a base into whose own weights a LoRA was added."""
    transformer = WAN.transformer()
    for name, update in weights.updates.items():
        product = update.alpha / len(update.down_RI) * update.up_OR @ update.down_RI
        transformer.get_submodule(name).weight.data += strength * product
    for name, parameter in transformer.named_parameters():
        module, _, leaf = name.rpartition(".")
        slot = {"weight": "diff", "bias": "diff_b"}.get(leaf)
        for key in (f"{module}.{slot}", f"{name}.diff"):
            if key in weights.differences:
                parameter.data += strength * weights.differences[key]
    return WAN.answer(transformer)


@pytest.mark.parametrize("strength", [1.0, 0.3, -0.7])
def test_a_stack_answers_as_merged_weights(tmp_path: Path, strength: float) -> None:
    weights = random_lora(
        WAN.transformer(), ATTENTION, rank=lambda i: 1 + i % 3, alpha=lambda i: 0.5 + i
    )
    stacked = with_loras((file(tmp_path / "a.safetensors", weights), strength))
    assert (stacked - merged(weights, strength)).abs().max() <= 1e-4
    assert (stacked - with_loras()).abs().max() > 1e-2, "the LoRA must do something"


def test_strength_zero_is_the_bare_base_and_negative_takes_back(two: tuple[Path, Path]) -> None:
    a, _ = two
    bare = with_loras()
    assert torch.allclose(with_loras((a, 0.0)), bare, atol=1e-6)
    assert torch.allclose(with_loras((a, 1.0), (a, -1.0)), bare, atol=1e-4)
    assert torch.allclose(with_loras((a, 1.0), (a, 1.0)), with_loras((a, 2.0)), atol=1e-4)
    assert not torch.allclose(with_loras((a, 0.5)), with_loras((a, 2.0)), atol=1e-3)


def test_several_loras_stack_in_any_order(two: tuple[Path, Path]) -> None:
    a, b = two
    one, other = with_loras((a, 1.0), (b, 0.3)), with_loras((b, 0.3), (a, 1.0))
    assert torch.allclose(one, other, atol=1e-4)
    assert not torch.allclose(one, with_loras((a, 1.0)), atol=1e-3)


def differing(modules: Sequence[str] = ATTENTION) -> LoraWeights:
    """Differences of every sort of parameter, beside low-rank updates of some modules."""
    transformer = WAN.transformer()
    names = {
        "blocks.0.attn1.norm_q.diff": transformer.blocks[0].attn1.norm_q.weight,
        "blocks.1.norm2.diff": transformer.blocks[1].norm2.weight,
        "blocks.1.norm2.diff_b": transformer.blocks[1].norm2.bias,
        "blocks.0.attn1.to_q.diff_b": transformer.blocks[0].attn1.to_q.bias,
        "blocks.0.ffn.net.2.diff": transformer.blocks[0].ffn.net[2].weight,
        "blocks.0.scale_shift_table.diff": transformer.blocks[0].scale_shift_table,
        "scale_shift_table.diff": transformer.scale_shift_table,
        "patch_embedding.diff": transformer.patch_embedding.weight,
        "patch_embedding.diff_b": transformer.patch_embedding.bias,
        "proj_out.diff": transformer.proj_out.weight,
    }
    differences = {n: 0.3 * noise(i, *p.shape) for i, (n, p) in enumerate(names.items())}
    return LoraWeights(random_lora(transformer, modules).updates, differences, {})


def test_differences_of_weights_are_added(tmp_path: Path) -> None:
    weights = differing()
    path = file(tmp_path / "distilled.safetensors", weights)
    for strength in (1.0, 0.4):
        assert (with_loras((path, strength)) - merged(weights, strength)).abs().max() <= 1e-4
    for name, difference in weights.differences.items():
        alone = LoraWeights({}, {name: difference}, {})
        answer = with_loras((file(tmp_path / "alone.safetensors", alone), 1.0))
        assert (answer - merged(alone, 1.0)).abs().max() <= 1e-4, name
        assert (answer - with_loras()).abs().max() > 1e-4, name
    assert torch.allclose(with_loras((path, 0.7), (path, -0.7)), with_loras(), atol=1e-4)


def test_an_update_of_a_convolution_is_added(tmp_path: Path) -> None:
    down, up = noise(0, 3, 36, 1, 2, 2), noise(1, 24, 3, 1, 1, 1)
    weights = LoraWeights({"patch_embedding": Update(down, up, 6.0)}, {}, {})
    whole = torch.einsum("rcijk,orxyz->ocijk", down, up) * (6.0 / 3)
    other = LoraWeights({}, {"patch_embedding.diff": whole}, {})
    answer = with_loras((file(tmp_path / "conv.safetensors", weights), 0.1))
    assert (answer - merged(other, 0.1)).abs().max() <= 1e-4


def test_what_a_base_lacks_is_told_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = KINDS["wan2.2"]
    picture = [f"blocks.{i}.attn2.add_{x}_proj" for i in (0, 1) for x in "kv"]
    weights = random_lora(WAN.transformer(), [*ATTENTION, *picture])
    path = file(tmp_path / "i2v.safetensors", weights)
    transformer = base.transformer()
    lora.stack(transformer, [(path, 1.0)], base.names)
    (message,) = [record.getMessage() for record in caplog.records]
    assert "lacks 4 of the 16 modules" in message
    assert "blocks.0.attn2.add_k_proj" in message
    without = random_lora(WAN.transformer(), ATTENTION)
    plain = base.transformer()
    lora.stack(plain, [(file(tmp_path / "t2v.safetensors", without), 1.0)], base.names)
    assert torch.equal(base.answer(transformer), base.answer(plain))


def test_a_lora_of_another_base_is_refused_and_nothing_is_added(tmp_path: Path) -> None:
    bad = LoraWeights({ATTENTION[0]: Update(torch.ones(4, 99), torch.ones(99, 4), 4.0)}, {}, {})
    wrong = LoraWeights({}, {"blocks.0.norm2.diff": torch.ones(99)}, {})
    update = Update(torch.ones(1, 9), torch.ones(9, 1), 1)
    deep = LoraWeights({"blocks.9.ffn.net.2": update}, {}, {})
    good = file(tmp_path / "good.safetensors", differing())
    transformer = WAN.transformer()
    for weights, message in (
        (bad, r"does not fit this base: blocks\.0\.attn1\.to_q is for a weight of \(99, 99\)"),
        (wrong, r"does not fit this base: blocks\.0\.norm2\.diff is for"),
        (deep, r"does not fit this base, which has no blocks\.9\.ffn"),
    ):
        path = file(tmp_path / "bad.safetensors", weights)
        with pytest.raises(UserError, match=rf"bad\.safetensors {message}"):
            lora.stack(transformer, [(good, 1.0), (path, 1.0)], WAN.names)
    assert torch.equal(WAN.answer(transformer), with_loras())


def test_values_are_kept_on_a_half_precision_base(tmp_path: Path) -> None:
    weights = random_lora(WAN.transformer(), ATTENTION)
    transformer = WAN.transformer().to(torch.bfloat16)
    lora.stack(transformer, [(file(tmp_path / "a.safetensors", weights), 1.0)], WAN.names)
    stacked = dict(transformer.named_parameters())
    for name, tensor in weights.tensors.items():
        assert torch.equal(stacked[name.replace(".weight", ".lora_0.weight")], tensor)
    assert WAN.answer(transformer).isfinite().all()
    assert not any(parameter.requires_grad for parameter in transformer.parameters())


def test_a_stack_ends_at_the_modules_it_names(tmp_path: Path) -> None:
    """A module's name may be the end of another's: proj_out of HunyuanVideo."""
    base = KINDS["hunyuan"]
    transformer = base.transformer()
    path = tmp_path / "a.safetensors"
    lora.write(path, random_lora(transformer, ["proj_out"]), "diffusers", base.names)
    lora.stack(transformer, [(path, 1.0)], base.names)
    carriers = {name for name, _ in transformer.named_modules() if name.endswith(".lora_A")}
    assert carriers == {"proj_out.lora_A"}
    assert len(linears(transformer)) > 2


def supplied(placement: Placement) -> Any:
    with init_empty_weights():
        empty = WAN.make().requires_grad_(False).eval()
    cpu, reader = torch.device("cpu"), ModuleReader(WAN.transformer())
    empty.streamed = stream_weights(
        empty, empty.blocks, reader, precise(torch.float32), placement, cpu
    )
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
def test_a_stack_is_the_same_on_streamed_blocks(storage: str, swap: int, tmp_path: Path) -> None:
    if storage == "nf4":
        pytest.importorskip("bitsandbytes")
    path = file(tmp_path / "a.safetensors", differing(MODULES))
    streamed = supplied(Placement(swap, storage=storage, ring=1, split_batch=True))
    plain = stored_as(storage)
    bare = WAN.answer(plain)
    for transformer in (streamed, plain):
        lora.stack(transformer, [(path, 0.8), (path, -0.3)], WAN.names)
    expected = WAN.answer(plain)
    for _ in range(2):  # the blocks' buffers have been used for others in between
        assert (WAN.answer(streamed) - expected).abs().max() <= 1e-5
    assert (expected - bare).abs().max() > 1e-2
    streamed.streamed.close()
