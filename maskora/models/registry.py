"""The bases: the only place that knows them all. Importing it needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from maskora.models import checks
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
from maskora.models.checks import Files, Settings
from maskora.models.files.model_files import ModelFiles, open_source
from maskora.models.hunyuan import checks as hunyuan
from maskora.models.hunyuan15 import checks as hunyuan15
from maskora.models.names import Names
from maskora.models.wan import checks as wan
from maskora.streaming.placement import RESIDENT, Placement

if TYPE_CHECKING:
    from maskora.models.diffusers_base import DiffusersBase

__all__ = [
    "FAMILIES",
    "Context",
    "Expert",
    "Grid",
    "ModelFiles",
    "ModelInputs",
    "PromptInput",
    "Transformer",
    "Vae",
    "VideoModel",
    "check_files",
    "names_of",
    "open_model",
    "open_source",
    "read_grid",
    "read_settings",
]


class Family(NamedTuple):
    """A kind of base.

    Attributes:
        load: imports its class, and torch with it.
        grid: as published, for machines that do not have the model's files yet.
        settings: part -> the keys of its configuration that decide its kind and sizes.
        files: part -> what else its folder must hold.
    """

    load: Callable[[], type[DiffusersBase]]
    grid: Grid
    settings: Mapping[str, type[Settings]]
    files: Files


def _wan21() -> type[DiffusersBase]:
    from maskora.models.wan.model import Wan21

    return Wan21


def _wan_fun() -> type[DiffusersBase]:
    from maskora.models.wan.model import WanFun

    return WanFun


def _wan22() -> type[DiffusersBase]:
    from maskora.models.wan.model import Wan22

    return Wan22


def _miniature() -> type[DiffusersBase]:
    from maskora.models.wan.model import Miniature

    return Miniature


def _hunyuan() -> type[DiffusersBase]:
    from maskora.models.hunyuan.model import Hunyuan

    return Hunyuan


def _hunyuan15() -> type[DiffusersBase]:
    from maskora.models.hunyuan15.model import Hunyuan15

    return Hunyuan15


WAN, HUNYUAN, HUNYUAN15 = Grid(8, 2, 4), Grid(8, 2, 4), Grid(16, 1, 4)
MINIATURE = Grid(4, 2, 4)
FAMILIES: dict[str, Family] = {
    "wan2.1-i2v": Family(_wan21, WAN, wan.WAN21, wan.WAN21_FILES),
    "wan2.1-fun-inp": Family(_wan_fun, WAN, wan.WAN21, wan.WAN21_FILES),
    "wan2.2-i2v": Family(_wan22, WAN, wan.WAN22, wan.WAN22_FILES),
    "miniature": Family(_miniature, MINIATURE, wan.MINIATURE, wan.MINIATURE_FILES),
    "hunyuan-video-i2v": Family(_hunyuan, HUNYUAN, hunyuan.HUNYUAN, hunyuan.HUNYUAN_FILES),
    "hunyuan-video-1.5-i2v": Family(
        _hunyuan15, HUNYUAN15, hunyuan15.HUNYUAN15, hunyuan15.HUNYUAN15_FILES
    ),
}


def open_model(
    family: str, where: Path | ModelFiles, dtype: str, device: str, placement: Placement = RESIDENT
) -> VideoModel:
    """Check a model's files and make it ready; no weights are loaded yet.

    Args:
        where: its folder, or its parts as they were found.
        placement: how its weights will lie in memory.

    Raises:
        UserError: a part is missing, or the checkpoint is of another kind.
    """
    return FAMILIES[family].load()(_found(where), dtype, device, placement)


def read_grid(family: str, where: Path | ModelFiles) -> Grid:
    """A base's grid, from its configuration files alone. Raises UserError."""
    return checks.read_grid(_found(where), FAMILIES[family].settings)


def read_settings(family: str, where: Path | ModelFiles) -> dict[str, Settings]:
    """What the configurations of a base's parts say, but for the scheduler's.

    A second transformer is as large as the first, so its configuration need not be there.

    Raises:
        UserError: a configuration is missing, damaged, or another model's.
    """
    source, kinds = _found(where), FAMILIES[family].settings
    left_out = {"scheduler"} | ({"transformer_2"} - set(source.parts()))
    return {part: kind.of(source, part) for part, kind in kinds.items() if part not in left_out}


def check_files(family: str, where: Path | ModelFiles) -> None:
    """Every file of a base is there. Raises UserError with all that are missing."""
    kind = FAMILIES[family]
    _found(where).check([part for part in kind.settings if part not in kind.files], kind.files)


def names_of(family: str) -> Names:
    """What the parts of a base's transformer are called in its publisher's files."""
    return FAMILIES[family].load().names


def _found(where: Path | ModelFiles) -> ModelFiles:
    return open_source(where) if isinstance(where, Path) else where
