from pathlib import Path

import pytest

from maskora.models.registry import VideoModel
from research.claims.trials import open_base
from research.miniature.autoencoder import build_autoencoder
from research.miniature.pretrain import finish_folder, save_part
from research.miniature.transformer import build_transformer


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A miniature's folder with random weights."""
    folder = tmp_path_factory.mktemp("miniature")
    save_part(build_autoencoder(0), folder / "vae")
    save_part(build_transformer(0), folder / "transformer")
    finish_folder(folder)
    return folder


@pytest.fixture(scope="module")
def model(untrained: Path) -> VideoModel:
    return open_base(untrained)
