"""A tiny Wan base, as diffusers, its publisher and ComfyUI would lay its files out.

What files do not tell is as published: heads of 128, CLIP's 16 heads and GELU, the latents' mean
and deviation, the schedule.
"""

import functools
import io
import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from diffusers import (
    AutoencoderKLWan,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanTransformer3DModel,
)
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    UMT5Config,
    UMT5EncoderModel,
)

from maskora.errors import UserError
from maskora.models.files.wan import CLIP, UMT5, vae_names
from maskora.models.names import Names
from maskora.models.registry import Context, Expert, ModelFiles, ModelInputs, VideoModel, open_model
from maskora.models.wan.encoders import open_tokenizer
from maskora.models.wan.names import WAN
from tests.models.test_names import as_published, tagged

Tensors = dict[str, Tensor]
WIDTH, TEXT, IMAGE = 128, 32, 32
PREFIX = "model.diffusion_model."
VAE_FILE = "Wan2.1_VAE.pth"
TEXT_FILE = "models_t5_umt5-xxl-enc-bf16.pth"
IMAGE_FILE = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"


def write_diffusers(folder: Path, family: str = "wan2.1-i2v", layers: int = 2) -> Path:
    """The folder that all other layouts are made of."""
    torch.manual_seed(5)
    spiece = folder.parent / "spiece"
    spiece.mkdir(parents=True, exist_ok=True)
    (spiece / "spiece.model").write_bytes(sentencepiece_model())
    tokenizer = open_tokenizer(spiece)
    sees_picture = family != "wan2.2-i2v"
    more: dict[str, Any] = (
        {"image_encoder": _image_encoder(), "image_processor": CLIPImageProcessorPil()}
        if sees_picture
        else {"transformer_2": _transformer(layers, False), "boundary_ratio": 0.9}
    )
    WanImageToVideoPipeline(
        tokenizer=tokenizer,
        text_encoder=UMT5EncoderModel(
            UMT5Config(vocab_size=512, d_model=TEXT, d_kv=8, d_ff=48, num_layers=3, num_heads=4)
        ),
        vae=AutoencoderKLWan(base_dim=4, dim_mult=[1, 2, 2, 4], num_res_blocks=1),
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
            flow_shift=3.0 if sees_picture else 5.0,
        ),
        transformer=_transformer(layers, sees_picture),
        **more,
    ).save_pretrained(folder)
    return folder


def _transformer(layers: int, sees_picture: bool) -> WanTransformer3DModel:
    return WanTransformer3DModel(
        num_attention_heads=1, in_channels=36, out_channels=16, text_dim=TEXT, freq_dim=32,
        ffn_dim=96, num_layers=layers, image_dim=IMAGE if sees_picture else None,
        added_kv_proj_dim=WIDTH if sees_picture else None,
    )  # fmt: skip


def _image_encoder() -> CLIPVisionModel:
    return CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=IMAGE, intermediate_size=64, num_hidden_layers=3, num_attention_heads=16,
            image_size=224, patch_size=14, hidden_act="gelu",
        )
    )  # fmt: skip


@functools.cache
def sentencepiece_model() -> bytes:
    """A model like UMT5's: the same special tokens, and bytes for what it has not seen."""
    words = ["a", "man", "in", "red", "walks", "blue", "ball", "orange", "over", "p3rs0n", "café"]
    lines = [" ".join(words[(i * j) % len(words)] for j in range(9)) for i in range(1, 200)]
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=file, vocab_size=400, model_type="unigram",
        byte_fallback=True, hard_vocab_limit=False, pad_id=0, eos_id=1, bos_id=2, unk_id=3,
        minloglevel=2,
    )  # fmt: skip
    return file.getvalue()


def read_part(folder: Path, part: str) -> Tensors:
    """A part's tensors under their own names."""
    tensors: Tensors = {}
    for path in sorted((folder / part).glob("*.safetensors")):
        tensors |= load_file(path)
    return tensors


def published(names: Names, ours: Tensors) -> Tensors:
    """Tensors under their publisher's names, each in memory of its own."""
    return {name: tensor.clone() for name, tensor in as_published(names, ours)}


def text_encoder(folder: Path) -> Tensors:
    """UMT5 under Wan's names."""
    ours = read_part(folder, "text_encoder")
    ours.pop("encoder.embed_tokens.weight", None)
    return published(UMT5, ours)


def image_encoder(folder: Path) -> Tensors:
    """CLIP under Wan's names, with its text side."""
    ours = {
        name.removeprefix("vision_model."): tensor
        for name, tensor in read_part(folder, "image_encoder").items()
    }
    visual = published(CLIP, {n: t for n, t in ours.items() if not n.endswith("position_ids")})
    return visual | {
        "visual.cls_embedding": visual["visual.cls_embedding"].view(1, 1, -1),
        "visual.pos_embedding": visual["visual.pos_embedding"][None],
        "visual.head": torch.randn(IMAGE, 8),
        "textual.token_embedding.weight": torch.randn(9, 8),
        "log_scale": torch.tensor(2.0),
    }


def vae(folder: Path) -> Tensors:
    """The VAE under Wan's names."""
    ours = read_part(folder, "vae")
    return published(names_of_vae(ours), ours)


def names_of_vae(ours: Collection[str]) -> Names:
    """The table of a VAE of these parameters."""
    encoder = (name for name in ours if name.startswith("encoder.down_blocks."))
    return vae_names([name.replace("down_blocks", "downsamples") for name in encoder])


def transformer(folder: Path, part: str = "transformer") -> Tensors:
    """A transformer under Wan's names."""
    return published(WAN, read_part(folder, part))


def write_original(folder: Path, base: Path) -> Path:
    """Wan-AI's layout of a folder in diffusers'."""
    experts = {"transformer": folder}
    if (base / "transformer_2").is_dir():
        experts = {
            "transformer": folder / "high_noise_model",
            "transformer_2": folder / "low_noise_model",
        }
    else:
        folder.mkdir(parents=True)
        torch.save(image_encoder(base), folder / IMAGE_FILE)
    for part, place in experts.items():
        write_shards(place, transformer(base, part))
        ours = json.loads((base / part / "config.json").read_text())
        (place / "config.json").write_text(json.dumps(wan_config(**ours)))
    torch.save(vae(base), folder / VAE_FILE)
    torch.save(text_encoder(base), folder / TEXT_FILE)
    tokenizer = folder / "google" / "umt5-xxl"
    tokenizer.mkdir(parents=True)
    for path in (base / "tokenizer").iterdir():
        (tokenizer / path.name).write_bytes(path.read_bytes())
    return folder


def write_shards(folder: Path, tensors: Tensors) -> Path:
    """Two shards with their index; the last one."""
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(tensors)
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    index = {}
    for number, half in enumerate(halves, 1):
        file = f"diffusion_pytorch_model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in half}, folder / file)
        index |= dict.fromkeys(half, file)
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(
        json.dumps({"weight_map": index})
    )
    return folder / file


def wan_config(
    *, num_attention_heads: int, ffn_dim: int, num_layers: int, freq_dim: int = 256, **_: object
) -> dict[str, object]:
    """The publisher's config.json, by diffusers' names of what it says."""
    return {
        "_class_name": "WanModel", "_diffusers_version": "0.30.0", "dim": 128 * num_attention_heads,
        "eps": 1e-06, "ffn_dim": ffn_dim, "freq_dim": freq_dim, "in_dim": 36, "model_type": "i2v",
        "num_heads": num_attention_heads, "num_layers": num_layers, "out_dim": 16, "text_len": 512,
    }  # fmt: skip


Change = Callable[[Tensors], Tensors]


def changed(path: Path, target: Path, change: Change) -> Path:
    """A safetensors file with other tensors."""
    save_file(change(load_file(path)), target)
    return target


def velocity(
    model: VideoModel, context: Context, numbers: torch.Generator, expert: Expert | None = None
) -> Tensor:
    """What a base's transformer answers to noise."""
    channels = model.source.config("transformer")["in_channels"] - model.latent_channels
    inputs = ModelInputs(torch.randn(1, channels, 2, 4, 6, generator=numbers), context)
    noisy = torch.randn(1, model.latent_channels, 2, 4, 6, generator=numbers)
    transformer = model.load_transformer(expert)
    with torch.no_grad():
        answer = model.predict(transformer, noisy, torch.tensor([500.0]), inputs)
    transformer.streamed.close()
    return answer


def refused(source: Callable[[], ModelFiles], message: str, family: str = "wan2.1-i2v") -> None:
    """A base is not opened, and why is said."""
    with pytest.raises(UserError, match=message):
        open_model(family, source(), "float32", "cpu")


def write_files(
    folder: Path, base: Path, change: Change = dict, prefix: str = ""
) -> dict[str, Path]:
    """ComfyUI's single files of a folder in diffusers' layout: part -> file.

    Args:
        change: of the matrices of transformers and text encoder, by their names in the files.
        prefix: before the names of the transformers' tensors.
    """
    folder.mkdir(parents=True, exist_ok=True)
    spiece = torch.frombuffer(bytearray(sentencepiece_model()), dtype=torch.uint8)
    parts = {
        "vae": vae(base),
        "text_encoder": change(hugging_face(base, "text_encoder")) | {"spiece_model": spiece},
    }
    for part in ("transformer", "transformer_2"):
        if (base / part).is_dir():
            tensors = change(transformer(base, part))
            parts[part] = {prefix + name: tensor for name, tensor in tensors.items()}
    if (base / "image_encoder").is_dir():
        projection = {"visual_projection.weight": torch.randn(8, IMAGE)}
        parts["image_encoder"] = hugging_face(base, "image_encoder") | projection
    for part, tensors in parts.items():
        save_file(tensors, folder / f"{part}.safetensors")
    return {part: folder / f"{part}.safetensors" for part in parts}


def hugging_face(folder: Path, part: str) -> Tensors:
    """An encoder under transformers' names, as they have been for years."""
    tensors = {name: tensor.clone() for name, tensor in read_part(folder, part).items()}
    if part == "image_encoder":
        bare = {name.removeprefix("vision_model."): tensor for name, tensor in tensors.items()}
        return {f"vision_model.{name}": tensor for name, tensor in bare.items()}
    tensors.pop("encoder.embed_tokens.weight", None)
    return tensors


def in_float8(tensors: Tensors) -> Tensors:
    """Matrices in plain float8."""
    return {
        name: tensor.to(torch.float8_e4m3fn) if is_matrix(name, tensor) else tensor
        for name, tensor in tensors.items()
    }


def scaled(tensors: Tensors, by_row: bool = False, factors: str = "scale_weight") -> Tensors:
    """Matrices in float8 beside their factors, as ComfyUI writes them."""
    made: Tensors = {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}
    for name, tensor in tensors.items():
        if not is_matrix(name, tensor):
            made[name] = tensor
            continue
        largest = tensor.abs().amax(dim=1, keepdim=True) if by_row else tensor.abs().max()
        scale = largest / 448
        made[name] = (tensor / scale).to(torch.float8_e4m3fn)
        made[name.removesuffix("weight") + factors] = scale
        made[name.removesuffix("weight") + "scale_input"] = torch.tensor(1.5)
    return made


def dequantised(tensors: Tensors) -> Tensors:
    """What tensors as of `scaled` stand for, in float32."""
    made = {name: tensor.float() for name, tensor in tensors.items()}
    for name in tensors:
        stem, _, leaf = name.rpartition(".")
        if leaf in ("scale_weight", "weight_scale"):
            made[f"{stem}.weight"] = tensors[f"{stem}.weight"].float() * tensors[name]
            del made[name], made[f"{stem}.scale_input"]
    made.pop("scaled_fp8", None)
    return made


def is_matrix(name: str, tensor: Tensor) -> bool:
    """Whether ComfyUI's files have a tensor in 8 bits."""
    return name.endswith(".weight") and tensor.ndim == 2 and "embedding" not in name


def in_our_names(names: Names, theirs: Tensors, ours: Tensors) -> Tensors:
    """The way back of `published`, by the rows of what it was made of."""
    tags = tagged({name: len(tensor) for name, tensor in ours.items()})
    found: dict[int, Tensor] = {}
    for name, tag in as_published(names, tags):
        found |= dict(zip(tag.tolist(), theirs[name], strict=True))
    return {name: torch.stack([found[int(row)] for row in tags[name]]) for name in ours}
