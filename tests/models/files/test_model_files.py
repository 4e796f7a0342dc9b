"""Every layout gives what the folder in diffusers' layout gives, and names its parts by content."""

import functools
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from maskora.models.files.model_files import from_single_files
from maskora.models.registry import (
    ModelFiles,
    PromptInput,
    VideoModel,
    open_model,
    open_source,
)
from maskora.streaming.placement import Placement
from tests.models.files import layouts
from tests.models.files.layouts import PREFIX, dequantised, scaled

Found = dict[str, Tensor]
Files = dict[str, Path]
Bases = Callable[[str], Path]
Expected = Callable[[str], Found]
PROMPT = "p3rs0n. a café, a man \N{SLIGHTLY SMILING FACE}"


@pytest.fixture(scope="module")
def expected(bases: Bases) -> Expected:
    """What the base in diffusers' layout gives."""
    return functools.cache(lambda family: answers(opened(bases(family), family)))


def opened(
    source: ModelFiles | Path, family: str = "wan2.1-i2v", dtype: str = "float32"
) -> VideoModel:
    return open_model(family, source, dtype, "cpu")


def answers(model: VideoModel) -> Found:
    """What every part of a base gives for fixed inputs."""
    numbers = torch.Generator().manual_seed(0)
    picture = torch.rand(3, 96, 64, generator=numbers) * 2 - 1
    found = {}
    for encoder in model.encoders():
        with encoder.load() as encode:
            (context,) = encode([PromptInput(PROMPT, picture)])
            found |= context
    with model.vae() as vae:
        found["latents"] = vae.encode(torch.rand(3, 5, 32, 48, generator=numbers) * 2 - 1)
        found["frames"] = vae.decode(found["latents"])
    context = {name: found[name][None] for name in ("text", "image") if name in found}
    for expert in model.experts:
        found[f"velocity {expert.name}"] = layouts.velocity(model, context, numbers, expert)
    found["timesteps"] = torch.as_tensor(model.scheduler(4, None).timesteps)
    return found


def assert_same(ours: Found, expected: Found) -> None:
    assert ours.keys() == expected.keys()
    wrong = [name for name in expected if not torch.equal(ours[name], expected[name])]
    assert not wrong


@pytest.mark.parametrize("family", ["wan2.1-i2v", "wan2.2-i2v"])
def test_the_original_layout_and_single_files_give_the_same(
    bases: Bases, expected: Expected, tmp_path: Path, family: str
) -> None:
    """Single files without a folder beside them."""
    base, prefix = bases(family), "" if family == "wan2.1-i2v" else PREFIX
    original = open_source(layouts.write_original(tmp_path / "original", base))
    assert_same(answers(opened(original, family)), expected(family))
    files = open_source(None, layouts.write_files(tmp_path / "files", base, prefix=prefix))
    assert_same(answers(opened(files, family)), expected(family))


def test_files_lie_over_a_folder(original: Path, files: Files, expected: Expected) -> None:
    """The folder's own transformer is another one, and its VAE is gone."""
    for path in original.glob("*.safetensors"):
        save_file({name: tensor + 1 for name, tensor in load_file(path).items()}, path)
    (original / layouts.VAE_FILE).unlink()
    source = open_source(original, {part: files[part] for part in ("transformer", "vae")})
    assert_same(answers(opened(source)), expected("wan2.1-i2v"))


def test_matrices_in_8_bits_give_what_they_stand_for(
    base: Path, expected: Expected, tmp_path: Path
) -> None:
    small = layouts.write_files(tmp_path / "small", base, layouts.scaled, PREFIX)
    dense = layouts.write_files(tmp_path / "dense", base, lambda t: dequantised(scaled(t)))
    ours = answers(opened(open_source(None, small)))
    assert_same(ours, answers(opened(open_source(None, dense))))
    changed = {name for name in ours if not torch.equal(ours[name], expected("wan2.1-i2v")[name])}
    assert changed == {"text", "velocity "}


@pytest.mark.parametrize(("storage", "dtype"), [("same", "bfloat16"), ("float8", "float32")])
def test_streamed_files_give_what_resident_ones_give(
    written: dict[str, Files], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: str,
    dtype: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = opened(open_source(None, written["scaled"]), dtype=dtype)
    given = []
    for placement in (
        Placement(0, storage=storage), Placement(2, "pinned", storage),
        Placement(2, "pageable", storage), Placement(2, "mapped", storage),
    ):  # fmt: skip
        model.placement = placement
        given.append(velocity(model))
    assert all(torch.equal(one, given[0]) for one in given[1:])
    assert list((tmp_path / "cache").rglob("weights/*.safetensors")), "mapped made its copy"


def test_files_in_the_right_precision_are_read_where_they_lie(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = opened(open_source(None, files))
    resident = velocity(model)
    model.placement = Placement(2, "mapped")
    assert torch.equal(velocity(model), resident)
    assert not list((tmp_path / "cache").rglob("weights/*"))


def velocity(model: VideoModel) -> Tensor:
    numbers = torch.Generator().manual_seed(1)
    context = {
        "text": torch.randn(1, 512, layouts.TEXT, generator=numbers),
        "image": torch.randn(1, 257, layouts.IMAGE, generator=numbers),
    }
    return layouts.velocity(model, context, numbers)


def test_what_was_found_is_told_in_a_line_for_each_part(
    base: Path, original: Path, written: dict[str, Files]
) -> None:
    files = written["scaled"]
    lines = open_source(None, files).description.splitlines()
    assert (
        f"  transformer: {files['transformer']}, scaled float8, 3 blocks x {layouts.WIDTH}, "
        f"36 input channels"
    ) in lines
    assert f"  vae: {files['vae']}, float32, VAE of 16 latent channels" in lines
    lines = open_source(original, {"vae": files["vae"]}).description.splitlines()
    assert (
        f"  text_encoder: {original / layouts.TEXT_FILE}, float32, UMT5 of 3 layers x 32" in lines
    )
    assert open_source(base).description == f"a folder in diffusers' layout ({base})"


@pytest.mark.parametrize(
    "part", ["transformer", "vae", "text_encoder", "image_encoder", "tokenizer"]
)
def test_another_file_is_another_identity(base: Path, tmp_path: Path, part: str) -> None:
    files = layouts.write_files(tmp_path, base)

    def identities() -> dict[str, str]:
        model = opened(open_source(None, files))
        return {one: model.identity(one) for one in model.parts}

    before = identities()
    path = files["text_encoder" if part == "tokenizer" else part]
    tensors = load_file(path)
    name = "spiece_model" if part == "tokenizer" else next(n for n in tensors if "weight" in n)
    flat = tensors[name].view(-1)
    flat[-1] = flat[-2]
    save_file(tensors, path)
    after = identities()
    changed = {one for one in before if before[one] != after[one]}
    assert part in changed
    assert changed <= {part, "text_encoder"}


def test_every_file_of_the_original_layout_counts(original: Path) -> None:
    model = opened(open_source(original))
    before = {part: model.identity(part) for part in model.parts}
    shards = "diffusion_pytorch_model-0000{}-of-00002.safetensors"
    for name, part in (
        (shards.format(1), "transformer"), (shards.format(2), "transformer"),
        ("config.json", "transformer"), (layouts.VAE_FILE, "vae"),
        (layouts.TEXT_FILE, "text_encoder"), (layouts.IMAGE_FILE, "image_encoder"),
        ("google/umt5-xxl/tokenizer.json", "tokenizer"),
    ):  # fmt: skip
        content = (original / name).read_bytes()
        (original / name).write_bytes(content + b" ")
        changed = {one for one in model.parts if model.identity(one) != before[one]}
        assert changed == {part}, name
        (original / name).write_bytes(content)


def test_the_configuration_of_the_original_layout_holds_what_shapes_do_not_tell(
    original: Path,
) -> None:
    path = original / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_heads": 4, "eps": 1e-5}))
    config = open_source(original).config("transformer")
    assert (config["num_attention_heads"], config["attention_head_dim"]) == (4, 32)
    assert config["eps"] == 1e-5


def test_weights_left_over_from_another_cutting_are_no_part_of_the_identity(
    tiny_model: Path, tmp_path: Path
) -> None:
    def named() -> str:
        return opened(base).identity("transformer")

    base = shutil.copytree(tiny_model, tmp_path / "base")
    whole = base / "transformer" / "diffusion_pytorch_model.safetensors"
    shard = layouts.write_shards(whole.parent, load_file(whole))
    with_leftover = named()
    whole.unlink()
    assert named() == with_leftover
    shard.write_bytes(shard.read_bytes() + b" ")
    assert named() != with_leftover


FILES = {"vae": Path("/models/wan/vae.pth"), "transformer": Path("/models/t/a.safetensors")}


def test_the_folder_of_files_is_the_one_they_share() -> None:
    assert from_single_files(FILES, alone=True).where == Path("/models")


def test_files_on_several_drives_share_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def commonpath(paths: Sequence[Path]) -> str:
        raise ValueError("Paths don't have the same drive")  # ntpath's words

    monkeypatch.setattr(os.path, "commonpath", commonpath)
    assert from_single_files(FILES, alone=True).where == Path("/models/wan")
