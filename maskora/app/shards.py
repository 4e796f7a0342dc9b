"""What a safetensors file says of itself: its header alone, read without torch."""

from math import prod
from pathlib import Path

from maskora.streaming.header import raw_header

NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def adapter_values(path: Path) -> int:
    """How many values a LoRA file holds."""
    return sum(prod(tensor["shape"]) for tensor in raw_header(path)[0].values())


def matrix_type(paths: list[Path]) -> str | None:
    """In which type a model part's matrices are stored, as "BF16"; None without safetensors."""
    shard = next((path for path in paths if path.suffix == ".safetensors"), None)
    if shard is None:
        return None
    matrices = [tensor for tensor in raw_header(shard)[0].values() if len(tensor["shape"]) == 2]
    largest = max(matrices, key=lambda tensor: prod(tensor["shape"]), default=None)
    return None if largest is None else str(largest["dtype"])
