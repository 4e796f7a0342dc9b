"""The bases. This dict is the only place that knows the list. Importing it needs no torch."""

from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from maskora.models.base import (
    Context,
    Cue,
    Expert,
    Grid,
    ModelInputs,
    Transformer,
    Vae,
    VideoModel,
)
from maskora.models.checks import Settings
from maskora.models.files.source import Source, open_source
from maskora.models.names import Names
from maskora.streaming.placement import RESIDENT, Placement

__all__ = [
    "FAMILIES",
    "Context",
    "Cue",
    "Expert",
    "Grid",
    "ModelInputs",
    "Source",
    "Transformer",
    "Vae",
    "VideoModel",
    "names_of",
    "open_model",
    "open_source",
    "read_grid",
    "read_settings",
]


class Family(NamedTuple):
    """A kind of base.

    Attributes:
        model: module and class of the base, below this package; imported when it is opened.
        settings: module and table of what its parts' configurations must say; needs no torch.
        grid: as published, for machines that do not have the model's files yet.
    """

    model: str
    settings: str
    grid: Grid


WAN = Grid(cell=8, patch=2, temporal=4)
FAMILIES: dict[str, Family] = {
    "wan2.1-i2v": Family("wan.model.Wan21", "wan.checks.WAN21", WAN),
    "wan2.1-fun-inp": Family("wan.model.WanFun", "wan.checks.WAN21", WAN),
    "wan2.2-i2v": Family("wan.model.Wan22", "wan.checks.WAN22", WAN),
    "miniature": Family("wan.model.Miniature", "wan.checks.MINIATURE", WAN),
    "hunyuan-video-i2v": Family("hunyuan.model.Hunyuan", "hunyuan.checks.HUNYUAN", Grid(8, 2, 4)),
    "hunyuan-video-1.5-i2v": Family(
        "hunyuan15.model.Hunyuan15", "hunyuan15.checks.HUNYUAN15", Grid(16, 1, 4)
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
    module = FAMILIES[family].settings.rpartition(".")[0]
    grid: Grid = _named(f"{module}.read_grid")(_found(where))
    return grid


def read_settings(family: str, where: Path | Source) -> dict[str, Settings]:
    """What the configurations of a base's parts say, but for the scheduler's.

    Raises:
        UserError: the first one that cannot be.
    """
    source = _found(where)
    kinds: dict[str, type[Settings]] = _named(FAMILIES[family].settings)
    return {part: kind.of(source, part) for part, kind in kinds.items() if part != "scheduler"}


def names_of(family: str) -> Names:
    """What the parts of a base's transformer are called in its publisher's files."""
    names: Names = _named(FAMILIES[family].model).names
    return names


def _found(where: Path | Source) -> Source:
    return open_source(where) if isinstance(where, Path) else where


def _named(name: str) -> Any:
    module, _, kind = name.rpartition(".")
    return getattr(import_module(f"maskora.models.{module}"), kind)
