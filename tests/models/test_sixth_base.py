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
from PIL import Image
from torch import Tensor

import maskora.models as models
from maskora.config.tables import Inference
from maskora.latents import TensorCache, encode_samples
from maskora.method.conditioning import inference_sample, to_unit
from maskora.sampling import Denoising, draw_noise
from maskora.streaming.plan import RESIDENT, Placement

FAMILY, FRAMES, HEIGHT, WIDTH = "skyreels-v2-i2v", 9, 64, 96
ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
BASE, LINE, CONFIG, WRITER, BRANCH, ENTRY = re.findall(
    r"```(?:python|toml)\n(.*?)```", GUIDE, re.DOTALL
)


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    """The base as the guide adds it: a module, and a line in the dict."""
    module = ModuleType("maskora.models.skyreels")
    exec(compile(BASE, "skyreels.py", "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    families = {**models.FAMILIES, **eval(f"{{{LINE}}}", vars(models))}
    monkeypatch.setattr(models, "FAMILIES", families)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny folder of SkyReels' real classes, as the guide writes it."""
    writer = ModuleType("tiny_skyreels")
    exec(compile(WRITER, "tiny_skyreels.py", "exec"), writer.__dict__)
    path = tmp_path_factory.mktemp("models") / "skyreels"
    writer.write(path)
    return path


def generated(folder: Path, placement: Placement, clip: np.ndarray, cache: Path) -> Tensor:
    """Plain image-to-video of a clip's first frame, (3, T, H, W) in [0, 1]."""
    model = models.open_model(FAMILY, folder, "float32", "cpu", placement)
    video = to_unit(torch.from_numpy(clip))
    keep = torch.zeros(FRAMES, HEIGHT, WIDTH)
    plain = inference_sample(video, keep, video[:, 0], "first-frame", "a man")
    (sample,) = encode_samples([plain], model, TensorCache(cache))
    noise = draw_noise((16, *sample.condition_CTHW.shape[1:]), seed=7)
    run = Denoising(model, sample, sample.context, noise, Inference(steps=4, guidance=1.0))
    run.advance(model.load_transformer())
    with model.vae() as vae:
        return (vae.decode(run.result()) / 2 + 0.5).clamp(0, 1)


def test_the_guides_base_equals_its_own_pipeline_resident_and_streamed(
    added: None, folder: Path, tmp_path: Path
) -> None:
    clip = np.random.default_rng(3).integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
    ours = generated(folder, RESIDENT, clip, tmp_path)
    pipe = SkyReelsV2ImageToVideoPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe(
        Image.fromarray(clip[0]), prompt="a man", height=HEIGHT, width=WIDTH, num_frames=FRAMES,
        num_inference_steps=4, guidance_scale=1.0, generator=torch.Generator().manual_seed(7),
        output_type="pt",
    ).frames[0]  # fmt: skip
    assert theirs.std() > 0.05, "the comparison must be about a picture"
    assert (ours.transpose(0, 1) - theirs).abs().max() <= 1e-4
    assert torch.equal(generated(folder, Placement(2, "mapped"), clip, tmp_path), ours)


def test_the_planner_counts_its_parameters(added: None, folder: Path) -> None:
    told = models.read_sizes(FAMILY, folder).parameters["transformer"]
    model = SkyReelsV2Transformer3DModel.from_pretrained(folder / "transformer")
    assert told == sum(parameter.numel() for parameter in model.parameters())


def put_before(file: Path, *pairs: tuple[str, str]) -> None:
    """Put texts before lines that a file has once each."""
    text = file.read_text(encoding="utf-8")
    for line, new in pairs:
        assert text.count(line) == 1, f"{file.name} has one {line!r}"
        text = text.replace(line, new + line)
    file.write_text(text, encoding="utf-8")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the repository with the six steps of the guide taken."""
    copy = tmp_path / "repository"
    for name in ("maskora", "tests", "configs"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    (tmp_path / "shared").symlink_to(ROOT.parent / "shared")
    (copy / "maskora/models/skyreels.py").write_text(BASE)
    put_before(copy / "maskora/models/__init__.py", ('    "miniature": Family(', LINE))
    (copy / "configs/skyreels-v2-i2v-540p.toml").write_text(CONFIG)
    (copy / "tests/models/tiny_skyreels.py").write_text(WRITER)
    imported = "from tests.models import tiny_skyreels\n"
    put_before(
        copy / "tests/app/test_bases.py",
        ("from tests.models import tiny_hunyuan", imported),
        ("    else:\n        write_tiny_model(", BRANCH),
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
