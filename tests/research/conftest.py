from pathlib import Path

import pytest

from maskora.models.registry import VideoModel
from research.claims.trials import open_base
from tests.research.miniature.untrained import write


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A miniature's folder with random weights."""
    folder = tmp_path_factory.mktemp("miniature")
    write(folder)
    return folder


@pytest.fixture(scope="module")
def model(untrained: Path) -> VideoModel:
    return open_base(untrained)
