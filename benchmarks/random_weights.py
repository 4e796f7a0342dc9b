"""Safetensors files of random weights of the real classes, written at the disk's speed.

All values come from one pool of random numbers, read at another offset for each weight, so little
memory is needed.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from maskora.files import write_text
from maskora.models.files.folder import read_json

# name -> shape, dtype
Entries = dict[str, tuple[tuple[int, ...], str]]

POOL = 2**25  # numbers
STD = 0.02
SHARD = 5 * 10**9  # bytes
CODES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class WeightFile:
    """One safetensors file to write, and the index's name where it is one of several.

    Attributes:
        name: the file's name.
        entries: its tensors, in the order of the file.
        index: name of the part's index file; None where this is the only file.
    """

    name: str
    entries: Entries
    index: str | None

    @property
    def bytes(self) -> int:
        return sum(_bytes(shape, dtype) for shape, dtype in self.entries.values())

    @staticmethod
    def of(entries: Entries, stem: str, shard: int = SHARD) -> "list[WeightFile]":
        """Tensors dealt to files of up to `shard` bytes, named as `save_pretrained` names them."""
        groups: list[Entries] = [{}]
        size = 0
        for name, (shape, dtype) in entries.items():
            size += _bytes(shape, dtype)
            if size > shard and groups[-1]:
                groups.append({})
                size = _bytes(shape, dtype)
            groups[-1][name] = (shape, dtype)
        # Within a file as safetensors orders them, so that every tensor is aligned to its type.
        groups = [
            dict(sorted(group.items(), key=lambda entry: (-BYTES[entry[1][1]], entry[0])))
            for group in groups
        ]
        if len(groups) == 1:
            return [WeightFile(f"{stem}.safetensors", groups[0], None)]
        return [
            WeightFile(
                f"{stem}-{number:05d}-of-{len(groups):05d}.safetensors",
                group,
                f"{stem}.safetensors.index.json",
            )
            for number, group in enumerate(groups, 1)
        ]


def stored_entries(part: Path, precision: str) -> Entries:
    """What `save_pretrained` writes for a part's class and config.json in a precision."""
    module: Any = _on_meta(part)
    kept = set(getattr(module, "_keep_in_fp32_modules", None) or ())
    if precision == "bfloat16" and hasattr(module, "_keep_in_fp32_modules_strict"):
        # transformers keeps only its strict ones in float32 beside bfloat16
        kept = set(module._keep_in_fp32_modules_strict or ())
    tied = set(getattr(module, "all_tied_weights_keys", None) or ())
    return {
        name: (tuple(tensor.shape), "float32" if kept & set(name.split(".")) else precision)
        for name, tensor in module.state_dict().items()
        if name not in tied
    }


def write_weights(part: Path, files: list[WeightFile], seed: int) -> None:
    """Write a part's weight files and their index into its folder."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [shape for file in files for shape, _ in file.entries.values()]
    length = min(POOL, max(math.prod(shape) for shape in shapes))
    pool = torch.randn(length, generator=generator) * STD
    pools = {
        dtype: pool.to(getattr(torch, dtype))
        for dtype in sorted({dtype for file in files for _, dtype in file.entries.values()})
    }
    for file in files:
        with (part / file.name).open("wb") as target:
            _write_header(target, file.entries)
            for name, (shape, dtype) in file.entries.items():
                start = int(torch.randint(length, (1,), generator=generator))
                _write_values(target, name, shape, pools[dtype], start)
    if index := files[0].index:
        content = {
            "metadata": {"total_size": sum(file.bytes for file in files)},
            "weight_map": {name: file.name for file in files for name in file.entries},
        }
        write_text(part / index, json.dumps(content, indent=2) + "\n")


def _bytes(shape: tuple[int, ...], dtype: str) -> int:
    return math.prod(shape) * BYTES[dtype]


def _write_header(target: BinaryIO, entries: Entries) -> None:
    """The format: the header's length in eight bytes, the header as JSON, then the tensors."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (shape, dtype) in entries.items():
        end = offset + _bytes(shape, dtype)
        header[name] = {"dtype": CODES[dtype], "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    target.write(len(text).to_bytes(8, "little") + text)


def _write_values(
    target: BinaryIO, name: str, shape: tuple[int, ...], pool: Tensor, start: int
) -> None:
    """One tensor: norms are 1, biases 0, all else from the pool, from `start` on and round."""
    left = math.prod(shape)
    constant = _constant(name, shape)
    if constant is not None:
        target.write(_raw(torch.full((left,), constant, dtype=pool.dtype)))
        return
    while left:
        piece = pool[start : start + left]
        target.write(_raw(piece))
        left -= len(piece)
        start = 0


def _constant(name: str, shape: tuple[int, ...]) -> float | None:
    kind = name.rpartition(".")[2]
    if kind == "bias":
        return 0.0
    if kind == "gamma" or (kind == "weight" and len(shape) == 1):
        return 1.0
    return None


def _raw(values: Tensor) -> memoryview:
    return values.view(torch.uint8).numpy().data


def _on_meta(part: Path) -> nn.Module:
    """A part's real class with its folder's configuration, without memory for its weights."""
    import diffusers
    import transformers

    config = read_json(part / "config.json")
    with torch.device("meta"):
        if "_class_name" in config:
            module: nn.Module = getattr(diffusers, config["_class_name"]).from_config(config)
        else:
            kind = getattr(transformers, config["architectures"][0])
            module = kind(kind.config_class.from_pretrained(part))
    return module
