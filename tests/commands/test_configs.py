"""The configurations that are shipped: every base, for cards of 8, 16 and 24 GB, and each fits."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from maskora.commands.plan import plan_for
from maskora.config import load_config
from maskora.models import FAMILIES, open_source
from maskora.workspace import Workspace
from tests.models import published, published_hunyuan, published_hunyuan15

CONFIGS = Path(__file__).parents[2] / "configs"
CARDS = {"": 8, "-16gb": 16, "-24gb": 24}
SMALL = ("tiny", "miniature")  # for no card
NAMES = sorted(
    {re.sub(r"-(16|24)gb$", "", path.stem) for path in CONFIGS.glob("*.toml")} - {*SMALL}
)
# Each configuration's base: how its published configuration files are written.
BASES: dict[str, Callable[[Path], Path]] = {
    "wan2.1-i2v-480p": partial(published.write_published, name="Wan2.1-I2V-14B"),
    "wan2.1-i2v-720p": partial(published.write_published, name="Wan2.1-I2V-14B"),
    "wan2.1-fun-1.3b-inp": partial(published.write_published, name="Wan2.1-Fun-1.3B-InP"),
    "wan2.2-i2v-a14b": partial(published.write_published, name="Wan2.2-I2V-A14B"),
    "hunyuan-video-i2v": published_hunyuan.write_published,
    "hunyuan-video-1.5-i2v-480p": published_hunyuan15.write_published,
}


def test_every_family_has_a_configuration() -> None:
    families = {load_config(CONFIGS / f"{name}.toml").model.family for name in [*NAMES, *SMALL]}
    assert families == FAMILIES.keys()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("card", CARDS)
def test_a_configuration_fits_its_card(name: str, card: str, tmp_path: Path) -> None:
    config = load_config(CONFIGS / f"{name}{card}.toml")
    assert config.memory.vram_budget_gb == CARDS[card]
    folder = BASES[name](tmp_path / "base")
    for purpose in ("train", "infer"):
        plan = plan_for(config, Workspace(tmp_path), None, open_source(folder), "cuda", purpose)
        assert plan.vram_bytes <= CARDS[card] * 2**30
        assert plan.sizes.name.startswith(config.model.family)
