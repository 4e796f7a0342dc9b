"""Files that are harmful, cut, incomplete or do not belong together: told before they load."""

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from maskora.models.registry import open_source
from tests.models.files import layouts
from tests.models.files.refusing import refused


class Harmful:
    """What a pickle may ask for."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.trace}",)


PICKLES = [layouts.VAE_FILE, layouts.TEXT_FILE, layouts.IMAGE_FILE]


@pytest.mark.parametrize("name", PICKLES)
def test_a_harmful_pickle_is_refused_and_nothing_of_it_runs(original: Path, name: str) -> None:
    path, trace = original / name, original / "trace"
    torch.save({**torch.load(path), "odd": Harmful(trace)}, path)
    refused(lambda: open_source(original), rf"{name} is refused: it asks for posix\.system")
    assert not trace.exists()


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder", "image_encoder"])
def test_a_harmful_pickle_is_no_single_file(
    files: dict[str, Path], tmp_path: Path, part: str
) -> None:
    trace = tmp_path / "trace"
    torch.save(Harmful(trace), tmp_path / "a.safetensors")
    files[part] = tmp_path / "a.safetensors"
    refused(lambda: open_source(None, files), r"a\.safetensors is refused: it asks for posix")
    assert not trace.exists()


@pytest.mark.parametrize("name", PICKLES)
def test_a_pth_file_of_another_form_or_cut_off_is_told(original: Path, name: str) -> None:
    path = original / name
    tensors = torch.load(path)
    os.truncate(path, path.stat().st_size - 50)
    refused(lambda: open_source(original), f"{name} is cut off, or in the form that torch wrote")
    torch.save(tensors, path, _use_new_zipfile_serialization=False)
    refused(lambda: open_source(original), f"{name} is cut off, or in the form that torch wrote")
    torch.save({"state_dict": tensors}, path)
    refused(lambda: open_source(original), f"{name}: state_dict is no tensor, but dict")
    torch.save(list(tensors.values()), path)
    refused(lambda: open_source(original), f"{name} holds no named tensors, but list")


def test_a_pth_file_that_was_compressed_afterwards_is_told(original: Path) -> None:
    path = original / layouts.VAE_FILE
    with zipfile.ZipFile(path) as archive:
        members = {one.filename: archive.read(one) for one in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    assert torch.load(path), "torch itself reads it"
    refused(lambda: open_source(original), f"{layouts.VAE_FILE}: .* is compressed, as torch does")


def test_a_pth_tensor_without_a_name_is_told(original: Path) -> None:
    path = original / layouts.VAE_FILE
    torch.save({3: torch.zeros(2)}, path)
    refused(lambda: open_source(original), "a tensor is called 3, which is no name")


def test_a_pth_tensor_that_is_a_transposed_view_is_told(original: Path) -> None:
    path = original / layouts.VAE_FILE
    torch.save({"odd": torch.zeros(2, 3).t()}, path)
    refused(lambda: open_source(original), "odd is stored in a way that is not read")


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder", "image_encoder"])
def test_a_cut_single_file_is_told(files: dict[str, Path], tmp_path: Path, part: str) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(files[part].read_bytes()[:-100])
    files[part] = path
    refused(lambda: open_source(None, files), r"cut\.safetensors is cut off within .*again")


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ({"a": {"dtype": "F32", "shape": [-2, -2], "data_offsets": [0, 16]}}, "a is described wro"),
        ({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0.0, 16.0]}}, "a is described wro"),
        ({"a": {"dtype": "F32", "shape": [4.0], "data_offsets": [0, 16]}}, "a is described wrong"),
        ({"__metadata__": {"_quantization_metadata": {"layers": 3}}}, "its notes on quantisation"),
    ],
)
def test_a_header_of_odd_numbers_is_told(
    files: dict[str, Path], tmp_path: Path, header: dict[str, object], told: str
) -> None:
    text, path = json.dumps(header).encode(), tmp_path / "odd.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(16))
    files["vae"] = path
    refused(lambda: open_source(None, files), rf"odd\.safetensors: {told}")


def test_a_cut_shard_and_a_missing_one_are_told(original: Path) -> None:
    shard = original / "diffusion_pytorch_model-00002-of-00002.safetensors"
    os.truncate(shard, shard.stat().st_size - 100)
    refused(lambda: open_source(original), f"{shard.name} is cut off within")
    shard.unlink()
    (original / layouts.VAE_FILE).unlink()
    (original / "google/umt5-xxl/tokenizer.json").unlink()
    refused(
        lambda: open_source(original),
        f"original layout .*: missing {shard.name}, {layouts.VAE_FILE}\n"
        f".*missing google/umt5-xxl/tokenizer.json",
    )


def test_a_cut_tokenizer_is_told(original: Path) -> None:
    (original / "google/umt5-xxl/tokenizer.json").write_text('{"version": ')
    refused(lambda: open_source(original), r"umt5-xxl/tokenizer\.json is damaged: ")


def test_a_folder_of_which_only_the_configuration_is_there_is_told(original: Path) -> None:
    for path in [*original.glob("*.safetensors*"), *original.glob("*.pth")]:
        path.unlink()
    refused(lambda: open_source(original), "missing diffusion_pytorch_model.safetensors, Wan2.1")


def test_a_configuration_that_disagrees_with_the_tensors_is_told(original: Path) -> None:
    path = original / "config.json"
    given = json.loads(path.read_text())
    for key, value, told in (
        ("num_layers", 40, "num_layers is 40 in its config.json, and its tensors are of 3"),
        ("num_heads", 7, "7 heads do not go into blocks of width 128"),
        ("num_heads", True, "True heads do not go into blocks of width 128"),
        ("eps", "tiny", 'eps is "tiny", and it should be a valid number'),
        ("eps", -1e-6, "eps is -1e-06, and it should be greater than 0"),
        ("quantization_config", {}, "quantised by other software"),
    ):
        path.write_text(json.dumps({**given, key: value}))
        refused(lambda: open_source(original), told)
