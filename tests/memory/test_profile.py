"""The tables that ship: found by configurations, equal to the real classes, read without torch."""

import copy
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.profiles import measured, settings_of, write_parts
from maskora import lora
from maskora.config import build_config, load_config
from maskora.memory import profile
from maskora.memory.profile import (
    PROFILES,
    Profile,
    fingerprint,
    measure,
    published,
    read_profile,
    shipped,
    tiled_area,
)
from maskora.models.registry import open_model, open_source
from maskora.models.tiny import write_tiny_model
from maskora.streaming.blocks import Block, precise
from maskora.streaming.formats import FORMATS
from tests.app.test_configs import BASES, CONFIGS, NAMES
from tests.models import published as wan
from tests.models import published_hunyuan, published_hunyuan15

META = torch.device("meta")
HUNYUAN, HUNYUAN15 = "hunyuan-video-i2v", "hunyuan-video-1.5-i2v-480p"
# A published base -> its real classes.
PARTS: dict[str, Callable[[], dict[str, nn.Module]]] = {
    "wan2.1-i2v-480p": lambda: wan.parts("Wan2.1-I2V-14B"),
    "wan2.1-fun-1.3b-inp": lambda: wan.parts("Wan2.1-Fun-1.3B-InP"),
    "wan2.2-i2v-a14b": lambda: wan.parts("Wan2.2-I2V-A14B"),
    HUNYUAN: published_hunyuan.parts,
    HUNYUAN15: published_hunyuan15.parts,
}
LISTS = ("blocks", "transformer_blocks", "single_transformer_blocks")


def blocks_of(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The streamed modules of a transformer with their names, in order."""
    return [
        (f"{name}.{index}", block)
        for name in LISTS
        for index, block in enumerate(getattr(model, name, ()))
    ]


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture(scope="module", params=PARTS)
def base(request: pytest.FixtureRequest) -> tuple[str, Profile, dict[str, nn.Module]]:
    """A published base: its configuration, what ships of it, and its real classes."""
    return request.param, published()[request.param].profile, PARTS[request.param]()


Base = tuple[str, Profile, dict[str, nn.Module]]


def test_parameters_are_those_of_the_real_classes(base: Base) -> None:
    name, told, parts = base
    assert told.parameters == count(parts["transformer"])
    vae = parts["vae"]
    loaded = max(map(count, (vae.encoder, vae.decoder))) if name == HUNYUAN15 else count(vae)
    assert told.vae_bytes() == 4 * loaded
    assert told.experts == (2 if "2.2" in name else 1)
    depth = "20+40" if name == HUNYUAN else str(len(blocks_of(parts["transformer"])))
    assert f" {depth} x " in told.name


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_stored_blocks_have_exactly_the_sizes_of_the_engines_buffers(
    base: Base, dtype: str
) -> None:
    """Of each kind of block; and what lies outside them has exactly its parameters' bytes."""
    _, told, parts = base
    model = parts["transformer"]
    precision = precise(getattr(torch, dtype), tuple(model._keep_in_fp32_modules or ()))
    blocks = blocks_of(model)
    inside = tuple(f"{name}." for name in LISTS)
    outside = sum(
        p.numel() * precision(name).itemsize
        for name, p in model.named_parameters()
        if not name.startswith(inside)
    )
    assert told.other_bytes(dtype) == outside + sum(b.nbytes for b in model.buffers())
    kinds = {type(block): index for index, (_, block) in enumerate(blocks)}
    for index in kinds.values():
        prefix, block = blocks[index]
        for storage in ("same", *FORMATS):
            sizes = told.block_bytes(dtype, storage)
            assert len(sizes) == len(blocks)
            stored = Block(copy.deepcopy(block), f"{prefix}.", storage, precision, META)
            assert sizes[index] == stored.layout.nbytes, storage


@pytest.mark.parametrize("targets", ["attention", "attention+ffn"])
def test_the_lora_has_exactly_as_many_values_as_peft_makes(
    tmp_path: Path, tiny_model: Path, targets: str
) -> None:
    model = open_model("wan2.1-i2v", tiny_model, "float32", "cpu")
    transformer = model.build_transformer()
    lora.inject(transformer, rank=8, alpha=8.0, targets=model.lora_targets(targets), seed=0)
    values = sum(weight.numel() for weight in lora.trainable(transformer))
    told = read_profile("wan2.1-i2v", tiny_model, "float32", targets)
    assert told.lora_parameters(8, targets) == values


def test_a_shipped_base_is_found_by_the_files_that_its_classes_write(tmp_path: Path) -> None:
    for name in NAMES:
        family = published()[name].settings["model"]["family"]
        found = fingerprint(family, open_source(BASES[name](tmp_path / name)))
        assert shipped()[found]["configurations"].keys() >= {name}
        twin = tmp_path / name / "transformer_2"
        if twin.is_dir():  # as large as the first, and not needed for a plan
            shutil.rmtree(twin)
            assert fingerprint(family, open_source(tmp_path / name)) == found


def test_every_configuration_that_is_shipped_has_a_profile_and_its_settings() -> None:
    assert sorted(published()) == NAMES
    for name in NAMES:
        ours = build_config(published()[name].settings)
        theirs = load_config(CONFIGS / f"{name}.toml")
        assert published()[name].settings == settings_of(name)
        for table in ("model", "memory", "adapter", "video", "optimizer"):
            assert getattr(ours, table) == getattr(theirs, table)


def test_keys_that_change_no_size_are_not_looked_at(tmp_path: Path, tiny_model: Path) -> None:
    parts = {part.name: json.loads((part / "config.json").read_text("utf-8"))
             for part in tiny_model.iterdir() if (part / "config.json").is_file()}  # fmt: skip

    def name(**changes: object) -> str:
        told = {**parts, "transformer": {**parts["transformer"], **changes}}
        return fingerprint("wan2.1-i2v", open_source(write_parts(told, tmp_path / "base")))

    assert name() == name(eps=1e-5, _diffusers_version="0.1")
    assert len({name(), name(num_layers=3), name(ffn_dim=80)}) == 3
    assert fingerprint("wan2.1-i2v", open_source(tiny_model)) == name() in shipped()


def same(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    return json.loads(json.dumps(ours)) == theirs


def test_the_miniatures_profile_is_what_is_measured_now() -> None:
    table = json.loads((PROFILES / "miniature.json").read_text("utf-8"))
    folder = Path(profile.__file__).parents[1] / "miniature" / "weights"
    again = measure("miniature", open_source(folder), "bfloat16", "attention")
    weights = again.pop("weights")["bfloat16"]
    steps = weights.pop("steps")
    for key, value in again.items():
        assert same({key: value}, {key: table[key]})
    shipped_weights = dict(table["weights"]["bfloat16"])
    assert same(steps["attention"], shipped_weights.pop("steps")["attention"])
    assert same(weights, shipped_weights)


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(PROFILES.glob("*.json")), ids=lambda path: path.stem)
def test_every_shipped_profile_is_what_is_measured_now(path: Path) -> None:
    table = json.loads(path.read_text("utf-8"))
    again = measured(table["family"], table["parts"])
    assert same(again, {key: table[key] for key in again})


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own, and a process that has measured nothing yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(profile, "_MEASURED", {})
    return tmp_path / "cache" / "maskora" / "profiles"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Which tables are measured; a shipped one stands for each."""
    told: list[tuple[str, str]] = []
    table = json.loads((PROFILES / "tiny-wan2.1.json").read_text("utf-8"))

    def fake(family: str, source: object, dtype: str, targets: str, known: Any) -> dict[str, Any]:
        told.append((dtype, targets))
        steps = {name: table["weights"][dtype]["steps"][name] for _, name in told}
        return {**table, "weights": {dtype: {**table["weights"][dtype], "steps": steps}}}

    monkeypatch.setattr(profile, "measure", fake)
    return told


def forget() -> None:
    """As another process."""
    profile._MEASURED.clear()


def test_a_new_base_is_measured_once(
    cache: Path, calls: list[tuple[str, str]], deep_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(targets: str = "attention") -> Profile:
        return read_profile("wan2.1-i2v", deep_model, "float32", targets)

    read()
    read()
    forget()
    assert read().train_bytes("float32", 100, "block", 4, "attention") > 0
    assert calls == [("float32", "attention")]
    read("attention+ffn")
    assert len(calls) == 2
    (file,) = cache.iterdir()
    file.write_text("{damaged")
    forget()
    read()
    assert len(calls) == 3
    forget()
    monkeypatch.setattr(profile, "library_versions", lambda: {"torch": "9.9"})
    read()
    assert len(calls) == 4
    assert len(list(cache.iterdir())) == 2


def test_a_cache_that_cannot_be_written_is_no_reason_to_fail(
    cache: Path, calls: list[tuple[str, str]], deep_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.parent.parent.mkdir(parents=True)
    cache.parent.write_text("")
    read_profile("wan2.1-i2v", deep_model, "float32", "attention")
    assert "cannot be written" in caplog.text


@pytest.mark.parametrize("family", ["wan2.1-i2v", "wan2.1-fun-inp", "wan2.2-i2v"])
def test_a_tiny_model_is_planned_for_without_measuring(family: str, tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "tiny", family=family)
    code = (
        "import sys; from pathlib import Path; from maskora.memory.profile import read_profile;"
        f"read_profile({family!r}, Path({str(tmp_path / 'tiny')!r}), 'float32', 'attention');"
        "assert not {'torch', 'diffusers', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_tokens_and_inputs_follow_the_grid() -> None:
    one, other, both = (
        published()[name].profile for name in ("wan2.1-i2v-480p", HUNYUAN15, HUNYUAN)
    )
    for told in (one, other, both):
        assert told.tokens(9, 832, 480) == 3 * 30 * 52
        assert told.tokens(49, 832, 480) == 20280
    assert one.input_bytes("bfloat16", 4680) == 4680 * 5120 * 2
    assert other.input_bytes("bfloat16", 4680) == (4680 + 1000 + 256 + 729) * 2048 * 2
    assert both.input_bytes("bfloat16", 4680) == (4680 + 540) * 3072 * 2


def test_tiles_cover_the_picture_and_overlap() -> None:
    assert tiled_area(832, 480, None, 8) == (832 * 480, 1.0)
    assert tiled_area(128, 64, 256, 8) == (128 * 64, 1.0)
    area, overlap = tiled_area(832, 480, 256, 8)
    assert area == 256 * 256
    widths = [256, 256, 256, 256, 832 - 4 * 192]
    heights = [256, 256, 480 - 2 * 192]
    assert overlap == pytest.approx(sum(widths) * sum(heights) / (832 * 480))
