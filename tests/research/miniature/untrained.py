from pathlib import Path

from research.miniature.autoencoder import build_autoencoder
from research.miniature.pretrain import finish_folder, save_part
from research.miniature.transformer import build_transformer


def write(folder: Path) -> None:
    """A miniature's folder with random weights."""
    save_part(build_autoencoder(0), folder / "vae")
    save_part(build_transformer(0), folder / "transformer")
    finish_folder(folder)
