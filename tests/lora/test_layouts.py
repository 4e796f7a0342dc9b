"""Writing in each layout and reading back: nothing is lost, and the names are the field's."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load
from torch import Tensor

from maskora import lora
from maskora.errors import UserError
from maskora.lora import LAYOUTS, LoraWeights, Update
from tests.lora.tiny import KINDS, Kind, linears, noise, random_lora

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TRANSFORMERS = {name: kind.transformer() for name, kind in KINDS.items()}


@st.composite
def loras(draw: st.DrawFn, kind: str, differing: bool) -> LoraWeights:
    """Any updates, of any ranks and alphas; perhaps differences of weights."""
    transformer = TRANSFORMERS[kind]
    names = draw(st.lists(st.sampled_from(sorted(linears(transformer))), min_size=1, unique=True))
    ranks = draw(st.lists(st.integers(1, 4), min_size=len(names), max_size=len(names)))
    alphas = draw(
        st.lists(st.sampled_from([1.0, 2.0, 0.1, 1 / 3, 64.0]) | st.floats(0.01, 100),
                 min_size=len(names), max_size=len(names))
    )  # fmt: skip
    weights = random_lora(
        transformer, names, ranks.__getitem__, alphas.__getitem__, draw(st.sampled_from(DTYPES))
    )
    if draw(st.booleans()):  # a module that was never trained
        first, *_ = names
        weights.updates[first].up_OR.zero_()
    if differing:
        parameters = dict(transformer.named_parameters())
        for name in draw(st.lists(st.sampled_from(sorted(parameters)), unique=True, max_size=6)):
            module, _, leaf = name.rpartition(".")
            slot = {"weight": "diff", "bias": "diff_b"}.get(leaf)
            key = f"{module}.{slot}" if slot else f"{name}.diff"
            weights.differences[key] = noise(len(name), *parameters[name].shape)
    return weights


def again(weights: LoraWeights, path: Path, layout: str, kind: Kind) -> LoraWeights:
    lora.write(path, weights, layout, kind.names)
    return lora.read(path, kind.names)


def assert_same(one: LoraWeights, other: LoraWeights) -> None:
    assert one.updates.keys() == other.updates.keys()
    for name, update in one.updates.items():
        found = other.updates[name]
        assert (found.rank, found.alpha) == (update.rank, update.alpha), name
        for a, b in ((update.down_RI, found.down_RI), (update.up_OR, found.up_OR)):
            assert a.dtype == b.dtype, name
            assert torch.equal(a, b), name
    assert one.differences.keys() == other.differences.keys()
    assert all(torch.equal(one.differences[n], other.differences[n]) for n in one.differences)
    assert one.metadata == other.metadata


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_from_layout_to_layout_nothing_is_lost(
    kind: str, data: st.DataObject, tmp_path: Path
) -> None:
    order = data.draw(st.permutations(list(LAYOUTS)))
    weights = data.draw(loras(kind, differing=False))
    converted = weights
    for layout in order:
        converted = again(converted, tmp_path / "a.safetensors", layout, KINDS[kind])
        assert_same(weights, converted)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_differences_of_weights_travel_too(kind: str, data: st.DataObject, tmp_path: Path) -> None:
    weights = data.draw(loras(kind, differing=True))
    for layout in ("comfyui", "musubi"):
        assert_same(weights, again(weights, tmp_path / "a.safetensors", layout, KINDS[kind]))


def test_diffusers_has_no_place_for_differences(tmp_path: Path) -> None:
    weights = random_lora(TRANSFORMERS["wan2.1"], ["proj_out"])
    weights.differences["proj_out.diff_b"] = torch.ones(64)
    with pytest.raises(UserError, match=r"a\.safetensors: diffusers' .* has 1 \(proj_out\.diff_b"):
        lora.write(tmp_path / "a.safetensors", weights, "diffusers", KINDS["wan2.1"].names)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_equal_loras_are_equal_files(tmp_path: Path, layout: str) -> None:
    weights = random_lora(TRANSFORMERS["wan2.1"], ["blocks.0.attn1.to_q"])
    weights.metadata.update(base="b", stage="motion", step=3, token="caf\u00e9")
    contents = set()
    for _ in range(8):
        lora.write(tmp_path / "a.safetensors", weights, layout, KINDS["wan2.1"].names)
        contents.add((tmp_path / "a.safetensors").read_bytes())
    (content,) = contents
    length = int.from_bytes(content[:8], "little")
    assert length % 8 == 0
    told = json.loads(content[8 : 8 + length])["__metadata__"]
    assert list(told) == sorted(told)
    assert len(told) > 1


def tensors(
    kind: str, modules: list[str], layout: str, path: Path, **sizes: Any
) -> dict[str, Tensor]:
    weights = random_lora(TRANSFORMERS[kind], modules, **sizes)
    lora.write(path, weights, layout, KINDS[kind].names)
    return load(path.read_bytes())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.safetensors"


def test_wan_has_the_names_of_the_field(path: Path) -> None:
    """musubi-tuner: `networks/lora_wan.py` names its modules "lora_unet." + the publisher's, with
    "_" for every dot. ComfyUI: `model_lora_keys_unet` in `comfy/lora.py`, "diffusion_model." +
    the publisher's.
    """
    modules = ["blocks.1.attn2.to_out.0", "blocks.0.ffn.net.0.proj", "blocks.0.attn2.add_k_proj"]
    published = ["blocks.1.cross_attn.o", "blocks.0.ffn.0", "blocks.0.cross_attn.k_img"]
    found = tensors("wan2.1", modules, "musubi", path)
    assert found.keys() == {
        f"lora_unet_{name.replace('.', '_')}.{part}"
        for name in published
        for part in ("lora_down.weight", "lora_up.weight", "alpha")
    }
    found = tensors("wan2.1", modules, "comfyui", path, alpha=lambda i: 2.0 + i)
    assert found.keys() == {
        f"diffusion_model.{name}.{part}"
        for name in published
        for part in ("lora_A.weight", "lora_B.weight")
    } | {f"diffusion_model.{name}.alpha" for name in published[1:]}  # the first's scale is 1
    found = tensors("wan2.1", modules, "diffusers", path)
    assert found.keys() == {f"transformer.{name}.lora_{x}.weight" for name in modules for x in "AB"}


@pytest.mark.parametrize(("layout", "prefix"), [("comfyui", "diffusion_model."), ("musubi", "")])
def test_hunyuan_is_fused_block_by_block(path: Path, layout: str, prefix: str) -> None:
    """musubi-tuner: `networks/lora.py` on the modules of `hunyuan_model/models.py`."""
    block = "single_transformer_blocks.1"
    modules = [f"{block}.attn.to_q", f"{block}.attn.to_v"]
    sizes = {"rank": lambda i: 2 + i, "alpha": lambda i: (2 + i) * 0.5}
    found = tensors("hunyuan", modules, layout, path, **sizes)
    name = (
        "diffusion_model.single_blocks.1.linear1" if prefix else "lora_unet_single_blocks_1_linear1"
    )
    down, up = ("lora_A", "lora_B") if prefix else ("lora_down", "lora_up")
    assert found.keys() == {f"{name}.{down}.weight", f"{name}.{up}.weight", f"{name}.alpha"}
    own = random_lora(TRANSFORMERS["hunyuan"], modules, **sizes).updates
    q, v = own[modules[0]], own[modules[1]]
    assert torch.equal(found[f"{name}.{down}.weight"], torch.cat([q.down_RI, v.down_RI]))
    wide, width = 24, 2 + 3
    expected = torch.zeros(7 * wide, width)  # q, k, v, and the MLP's four times as many rows
    expected[:wide, :2], expected[2 * wide : 3 * wide, 2:] = q.up_OR, v.up_OR
    assert torch.equal(found[f"{name}.{up}.weight"], expected)
    assert float(found[f"{name}.alpha"]) / width == 0.5


def test_hunyuan15_is_fused_for_comfyui_alone(path: Path) -> None:
    """ComfyUI's names as musubi-tuner's convert_hunyuan_video_1_5_lora_to_comfy.py gives them."""
    modules = [f"transformer_blocks.0.attn.to_{x}" for x in "qkv"]
    modules += ["transformer_blocks.1.ff_context.net.2"]
    found = tensors("hunyuan15", modules, "musubi", path)
    names = {key.split(".")[0] for key in found}
    assert names == {
        *(f"lora_unet_double_blocks_0_img_attn_{x}" for x in "qkv"),
        "lora_unet_double_blocks_1_txt_mlp_fc2",
    }
    found = tensors("hunyuan15", modules, "comfyui", path)
    names = {key.partition(".lora_")[0] for key in found}
    assert names == {
        "diffusion_model.double_blocks.0.img_attn.qkv", "diffusion_model.double_blocks.1.txt_mlp.2",
    }  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_record_travels_and_other_tools_find_theirs(path: Path, layout: str) -> None:
    weights = random_lora(TRANSFORMERS["hunyuan"], ["transformer_blocks.0.attn.to_q"])
    metadata = weights.metadata | {"base": "tencent/HunyuanVideo-I2V", "prompts": ["p3rs0n. a dog"]}
    weights = LoraWeights(weights.updates, {}, metadata)
    lora.write(path, weights, layout, KINDS["hunyuan"].names)
    with safe_open(path, "pt") as file:
        texts = file.metadata()
    assert json.loads(texts["maskora"]) == metadata
    described = texts.get("lora_adapter_metadata")
    if layout == "diffusers":
        assert described is not None
        assert json.loads(described)["transformer.r"] == 2
    else:
        assert described is None, "diffusers would scale twice"
        assert texts["modelspec.architecture"] == "hunyuan-video/lora"
        assert texts["modelspec.trigger_phrase"] == "p3rs0n"
        assert texts["ss_network_dim"] == "2"
        assert texts["ss_steps"] == "3"


def test_what_the_publisher_does_not_have_is_refused(path: Path) -> None:
    weights = LoraWeights({"blocks.0.new": Update(torch.ones(1, 2), torch.ones(2, 1), 1)}, {}, {})
    with pytest.raises(UserError, match=r"no module for blocks\.0\.new"):
        lora.write(path, weights, "comfyui", KINDS["wan2.1"].names)


def test_sizes_that_make_no_fused_matrix_are_refused(path: Path) -> None:
    block = "single_transformer_blocks.0"
    sizes = {f"{block}.attn.to_q": 24, f"{block}.proj_mlp": 95}
    updates = {n: Update(torch.ones(1, 24), torch.ones(size, 1), 1) for n, size in sizes.items()}
    with pytest.raises(UserError, match=r"do not make a single_blocks\.0\.linear1"):
        lora.write(path, LoraWeights(updates, {}, {}), "musubi", KINDS["hunyuan"].names)
