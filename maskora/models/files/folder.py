"""A model's files: the folder in diffusers' layout is checked, files are read and compared."""

import json
from pathlib import Path
from typing import Any

from maskora.errors import UserError
from maskora.streaming.header import shards

WHOLE, BLOCKS, BLOCK = 64 * 2**20, 64, 2**18
WEIGHT_STEMS = ("diffusion_pytorch_model", "model")


def part_files(folder: Path) -> list[Path]:
    """Every file of a part, but weights that are left over from another way to cut them up.

    Raises:
        UserError: the index is damaged.
    """
    files = {path for path in folder.rglob("*") if path.is_file()}
    return sorted(files - (set(folder.glob("*.safetensors")) - set(shards(folder))))


def check_parts(folder: Path, weights: tuple[str, ...], files: dict[str, tuple[str, ...]]) -> None:
    """Every part that a base needs is there, each weight shard included.

    Args:
        folder: the model's folder.
        weights: sub-folders that hold a config.json and safetensors weights.
        files: sub-folder -> file names, of which one must exist.

    Raises:
        UserError: with all that is missing, in one message; or with a JSON file that is damaged.
    """
    missing = [problem for part in weights for problem in _missing_weights(folder / part)]
    for part, names in files.items():
        if not any((folder / part / name).is_file() for name in names):
            missing.append(f"{part}/{' or '.join(names)}")
    if missing:
        raise UserError(
            f"{folder} is not a complete model folder in diffusers' layout; missing: "
            + ", ".join(missing)
        )
    for part in files:
        check_readable(folder / part)


def check_readable(folder: Path) -> None:
    """JSON files of a folder that transformers reads by itself hold objects. Raises UserError."""
    for path in sorted(folder.glob("*.json")):
        read_json(path)


def _missing_weights(part: Path) -> list[str]:
    if not part.is_dir():
        return [f"{part.name}/"]
    missing = [] if (part / "config.json").is_file() else [f"{part.name}/config.json"]
    if any(part.glob("*.safetensors.index.json")):
        return missing + [f"{part.name}/{s.name}" for s in shards(part) if not s.is_file()]
    if not any((part / f"{stem}.safetensors").is_file() for stem in WEIGHT_STEMS):
        missing.append(f"{part.name}/*.safetensors")
    return missing


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file as a dict. Raises UserError where it is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing: is this a model folder in diffusers' layout?"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged: it holds no JSON object")
    return content


def sampled_content(path: Path) -> bytes:
    """A file's content, as far as it is needed to tell it from another.

    Files of up to 64 MiB count whole; of larger ones the size and 64 blocks spread over them, so
    that tens of gigabytes are not read for each run. Other weights differ in every block.
    """
    size = path.stat().st_size
    if size <= WHOLE:
        return path.read_bytes()
    parts = [str(size).encode()]
    with path.open("rb") as file:
        for index in range(BLOCKS):
            file.seek((size - BLOCK) * index // (BLOCKS - 1))
            parts.append(file.read(BLOCK))
    return b"".join(parts)
