"""Other models and other forms of files are refused, with what to use instead."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from maskora.models.registry import Source, open_model, open_source
from tests.models.files import layouts
from tests.models.files.layouts import PREFIX, Tensors
from tests.models.files.refusing import changed, refused


def with_more(names: dict[str, tuple[int, ...]]) -> Callable[[Tensors], Tensors]:
    """More tensors; a shape in place of one that is there."""
    return lambda tensors: tensors | {n: torch.zeros(shape) for n, shape in names.items()}


RELATED = {
    "a VACE model": {"vace_blocks.0.after_proj.weight": (2, 2)},
    "Wan-Animate": {"face_adapter.fuser_blocks.0.k_norm.weight": (2,)},
    "a camera-control model": {"control_adapter.conv.weight": (2, 2, 2, 2)},
    "a Fun-Control model": {"ref_conv.weight": (2, 2, 2, 2)},
    "a speech-to-video model": {"audio_injector.injector.0.k.weight": (2, 2)},
    "a first-and-last-frame model": {"img_emb.emb_pos": (1, 514, 32)},
    "a text-to-video model": {"patch_embedding.weight": (128, 16, 1, 2, 2)},
    r"a model of 48 input channels \(Fun-Control": {"patch_embedding.weight": (128, 48, 1, 2, 2)},
}


@pytest.mark.parametrize("prefix", ["", PREFIX])
@pytest.mark.parametrize("what", RELATED)
def test_related_transformers_are_refused_with_what_to_use_instead(
    base: Path, files: dict[str, Path], tmp_path: Path, what: str, prefix: str
) -> None:
    tensors = with_more(RELATED[what])(layouts.transformer(base))
    save_file({prefix + n: t for n, t in tensors.items()}, tmp_path / "other.safetensors")
    files["transformer"] = tmp_path / "other.safetensors"
    refused(lambda: open_source(None, files), rf"other\.safetensors is {what}.*: use Wan2\.1-I2V")


def test_wan22s_small_base_and_its_vae_are_refused(
    base: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    shapes = {"patch_embedding.weight": (128, 48, 1, 2, 2), "head.head.weight": (192, 128),
              "head.head.bias": (192,)}  # fmt: skip
    small = tmp_path / "5b.safetensors"
    save_file(with_more(shapes)(layouts.transformer(base)), small)
    refused(lambda: open_source(None, files | {"transformer": small}), "is Wan2.2-TI2V-5B: use")
    nested = {
        name.replace("samples.0.", "samples.0.downsamples.0."): tensor
        for name, tensor in load_file(files["vae"]).items()
    }
    save_file(nested, tmp_path / "vae22.safetensors")
    other = files | {"vae": tmp_path / "vae22.safetensors"}
    refused(lambda: open_source(None, other), "is the VAE of Wan2.2-TI2V-5B: use the VAE of Wan2.1")


def test_files_of_other_kinds_are_refused(
    base: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    def with_transformer(path: Path) -> Callable[[], Source]:
        return lambda: open_source(None, files | {"transformer": path})

    (tmp_path / "a.safetensors").write_bytes(b"GGUF" + bytes(100))
    refused(with_transformer(tmp_path / "a.safetensors"), "is a GGUF file.*name a .safetensors")
    (tmp_path / "a.ckpt").write_bytes(b"PK\x03\x04")
    refused(with_transformer(tmp_path / "a.ckpt"), "pickled checkpoint.*name a .safetensors")
    (tmp_path / "a.bin").write_bytes(b"text")
    refused(with_transformer(tmp_path / "a.bin"), "is no readable safetensors file")
    refused(with_transformer(files["vae"]), "is not a transformer of Wan2.1.*Of HunyuanVideo only")
    refused(lambda: open_source(None, files | {"vae": files["text_encoder"]}), "is not the VAE of")
    shards = base / "transformer" / "diffusion_pytorch_model.safetensors"
    refused(with_transformer(shards), "has diffusers' names: name the folder")
    lora = {"diffusion_model.blocks.0.self_attn.q.lora_A.weight": torch.zeros(2, 2)}
    save_file(lora, tmp_path / "lora.safetensors")
    refused(with_transformer(tmp_path / "lora.safetensors"), r"is a LoRA.*\[inference\] loras")


def test_encoders_of_other_models_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    t5 = {n: t for n, t in load_file(files["text_encoder"]).items() if "block.1.layer.0.S" not in n}
    t5 = {n: t for n, t in t5.items() if "block.2.layer.0.S" not in n}  # T5 has one bias for all
    save_file(t5, tmp_path / "t5.safetensors")
    one = files | {"text_encoder": tmp_path / "t5.safetensors"}
    refused(lambda: open_source(None, one), r"t5\.safetensors is not the text encoder of Wan")
    whole = with_more({"decoder.block.0.layer.0.x": (2,)})
    both = changed(files["text_encoder"], tmp_path / "both.safetensors", whole)
    other = files | {"text_encoder": both}
    refused(lambda: open_source(None, other), "is a whole UMT5, with its decoder: use the encoder")
    siglip = changed(
        files["image_encoder"],
        tmp_path / "siglip.safetensors",
        lambda tensors: {n: t for n, t in tensors.items() if "pre_layrnorm" not in n},
    )
    third = files | {"image_encoder": siglip}
    refused(lambda: open_source(None, third), r"siglip\.safetensors is not the image encoder of")


def test_an_encoder_of_another_width_is_refused(
    files: dict[str, Path], tmp_path: Path, base: Path
) -> None:
    def wider(tensors: Tensors) -> Tensors:
        name = f"{PREFIX}text_embedding.0.weight"
        return tensors | {name: torch.zeros(len(tensors[name]), 40)}

    files["transformer"] = changed(files["transformer"], tmp_path / "wide.safetensors", wider)
    refused(lambda: open_source(None, files), "what its text_encoder gives is 32 wide.* takes 40")


def test_what_is_missing_beside_the_files_is_told_at_once(files: dict[str, Path]) -> None:
    del files["vae"]
    refused(
        lambda: open_source(None, {"transformer": files["transformer"]}),
        "single files without a folder beside them: missing vae, text_encoder, image_encoder, "
        "tokenizer",
    )


def test_a_text_encoder_without_its_tokenizer_is_told(
    files: dict[str, Path], tmp_path: Path
) -> None:
    files["text_encoder"] = changed(
        files["text_encoder"],
        tmp_path / "bare.safetensors",
        lambda tensors: {n: t for n, t in tensors.items() if n != "spiece_model"},
    )
    refused(lambda: open_source(None, files), r"bare\.safetensors brings no tokenizer")


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
    written: dict[str, dict[str, Path]], tmp_path: Path, what: str
) -> None:
    more, told = PACKED[what]
    files = dict(written["scaled"])
    files["transformer"] = changed(
        files["transformer"], tmp_path / "odd.safetensors", lambda tensors: tensors | more
    )
    refused(lambda: open_source(None, files), told)


def test_notes_in_the_files_metadata_count_as_well(
    written: dict[str, dict[str, Path]], tmp_path: Path
) -> None:
    files, path = dict(written["scaled"]), tmp_path / "noted.safetensors"
    files["transformer"] = path

    def write(form: str) -> None:
        layers = {"layers": {Q: {"format": form}}}
        tensors = load_file(written["scaled"]["transformer"])
        save_file(tensors, path, {"_quantization_metadata": json.dumps(layers)})

    write("float8_e4m3fn")
    open_model("wan2.1-i2v", open_source(None, files), "float32", "cpu")
    write("mxfp8")
    refused(lambda: open_source(None, files), "compressed as mxfp8, which is not read")
