"""Weights that are damaged, missing or another model's: told by name, before or while they load."""

import json
import os
import shutil
from pathlib import Path

import pytest

from maskora.errors import Fault, UserError
from maskora.streaming.header import read_header
from maskora.streaming.placement import Placement
from tests.streaming.driving import answer, opened


@pytest.fixture
def copied(deep_model: Path, tmp_path: Path) -> Path:
    """A model folder that may be damaged."""
    return shutil.copytree(deep_model, tmp_path / "model")


def test_a_cut_off_file_is_known_at_once(copied: Path) -> None:
    path = copied / "transformer" / "diffusion_pytorch_model.safetensors"
    os.truncate(path, path.stat().st_size - 100)
    with pytest.raises(UserError, match=r"is cut off within .*: download it again"):
        opened(copied, Placement(5)).load_transformer()


def test_a_file_that_shrinks_in_use_is_a_fault(copied: Path) -> None:
    model = opened(copied, Placement(5, "mapped"))
    transformer = model.load_transformer()
    os.truncate(copied / "transformer" / "diffusion_pytorch_model.safetensors", 5000)
    with pytest.raises(Fault, match="ends early"):
        answer(model, transformer)


def test_weights_of_another_shape_name_the_tensor(copied: Path) -> None:
    config = copied / "transformer" / "config.json"
    config.write_text(config.read_text().replace('"ffn_dim": 96', '"ffn_dim": 112'))
    with pytest.raises(UserError, match=r"ffn.net.0.proj.weight is \(96, 48\) instead of \(112"):
        opened(copied, Placement(5)).load_transformer()


def test_missing_weights_name_the_tensor(copied: Path) -> None:
    config = copied / "transformer" / "config.json"
    config.write_text(config.read_text().replace('"num_layers": 5', '"num_layers": 6'))
    with pytest.raises(UserError, match=r"lacks the tensor blocks\.5\."):
        opened(copied, Placement(6)).load_transformer()


@pytest.mark.parametrize("text", ["{", "[]", '{"weights": {}}', '{"weight_map": []}'])
def test_a_damaged_index_is_told(copied: Path, text: str) -> None:
    index = copied / "transformer" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(text)
    with pytest.raises(UserError, match=r"index\.json is damaged .*: download it again"):
        opened(copied, Placement(5))


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"dtype": "F32", "shape": [4], "data_offsets": [-16, 0]}, "is described wrongly"),
        ({"dtype": "F32", "shape": [4], "data_offsets": [0, 8]}, "is described wrongly"),
        ({"dtype": "F32", "shape": "ab", "data_offsets": [0, 8]}, "in an unknown way"),
        ({"dtype": "F3", "shape": [4], "data_offsets": [0, 16]}, "in an unknown way .*F3"),
        ({"dtype": "F32", "shape": [4], "data_offsets": [16, 32]}, "is cut off within odd"),
    ],
)
def test_a_header_that_cannot_be_so_is_told(
    tmp_path: Path, entry: dict[str, object], told: str
) -> None:
    text = json.dumps({"odd": entry}).encode()
    path = tmp_path / "odd.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(16))
    with pytest.raises(UserError, match=told):
        read_header(path)
