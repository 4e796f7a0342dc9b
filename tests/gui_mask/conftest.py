"""What the window's tests share."""

from fractions import Fraction
from pathlib import Path

import pytest

from maskora.commands.demo import draw_frame
from maskora.video.write import write_mp4


@pytest.fixture(scope="session")
def rolling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine frames of the demo's blue ball, 320x192."""
    path = tmp_path_factory.mktemp("clips") / "ball.mp4"
    write_mp4(path, (draw_frame(n, (60, 120, 220)) for n in range(9)), Fraction(16))
    return path
