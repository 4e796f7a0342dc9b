"""What a safetensors file says of itself: its header alone, read without torch."""

import json
from math import prod
from pathlib import Path
from typing import Any

from maskora.errors import UserError

NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
LARGEST_HEADER = 100_000_000  # the format's own limit


def header(path: Path) -> dict[str, Any]:
    """Tensor name -> {"dtype": …, "shape": […]}. Raises UserError where the file is none."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            content = json.loads(file.read(size)) if 0 < size <= LARGEST_HEADER else None
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{path} is no readable safetensors file")
    return {name: tensor for name, tensor in content.items() if name != "__metadata__"}


def adapter_values(path: Path) -> int:
    """How many values a LoRA file holds."""
    return sum(prod(tensor["shape"]) for tensor in header(path).values())


def matrix_type(part: Path) -> str | None:
    """In which type a model part's matrices are stored, as "BF16"; None without weights."""
    shard = next(iter(sorted(part.glob("*.safetensors"))), None)
    if shard is None:
        return None
    matrices = [tensor for tensor in header(shard).values() if len(tensor["shape"]) == 2]
    largest = max(matrices, key=lambda tensor: prod(tensor["shape"]), default=None)
    return None if largest is None else str(largest["dtype"])
