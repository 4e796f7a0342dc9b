"""HunyuanVideo's transformers from single files, over a folder in diffusers' layout."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers import HunyuanVideo15Transformer3DModel, HunyuanVideoTransformer3DModel
from safetensors.torch import save_file
from torch import Tensor, nn

from maskora.models.building import fill
from maskora.models.files.hunyuan import as_comfyui, fused
from maskora.models.hunyuan.names import HUNYUAN
from maskora.models.hunyuan15.names import HUNYUAN15
from maskora.models.names import Names
from maskora.models.registry import open_model, open_source
from maskora.streaming.placement import Placement
from tests.models import tiny_hunyuan
from tests.models.counting import on_meta
from tests.models.files import layouts
from tests.models.files.layouts import (
    PREFIX,
    Change,
    changed,
    dequantised,
    in_float8,
    refused,
    scaled,
)

HUNYUAN_PREFIX = "model.model."


def hunyuan() -> nn.Module:
    """The smallest with a head of the published width."""
    return HunyuanVideoTransformer3DModel(
        in_channels=33, num_attention_heads=1, num_layers=2, num_single_layers=2,
        num_refiner_layers=1, text_embed_dim=tiny_hunyuan.TEXT_DIM,
        pooled_projection_dim=tiny_hunyuan.POOLED_DIM, image_condition_type="latent_concat",
        guidance_embeds=False,
    )  # fmt: skip


def hunyuan15() -> nn.Module:
    return HunyuanVideo15Transformer3DModel(
        num_attention_heads=1, num_layers=2, num_refiner_layers=1, text_embed_dim=24,
        text_embed_2_dim=16, image_embed_dim=20,
    )  # fmt: skip


@dataclass(frozen=True)
class File:
    """A way in which a transformer's file is laid out."""

    make: Callable[[], nn.Module]
    names: Names
    prefix: str = ""
    change: Change = dict
    meant: Change = dict


FILES = {
    "Tencent's": File(hunyuan, HUNYUAN),
    "ComfyUI's": File(hunyuan, as_comfyui(HUNYUAN), HUNYUAN_PREFIX),
    "ComfyUI's, scaled": File(
        hunyuan, as_comfyui(HUNYUAN), HUNYUAN_PREFIX, scaled, lambda t: dequantised(scaled(t))
    ),
    "Tencent's, scaled by row": File(
        hunyuan, HUNYUAN, "", partial(scaled, by_row=True),
        lambda t: dequantised(scaled(t, by_row=True)),
    ),
    "Tencent's, plain float8": File(
        hunyuan, HUNYUAN, PREFIX, in_float8,
        lambda t: {n: x.float() for n, x in in_float8(t).items()},
    ),
    "1.5, Tencent's": File(hunyuan15, HUNYUAN15),
    "1.5, Comfy-Org's": File(hunyuan15, fused(HUNYUAN15)),
    "1.5, ComfyUI's": File(hunyuan15, as_comfyui(fused(HUNYUAN15)), PREFIX),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_transformers_file_fills_diffusers_class(name: str, tmp_path: Path) -> None:
    """Every fused matrix is cut, and the last modulation's halves are exchanged."""
    file, path = FILES[name], tmp_path / "file.safetensors"
    torch.manual_seed(2)
    ours = {n: torch.randn_like(p) for n, p in file.make().named_parameters()}
    theirs = layouts.published(file.names, ours)
    save_file({file.prefix + n: t for n, t in file.change(theirs).items()}, path)
    source = open_source(None, {"transformer": path})
    config = source.config("transformer")
    kind = type(file.make())
    module = fill(on_meta(lambda: kind.from_config(config)), source.weights("transformer"))
    meant = layouts.in_our_names(file.names, file.meant(theirs), ours)
    assert {n: tuple(p.shape) for n, p in module.named_parameters()} == {
        n: tuple(t.shape) for n, t in ours.items()
    }
    wrong = [n for n, p in module.named_parameters() if not torch.equal(p, meant[n])]
    assert not wrong


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in diffusers' layout whose transformer is of the published width."""
    folder = tiny_hunyuan.write(tmp_path_factory.mktemp("bases") / "hunyuan")
    torch.manual_seed(4)
    hunyuan().save_pretrained(folder / "transformer")
    return folder


@pytest.fixture
def file(base: Path, tmp_path: Path) -> Path:
    ours = layouts.read_part(base, "transformer")
    theirs = layouts.published(as_comfyui(HUNYUAN), ours)
    save_file({HUNYUAN_PREFIX + n: t for n, t in theirs.items()}, tmp_path / "i2v.safetensors")
    return tmp_path / "i2v.safetensors"


def velocity(base: Path, files: dict[str, Path], placement: Placement) -> Tensor:
    source = open_source(base, files)
    model = open_model("hunyuan-video-i2v", source, "bfloat16", "cpu", placement)
    numbers = torch.Generator().manual_seed(1)
    context = {
        "text": torch.randn(1, 8, tiny_hunyuan.TEXT_DIM, generator=numbers),
        "text_mask": torch.ones(1, 8),
        "pooled": torch.randn(1, tiny_hunyuan.POOLED_DIM, generator=numbers),
    }
    return layouts.velocity(model, context, numbers)


@pytest.mark.parametrize("kind", ["pinned", "mapped"])
def test_the_base_takes_it_over_its_folder(
    base: Path, file: Path, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    streamed = velocity(base, {"transformer": file}, Placement(4, kind))
    assert torch.equal(streamed, velocity(base, {}, Placement(0)))


def test_related_transformers_are_refused_with_what_to_use_instead(
    base: Path, file: Path, tmp_path: Path
) -> None:
    def with_channels(count: int) -> Path:
        name = f"{HUNYUAN_PREFIX}img_in.proj.weight"
        more = {name: torch.zeros(128, count, 1, 2, 2)}
        return changed(file, tmp_path / f"{count}.safetensors", lambda tensors: tensors | more)

    def with_tensor(name: str) -> Path:
        more = {HUNYUAN_PREFIX + name: torch.zeros(2)}
        return changed(file, tmp_path / f"{name}.safetensors", lambda tensors: tensors | more)

    for path, message in (
        (with_channels(16), "is a text-to-video or token-replace model, which has no mask channel"),
        (with_channels(32), "is a model of 32 input channels"),
        (with_tensor("clean_x_embedder.proj.weight"), "is FramePack"),
        (with_tensor("time_r_in.in_layer.weight"), "is a step-distilled model"),
    ):
        refused(
            lambda path=path: open_source(base, {"transformer": path}),
            f"{message}: use the latent-concat HunyuanVideo-I2V",
            "hunyuan-video-i2v",
        )


def test_a_wan_transformer_is_no_hunyuan(base: Path, tmp_path: Path) -> None:
    wan = layouts.write_diffusers(tmp_path / "wan" / "base")
    files = layouts.write_files(tmp_path / "files", wan)
    refused(
        lambda: open_source(base, {"transformer": files["transformer"]}),
        "its transformer is a WanTransformer3DModel.*takes a HunyuanVideoTransformer3DModel",
        "hunyuan-video-i2v",
    )
