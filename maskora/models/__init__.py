"""The bases. This dict is the only place that knows the list."""

from collections.abc import Callable
from pathlib import Path

from maskora.models.base import Grid, ModelInputs, Transformer, Vae, VideoModel
from maskora.streaming.plan import RESIDENT, Placement

__all__ = [
    "FAMILIES",
    "Grid",
    "ModelInputs",
    "Transformer",
    "Vae",
    "VideoModel",
    "open_model",
    "read_grid",
]


def _wan21(folder: Path, dtype: str, device: str, placement: Placement) -> VideoModel:
    from maskora.models.wan21 import Wan21

    return Wan21(folder, dtype, device, placement)


def _wan21_grid(folder: Path) -> Grid:
    from maskora.models.wan21 import read_grid

    return read_grid(folder)


FAMILIES: dict[
    str, tuple[Callable[[Path, str, str, Placement], VideoModel], Callable[[Path], Grid]]
] = {
    "wan2.1-i2v": (_wan21, _wan21_grid),
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
    return FAMILIES[family][0](folder, dtype, device, placement)


def read_grid(family: str, folder: Path) -> Grid:
    """A base's grid, from its configuration files alone."""
    return FAMILIES[family][1](folder)
