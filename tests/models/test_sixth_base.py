"""The worked example of CONTRIBUTING.md works: two blocks of text make a base."""

import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from diffusers import (
    SkyReelsV2ImageToVideoPipeline,
    SkyReelsV2Transformer3DModel,
    WanImageToVideoPipeline,
)
from PIL import Image

import maskora.models as models
from maskora.conditioning import inference_sample, to_unit
from maskora.latents import TensorCache, encode_samples
from maskora.sampling import Denoising, draw_noise
from maskora.streaming.plan import RESIDENT, Placement

FAMILY, FRAMES, HEIGHT, WIDTH = "skyreels-v2-i2v", 9, 64, 96
GUIDE = Path(__file__).parents[2] / "CONTRIBUTING.md"


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    """The base as the guide adds it: a module, and a line in the dict."""
    file, line = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    module = ModuleType("maskora.models.skyreels")
    exec(compile(file, "skyreels.py", "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    families = {**models.FAMILIES, **eval(f"{{{line}}}", vars(models))}
    monkeypatch.setattr(models, "FAMILIES", families)


@pytest.fixture(scope="module")
def folder(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny folder of SkyReels' real classes; all but the transformer are Wan's."""
    wan = WanImageToVideoPipeline.from_pretrained(tiny_model)
    torch.manual_seed(0)
    transformer = SkyReelsV2Transformer3DModel(
        num_attention_heads=2, attention_head_dim=24, in_channels=36, out_channels=16, text_dim=32,
        freq_dim=32, ffn_dim=96, num_layers=2, image_dim=32, added_kv_proj_dim=48,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("models") / "skyreels"
    parts = {name: part for name, part in wan.components.items() if "transformer" not in name}
    SkyReelsV2ImageToVideoPipeline(transformer=transformer, **parts).save_pretrained(path)
    return path


@pytest.mark.parametrize("placement", [RESIDENT, Placement(2, "mapped")])
def test_the_guides_base_equals_its_own_pipeline(
    added: None, folder: Path, tmp_path: Path, placement: Placement
) -> None:
    model = models.open_model(FAMILY, folder, "float32", "cpu", placement)
    clip = np.random.default_rng(3).integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
    video = to_unit(torch.from_numpy(clip))
    keep = torch.zeros(FRAMES, HEIGHT, WIDTH)
    plain = inference_sample(video, keep, video[:, 0], "first-frame", "a man")
    (sample,) = encode_samples([plain], model, TensorCache(tmp_path))
    noise = draw_noise((16, *sample.condition_CTHW.shape[1:]), seed=7)
    run = Denoising(model, sample, sample.context, noise, 4, 1.0, None)
    run.advance(model.load_transformer())
    with model.vae() as vae:
        ours = (vae.decode(run.result()) / 2 + 0.5).clamp(0, 1)
    pipe = SkyReelsV2ImageToVideoPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe(
        Image.fromarray(clip[0]), prompt="a man", height=HEIGHT, width=WIDTH, num_frames=FRAMES,
        num_inference_steps=4, guidance_scale=1.0, generator=torch.Generator().manual_seed(7),
        output_type="pt",
    ).frames[0]  # fmt: skip
    assert theirs.std() > 0.05, "the comparison must be about a picture"
    assert (ours.transpose(0, 1) - theirs).abs().max() <= 1e-4


def test_the_planner_counts_its_parameters(added: None, folder: Path) -> None:
    told = models.read_sizes(FAMILY, folder).parameters["transformer"]
    model = SkyReelsV2Transformer3DModel.from_pretrained(folder / "transformer")
    assert told == sum(parameter.numel() for parameter in model.parameters())
