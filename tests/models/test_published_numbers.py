"""What the package knows of published bases is what their own classes write."""

from pathlib import Path

import pytest
from maskora.models.published import PUBLISHED

from maskora.config import build_config, load_config
from maskora.models.registry import read_sizes
from tests.app.test_configs import BASES, CONFIGS, NAMES


def test_every_configuration_that_is_shipped_has_its_numbers() -> None:
    assert sorted(PUBLISHED) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_numbers_are_those_of_the_published_files(name: str, tmp_path: Path) -> None:
    family = PUBLISHED[name].family
    ours = read_sizes(family, PUBLISHED[name].write(tmp_path / "ours"))
    theirs = read_sizes(family, BASES[name](tmp_path / "theirs"))
    assert vars(ours) == vars(theirs)
    assert len(vars(ours)) > 5


@pytest.mark.parametrize("name", NAMES)
def test_the_settings_are_those_of_the_configuration(name: str) -> None:
    ours = build_config(PUBLISHED[name].settings())
    shipped = load_config(CONFIGS / f"{name}.toml")
    steps = {"steps": shipped.inference.steps}
    assert ours.model == shipped.model
    assert ours.video == shipped.video
    assert ours.memory == shipped.memory
    assert ours.adapter == shipped.adapter
    assert ours.optimizer == shipped.optimizer
    assert ours.motion.model_copy(update={"steps": shipped.motion.steps}) == shipped.motion
    assert ours.inference.model_copy(update=steps) == shipped.inference
