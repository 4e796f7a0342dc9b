"""Which files are which part: Wan's own folder layout, and files that are named one by one."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from maskora.models.folder import read_json
from maskora.models.reading import constants
from maskora.models.reading.part import StoredPart
from maskora.models.reading.pieces import Pieces
from maskora.streaming.header import shards

EXPERTS = {"transformer": "high_noise_model", "transformer_2": "low_noise_model"}
FILES = {
    "vae": "Wan2.1_VAE.pth",
    "text_encoder": "models_t5_umt5-xxl-enc-bf16.pth",
    "image_encoder": "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth",
}
TOKENIZER = "google/umt5-xxl"
STEM = "diffusion_pytorch_model"


def find_wan(where: Path) -> Pieces | None:
    """A folder as Wan-AI (or alibaba-pai, for Fun) publishes it; None where it is none.

    Raises:
        UserError: a config.json or an index in it is damaged.
    """
    if (where / "model_index.json").is_file():
        return None
    folders = {part: where / name for part, name in EXPERTS.items()}
    if not any((folder / "config.json").is_file() for folder in folders.values()):
        folders = {"transformer": where}
        path = where / "config.json"
        if not path.is_file() or "num_heads" not in read_json(path):
            return None
    parts = {part: _transformer(part, folder) for part, folder in folders.items()}
    for part, name in FILES.items():
        parts[part] = StoredPart(part, (where / name,), str(where / name))
    shift = constants.SHIFT_22 if "transformer_2" in parts else constants.SHIFT
    return Pieces(
        where,
        f"a folder in Wan's original layout ({where})",
        parts,
        {"scheduler": constants.scheduler(shift)},
        {"tokenizer": lambda: where / TOKENIZER, "image_processor": constants.image_processor},
    )


def _transformer(part: str, folder: Path) -> StoredPart:
    named = [path for path in shards(folder) if path.name.startswith(STEM)]
    paths = tuple(named) or (folder / f"{STEM}.safetensors",)
    return StoredPart(part, paths, str(folder), folder / "config.json")


def take_files(files: Mapping[str, Path], alone: bool) -> Pieces:
    """Files that are named one by one.

    Args:
        files: part -> its file.
        alone: there is no folder beside them; Wan's bases need none.
    """
    parts = {part: StoredPart(part, (path,), str(path)) for part, path in files.items()}
    where = _common([path.parent for path in files.values()])
    settings: dict[str, dict[str, Any]] = {}
    folders: dict[str, Callable[[], Path]] = {}
    if alone:
        shift = constants.SHIFT_22 if "transformer_2" in parts else constants.SHIFT
        settings["scheduler"] = constants.scheduler(shift)
        folders["image_processor"] = constants.image_processor
        if "text_encoder" in parts:
            folders["tokenizer"] = partial(constants.tokenizer, parts["text_encoder"])
    what = f"single files{' without a folder beside them' if alone else ''}"
    return Pieces(where, what, parts, settings, folders)


def _common(folders: Sequence[Path]) -> Path:
    """The folder that all these lie in; on several drives, which have none, the first one."""
    try:
        return Path(os.path.commonpath(folders))
    except ValueError:
        return folders[0]
