"""The registry: every entry is what it says, and torch waits until a base is opened."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from maskora.hub import locate
from maskora.models.registry import FAMILIES, read_grid
from tests.models import published, published_hunyuan, published_hunyuan15
from tests.models.bases import FUN, HUNYUAN, HUNYUAN15, MINIATURE, WAN, WAN22

WRITERS: dict[str, Callable[[Path], object]] = {
    WAN: partial(published.write_published, name="Wan2.1-I2V-14B"),
    FUN: partial(published.write_published, name="Wan2.1-Fun-1.3B-InP"),
    WAN22: partial(published.write_published, name="Wan2.2-I2V-A14B"),
    MINIATURE: partial(shutil.copytree, locate("miniature", Path()), dirs_exist_ok=True),
    HUNYUAN: published_hunyuan.write_published,
    HUNYUAN15: published_hunyuan15.write_published,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_an_entry_is_the_familys_own_class_and_published_grid(family: str, tmp_path: Path) -> None:
    assert FAMILIES[family].load().family == family
    WRITERS[family](tmp_path)
    assert read_grid(family, tmp_path) == FAMILIES[family].grid


def test_a_grid_is_read_without_torch(tmp_path: Path) -> None:
    WRITERS[HUNYUAN15](tmp_path)
    code = (
        "import sys; from pathlib import Path; from maskora.models.registry import read_grid\n"
        f"assert read_grid({HUNYUAN15!r}, Path(sys.argv[1])).multiple == 16\n"
        "assert not {'torch', 'diffusers', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True)
