"""The configurations that are shipped: every base, and each fits the GPUs that people own."""

import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from maskora.app.plan import PURPOSES, plan_for
from maskora.app.workspace import Workspace
from maskora.config import load_config
from maskora.memory.machine import CONTEXT, RESERVE, Machine, foreseen
from maskora.memory.profile import read_profile
from maskora.models.registry import FAMILIES, open_source
from tests.machines import OWNED, with_gpu
from tests.models import published, published_hunyuan, published_hunyuan15

CONFIGS = Path(__file__).parents[2] / "configs"
SMALL = ("tiny", "miniature")  # for no GPU
NAMES = sorted({path.stem for path in CONFIGS.glob("*.toml")} - {*SMALL})
SOLD = (8, 12, 16, 24)
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


def gpus() -> list[Machine]:
    """Every size as it is owned, as a run finds it; and as it is planned for without one."""
    owned = [with_gpu(free, total) for free, total in OWNED]
    return [*owned, *(foreseen("cuda", gigabytes) for gigabytes in SOLD)]


@pytest.mark.parametrize("name", NAMES)
def test_a_configuration_fits_every_gpu_that_people_own(name: str, tmp_path: Path) -> None:
    config = load_config(CONFIGS / f"{name}.toml")
    assert config.memory.vram_budget_gb == "auto"
    source, workspace = open_source(BASES[name](tmp_path / "base")), Workspace(tmp_path)
    # Of a base that a developer has just added no profile ships: it is measured first, once.
    read_profile(config.model.family, source, config.model.dtype, config.adapter.targets)
    for machine in gpus():
        started = time.perf_counter()
        train, infer = (plan_for(config, workspace, None, source, machine, p) for p in PURPOSES)
        assert time.perf_counter() - started < 1
        context = 0 if machine.gpu.opened else CONTEXT
        for plan in (train, infer):
            assert plan.vram_bytes + RESERVE + context <= machine.gpu.free
        assert train.placement.vae_tile == infer.placement.vae_tile
        assert train.base.name.startswith(config.model.family)


@pytest.mark.parametrize("name", NAMES)
def test_what_its_head_says_of_more_vram_is_true(name: str, tmp_path: Path) -> None:
    text = (CONFIGS / f"{name}.toml").read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if line.startswith("# With more VRAM")]
    short, long = re.findall(r"motion.window = (\d+), or (\S+) from 24 GB on", line)[0]
    more = re.findall(r"inference.segment = \d+", line)
    source, workspace = open_source(BASES[name](tmp_path / "base")), Workspace(tmp_path)
    for gigabytes, window in ((16, short), (24, long)):
        sets = [item.replace(" ", "") for item in (f"motion.window = {window}", *more)]
        config = load_config(CONFIGS / f"{name}.toml", sets)
        for purpose in PURPOSES:
            plan_for(config, workspace, None, source, foreseen("cuda", gigabytes), purpose)
