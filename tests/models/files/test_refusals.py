"""Files that are harmful, damaged, incomplete or another model's: refused before they load."""

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from maskora.models.registry import open_model, open_source
from tests.models.files import layouts
from tests.models.files.layouts import PREFIX, Tensors, changed, refused

PICKLES = [layouts.VAE_FILE, layouts.TEXT_FILE, layouts.IMAGE_FILE]
PARTS = ["transformer", "vae", "text_encoder", "image_encoder"]
Files = dict[str, Path]


def refused_files(files: Files, message: str, **others: Path) -> None:
    """Single files, some of them others, are refused."""
    refused(lambda: open_source(None, files | others), message)


def with_more(names: dict[str, tuple[int, ...]]) -> Callable[[Tensors], Tensors]:
    """More tensors; a shape in place of one that is there."""
    return lambda tensors: tensors | {n: torch.zeros(shape) for n, shape in names.items()}


def without(*beginnings: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {n: t for n, t in tensors.items() if not n.startswith(beginnings)}


class Harmful:
    """What a pickle may ask for."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.trace}",)


@pytest.mark.parametrize("name", PICKLES)
def test_a_harmful_pickle_is_refused_and_nothing_of_it_runs(original: Path, name: str) -> None:
    path, trace = original / name, original / "trace"
    torch.save({**torch.load(path), "odd": Harmful(trace)}, path)
    refused(lambda: open_source(original), rf"{name} is refused: it asks for posix\.system")
    assert not trace.exists()


@pytest.mark.parametrize("part", PARTS)
def test_a_harmful_pickle_is_no_single_file(files: Files, tmp_path: Path, part: str) -> None:
    trace, path = tmp_path / "trace", tmp_path / "a.safetensors"
    torch.save(Harmful(trace), path)
    refused_files(files, r"a\.safetensors is refused: it asks for posix", **{part: path})
    assert not trace.exists()


@pytest.mark.parametrize("name", PICKLES)
def test_a_pth_file_of_another_form_or_cut_off_is_told(original: Path, name: str) -> None:
    path = original / name
    tensors = torch.load(path)
    os.truncate(path, path.stat().st_size - 50)
    refused(lambda: open_source(original), f"{name} is cut off, or in the form that torch wrote")
    torch.save(tensors, path, _use_new_zipfile_serialization=False)
    refused(lambda: open_source(original), f"{name} is cut off, or in the form that torch wrote")
    for content, message in (
        ({"state_dict": tensors}, ": state_dict is no tensor, but dict"),
        (list(tensors.values()), " holds no named tensors, but list"),
        ({3: torch.zeros(2)}, ": a tensor is called 3, which is no name"),
        ({"odd": torch.zeros(2, 3).t()}, ": odd is stored in a way that is not read"),
    ):
        torch.save(content, path)
        refused(lambda: open_source(original), f"{name}{message}")


def test_a_pth_file_that_was_compressed_afterwards_is_told(original: Path) -> None:
    path = original / layouts.VAE_FILE
    with zipfile.ZipFile(path) as archive:
        members = {one.filename: archive.read(one) for one in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    assert torch.load(path), "torch itself reads it"
    refused(lambda: open_source(original), f"{layouts.VAE_FILE}: .* is compressed, as torch does")


@pytest.mark.parametrize("part", PARTS)
def test_a_cut_single_file_is_told(files: Files, tmp_path: Path, part: str) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(files[part].read_bytes()[:-100])
    refused_files(files, r"cut\.safetensors is cut off within .*again", **{part: path})


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"a": {"dtype": "F32", "shape": [-2, -2], "data_offsets": [0, 16]}}, "a is described wro"),
        ({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0.0, 16.0]}}, "a is described wro"),
        ({"a": {"dtype": "F32", "shape": [4.0], "data_offsets": [0, 16]}}, "a is described wrong"),
        ({"__metadata__": {"_quantization_metadata": {"layers": 3}}}, "its notes on quantisation"),
    ],
)
def test_a_header_of_odd_numbers_is_told(
    files: Files, tmp_path: Path, header: dict[str, object], message: str
) -> None:
    text, path = json.dumps(header).encode(), tmp_path / "odd.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(16))
    refused_files(files, rf"odd\.safetensors: {message}", vae=path)


def test_what_is_cut_or_missing_in_the_original_layout_is_told(original: Path) -> None:
    (original / "google/umt5-xxl/tokenizer.json").write_text('{"version": ')
    refused(lambda: open_source(original), r"umt5-xxl/tokenizer\.json is damaged: ")
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
    for path in [*original.glob("*.safetensors*"), *original.glob("*.pth")]:
        path.unlink()
    refused(lambda: open_source(original), "missing diffusion_pytorch_model.safetensors, Wan2.1")


def test_a_configuration_that_disagrees_with_the_tensors_is_told(original: Path) -> None:
    path = original / "config.json"
    given = json.loads(path.read_text())
    for key, value, message in (
        ("num_layers", 40, "num_layers is 40 in its config.json, and its tensors are of 3"),
        ("num_heads", 7, "7 heads do not go into blocks of width 128"),
        ("num_heads", True, "True heads do not go into blocks of width 128"),
        ("eps", "tiny", 'eps is "tiny", and it should be a valid number'),
        ("eps", -1e-6, "eps is -1e-06, and it should be greater than 0"),
        ("quantization_config", {}, "quantised by other software"),
    ):
        path.write_text(json.dumps({**given, key: value}))
        refused(lambda: open_source(original), message)


RELATED = {
    "a VACE model": {"vace_blocks.0.after_proj.weight": (2, 2)},
    "Wan-Animate": {"face_adapter.fuser_blocks.0.k_norm.weight": (2,)},
    "a camera-control model": {"control_adapter.conv.weight": (2, 2, 2, 2)},
    "a Fun-Control model": {"ref_conv.weight": (2, 2, 2, 2)},
    "a speech-to-video model": {"audio_injector.injector.0.k.weight": (2, 2)},
    "a first-and-last-frame model": {"img_emb.emb_pos": (1, 514, 32)},
    "a text-to-video model": {"patch_embedding.weight": (128, 16, 1, 2, 2)},
    r"a model of 48 input channels \(Fun-Control": {"patch_embedding.weight": (128, 48, 1, 2, 2)},
    "Wan2.2-TI2V-5B": {
        "patch_embedding.weight": (128, 48, 1, 2, 2), "head.head.weight": (192, 128),
        "head.head.bias": (192,),
    },
}  # fmt: skip


@pytest.mark.parametrize("prefix", ["", PREFIX])
@pytest.mark.parametrize("what", RELATED)
def test_related_transformers_are_refused_with_what_to_use_instead(
    base: Path, files: Files, tmp_path: Path, what: str, prefix: str
) -> None:
    tensors = with_more(RELATED[what])(layouts.transformer(base))
    path = tmp_path / "other.safetensors"
    save_file({prefix + n: t for n, t in tensors.items()}, path)
    refused_files(files, rf"other\.safetensors is {what}.*: use Wan2\.1-I2V", transformer=path)


def test_files_of_other_kinds_are_refused(base: Path, files: Files, tmp_path: Path) -> None:
    lora = {"diffusion_model.blocks.0.self_attn.q.lora_A.weight": torch.zeros(2, 2)}
    save_file(lora, tmp_path / "lora.safetensors")
    for name, content in (
        ("a.safetensors", b"GGUF" + bytes(100)), ("a.ckpt", b"PK\x03\x04"), ("a.bin", b"text"),
    ):  # fmt: skip
        (tmp_path / name).write_bytes(content)
    for path, message in (
        (tmp_path / "a.safetensors", "is a GGUF file.*name a .safetensors"),
        (tmp_path / "a.ckpt", "pickled checkpoint.*name a .safetensors"),
        (tmp_path / "a.bin", "is no readable safetensors file"),
        (files["vae"], "is not a transformer of Wan2.1.*Of HunyuanVideo only"),
        (base / "transformer" / "diffusion_pytorch_model.safetensors", "has diffusers' names: nam"),
        (tmp_path / "lora.safetensors", r"is a LoRA.*\[inference\] loras"),
    ):
        refused_files(files, message, transformer=path)
    refused_files(files, "is not the VAE of", vae=files["text_encoder"])


def test_a_vae_and_encoders_of_other_models_are_refused(files: Files, tmp_path: Path) -> None:
    def nested(tensors: Tensors) -> Tensors:
        return {n.replace("samples.0.", "samples.0.downsamples.0."): t for n, t in tensors.items()}

    bias = [f"encoder.block.{n}.layer.0.SelfAttention.relative" for n in (1, 2)]
    for part, change, message in (
        ("vae", nested, "is the VAE of Wan2.2-TI2V-5B: use the VAE of Wan2.1"),
        ("text_encoder", without(*bias), "is not the text encoder of Wan"),  # T5 has one bias
        (
            "text_encoder",
            with_more({"decoder.block.0.layer.0.x": (2,)}),
            "is a whole UMT5, with its decoder: use the encoder",
        ),
        ("image_encoder", without("vision_model.pre_layrnorm"), "is not the image encoder of"),
        ("text_encoder", without("spiece_model"), "brings no tokenizer"),
    ):
        path = changed(files[part], tmp_path / "other.safetensors", change)
        refused_files(files, rf"other\.safetensors {message}", **{part: path})


def test_an_encoder_of_another_width_is_refused(files: Files, tmp_path: Path) -> None:
    def wider(tensors: Tensors) -> Tensors:
        name = f"{PREFIX}text_embedding.0.weight"
        return tensors | {name: torch.zeros(len(tensors[name]), 40)}

    path = changed(files["transformer"], tmp_path / "wide.safetensors", wider)
    refused_files(files, "what its text_encoder gives is 32 wide.* takes 40", transformer=path)


def test_what_is_missing_beside_the_files_is_told_at_once(files: Files) -> None:
    refused_files(
        {"transformer": files["transformer"]},
        "single files without a folder beside them: missing vae, text_encoder, image_encoder, "
        "tokenizer",
    )


def note(content: object) -> Tensor:
    return torch.frombuffer(bytearray(json.dumps(content).encode()), dtype=torch.uint8)


Q = "blocks.0.self_attn.q"
PACKED: dict[str, tuple[Tensors, str]] = {
    "nvfp4": (
        {f"{Q}.comfy_quant": note({"format": "nvfp4"})}, "compressed as nvfp4, which is not read",
    ),
    "packed": ({f"{Q}.weight": torch.zeros(128, 64, dtype=torch.uint8)}, f"{Q}.weight is packed"),
    "blocks": (
        {f"{Q}.scale_weight": torch.zeros(128, 4)}, rf"{Q}.scale_weight has the shape \(128, 4\)",
    ),
    "orphan": ({"odd.scale_weight": torch.zeros(1)}, "odd.scale_weight without odd.weight"),
    "note": ({f"{Q}.comfy_quant": note([1])}, "its notes on quantisation are damaged"),
}  # fmt: skip


@pytest.mark.parametrize("what", PACKED)
def test_weights_in_forms_that_are_not_read_are_refused(
    written: dict[str, Files], tmp_path: Path, what: str
) -> None:
    more, message = PACKED[what]
    files, path = written["scaled"], tmp_path / "odd.safetensors"
    changed(files["transformer"], path, lambda tensors: tensors | more)
    refused_files(files, message, transformer=path)


def test_notes_in_the_files_metadata_count_as_well(
    written: dict[str, Files], tmp_path: Path
) -> None:
    files, path = written["scaled"], tmp_path / "noted.safetensors"

    def write(form: str) -> None:
        layers = {"layers": {Q: {"format": form}}}
        metadata = {"_quantization_metadata": json.dumps(layers)}
        save_file(load_file(files["transformer"]), path, metadata)

    write("float8_e4m3fn")
    source = open_source(None, files | {"transformer": path})
    open_model("wan2.1-i2v", source, "float32", "cpu")
    write("mxfp8")
    refused_files(files, "compressed as mxfp8, which is not read", transformer=path)
