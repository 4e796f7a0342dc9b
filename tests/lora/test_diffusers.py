"""diffusers reads our files and answers as we do; where it cannot, that is known."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import HunyuanVideoImageToVideoPipeline, WanImageToVideoPipeline
from diffusers.loaders.lora_conversion_utils import _convert_hunyuan_video_lora_to_diffusers
from safetensors.torch import load_file

from maskora import lora
from maskora.lora import LoraWeights, Update
from maskora.models.hunyuan.names import HUNYUAN
from tests.lora.tiny import KINDS, Kind, linears, noise, random_lora

WAN_TARGETS = r"blocks\.\d+\.(attn[12]\.(to_q|to_k|to_v|to_out\.0)|ffn\.net\.(0\.proj|2))"
ATTENTION = r"blocks\.\d+\.attn[12]\.(to_q|to_k|to_v|to_out\.0)"
HUNYUAN_TARGETS = r".*blocks\.\d+\.(attn\.\w+(\.0)?|ff\w*\.net\.\d(\.proj)?|proj_mlp|proj_out)"
DOUBLE_BLOCKS = r"transformer_blocks\.\d+\.(attn\.\w+(\.0)?|ff\w*\.net\.\d(\.proj)?)"
WITHOUT = {"tokenizer": None, "text_encoder": None, "vae": None, "scheduler": None}


def write(path: Path, kind: Kind, targets: str, layout: str, **sizes: Any) -> LoraWeights:
    transformer = kind.transformer()
    modules = [name for name in linears(transformer) if re.fullmatch(targets, name)]
    assert modules
    weights = random_lora(transformer, modules, **sizes)
    lora.write(path, weights, layout, kind.names)
    return weights


def assert_same(theirs: Any, kind: Kind, path: Path) -> None:
    """A transformer that diffusers has given a file answers as ours does."""
    transformer = kind.transformer()
    lora.stack(transformer, [(path, 1.0)], kind.names)
    answer = kind.answer(transformer)
    assert (answer - kind.answer(kind.transformer())).abs().max() > 1e-2, "it must do something"
    assert (kind.answer(theirs) - answer).abs().max() <= 1e-4


def pipeline_of(kind: Kind, **others: Any) -> Any:
    """A pipeline of diffusers that is nothing but a transformer, or two."""
    transformer = kind.transformer()
    if kind.names is not HUNYUAN:
        return WanImageToVideoPipeline(**WITHOUT, transformer=transformer, **others)
    others = dict.fromkeys(("text_encoder_2", "tokenizer_2", "image_processor"))
    return HunyuanVideoImageToVideoPipeline(**WITHOUT, **others, transformer=transformer)


def twice(rank: Callable[[int], int] = lambda _: 2) -> dict[str, Any]:
    return {"rank": rank, "alpha": lambda i: 2.0 * rank(i)}


def uneven(index: int) -> int:
    return 1 + index % 3


SIZES = {
    "scale 1": {},
    "scale 2": twice(),
    "ranks": twice(uneven),
    "alphas": {"alpha": lambda i: 1.0 + i % 4},
}


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("targets", [ATTENTION, WAN_TARGETS])
@pytest.mark.parametrize("layout", ["diffusers", "comfyui"])
def test_wan_answers_the_same(layout: str, targets: str, sizes: str, tmp_path: Path) -> None:
    # See the test of ranks below for why not always Wan2.1.
    kind, path = KINDS["wan2.2" if sizes == "ranks" else "wan2.1"], tmp_path / "a.safetensors"
    write(path, kind, targets, layout, **SIZES[sizes])
    pipeline = pipeline_of(kind)
    pipeline.load_lora_weights(path)
    assert_same(pipeline.transformer, kind, path)


@pytest.mark.parametrize("layout", ["diffusers", "comfyui"])
def test_each_expert_of_wan22_gets_its_own(layout: str, tmp_path: Path) -> None:
    kind, high, low = KINDS["wan2.2"], tmp_path / "high.safetensors", tmp_path / "low.safetensors"
    write(high, kind, ATTENTION, layout)
    write(low, kind, ATTENTION, layout, **twice())
    pipeline = pipeline_of(kind, transformer_2=kind.transformer())
    pipeline.load_lora_weights(high)
    pipeline.load_lora_weights(low, load_into_transformer_2=True)
    assert_same(pipeline.transformer, kind, high)
    assert_same(pipeline.transformer_2, kind, low)


@pytest.mark.parametrize(
    ("targets", "layout", "sizes"),
    [
        *((HUNYUAN_TARGETS, "diffusers", sizes) for sizes in SIZES.values()),
        (DOUBLE_BLOCKS, "comfyui", {}),
        (DOUBLE_BLOCKS, "comfyui", {"rank": uneven, "alpha": uneven}),
    ],
)
def test_hunyuan_answers_the_same_to_fused_matrices_too(
    targets: str, layout: str, sizes: dict[str, Any], tmp_path: Path
) -> None:
    kind, path = KINDS["hunyuan"], tmp_path / "a.safetensors"
    write(path, kind, targets, layout, **sizes)
    pipeline = pipeline_of(kind)
    pipeline.load_lora_weights(path)
    assert_same(pipeline.transformer, kind, path)


def test_hunyuans_single_blocks_are_split_alike(tmp_path: Path) -> None:
    """Tensor by tensor, because diffusers splits them for the published size alone."""
    width, block, path = 3072, "single_transformer_blocks.0", tmp_path / "a.safetensors"
    rows = {"attn.to_q": width, "attn.to_v": width, "proj_mlp": 4 * width}
    rows_of = {f"{block}.{name}": height for name, height in rows.items()}
    rows_of["transformer_blocks.0.attn.to_q"] = width
    updates = {
        name: Update(noise(i, 2, width), noise(-i, height, 2), 2.0)
        for i, (name, height) in enumerate(rows_of.items())
    }
    lora.write(path, LoraWeights(updates, {}, {}), "comfyui", HUNYUAN)
    theirs = _convert_hunyuan_video_lora_to_diffusers(load_file(path))
    for name in (*rows_of, f"{block}.attn.to_k"):
        down, up = (theirs[f"transformer.{name}.lora_{x}.weight"] for x in "AB")
        expected = updates.get(name)
        if expected is None:
            assert not up.any()
        else:
            assert torch.allclose(up[:9] @ down, expected.up_OR[:9] @ expected.down_RI, atol=1e-4)


def test_hunyuan15_answers_the_same(tmp_path: Path) -> None:
    """Its pipeline has no LoRA loader; its transformer has."""
    kind, path = KINDS["hunyuan15"], tmp_path / "a.safetensors"
    write(path, kind, DOUBLE_BLOCKS, "diffusers", **twice(uneven))
    transformer = kind.transformer()
    transformer.load_lora_adapter(tmp_path, weight_name=path.name)
    assert_same(transformer, kind, path)


def test_diffusers_reads_musubi_files_only_with_feed_forward_layers(tmp_path: Path) -> None:
    """Which is why exporting says so, and why there is a layout for diffusers."""
    kind, path = KINDS["wan2.1"], tmp_path / "a.safetensors"
    pipeline = pipeline_of(kind)
    write(path, kind, ATTENTION, "musubi")
    with pytest.raises(KeyError, match="blocks_0_ffn_0"):
        pipeline.load_lora_weights(path)
    write(path, kind, WAN_TARGETS, "musubi", **twice())
    pipeline.load_lora_weights(path)
    assert_same(pipeline.transformer, kind, path)


def test_diffusers_cannot_read_alphas_of_hunyuan_in_comfyuis_layout(tmp_path: Path) -> None:
    kind, path = KINDS["hunyuan"], tmp_path / "a.safetensors"
    write(path, kind, DOUBLE_BLOCKS, "comfyui", **twice())
    pipeline = pipeline_of(kind)
    with pytest.raises(RuntimeError, match="at least a 1-dimensional tensor"):
        pipeline.load_lora_weights(path)


def test_diffusers_cannot_read_uneven_ranks_without_the_picture_branch(tmp_path: Path) -> None:
    """It adds zeros of to_k's rank for that branch, and then finds no such rank in the metadata."""
    kind, path = KINDS["wan2.1"], tmp_path / "a.safetensors"
    pipeline = pipeline_of(kind)
    write(path, kind, ATTENTION, "diffusers", **twice(uneven))
    with pytest.raises(RuntimeError, match=r"size mismatch for blocks\.0\.attn2\.add_k_proj"):
        pipeline.load_lora_weights(path)
    write(path, kind, ATTENTION, "comfyui", **twice(uneven))  # ComfyUI's has no such metadata
    pipeline.load_lora_weights(path)
    assert_same(pipeline.transformer, kind, path)
