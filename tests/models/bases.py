"""Every family's tiny folder, of its real classes with random weights, and copies that differ."""

import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from maskora.models.registry import VideoModel, open_model
from maskora.models.tiny import write_tiny_model
from maskora.streaming.placement import RESIDENT, Placement
from tests.models import tiny_hunyuan, tiny_hunyuan15
from tests.research.miniature import untrained

WAN, FUN, WAN22, MINIATURE = "wan2.1-i2v", "wan2.1-fun-inp", "wan2.2-i2v", "miniature"
HUNYUAN, HUNYUAN15 = "hunyuan-video-i2v", "hunyuan-video-1.5-i2v"
TINY: dict[str, Callable[..., object]] = {
    WAN: write_tiny_model,
    FUN: partial(write_tiny_model, family=FUN),
    WAN22: partial(write_tiny_model, family=WAN22),
    MINIATURE: untrained.write,
    HUNYUAN: tiny_hunyuan.write,
    HUNYUAN15: tiny_hunyuan15.write,
}


def opened(folder: Path, dtype: str = "float32", placement: Placement = RESIDENT) -> VideoModel:
    """The base in a folder that is called as its family, on the CPU."""
    return open_model(folder.name, folder, dtype, "cpu", placement)


def copied(folder: Path, where: Path) -> Path:
    """A copy whose small files may be written anew, and whose weights are the same files."""
    copy = shutil.copytree(folder, where / folder.name, copy_function=os.symlink)
    for path in copy.rglob("*.json"):
        text = path.read_text(encoding="utf-8")
        path.unlink()
        path.write_text(text, encoding="utf-8")
    return copy


def update(path: Path, **values: Any) -> None:
    """Give keys of a JSON file other values."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def retensored(part: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    """Write the weights of a copy's part anew."""
    (file,) = part.glob("*.safetensors")
    tensors = change(load_file(file))
    file.unlink()  # it may be a link to the original
    save_file(tensors, file, {"format": "pt"})


def renamed(part: Path, name: Callable[[str], str]) -> None:
    """Give the tensors of a copy's part other names."""
    retensored(part, lambda tensors: {name(own): tensor for own, tensor in tensors.items()})
