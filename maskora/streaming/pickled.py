"""Tensors of a .pth file: where they lie in it. Nothing that the file asks for is run.

torch's files are zip archives whose tensors lie uncompressed, one after another. Only the small
pickle that names them is read here, by torch's own reader for untrusted files, which knows tensors
and refuses everything else.
"""

import pickle
import re
import zipfile
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskora.errors import UserError
from maskora.streaming.checkpoint import DTYPES
from maskora.streaming.header import SIZES, Stored

KINDS = {dtype: kind for kind, dtype in DTYPES.items()}


def read_pickled(path: Path) -> dict[str, Stored]:
    """Where each tensor of a .pth file lies, by name.

    Raises:
        UserError: the file is damaged, compressed, of torch's old form, or holds anything but
            named tensors.
    """
    if not zipfile.is_zipfile(path):
        raise UserError(
            f"{path} is cut off, or in the form that torch wrote before version 1.6: download it "
            f"again, or name a .safetensors file of the same weights"
        )
    _check_archive(path)
    tensors = _load(path)
    if not isinstance(tensors, dict):
        raise UserError(f"{path} holds no named tensors, but {type(tensors).__name__}")
    size = path.stat().st_size
    return {name: _stored(path, size, name, tensor) for name, tensor in tensors.items()}


def _check_archive(path: Path) -> None:
    """Its members lie as they are, as torch writes them. Raises UserError."""
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [one for one in archive.infolist() if one.compress_type != zipfile.ZIP_STORED]
    except zipfile.BadZipFile as error:
        raise UserError(f"{path} is damaged ({error}): download it again") from None
    if packed:
        raise UserError(
            f"{path}: {packed[0].filename} is compressed, as torch does not write it: unpack and "
            f"save it with torch, or name a .safetensors file of the same weights"
        )


def _load(path: Path) -> Any:
    """What the file holds, its tensors without their values."""
    try:
        with path.open("rb") as file:  # by its name, torch would take it for another kind
            return torch.load(file, map_location="meta", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        raise UserError(
            f"{path} is refused: it asks for {asked[1] if asked else 'more'}, which is no tensor. "
            f"Nothing of it was run. Name a file of plain weights, best a .safetensors one"
        ) from None
    except (RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error!r}): download it again") from None


def _stored(path: Path, size: int, name: object, tensor: object) -> Stored:
    if not isinstance(tensor, Tensor):
        raise UserError(f"{path}: {name} is no tensor, but {type(tensor).__name__}")
    if not isinstance(name, str):
        raise UserError(f"{path}: a tensor is called {name!r}, which is no name")
    kind, shape = KINDS.get(tensor.dtype), tuple(tensor.shape)
    if kind is None or not tensor.is_contiguous():
        raise UserError(f"{path}: {name} is stored in a way that is not read here ({tensor.dtype})")
    storage: Any = tensor.untyped_storage()
    offset = storage._checkpoint_offset + tensor.storage_offset() * SIZES[kind]
    if offset + prod(shape) * SIZES[kind] > size:
        raise UserError(f"{path}: {name} is described wrongly: the file is damaged")
    return Stored(path, offset, kind, shape)
