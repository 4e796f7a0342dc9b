"""The tables of names by which files are read, at the published sizes."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers
from torch import Tensor, nn
from transformers import CLIPVisionModel, UMT5EncoderModel

from maskora.models.files import hunyuan, wan
from maskora.models.files.tensors import CheckpointLayout, Kind, Weights, recognise
from maskora.models.files.wan import CLIP, LAYOUTS, UMT5
from maskora.models.names import Names
from maskora.streaming.header import Stored
from tests.models import published
from tests.models.counting import on_meta
from tests.models.files.layouts import names_of_vae
from tests.models.test_names import BASES, as_published, parameters, tagged

TRANSFORMERS = (wan.transformer({}), *hunyuan.TRANSFORMERS)


def found(tensors: Mapping[str, Tensor], *layouts: CheckpointLayout) -> Kind:
    """What files of such tensors are taken for."""
    stored = {
        name: Stored(Path("a.safetensors"), 0, "BF16", tuple(tensor.shape))
        for name, tensor in tensors.items()
    }
    return recognise(Weights(stored, tuple(stored), {}, "a.safetensors"), layouts, "a part")


def assert_is(kind: Kind, module: nn.Module, config: Mapping[str, object]) -> None:
    """Every parameter has its place, in its shape, and the configuration is the module's."""
    shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    assert kind.translation.shapes == shapes
    assert not kind.translation.unknown
    plain = {key: list(v) if isinstance(v, tuple) else v for key, v in config.items()}
    plain["_class_name"] = type(module).__name__
    assert {key: plain[key] for key in kind.config} == kind.config


FILES: dict[str, tuple[str, Names, str]] = {
    **{base: (base, names, "") for base, (names, _) in BASES.items()},
    "Wan2.2 of ComfyUI": ("Wan2.2-I2V-A14B", BASES["Wan2.2-I2V-A14B"][0], "model.diffusion_model."),
    "HunyuanVideo of ComfyUI": (
        "HunyuanVideo-I2V", hunyuan.as_comfyui(BASES["HunyuanVideo-I2V"][0]), "model.model.",
    ),
    "HunyuanVideo-1.5 of Comfy-Org": (
        "HunyuanVideo-1.5-I2V", hunyuan.fused(BASES["HunyuanVideo-1.5-I2V"][0]), "",
    ),
    "HunyuanVideo-1.5 of ComfyUI": (
        "HunyuanVideo-1.5-I2V",
        hunyuan.as_comfyui(hunyuan.fused(BASES["HunyuanVideo-1.5-I2V"][0])),
        "model.diffusion_model.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("file", FILES)
def test_a_transformer_is_known_by_its_tensors(file: str) -> None:
    base, names, prefix = FILES[file]
    module = on_meta(BASES[base][1])
    theirs = as_published(names, dict(module.named_parameters()))
    kind = found({prefix + name: tensor for name, tensor in theirs}, *TRANSFORMERS)
    assert_is(kind, module, module.config)
    rebuilt = on_meta(lambda: type(module).from_config(kind.config))
    assert parameters(lambda: rebuilt) == parameters(BASES[base][1])


def test_comfyuis_names_of_hunyuan_are_its_own() -> None:
    """As its `HunyuanVideo.process_unet_state_dict` makes them."""
    names = hunyuan.as_comfyui(BASES["HunyuanVideo-I2V"][0])
    ours = dict(on_meta(BASES["HunyuanVideo-I2V"][1]).named_parameters())
    theirs = {name for name, _ in as_published(names, ours)}
    for name in (
        "img_in.proj.weight", "time_in.in_layer.weight", "vector_in.out_layer.bias",
        "txt_in.t_embedder.in_layer.weight", "txt_in.c_embedder.out_layer.bias",
        "txt_in.individual_token_refiner.blocks.1.self_attn.qkv.weight",
        "txt_in.individual_token_refiner.blocks.1.self_attn.proj.bias",
        "txt_in.individual_token_refiner.blocks.0.mlp.0.weight",
        "txt_in.individual_token_refiner.blocks.0.adaLN_modulation.1.weight",
        "double_blocks.19.img_mod.lin.weight", "double_blocks.19.txt_attn.qkv.bias",
        "double_blocks.0.img_attn.norm.query_norm.scale",
        "double_blocks.0.txt_attn.norm.key_norm.scale", "double_blocks.3.txt_mlp.2.weight",
        "single_blocks.39.linear1.weight", "single_blocks.0.norm.query_norm.scale",
        "single_blocks.0.modulation.lin.bias", "final_layer.adaLN_modulation.1.weight",
    ):  # fmt: skip
        assert name in theirs, name
    assert not any("_norm.weight" in name or "mlp.fc" in name for name in theirs)


def test_diffusers_takes_the_vae_from_where_the_table_says() -> None:
    module = on_meta(AutoencoderKLWan)
    ours = tagged(parameters(AutoencoderKLWan))
    names = names_of_vae(ours)
    converted = convert_wan_vae_to_diffusers(dict(as_published(names, ours)))
    assert converted.keys() == ours.keys()
    assert all(torch.equal(converted[name], row) for name, row in ours.items())
    shapes = dict(as_published(names, dict(module.named_parameters())))
    assert_is(found(shapes, *LAYOUTS["vae"]), module, module.config)


def test_umt5_has_the_names_that_wan_gave() -> None:
    """As `wan/modules/t5.py` defines its modules."""
    module = on_meta(lambda: UMT5EncoderModel(published.TEXT))
    ours = dict(module.named_parameters())
    theirs = dict(as_published(UMT5, ours))
    leaves = (
        "norm1", "attn.q", "attn.k", "attn.v", "attn.o", "norm2", "ffn.gate.0", "ffn.fc1",
        "ffn.fc2", "pos_embedding.embedding",
    )  # fmt: skip
    blocks = {f"blocks.{i}.{leaf}.weight" for i in range(24) for leaf in leaves}
    assert theirs.keys() == blocks | {"token_embedding.weight", "norm.weight"}
    for tensors in (theirs, ours | {"spiece_model": torch.empty(9, device="meta")}):
        kind = found(tensors, *LAYOUTS["text_encoder"])
        assert_is(kind, module, module.config.to_dict())


def test_clip_has_the_names_that_wan_gave() -> None:
    """As `wan/modules/clip.py` defines its modules."""
    module = on_meta(lambda: CLIPVisionModel(published.IMAGE))
    ours = dict(module.named_parameters())
    theirs = dict(as_published(CLIP, ours))
    leaves = [
        f"{leaf}.{kind}"
        for leaf in ("norm1", "attn.to_qkv", "attn.proj", "norm2", "mlp.0", "mlp.2")
        for kind in ("weight", "bias")
    ]
    blocks = {f"visual.transformer.{i}.{leaf}" for i in range(32) for leaf in leaves}
    norms = {
        f"visual.{norm}.{kind}" for norm in ("pre_norm", "post_norm") for kind in ("weight", "bias")
    }
    assert theirs.keys() == blocks | norms | {
        "visual.cls_embedding", "visual.pos_embedding", "visual.patch_embedding.weight",
    }  # fmt: skip
    assert_is(
        found(theirs, *LAYOUTS["image_encoder"]),
        module,
        {**module.config.to_dict(), "hidden_act": "gelu"},
    )
    rows = tagged(parameters(lambda: module))
    order = dict(as_published(CLIP, rows))["visual.transformer.7.attn.to_qkv.weight"]
    expected = [rows[f"encoder.layers.7.self_attn.{x}_proj.weight"] for x in "qkv"]
    assert torch.equal(order, torch.cat(expected))
