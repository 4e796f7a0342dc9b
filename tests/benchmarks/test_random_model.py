"""Random folders: what is written is what the real classes would have written."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel
from typer.testing import CliRunner

from benchmarks import random_model
from benchmarks.random_model import Size, write_random_model
from benchmarks.random_weights import WeightFile, write_weights
from maskora.config.tables import Inference
from maskora.errors import UserError
from maskora.latents import TensorCache, encode_samples
from maskora.method.conditioning import motion_sample
from maskora.models.registry import open_model
from maskora.sampling import Denoising, draw_noise

CLASSES: dict[str, Any] = {
    "transformer": WanTransformer3DModel,
    "vae": AutoencoderKLWan,
    "text_encoder": UMT5EncoderModel,
    "image_encoder": CLIPVisionModel,
}


def entries(part: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Name -> shape and dtype of every tensor in a part's files."""
    found = {}
    for path in part.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            assert file.metadata() == {"format": "pt"}
            for name in file.keys():  # noqa: SIM118
                piece = file.get_slice(name)
                found[name] = (tuple(piece.get_shape()), piece.get_dtype())
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("random") / "model"
    assert write_random_model(folder, "tiny", layers=3)
    return folder


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_tensors_are_those_that_save_pretrained_writes(
    dtype: str, tiny_model: Path, tmp_path: Path
) -> None:
    write_random_model(tmp_path / "random", "tiny", dtype=dtype)
    for part, kind in CLASSES.items():
        half = part in ("transformer", "text_encoder")
        key = "torch_dtype" if part in ("transformer", "vae") else "dtype"
        loaded = kind.from_pretrained(
            tiny_model / part, **{key: getattr(torch, dtype if half else "float32")}
        )
        loaded.save_pretrained(tmp_path / "saved" / part)
        ours, theirs = tmp_path / "random" / part, tmp_path / "saved" / part
        assert entries(ours) == entries(theirs)
        assert {p.name for p in ours.iterdir()} == {p.name for p in theirs.iterdir()}


def test_the_folder_encodes_predicts_and_decodes_finite_numbers(
    folder: Path, tmp_path: Path
) -> None:
    model = open_model("wan2.1-i2v", folder, "bfloat16", "cpu")
    video = torch.rand(3, 5, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    keep = torch.ones(5, 32, 48)
    keep[:, 8:24, 8:32] = 0
    sample = motion_sample(video, keep, 0, 5, "masked", "p3rs0n noise")
    (encoded,) = encode_samples([sample], model, TensorCache(tmp_path))
    transformer = model.load_transformer()
    assert len(transformer.blocks) == 3
    shape = (model.latent_channels, *encoded.condition_CTHW.shape[1:])
    negative = {**encoded.context, "text": torch.zeros(512, 32)}
    clip = Denoising(model, encoded, negative, draw_noise(shape, 0), Inference(steps=2))
    clip.advance(transformer)
    with model.vae() as vae:
        frames = vae.decode(clip.result())
    assert frames.shape == (3, 5, 32, 48)
    assert frames.isfinite().all()
    assert all(tensor.isfinite().all() for tensor in encoded.context.values())
    assert encoded.context["text"].abs().max() > 0


def test_a_folder_of_the_same_arguments_is_reused_and_others_are_refused(folder: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    assert not write_random_model(folder, "tiny", layers=3)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before
    with pytest.raises(UserError, match="already holds something"):
        write_random_model(folder, "tiny", layers=4)


def published_bytes(heads: int, ffn: int, layers: int) -> int:
    """All parts in bfloat16, but for the image encoder, the VAE and what stays in float32."""
    with torch.device("meta"):
        transformer = WanTransformer3DModel(
            num_attention_heads=heads, ffn_dim=ffn, num_layers=layers, in_channels=36,
            out_channels=16, image_dim=1280, added_kv_proj_dim=128 * heads,
        )  # fmt: skip
        text = UMT5EncoderModel(
            UMT5Config(
                vocab_size=256384, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64
            )
        )
        image = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=1280, intermediate_size=5120, num_hidden_layers=32,
                num_attention_heads=16, image_size=224, patch_size=14,
            )
        )  # fmt: skip
        vae = AutoencoderKLWan()
    kept = sum(
        p.numel()
        for name, p in transformer.named_parameters()
        if re.search(r"(time_embedder|scale_shift_table|norm2)(\.|$)", name)
    )
    plain = sum(p.numel() for part in (transformer, text) for p in part.parameters())
    single = sum(p.numel() for part in (image, vae) for p in part.parameters())
    return 2 * (plain + kept) + 4 * single


@pytest.mark.parametrize(
    ("size", "heads", "ffn", "layers"), [("14b", 40, 13824, 40), ("1.3b", 12, 8960, 30)]
)
def test_a_disk_too_small_is_said_with_both_numbers(
    size: Size, heads: int, ffn: int, layers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 3_210_000_000

    monkeypatch.setattr(random_model.shutil, "disk_usage", lambda _: Usage)
    needed = f"the model takes {published_bytes(heads, ffn, layers) / 1e9:.1f} GB"
    with pytest.raises(UserError, match=re.escape(needed) + r".*has 3\.2 GB free"):
        write_random_model(tmp_path / "model", size)
    assert list(tmp_path.iterdir()) == []


def test_large_parts_are_sharded_as_the_loaders_expect(folder: Path, tmp_path: Path) -> None:
    """Shards with an index load into the real class, with every value in its place."""
    part = folder / "transformer"
    model = WanTransformer3DModel.from_pretrained(part)
    listed = {n: (tuple(t.shape), "float32") for n, t in model.state_dict().items()}
    shards = WeightFile.of(listed, "diffusion_pytorch_model", shard=100_000)
    assert len(shards) > 2
    assert all(shard.bytes <= 100_000 for shard in shards)
    (tmp_path / "config.json").write_text((part / "config.json").read_text())
    write_weights(tmp_path, shards, seed=1)
    sharded = WanTransformer3DModel.from_pretrained(tmp_path, low_cpu_mem_usage=True)
    assert sharded.blocks[2].ffn.net[2].weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert sharded.blocks[2].norm2.weight.eq(1).all()
    assert sharded.blocks[2].ffn.net[2].bias.eq(0).all()
    index = json.loads((tmp_path / shards[0].index).read_text())  # type: ignore[arg-type]
    assert set(index["weight_map"]) == set(listed)


def test_a_file_is_laid_out_as_safetensors_lays_it_out(tmp_path: Path) -> None:
    listed = {"b": ((3,), "bfloat16"), "a": ((5, 3), "bfloat16"), "c.bias": ((7,), "float32")}
    (file,) = WeightFile.of(listed, "model")
    write_weights(tmp_path, [file], seed=0)
    save_file(
        {
            name: torch.zeros(shape, dtype=getattr(torch, kind))
            for name, (shape, kind) in listed.items()
        },
        tmp_path / "saved.safetensors",
        metadata={"format": "pt"},
    )

    def header(name: str) -> dict[str, Any]:
        data = (tmp_path / name).read_bytes()
        content: dict[str, Any] = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return content

    assert header(file.name) == header("saved.safetensors")


def test_the_command_says_what_is_wrong_and_ends_with_two(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    result = CliRunner().invoke(random_model.app, ["--output", str(tmp_path), "--size", "tiny"])
    assert result.exit_code == 2
    assert "already holds something" in result.stderr
