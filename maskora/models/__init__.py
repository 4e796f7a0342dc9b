"""The bases. This dict is the only place that knows the list. Importing it needs no torch."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from maskora.models.base import Grid, ModelInputs, Transformer, Vae, VideoModel
from maskora.models.sizes import Sizes
from maskora.streaming.plan import RESIDENT, Placement

__all__ = [
    "FAMILIES",
    "Grid",
    "ModelInputs",
    "Sizes",
    "Transformer",
    "Vae",
    "VideoModel",
    "open_model",
    "read_grid",
    "read_sizes",
]


class Family(NamedTuple):
    """How a kind of base is opened, and what its configuration files alone tell."""

    open: Callable[[Path, str, str, Placement], VideoModel]
    grid: Callable[[Path], Grid]
    sizes: Callable[[Path], Sizes]


def _wan21(folder: Path, dtype: str, device: str, placement: Placement) -> VideoModel:
    from maskora.models.wan21 import Wan21

    return Wan21(folder, dtype, device, placement)


def _wan21_grid(folder: Path) -> Grid:
    from maskora.models.wan21_sizes import read_grid

    return read_grid(folder)


def _wan21_sizes(folder: Path) -> Sizes:
    from maskora.models.wan21_sizes import Wan21Sizes

    return Wan21Sizes(folder)


FAMILIES: dict[str, Family] = {
    "wan2.1-i2v": Family(_wan21, _wan21_grid, _wan21_sizes),
}


def open_model(
    family: str, folder: Path, dtype: str, device: str, placement: Placement = RESIDENT
) -> VideoModel:
    """Check a model's folder and make it ready; no weights are loaded yet.

    Args:
        placement: how its weights will lie in memory.

    Raises:
        UserError: a part is missing, or the checkpoint is of another kind.
    """
    return FAMILIES[family].open(folder, dtype, device, placement)


def read_grid(family: str, folder: Path) -> Grid:
    """A base's grid, from its configuration files alone."""
    return FAMILIES[family].grid(folder)


def read_sizes(family: str, folder: Path) -> Sizes:
    """What a base asks of memory, from its configuration files alone. Raises UserError."""
    return FAMILIES[family].sizes(folder)
