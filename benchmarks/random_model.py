"""A complete Wan2.1-I2V folder of the published shapes with random weights: no download.

    python benchmarks/random_model.py --output model-14b                        # 47 GB
    python benchmarks/random_model.py --output model-14b-8 --layers 8           # a shallower one
    python benchmarks/random_model.py --output model-1.3b --size 1.3b
    python benchmarks/random_model.py --output model-tiny --size tiny           # a few megabytes

Names, shapes and files are those that `save_pretrained` writes for the same classes, so what is
loaded, moved and computed costs what the published weights cost; its pictures are noise. Weights go
to the disk one after another, so the program itself stays under a gigabyte.
"""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer

if not __package__:  # started as a file: the repository's root is where imports count from
    import sys

    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.jobs import Precision
from benchmarks.random_weights import WeightFile, stored_entries, write_weights
from maskora.errors import UserError
from maskora.files import write_text
from maskora.models.files.folder import read_json
from maskora.models.tiny import write_tiny_model

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

Size = Literal["14b", "1.3b", "tiny"]  # of which base the shapes are
RECORD = "random-model.json"
WEIGHT_PARTS = ("transformer", "text_encoder", "image_encoder", "vae")
# Left on the disk beside the folder itself.
MARGIN = 2**30


# What differs from the tiny model's configuration files, from the published ones.
UMT5_XXL = {
    "vocab_size": 256384, "d_model": 4096, "d_kv": 64, "d_ff": 10240,
    "num_layers": 24, "num_decoder_layers": 24, "num_heads": 64,
}  # fmt: skip
CLIP_VIT_H = {
    "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32,
    "num_attention_heads": 16, "projection_dim": 1024, "hidden_act": "gelu",
}  # fmt: skip
WAN = {"attention_head_dim": 128, "text_dim": 4096, "freq_dim": 256, "image_dim": 1280}
TRANSFORMERS: dict[Size, dict[str, int]] = {
    "14b": {
        **WAN, "num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40,
        "added_kv_proj_dim": 5120,
    },
    "1.3b": {
        **WAN, "num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30,
        "added_kv_proj_dim": 1536,
    },
    "tiny": {},
}  # fmt: skip


def write_random_model(
    folder: Path, size: Size, layers: int | None = None, dtype: str = "bfloat16", seed: int = 0
) -> bool:
    """Write the folder, or find it there already, made by the same arguments.

    Args:
        folder: the folder to create.
        size: the shapes.
        layers: the transformer's depth; None for that of the size.
        dtype: of the transformer and the text encoder, with the modules that their classes keep
            in float32; the image encoder and the VAE are float32.
        seed: of the random numbers.

    Returns:
        whether it was written now.

    Raises:
        UserError: the folder holds something else, or the disk has too little room.
    """
    record = {"size": size, "layers": layers, "dtype": dtype, "seed": seed}
    if (folder / RECORD).is_file() and read_json(folder / RECORD) == record:
        return False
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"{folder} already holds something that these arguments did not make; name an empty "
            f"or a new folder"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".random-model-") as scratch:
        built = Path(scratch) / "model"
        write_tiny_model(built, seed)
        files = {part: _resized(built / part, size, layers, dtype) for part in WEIGHT_PARTS}
        _check_room(folder, sum(file.bytes for part in files.values() for file in part))
        for index, (part, shards) in enumerate(files.items()):
            write_weights(built / part, shards, seed + index)
        write_text(built / RECORD, json.dumps(record, indent=2) + "\n")
        if folder.exists():
            folder.rmdir()
        shutil.move(built, folder)
    return True


def _resized(part: Path, size: Size, layers: int | None, dtype: str) -> list[WeightFile]:
    """Give a tiny part another size: its config.json is rewritten, its weights are removed.

    Returns:
        the weight files to write instead.
    """
    config = read_json(part / "config.json") | _changes(part.name, size, layers)
    config.pop("dtype", None)
    write_text(part / "config.json", json.dumps(config, indent=2) + "\n")
    for path in part.glob("*.safetensors"):
        path.unlink()
    half = dtype if part.name in ("transformer", "text_encoder") else "float32"
    stem = "model" if part.name.endswith("encoder") else "diffusion_pytorch_model"
    return WeightFile.of(stored_entries(part, half), stem)


def _changes(part: str, size: Size, layers: int | None) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    if part == "transformer":
        changes = dict(TRANSFORMERS[size])
        if layers is not None:
            changes["num_layers"] = layers
    elif size != "tiny" and part == "text_encoder":
        changes = dict(UMT5_XXL)
    elif size != "tiny" and part == "image_encoder":
        changes = dict(CLIP_VIT_H)
    elif size != "tiny" and part == "vae":
        from diffusers import AutoencoderKLWan

        with torch.device("meta"):
            changes = dict(AutoencoderKLWan().config)  # its own defaults are Wan2.1's
    return changes


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder.parent).free
    if free < needed + MARGIN:
        raise UserError(
            f"the model takes {needed / 1e9:.1f} GB (and {MARGIN / 1e9:.1f} GB should stay free), "
            f"and the disk of {folder} has {free / 1e9:.1f} GB free: name a folder on another "
            f"disk, or a smaller --size or --layers"
        )


@app.command()
def main(
    output: Annotated[Path, typer.Option(help="the folder to write")],
    size: Annotated[Size, typer.Option(help="the shapes")] = "14b",
    layers: Annotated[int | None, typer.Option(min=1, help="depth of the transformer")] = None,
    dtype: Annotated[
        Precision, typer.Option(help="of the transformer and the text encoder")
    ] = "bfloat16",
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Write a Wan2.1-I2V folder of the published shapes with random weights."""
    try:
        written = write_random_model(output, size, layers, dtype, seed)
    except UserError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    print(f"{output}: {'written' if written else 'is there already, made by the same arguments'}")


if __name__ == "__main__":
    app()
