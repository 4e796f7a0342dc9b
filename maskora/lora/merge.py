"""A LoRA added for good to a base's own weights, file by file.

Each weight file is copied under its own name, and the tensors that change are rewritten there,
one at a time and in their own precision. A file in which nothing changes is linked, not copied.
"""

import errno
import math
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor

from maskora.errors import UserError
from maskora.files import flush, naming
from maskora.lora.stack import LEAVES, check_shape, report_missing
from maskora.lora.update import LoraWeights, Update
from maskora.streaming.header import SIZES, Stored, read_header, shards
from maskora.streaming.tensor_files import DTYPES, byte_view

FLOATS = ("F16", "BF16", "F32", "F64")
# Why a file system does not link: another one, one without links (EINVAL: Windows' word for it),
# or no more of them.
UNLINKED = (
    errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS, errno.EINVAL,
)  # fmt: skip
CHUNK = 2**24  # bytes that are copied at a time
# What is added to each parameter.
Additions = dict[str, list[Update | Tensor]]


def merge(weights: LoraWeights, lora: Path, folder: Path, target: Path) -> int:
    """Write a transformer's weight files with a LoRA in them; answers how many tensors changed.

    Args:
        lora: its file, for messages.
        folder: the base's, in diffusers' layout. Only the files that it is loaded from are taken.
        target: the folder to write to; no file in it is replaced.

    Raises:
        UserError: the LoRA does not fit, or the base's weights are not plain numbers.
    """
    headers = {path: read_header(path) for path in shards(folder)}
    places = {path: path.relative_to(folder) for path in headers}
    stored = {name: entry for entries in headers.values() for name, entry in entries.items()}
    additions = _additions(weights, stored, lora)
    for path, entries in headers.items():
        changed = {name: entries[name] for name in additions if name in entries}
        (target / places[path]).parent.mkdir(parents=True, exist_ok=True)
        if changed:
            _copy_changed(path, target / places[path], changed, additions)
        else:
            link(path, target / places[path])
    return len(additions)


def link(source: Path, target: Path) -> None:
    """The same file under a second name; a copy where the file system cannot do that.

    Raises:
        FileExistsError: `target` is there; it is never written to, as it may be somebody's own.
    """
    try:
        os.link(source.resolve(), target)
    except OSError as error:
        if error.errno not in UNLINKED:
            raise
        with naming(target), source.open("rb") as file, target.open("xb") as copy:
            shutil.copyfileobj(file, copy, CHUNK)
        flush(target)


def _additions(weights: LoraWeights, stored: Mapping[str, Stored], lora: Path) -> Additions:
    """What is added to which of the base's parameters; every shape fits."""
    parts: list[tuple[str, Update | Tensor]] = [
        *((f"{module}.weight", update) for module, update in weights.updates.items()),
        *((_parameter(name, stored), one) for name, one in weights.differences.items()),
    ]
    report_missing([name for name, _ in parts if name not in stored], len(parts), lora)
    additions: Additions = {}
    for name, part in parts:
        if name in stored:
            own, kind = stored[name].shape, stored[name].kind
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


def _copy_changed(
    path: Path, target: Path, changed: Mapping[str, Stored], additions: Additions
) -> None:
    """Copy a file to a new one, and add to tensors where they lie in that."""
    with naming(target), path.open("rb") as original, target.open("x+b") as file:
        shutil.copyfileobj(original, file, CHUNK)
        for name, entry in changed.items():
            dtype = DTYPES[entry.kind]
            file.seek(entry.offset)
            data = bytearray(file.read(math.prod(entry.shape) * SIZES[entry.kind]))
            stored = torch.frombuffer(data, dtype=dtype)
            total = stored.to(torch.promote_types(dtype, torch.float32))
            for part in additions[name]:
                total += (part.product() if isinstance(part, Update) else part).flatten()
            file.seek(entry.offset)
            file.write(byte_view(total.to(dtype).view(torch.uint8)))
    flush(target)
