"""The bases. This dict is the only place that knows the list. Importing it needs no torch."""

from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from maskora.models.base import (
    Context,
    Expert,
    Grid,
    ModelInputs,
    PromptInput,
    Transformer,
    Vae,
    VideoModel,
)
from maskora.models.files.source import Source, open_source
from maskora.models.names import Names
from maskora.models.sizes import Sizes
from maskora.streaming.plan import RESIDENT, Placement

__all__ = [
    "FAMILIES",
    "Context",
    "Expert",
    "Grid",
    "ModelInputs",
    "PromptInput",
    "Sizes",
    "Source",
    "Transformer",
    "Vae",
    "VideoModel",
    "names_of",
    "open_model",
    "open_source",
    "read_grid",
    "read_sizes",
]


class Family(NamedTuple):
    """A kind of base.

    Attributes:
        model: module and class of the base, below this package; imported when it is opened.
        sizes: module and class of its arithmetic, which needs no torch.
        grid: as published, for machines that do not have the model's files yet.
    """

    model: str
    sizes: str
    grid: Grid


WAN = Grid(cell=8, patch=2, temporal=4)
FAMILIES: dict[str, Family] = {
    "wan2.1-i2v": Family("wan.model.Wan21", "wan21_sizes.WanSizes", WAN),
    "wan2.1-fun-inp": Family("wan.model.WanFun", "wan21_sizes.WanSizes", WAN),
    "wan2.2-i2v": Family("wan.model.Wan22", "wan21_sizes.WanSizes", WAN),
    "miniature": Family("wan.model.Miniature", "miniature_sizes.MiniatureSizes", WAN),
    "hunyuan-video-i2v": Family(
        "hunyuan.model.Hunyuan", "hunyuan_sizes.HunyuanSizes", Grid(8, 2, 4)
    ),
    "hunyuan-video-1.5-i2v": Family(
        "hunyuan15.model.Hunyuan15", "hunyuan15_sizes.Hunyuan15Sizes", Grid(16, 1, 4)
    ),
}


def open_model(
    family: str, where: Path | Source, dtype: str, device: str, placement: Placement = RESIDENT
) -> VideoModel:
    """Check a model's files and make it ready; no weights are loaded yet.

    Args:
        where: its folder, or its parts as they were found.
        placement: how its weights will lie in memory.

    Raises:
        UserError: a part is missing, or the checkpoint is of another kind.
    """
    model: VideoModel = _named(FAMILIES[family].model)(_found(where), dtype, device, placement)
    return model


def read_grid(family: str, where: Path | Source) -> Grid:
    """A base's grid, from its configuration files alone."""
    grid: Grid = _named(FAMILIES[family].sizes).read_grid(_found(where))
    return grid


def read_sizes(family: str, where: Path | Source) -> Sizes:
    """What a base asks of memory, from its configuration files alone. Raises UserError."""
    sizes: Sizes = _named(FAMILIES[family].sizes)(family, _found(where))
    return sizes


def names_of(family: str) -> Names:
    """What the parts of a base's transformer are called in its publisher's files."""
    names: Names = _named(FAMILIES[family].model).names
    return names


def _found(where: Path | Source) -> Source:
    return open_source(where) if isinstance(where, Path) else where


def _named(name: str) -> Any:
    module, _, kind = name.rpartition(".")
    return getattr(import_module(f"maskora.models.{module}"), kind)
