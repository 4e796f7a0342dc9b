"""Which files of a folder hold its weights, where there are several ways to read it."""

import json
from pathlib import Path

import pytest

from maskora.streaming.header import shards

PLAIN = ["m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors"]
HALF = ["m.fp16-00001-of-00002.safetensors", "m.fp16-00002-of-00002.safetensors"]


def write(folder: Path, files: list[str], index: str = "") -> None:
    """Files of a folder, and an index that names them."""
    for name in files:
        (folder / name).touch()
    if index:
        weights = dict(zip("ab", files, strict=False))
        (folder / index).write_text(json.dumps({"weight_map": weights}))


@pytest.mark.parametrize("half", ["m.fp16.safetensors.index.json", "m.safetensors.index.fp16.json"])
def test_the_plain_index_counts_though_another_comes_first(tmp_path: Path, half: str) -> None:
    write(tmp_path, HALF, half)
    write(tmp_path, PLAIN, "m.safetensors.index.json")
    assert [path.name for path in shards(tmp_path)] == PLAIN


def test_a_whole_file_counts_beside_a_variant_in_shards(tmp_path: Path) -> None:
    write(tmp_path, HALF, "m.fp16.safetensors.index.json")
    write(tmp_path, ["m.safetensors"])
    assert [path.name for path in shards(tmp_path)] == ["m.safetensors"]


def test_shards_count_beside_a_variant_in_one_file(tmp_path: Path) -> None:
    write(tmp_path, ["m.fp16.safetensors"])
    write(tmp_path, PLAIN, "m.safetensors.index.json")
    assert [path.name for path in shards(tmp_path)] == PLAIN
    (tmp_path / "m.safetensors.index.json").unlink()
    assert [path.name for path in shards(tmp_path)] == PLAIN


def test_a_variant_alone_is_what_there_is(tmp_path: Path) -> None:
    write(tmp_path, HALF, "m.fp16.safetensors.index.json")
    assert [path.name for path in shards(tmp_path)] == HALF


def test_a_missing_shard_is_named_rather_than_a_variant_taken(tmp_path: Path) -> None:
    write(tmp_path, HALF, "m.fp16.safetensors.index.json")
    write(tmp_path, PLAIN, "m.safetensors.index.json")
    for name in PLAIN:
        (tmp_path / name).unlink()
    assert [path.name for path in shards(tmp_path)] == PLAIN
