"""The miniature as a model folder in diffusers' layout."""

import json
import tempfile
from pathlib import Path
from typing import Any

import diffusers
from diffusers import FlowMatchEulerDiscreteScheduler

from maskora.files import move, sha256_file, write_text
from research.miniature.transformer import SHIFT

PARTS = ("transformer", "vae")
INDEX = {
    "_class_name": "WanImageToVideoPipeline",
    "_diffusers_version": diffusers.__version__,
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "transformer": ["diffusers", "WanTransformer3DModel"],
    "vae": ["diffusers", "AutoencoderKLWan"],
}


def save_part(part: Any, folder: Path) -> None:
    """Write a model of diffusers in half precision, as a whole or not at all.

    It has that precision afterwards.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".part-") as scratch:
        written = Path(scratch) / folder.name
        part.half().save_pretrained(written)
        for file in written.iterdir():
            file.chmod(0o644)  # else nobody but the writer could read the weights
        move(written, folder)


def hashes(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file of weights, by its path in the folder."""
    files = [file for part in PARTS for file in sorted((folder / part).glob("*.safetensors"))]
    return {file.relative_to(folder).as_posix(): sha256_file(file) for file in files}


def finish_folder(output: Path) -> None:
    """Add what is beside the trained parts: the schedule, and which class is which."""
    FlowMatchEulerDiscreteScheduler(shift=SHIFT).save_pretrained(output / "scheduler")
    write_text(output / "model_index.json", json.dumps(INDEX, indent=2) + "\n")
