"""Tables of publishers' names, and the real ones against diffusers' own converters."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import pytest
import torch
from diffusers import HunyuanVideo15Transformer3DModel, HunyuanVideoTransformer3DModel
from diffusers.loaders.single_file_utils import (
    convert_hunyuan_video_transformer_to_diffusers,
    convert_wan_transformer_to_diffusers,
)
from torch import Tensor, nn

from maskora.models.hunyuan.names import HUNYUAN
from maskora.models.hunyuan15.names import HUNYUAN15
from maskora.models.names import Names
from maskora.models.wan.names import WAN
from tests.models.counting import on_meta
from tests.models.published import SHAPES, transformer

Make = Callable[[], nn.Module]


def hunyuan() -> nn.Module:
    return HunyuanVideoTransformer3DModel(in_channels=33, image_condition_type="latent_concat")


BASES: dict[str, tuple[Names, Make]] = {
    **{name: (WAN, partial(transformer, name)) for name in SHAPES},
    "HunyuanVideo-I2V": (HUNYUAN, hunyuan),
    "HunyuanVideo-1.5-I2V": (HUNYUAN15, HunyuanVideo15Transformer3DModel),
}
CONVERTED = {
    name: convert_hunyuan_video_transformer_to_diffusers
    if names is HUNYUAN
    else convert_wan_transformer_to_diffusers
    for name, (names, _) in BASES.items()
    if names is not HUNYUAN15  # diffusers has no converter of it
}


def parameters(make: Make) -> dict[str, int]:
    """Every parameter's rows, by its name."""
    return {name: len(parameter) for name, parameter in on_meta(make).named_parameters()}


def tagged(rows: Mapping[str, int]) -> dict[str, Tensor]:
    """Parameters of so many rows each, of which every one is a number of its own."""
    numbers = torch.arange(sum(rows.values())).split(list(rows.values()))
    return dict(zip(rows, numbers, strict=True))


def at_home(names: Names, parameter: str) -> tuple[str, str, str]:
    """A parameter's module, its publisher's module, and what follows both."""
    if published := names.published(parameter):  # it belongs to no module of its own
        return parameter, published, ""
    module, _, leaf = parameter.rpartition(".")
    published = names.published(module)
    assert published is not None, f"the table lacks {module}"
    return module, published, f".{leaf}"


def as_published(names: Names, ours: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """All tensors under the publisher's names: fused in the members' order, halves exchanged."""
    homes = {at_home(names, parameter)[1:] for parameter in ours}
    for published, leaf in homes:
        members = names.members(published)
        assert members is not None
        whole = torch.cat([ours[member + leaf] for member in members])
        assert names.divide(published, len(whole)) == tuple(len(ours[m + leaf]) for m in members)
        if names.is_swapped(published):
            whole = torch.cat(whole.chunk(2)[::-1])
        yield published + leaf, whole


@pytest.mark.parametrize("base", CONVERTED)
def test_diffusers_takes_every_row_from_where_the_table_says(base: str) -> None:
    names, make = BASES[base]
    ours = tagged(parameters(make))
    converted = CONVERTED[base](dict(as_published(names, ours)))
    assert converted.keys() == ours.keys()
    wrong = [name for name in ours if not torch.equal(converted[name], ours[name])]
    assert not wrong


@pytest.mark.parametrize("base", BASES)
def test_every_parameter_has_one_name_and_finds_back(base: str) -> None:
    names, make = BASES[base]
    homes = {parameter: at_home(names, parameter) for parameter in parameters(make)}
    for parameter, (module, published, _) in homes.items():
        assert module in (names.members(published) or ()), parameter
        flat = published.replace(".", "_")
        assert names.underscored.members(flat) == names.members(published), flat
    fused = sum(len(names.members(one) or ()) for one in {home[1] for home in homes.values()})
    modules = {module for module, _, _ in homes.values()}
    assert fused == len(modules), "no module may be held twice"
    for module in modules:
        assert names.members(module) in (None, (module,)), "what both sides know is the same"


def test_hunyuan15_has_the_names_that_tencent_gave() -> None:
    """As `hyvideo/models/transformers/hunyuanvideo_1_5_transformer.py` defines its modules."""
    names, make = BASES["HunyuanVideo-1.5-I2V"]
    found = {"".join(at_home(names, parameter)[1:]) for parameter in parameters(make)}
    block = {
        f"double_blocks.53.{stream}_{part}.{leaf}"
        for stream in ("img", "txt")
        for part in ("attn_q", "attn_k", "attn_v", "attn_proj", "mod.linear", "mlp.fc1", "mlp.fc2")
        for leaf in ("weight", "bias")
    } | {f"double_blocks.53.{s}_attn_{x}_norm.weight" for s in ("img", "txt") for x in "qk"}
    assert {name for name in found if name.startswith("double_blocks.53.")} == block
    pairs = (
        "img_in.proj", "time_in.mlp.0", "time_in.mlp.2", "txt_in.input_embedder",
        "txt_in.t_embedder.mlp.0", "txt_in.t_embedder.mlp.2", "txt_in.c_embedder.linear_1",
        "txt_in.c_embedder.linear_2", "byt5_in.layernorm", "byt5_in.fc1", "byt5_in.fc2",
        "byt5_in.fc3", "vision_in.proj.0", "vision_in.proj.1", "vision_in.proj.3",
        "vision_in.proj.4", "final_layer.linear", "final_layer.adaLN_modulation.1",
    )  # fmt: skip
    refiner = {
        f"txt_in.individual_token_refiner.blocks.{index}.{part}.{leaf}"
        for index in (0, 1)
        for part in (
            "norm1", "norm2", "self_attn_qkv", "self_attn_proj", "mlp.fc1", "mlp.fc2",
            "adaLN_modulation.1",
        )
        for leaf in ("weight", "bias")
    }  # fmt: skip
    outside = {f"{name}.{leaf}" for name in pairs for leaf in ("weight", "bias")}
    assert {name for name in found if not name.startswith("double_blocks.")} == (
        outside | refiner | {"cond_type_embedding.weight"}
    )


def test_comfyui_fuses_what_tencent_keeps_apart() -> None:
    """As musubi-tuner's convert_hunyuan_video_1_5_lora_to_comfy.py names and orders it."""
    assert HUNYUAN15.comfyui is not None
    published = HUNYUAN15.comfyui.underscored.published("transformer_blocks.7.attn.add_k_proj")
    assert published == "double_blocks_7_txt_attn_qkv"
    assert HUNYUAN15.comfyui.underscored.published("transformer_blocks.7.ff.net.0.proj") == (
        "double_blocks_7_img_mlp_0"
    )
    assert HUNYUAN15.comfyui.members("double_blocks.7.img_attn.qkv") == tuple(
        f"transformer_blocks.7.attn.to_{x}" for x in "qkv"
    )


NAMES = Names(
    {
        "double_blocks.{}.img_attn_qkv": tuple(f"blocks.{{}}.attn.to_{x}" for x in "qkv"),
        "double_blocks.{}.img_mlp.fc1": ("blocks.{}.ff.net.0.proj",),
        "head.modulation": ("scale_shift_table",),
        "final.1": ("norm_out.linear",),
        "single_blocks.{}.linear1": ("singles.{}.to_q", "singles.{}.proj_mlp"),
        "double_blocks.{}.img_mlp.0": ("blocks.{}.ff.net.0.proj",),
    },
    swapped=frozenset({"final.1"}),
    shares={"single_blocks.{}.linear1": (1, 4)},
)


def test_a_name_is_found_from_both_sides_with_its_number() -> None:
    assert NAMES.published("blocks.7.ff.net.0.proj") == "double_blocks.7.img_mlp.fc1"
    assert NAMES.members("double_blocks.12.img_attn_qkv") == (
        "blocks.12.attn.to_q", "blocks.12.attn.to_k", "blocks.12.attn.to_v",
    )  # fmt: skip
    assert NAMES.published("blocks.12.attn.to_k") == "double_blocks.12.img_attn_qkv"
    assert NAMES.published("scale_shift_table") == "head.modulation"
    assert NAMES.published("blocks.x.ff.net.0.proj") is None
    assert NAMES.members("img_attn_qkv") is None, "the table does not know it"


def test_swapped_halves_are_told_and_rows_divided_alike_or_as_the_table_says() -> None:
    assert NAMES.is_swapped("final.1")
    assert not NAMES.is_swapped("head.modulation")
    assert NAMES.underscored.is_swapped("final_1")
    assert NAMES.divide("double_blocks.3.img_attn_qkv", 12) == (4, 4, 4)
    assert NAMES.divide("single_blocks.0.linear1", 10) == (2, 8)
    assert NAMES.underscored.divide("single_blocks_0_linear1", 10) == (2, 8)
    assert NAMES.divide("double_blocks.3.img_attn_qkv", 13) is None


def test_names_without_dots_are_found_by_the_table_alone() -> None:
    assert NAMES.underscored.members("double_blocks_7_img_mlp_fc1") == ("blocks.7.ff.net.0.proj",)
    assert NAMES.underscored.published("blocks.7.attn.to_v") == "double_blocks_7_img_attn_qkv"


def test_the_first_of_several_names_is_the_publishers() -> None:
    assert NAMES.members("double_blocks.7.img_mlp.0") == ("blocks.7.ff.net.0.proj",)
    assert NAMES.published("blocks.7.ff.net.0.proj") == "double_blocks.7.img_mlp.fc1"
