"""The worked example of CONTRIBUTING.md works: what it says, done to the letter, makes a base."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from diffusers import SkyReelsV2ImageToVideoPipeline, SkyReelsV2Transformer3DModel
from torch import Tensor

from maskora.memory.profile import read_profile
from maskora.models import registry
from maskora.streaming.placement import RESIDENT, Placement
from tests.models.plain import generated, load_pipeline, pipelines_own

FAMILY = "skyreels-v2-i2v"
ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
BASE, IMPORT, LINE, NAME, CONFIG, WRITER, TINY, ENTRY = re.findall(
    r"```(?:python|toml|text)\n(.*?)```", GUIDE, re.DOTALL
)


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    """The base as the guide adds it: a module, and its entry in the registry."""
    module = ModuleType("maskora.models.skyreels")
    exec(compile(BASE, "skyreels.py", "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    names = {**vars(registry)}
    exec(compile(f"from __future__ import annotations\n{IMPORT}", "registry.py", "exec"), names)
    monkeypatch.setattr(registry, "FAMILIES", {**registry.FAMILIES, **eval(f"{{{LINE}}}", names)})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny folder of SkyReels' real classes, as the guide writes it."""
    writer = ModuleType("tiny_skyreels")
    exec(compile(WRITER, "tiny_skyreels.py", "exec"), writer.__dict__)
    path = tmp_path_factory.mktemp("models") / "skyreels"
    writer.write(path)
    return path


def test_the_guides_base_equals_its_own_pipeline_resident_and_streamed(
    added: None, folder: Path, clip: np.ndarray, tmp_path: Path
) -> None:
    def ours(placement: Placement) -> Tensor:
        model = registry.open_model(FAMILY, folder, "float32", "cpu", placement)
        return generated(model, clip, tmp_path, "a man")

    pipe = load_pipeline(SkyReelsV2ImageToVideoPipeline, folder)
    theirs = pipelines_own(pipe, clip, "a man", height=64, width=96, guidance_scale=1.0)
    resident = ours(RESIDENT)
    assert (resident - theirs).abs().max() <= 1e-4
    assert torch.equal(ours(Placement(2, "mapped")), resident)


def test_the_planner_counts_its_parameters(added: None, folder: Path) -> None:
    counted = read_profile(FAMILY, folder, "float32", "attention").parameters
    model = SkyReelsV2Transformer3DModel.from_pretrained(folder / "transformer")
    assert counted == sum(parameter.numel() for parameter in model.parameters())


def put_before(file: Path, *pairs: tuple[str, str]) -> None:
    """Put texts before lines that a file has once each."""
    text = file.read_text(encoding="utf-8")
    for line, new in pairs:
        assert text.count(line) == 1, f"{file.name} has one {line!r}"
        text = text.replace(line, new + line)
    file.write_text(text, encoding="utf-8")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the repository with the steps of the guide taken."""
    copy = tmp_path / "repository"
    for name in ("maskora", "tests", "configs"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    (tmp_path / "shared").symlink_to(ROOT.parent / "shared")
    (copy / "maskora/models/skyreels.py").write_text(BASE)
    put_before(
        copy / "maskora/models/registry.py",
        ("WAN, HUNYUAN, HUNYUAN15 = ", f"{IMPORT}\n\n"),
        ('    "miniature": Family(', LINE),
    )
    put_before(copy / "maskora/config/tables.py", ('    "miniature",\n', NAME))
    (copy / "configs/skyreels-v2-i2v-540p.toml").write_text(CONFIG)
    (copy / "tests/models/tiny_skyreels.py").write_text(WRITER)
    imported = "from tests.models import tiny_skyreels\n"
    put_before(
        copy / "tests/models/bases.py",
        ("from tests.models import tiny_hunyuan", imported),
        ("    MINIATURE: untrained.write", TINY),
    )
    entries = '    "hunyuan-video-i2v": published_hunyuan.'
    put_before(copy / "tests/app/test_configs.py", (entries, ENTRY))
    return copy


@pytest.mark.slow
def test_the_guide_followed_to_the_letter_leaves_no_test_red(copy: Path) -> None:
    """The tests that know every base, in the copy, of the copy's own package."""
    command = [
        sys.executable, "-m", "pytest", "-q", "-rA", "tests/app/test_bases.py",
        "tests/app/test_configs.py", "-k", "skyreels or every_family",
    ]  # fmt: skip
    result = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"test_a_base_carries_an_edit_through_a_real_clip[{FAMILY}]" in result.stdout or (
        "the real clips are not here" in result.stdout
    )
    assert result.stdout.count("PASSED tests/app/test_configs.py") == 3
