"""Opening the base for a workspace: find it, check it, choose the device."""

import torch

from maskora.config import Config
from maskora.errors import UserError
from maskora.hub import locate
from maskora.models import VideoModel, open_model
from maskora.workspace import Source, Workspace


def open_base(config: Config, workspace: Workspace, source: Source) -> VideoModel:
    """The configured base on this machine's device, with its grid checked against the frames."""
    folder = locate(config.model.path, workspace.root)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = open_model(config.model.family, folder, config.model.dtype, device)
    width, height = source.size
    multiple = model.grid.multiple
    if width % multiple or height % multiple or source.cell != model.grid.cell:
        raise UserError(
            f"the frames were prepared at {width}x{height} for latent cells of {source.cell} "
            f"pixels; {folder} needs multiples of {multiple} and cells of {model.grid.cell}: "
            f"run maskora prepare again with this base"
        )
    return model
