"""A safetensors file's header: what is in it and where, read without torch."""

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
