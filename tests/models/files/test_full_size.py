"""The published bases, in files of their full size that hold nothing, are known and planned."""

import json
import os
from collections.abc import Mapping
from math import prod
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import CLIPVisionModel, UMT5EncoderModel

from maskora.app.plan import plan_for
from maskora.app.workspace import Workspace
from maskora.config import build_config
from maskora.memory.plan import Purpose
from maskora.memory.profile import fingerprint
from maskora.memory.report import render
from maskora.models.files.wan import CLIP, UMT5
from maskora.models.registry import ModelFiles, open_source
from maskora.models.wan.names import WAN
from maskora.streaming.header import SIZES
from tests.machines import with_gpu
from tests.models import published
from tests.models.counting import on_meta
from tests.models.files import layouts
from tests.models.test_names import as_published

FAMILIES = {
    "Wan2.1-I2V-14B": "wan2.1-i2v",
    "Wan2.1-Fun-1.3B-InP": "wan2.1-fun-inp",
    "Wan2.2-I2V-A14B": "wan2.2-i2v",
}
BIG = "Wan2.1-I2V-14B"
PARTS = ("transformer", "text_encoder", "vae", "image_encoder")
SHARD = 9_900_000_000


def empty_safetensors(path: Path, tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> Path:
    """A file of the right header and size, all holes."""
    header, end = {}, 0
    for name, (kind, shape) in tensors.items():
        size = prod(shape) * SIZES[kind]
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(path, 8 + len(text) + end)
    return path


def empty_pth(path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> None:
    """The same as torch writes it."""
    with FakeTensorMode():
        tensors = {name: torch.empty(shape, dtype=dtype) for name, shape in shapes.items()}
    with torch.serialization.skip_data(materialize_fake_tensors=True):
        torch.save(tensors, path)


def shapes_of(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.named_parameters())


def their_shapes(kind: str, name: str) -> dict[str, tuple[int, ...]]:
    """A published part's tensors by its publisher's names."""
    if kind == "transformer":
        tensors = as_published(WAN, shapes_of(published.transformer(name)))
    elif kind == "text_encoder":
        tensors = as_published(UMT5, shapes_of(on_meta(lambda: UMT5EncoderModel(published.TEXT))))
    elif kind == "image_encoder":
        tensors = as_published(CLIP, shapes_of(on_meta(lambda: CLIPVisionModel(published.IMAGE))))
    else:
        ours = shapes_of(on_meta(AutoencoderKLWan))
        tensors = as_published(layouts.names_of_vae(ours), ours)
    shapes = {one: tuple(tensor.shape) for one, tensor in tensors}
    if kind == "image_encoder":
        width = shapes["visual.cls_embedding"][0]
        shapes["visual.cls_embedding"] = (1, 1, width)
        shapes["visual.pos_embedding"] = (1, *shapes["visual.pos_embedding"])
        shapes |= {"visual.head": (width, 1024), "log_scale": ()}
        shapes |= {"textual.token_embedding.weight": (250002, 1024)}
    return shapes


def write_original(folder: Path, name: str) -> Path:
    """Wan-AI's folder, the big one in float32 shards; alibaba-pai's has one file."""
    folders = [folder]
    if name in published.NO_PICTURE:
        folders = [folder / "high_noise_model", folder / "low_noise_model"]
    for one in folders:
        one.mkdir(parents=True)
        write_shards(one, their_shapes("transformer", name), "F32" if name == BIG else "BF16")
        (one / "config.json").write_text(json.dumps(layouts.wan_config(**published.SHAPES[name])))
    empty_pth(folder / layouts.VAE_FILE, their_shapes("vae", name), torch.float32)
    empty_pth(folder / layouts.TEXT_FILE, their_shapes("text_encoder", name), torch.bfloat16)
    if name not in published.NO_PICTURE:
        empty_pth(folder / layouts.IMAGE_FILE, their_shapes("image_encoder", name), torch.float16)
    return folder


def write_shards(folder: Path, shapes: Mapping[str, tuple[int, ...]], kind: str) -> None:
    """Files of up to 9.9 GB, with their index where there is more than one."""
    shards: list[dict[str, tuple[str, tuple[int, ...]]]] = [{}]
    filled = 0
    for name, shape in shapes.items():
        size = prod(shape) * SIZES[kind]
        if filled + size > SHARD:
            shards.append({})
            filled = 0
        shards[-1][name] = (kind, shape)
        filled += size
    index: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        count = f"-{number:05}-of-{len(shards):05}" if len(shards) > 1 else ""
        file = f"diffusion_pytorch_model{count}.safetensors"
        empty_safetensors(folder / file, shard)
        index |= dict.fromkeys(shard, file)
    if len(shards) > 1:
        place = folder / "diffusion_pytorch_model.safetensors.index.json"
        place.write_text(json.dumps({"weight_map": index}))


def write_scaled(folder: Path, name: str) -> dict[str, Path]:
    """ComfyUI's files of it, the matrices in scaled float8."""
    folder.mkdir()
    files = {}
    for part in PARTS:
        tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
        for one, shape in their_shapes(part, name).items():
            is_scaled = part in ("transformer", "text_encoder") and len(shape) == 2
            tensors[one] = ("F8_E4M3" if is_scaled else "F16", shape)
            if is_scaled and one.endswith(".weight"):
                tensors[one.removesuffix("weight") + "scale_weight"] = ("F32", ())
        files[part] = empty_safetensors(folder / f"{part}.safetensors", tensors)
    return files


def assert_is(found: ModelFiles, name: str, told: Path) -> None:
    """The arithmetic and the plan are those of the published configuration files."""
    expected = open_source(published.write_published(told, name))
    ours, theirs = (fingerprint(FAMILIES[name], source) for source in (found, expected))
    assert ours == theirs
    config = build_config({"model": {"family": FAMILIES[name]}})
    purposes: tuple[Purpose, ...] = ("train", "infer")
    for purpose in purposes:
        plans = [
            plan_for(config, Workspace(told), None, source, with_gpu(7.4, 7.8), purpose)
            for source in (found, expected)
        ]
        assert render(plans[:1]) == render(plans[1:])
    config = found.config("transformer")
    assert config["num_attention_heads"] == published.SHAPES[name]["num_attention_heads"]
    built = on_meta(lambda: WanTransformer3DModel.from_config(config))
    assert len(built.blocks) == published.SHAPES[name]["num_layers"]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_original_folder_is_planned_as_diffusers_own(name: str, tmp_path: Path) -> None:
    found = open_source(write_original(tmp_path / "original", name))
    assert_is(found, name, tmp_path / "told")
    shape, kind = published.SHAPES[name], "float32" if name == BIG else "bfloat16"
    width, layers = 128 * shape["num_attention_heads"], shape["num_layers"]
    assert f"{kind}, {layers} blocks x {width}, 36 input channels" in found.description
    assert "bfloat16, UMT5 of 24 layers x 4096" in found.description
    sees_picture = name not in published.NO_PICTURE
    assert ("float16, CLIP of 32 layers x 1280" in found.description) == sees_picture
    assert (", no image tokens" in found.description) == (not sees_picture)


def test_comfyuis_files_are_planned_as_diffusers_own(tmp_path: Path) -> None:
    found = open_source(None, write_scaled(tmp_path / "files", BIG))
    assert_is(found, BIG, tmp_path / "told")
    assert "scaled float8, 40 blocks x 5120, 36 input channels" in found.description
