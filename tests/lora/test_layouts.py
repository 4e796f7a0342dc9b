"""Writing in each layout and reading back: nothing is lost, and the names are the field's."""

import json
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load, save_file
from torch import Tensor

from maskora import lora
from maskora.errors import UserError
from maskora.lora import LAYOUTS, LoraWeights, Update
from maskora.models.names import Names
from maskora.models.wan.names import WAN
from tests.lora.tiny import KINDS, linears, noise, random_lora

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
HUNYUAN, HUNYUAN15 = KINDS["hunyuan"].names, KINDS["hunyuan15"].names
DOWN, UP = noise(0, 2, 24), noise(1, 24, 2)
ALPHA = "blocks.0.attn1.to_q.alpha"
TRANSFORMERS = {name: kind.transformer() for name, kind in KINDS.items()}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "any name at all.safetensors"


def pair(
    module: str, down: str = "lora_A.weight", up: str = "lora_B.weight", **more: Tensor
) -> dict[str, Tensor]:
    """The tensors of one module's update, and others of the module."""
    others = {f"{module}.{part}": tensor for part, tensor in more.items()}
    return {f"{module}.{down}": DOWN, f"{module}.{up}": UP, **others}


def written(
    path: Path, tensors: dict[str, Tensor], names: Names = WAN, **texts: object
) -> LoraWeights:
    """Write a file, and read it as a LoRA."""
    told = {k: text if isinstance(text, str) else json.dumps(text) for k, text in texts.items()}
    save_file({k: tensor.clone() for k, tensor in tensors.items()}, path, metadata=told)
    return lora.read(path, names)


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


OWN = ["blocks.1.attn2.to_out.0", "blocks.0.ffn.net.0.proj", "blocks.0.attn2.add_k_proj"]
PUBLISHED = ["blocks.1.cross_attn.o", "blocks.0.ffn.0", "blocks.0.cross_attn.k_img"]


@pytest.mark.parametrize(
    "prefix",
    [
        "pipe.dit.", "dit.", "_orig_mod.", "module._orig_mod.", "model.diffusion_model.",
        "pipe.unet.", "base_model.model.transformer.", "lycoris_", "lora_transformer_",
        "lora_unet__", "lora_", "lora_dit_", "transformer_2.", "",
    ],
)  # fmt: skip
@pytest.mark.parametrize("names", [OWN, PUBLISHED])
@pytest.mark.parametrize("dots", ["kept", "flat", "half"])
def test_names_of_the_field_with_whatever_stands_before(
    path: Path, prefix: str, names: list[str], dots: str
) -> None:
    """Programs put their own words before a module's name, and turn some or all dots around."""
    write = {"kept": str, "flat": lambda n: n.replace(".", "_"), "half": half_flat}[dots]
    modules = [f"{prefix}{write(name)}" for name in names]
    found = written(path, {k: v for module in modules for k, v in pair(module).items()})
    assert found.updates.keys() == set(OWN)


def half_flat(name: str) -> str:
    """A block's number with its name, the rest with dots: blocks_0.attn2.to_q."""
    return name.replace(".", "_", 1)


@pytest.mark.parametrize(
    "module", ["transformer_blocks.1.attn.to_q", "lora_transformer_transformer_blocks_1_attn_to_q",
               "lora_transformer_blocks_1_attn_to_q", "pipe.dit.transformer_blocks_1_attn.to_q"],
)  # fmt: skip
def test_a_name_that_begins_as_a_prefix_does(path: Path, module: str) -> None:
    assert list(written(path, pair(module), HUNYUAN).updates) == ["transformer_blocks.1.attn.to_q"]


@pytest.mark.parametrize("wrapper", ["_orig_mod", "_fsdp_wrapped_module"])
def test_wrapped_blocks_and_named_adapters(path: Path, wrapper: str) -> None:
    module = f"_orig_mod.blocks.0.{wrapper}.attn1.to_q"
    tensors = pair(module, "lora_A.mine.weight", "lora_B.mine.weight")
    assert list(written(path, tensors).updates) == ["blocks.0.attn1.to_q"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("differing", [False, True])
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_from_layout_to_layout_nothing_is_lost(
    kind: str, differing: bool, data: st.DataObject, tmp_path: Path
) -> None:
    layouts = [layout for layout in LAYOUTS if not (differing and layout == "diffusers")]
    weights = converted = data.draw(loras(kind, differing))
    for layout in data.draw(st.permutations(layouts)):
        lora.write(tmp_path / "a.safetensors", converted, layout, KINDS[kind].names)
        converted = lora.read(tmp_path / "a.safetensors", KINDS[kind].names)
        assert_same(weights, converted)


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


def ones(module: str, height: int = 2, width: int = 2) -> dict[str, Update]:
    return {module: Update(torch.ones(1, width), torch.ones(height, 1), 1)}


SINGLE = "single_transformer_blocks.0"


@pytest.mark.parametrize(
    ("names", "layout", "updates", "differences", "message"),
    [
        (WAN, "diffusers", ones("proj_out"), {"proj_out.diff_b": UP},
         r"name at all\.safetensors: diffusers' .* has 1 \(proj_out\.diff_b"),
        (WAN, "comfyui", ones("blocks.0.new"), {}, r"no module for blocks\.0\.new"),
        (HUNYUAN, "musubi",
         ones(f"{SINGLE}.attn.to_q", 24, 24) | ones(f"{SINGLE}.proj_mlp", 95, 24), {},
         r"do not make a single_blocks\.0\.linear1"),
    ],
)  # fmt: skip
def test_what_a_layout_has_no_place_for_is_refused(
    path: Path, names: Names, layout: str, updates: dict[str, Update],
    differences: dict[str, Tensor], message: str,
) -> None:  # fmt: skip
    with pytest.raises(UserError, match=message):
        lora.write(path, LoraWeights(updates, differences, {}), layout, names)
    assert not list(path.parent.iterdir())


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


@pytest.mark.parametrize(
    ("alpha", "described", "scale"),
    [
        (torch.tensor(3.0), {}, 3 / 2),
        (torch.tensor(3), {}, 3 / 2),
        (torch.ones(1).bfloat16(), {}, 1 / 2),
        (None, {"lora_alpha": 4, "use_rslora": True}, 4 / 2**0.5),
    ],
)
def test_an_alpha_scales(
    path: Path, alpha: Tensor | None, described: dict[str, object], scale: float
) -> None:
    more = {} if alpha is None else {"alpha": alpha}
    weights = written(
        path, pair("lora_unet_blocks_0_ffn_2", **more), lora_adapter_metadata=described
    )
    assert weights.updates["blocks.0.ffn.net.2"].scale == pytest.approx(scale, rel=1e-15)


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


def key(name: str, tensor: Tensor | None = None) -> dict[str, Tensor]:
    return pair("blocks.0.attn1.to_q") | {name: torch.ones(2) if tensor is None else tensor}


def fused(module: str, up: Tensor) -> dict[str, Tensor]:
    return {f"{module}.lora_A.weight": DOWN, f"{module}.lora_B.weight": up}


UNDIVIDED = ": its rows cannot be divided among"


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (key("blocks.0.attn1.to_q.dora_scale"), r"'blocks\.0\.attn1\.to_q\.dora_scale' belongs to"),
        (key("blocks.0.attn1.to_q.lora_magnitude_vector"), "lora_magnitude_vector' belongs to no"),
        (key("lora_unet_blocks_0_ffn_0.lokr_w1"), r"lora_unet_blocks_0_ffn_0\.lokr_w1' belongs"),
        (key("lora_unet_blocks_0_ffn_0.hada_w1_a"), "hada_w1_a' belongs to no LoRA of a kind"),
        (key("blocks.0.attn1.to_q.lora_mid.weight"), r"lora_mid\.weight' belongs to no LoRA"),
        (key("blocks.0.attn1.to_q.weight"), r"to_q\.weight' belongs to no LoRA of a kind"),
        (key("proj_out.lora_A.weight"), "proj_out lacks one of the two matrices"),
        (key("proj_out.diff", torch.full((2,), torch.nan)), r"'proj_out\.diff' holds values that"),
        (key("proj_out.alpha", torch.tensor(1.0)), "proj_out lacks one of the two matrices"),
        (key("blocks.0.attn1.to_q.alpha", torch.tensor(0.0)), "its alpha is not a positive"),
        (key("blocks.0.attn1.to_q.alpha", torch.ones(2)), "its alpha is not a positive number"),
        (key("proj_out.diff", torch.ones(2, dtype=torch.int8)), r"stored as torch\.int8"),
        (
            {name: one.to(torch.float8_e4m3fn) for name, one in key(ALPHA, torch.ones(1)).items()},
            r"to_q.*stored as torch\.float8_e4m3fn",
        ),
        (
            key(ALPHA, torch.ones(1).to(torch.float8_e5m2)),
            r"'blocks\.0\.attn1\.to_q\.alpha' is stored as torch\.float8_e5m2",
        ),
        (key("blocks.0.self_attn.q.lora_B.weight"), r"self_attn\.q lacks one of the two"),
        (pair("blocks.0.attn1.to_q") | pair("blocks.0.self_attn.q"), "holds blocks.* twice"),
        (
            pair("transformer.proj_out") | pair("transformer_2.proj_out"),
            "holds proj_out twice, under several names",
        ),
        (key("blocks.0.attn1.to_q.lora_down.weight", DOWN), "twice, under several names"),
        (
            {"proj_out.lora_A.weight": DOWN, "proj_out.lora_B.weight": torch.ones(24, 3)},
            r"proj_out: its matrices \(2, 24\) and \(24, 3\) do not belong together",
        ),
        (
            {"proj_out.lora_A.weight": DOWN[:0], "proj_out.lora_B.weight": UP[:, :0]},
            "do not belong together",
        ),
        (pair("up_blocks.0.attn1.to_q"), "another kind of base: nothing here is called 'up_blocks"),
        (fused("double_blocks.0.img_attn_qkv", torch.ones(25, 2)), f"qkv{UNDIVIDED}"),
        (fused("single_blocks.0.linear1", torch.ones(50, 2)), f"linear1{UNDIVIDED}"),
        (fused("double_blocks.0.img_attn_qkv", torch.zeros(24, 2)), "it would add is zero"),
    ],
)  # fmt: skip
def test_what_is_no_lora_is_refused_by_name(
    path: Path, tensors: dict[str, Tensor], message: str
) -> None:
    names = HUNYUAN if next(iter(tensors)).startswith(("double_", "single_")) else WAN
    with pytest.raises(UserError, match=rf"any name at all\.safetensors.*{message}"):
        written(path, tensors, names)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"maskora": "[]"}, "its metadata 'maskora' is damaged: no JSON object"),
        ({"maskora": "{"}, "its metadata 'maskora' is damaged: "),
        ({"lora_adapter_metadata": "nan"}, "its metadata 'lora_adapter_metadata' is damaged"),
        ({"lora_adapter_metadata": {"lora_alpha": "much"}}, "its alphas are damaged"),
        ({"lora_adapter_metadata": {"lora_alpha": -1}}, "alpha is not a positive number"),
        ({"lora_adapter_metadata": {"alpha_pattern": [1]}}, "its alphas are damaged"),
        (
            {"lora_adapter_metadata": {"lora_alpha": 1, "alpha_pattern": {"(a+)+$": 2}}},
            r"'\(a\+\)\+\$' is no module's name",
        ),
        ({"lora_adapter_metadata": {"transformer.use_dora": True}}, "uses use_dora, which is not"),
        ({"maskora_joined": {"proj_out": [1]}}, "its metadata 'maskora_joined' is damaged"),
    ],
)
def test_damaged_settings_are_refused_by_name(
    path: Path, texts: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=rf"any name at all\.safetensors.*{message}"):
        written(path, pair("proj_out"), **texts)


def test_damaged_files_are_refused_by_name(path: Path) -> None:
    with pytest.raises(UserError, match=r"any name at all\.safetensors does not exist"):
        lora.read(path)
    written(path, pair("proj_out"))
    for content, message in (
        (b"hello", "no readable"), ((2).to_bytes(8, "little") + b"{}", "no LoRA: it is empty"),
        (path.read_bytes()[:-5], "cut off"),
    ):  # fmt: skip
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"any name at all\.safetensors is {message}"):
            lora.read(path)
    with pytest.raises(UserError, match="is a folder; a file is needed there"):
        lora.read(path.parent)
