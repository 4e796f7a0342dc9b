"""An original SAM2 checkpoint (a .pt file): read without running what is in it, and recognised."""

import pickle
import re
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from maskora.errors import UserError
from maskora.masks.trackers import KEY

# (width of the first block, number of blocks) of SAM2's image encoder -> the letter in its name
SIZES = {(96, 12): "t", (96, 16): "s", (112, 24): "b+", (144, 48): "l"}
PATCHES = "image_encoder.trunk.patch_embed.proj.weight"
BLOCK = re.compile(r"image_encoder\.trunk\.blocks\.(\d+)\.")
SINCE_2_1 = "no_obj_embed_spatial"  # a tensor that 2.0 does not have

# What torch.load and zipfile raise on damaged files, beside pickle's own error.
UNREADABLE = (
    OSError,
    RuntimeError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    struct.error,
    zipfile.BadZipFile,
)


def config_name(shapes: Mapping[str, Sequence[int]]) -> str | None:
    """Which of the sam2 package's configurations a checkpoint is of; None if of none.

    Args:
        shapes: of its tensors, by name.
    """
    blocks = {int(found[1]) for name in shapes if (found := BLOCK.match(name))}
    width = next(iter(shapes.get(PATCHES, ())), 0)
    size = SIZES.get((width, len(blocks)))
    if size is None:
        return None
    version = "sam2.1" if SINCE_2_1 in shapes else "sam2"
    return f"configs/{version}/{version}_hiera_{size}.yaml"


def read(path: Path) -> tuple[dict[str, torch.Tensor], str]:
    """The tensors of a checkpoint and the name of their configuration.

    Only tensors are read: a file that asks for anything else to be done is refused.

    Raises:
        UserError: it cannot be read like that, or is no SAM2.
    """
    what = "Name an original SAM2 checkpoint such as sam2.1_hiera_large.pt."
    try:
        is_archive = zipfile.is_zipfile(path)
        content = torch.load(path, map_location="cpu", weights_only=True) if is_archive else None
    except pickle.UnpicklingError:
        raise UserError(
            f"{KEY}: {path} was refused: it is damaged, or holds more than tensors, and reading "
            f"that could run a program. {what}"
        ) from None
    except UNREADABLE as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"{KEY}: {path} cannot be read ({reason}). {what}") from None
    if not is_archive:
        raise UserError(f"{KEY}: {path} is no checkpoint of PyTorch, or a part of one. {what}")
    weights = content.get("model") if isinstance(content, dict) else None
    if not isinstance(weights, dict):
        raise UserError(f"{KEY}: {path} has no 'model' in it, as SAM2's have. {what}")
    tensors = {name: value for name, value in weights.items() if isinstance(value, torch.Tensor)}
    name = config_name({name: tuple(value.shape) for name, value in tensors.items()})
    if name is None:
        raise UserError(f"{KEY}: {path} holds tensors of another model than SAM2. {what}")
    return tensors, name
