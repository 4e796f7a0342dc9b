"""Safetensors files by their headers: which there are, what is in them and where. No torch."""

import json
from pathlib import Path
from typing import Any

from maskora.errors import UserError

LENGTH_BYTES = 8
LARGEST = 100_000_000  # the format's own limit


def raw_header(path: Path) -> tuple[dict[str, Any], int]:
    """Tensor name -> {"dtype", "shape", "data_offsets"}, and where the file's data begins.

    Raises:
        UserError: the file is missing, or none of this kind.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(LENGTH_BYTES), "little")
            content = json.loads(file.read(length)) if 0 < length <= LARGEST else None
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{path} is no readable safetensors file")
    content.pop("__metadata__", None)
    return content, LENGTH_BYTES + length


def shards(folder: Path) -> list[Path]:
    """The files that an index names, else every safetensors file of the folder.

    Raises:
        UserError: the index is damaged.
    """
    index = next(iter(sorted(folder.glob("*.safetensors.index.json"))), None)
    if index is None:
        return sorted(folder.glob("*.safetensors"))
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return [folder / name for name in sorted(names)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index} is damaged ({error!r}): download it again") from None
