"""A LoRA added for good to a base's own weights, file by file.

Each weight file is copied under its own name, and the tensors that change are rewritten in place,
one at a time and in their own precision. A file in which nothing changes is linked, not copied.
"""

import errno
import math
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskora.errors import UserError
from maskora.lora.differences import LEAVES
from maskora.lora.fit import check_shape, tell_missing
from maskora.lora.weights import LoraWeights, Update
from maskora.streaming.checkpoint import DTYPES, byte_view
from maskora.streaming.header import raw_header

FLOATS = ("F16", "BF16", "F32", "F64")
# Why a file system does not link: another one, one without links, or no more of them.
UNLINKED = (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK)
# What is added to each parameter.
Additions = dict[str, list[Update | Tensor]]


def merge(weights: LoraWeights, lora: Path, files: Sequence[Path], target: Path) -> int:
    """Write a transformer's weight files with a LoRA in them; answers how many tensors changed.

    Args:
        lora: where it comes from, for people.
        files: the base's, in diffusers' layout.
        target: the folder to write to.

    Raises:
        UserError: the LoRA does not fit, or the base's weights are not plain numbers.
    """
    headers = {path: raw_header(path) for path in files}
    stored = {name: entry for entries, _ in headers.values() for name, entry in entries.items()}
    additions = _additions(weights, stored, lora)
    for path, (entries, start) in headers.items():
        changed = {name: entries[name] for name in additions if name in entries}
        if changed:
            shutil.copyfile(path, target / path.name)
            _rewrite(target / path.name, changed, start, additions)
        else:
            link(path, target / path.name)
    return len(additions)


def link(source: Path, target: Path) -> None:
    """The same file under a second name; a copy where the file system cannot do that."""
    try:
        os.link(source.resolve(), target)
    except OSError as error:
        if error.errno not in UNLINKED:
            raise
        shutil.copy2(source, target)


def _additions(weights: LoraWeights, stored: Mapping[str, dict[str, Any]], lora: Path) -> Additions:
    """What is added to which of the base's parameters; every shape fits."""
    parts: list[tuple[str, Update | Tensor]] = [
        *((f"{module}.weight", update) for module, update in weights.updates.items()),
        *((_parameter(name, stored), one) for name, one in weights.differences.items()),
    ]
    tell_missing([name for name, _ in parts if name not in stored], len(parts), lora)
    additions: Additions = {}
    for name, part in parts:
        if name in stored:
            own, kind = tuple(stored[name]["shape"]), stored[name]["dtype"]
            if isinstance(part, Update):
                check_shape((*own[:1], math.prod(own[1:])), part.size, name, lora)
            else:
                check_shape(own, tuple(part.shape), name, lora)
            if kind not in FLOATS:
                raise UserError(f"the base stores {name} as {kind}, to which nothing can be added")
            additions.setdefault(name, []).append(part)
    return additions


def _parameter(difference: str, stored: Collection[str]) -> str:
    """The parameter that a difference is for: one of its module's, or one without a module."""
    path, _, slot = difference.rpartition(".")
    return path if path in stored else f"{path}.{LEAVES[slot]}"


def _rewrite(
    path: Path, entries: Mapping[str, dict[str, Any]], start: int, additions: Additions
) -> None:
    """Add to tensors of a file where they lie."""
    with path.open("r+b") as file:
        for name, entry in entries.items():
            (begin, end), dtype = entry["data_offsets"], DTYPES[entry["dtype"]]
            file.seek(start + begin)
            stored = torch.frombuffer(bytearray(file.read(end - begin)), dtype=dtype)
            total = stored.to(torch.promote_types(dtype, torch.float32))
            for part in additions[name]:
                total += (part.product() if isinstance(part, Update) else part).flatten()
            file.seek(start + begin)
            file.write(byte_view(total.to(dtype).view(torch.uint8)))
