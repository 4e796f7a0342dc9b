"""Two experts take turns as in diffusers' own pipeline, and Fun-InP is Wan2.1 but for one case."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import WanImageToVideoPipeline
from PIL import Image
from torch import Tensor

from maskora.config.tables import Inference
from maskora.errors import UserError
from maskora.latents import TensorCache, encode_cues, encode_samples
from maskora.method.conditioning import inference_sample, to_unit
from maskora.models.registry import Cue, VideoModel, open_model
from maskora.models.tiny import write_tiny_model
from maskora.sampling import Denoising, draw_noise
from tests.test_sampling import SHAPE, noisy_sample

FRAMES, HEIGHT, WIDTH = 9, 64, 96
PROMPT, NEGATIVE = "a man on a street", "blurred"
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "wan22"
    write_tiny_model(path, family="wan2.2-i2v")
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> VideoModel:
    return open_model("wan2.2-i2v", folder, "float32", "cpu")


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_plain_image_to_video_equals_the_pipeline(
    folder: Path, model: VideoModel, tmp_path: Path, guidance: float
) -> None:
    clip = np.random.default_rng(3).integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
    video, cache = to_unit(torch.from_numpy(clip)), TensorCache(tmp_path)
    keep = torch.zeros(FRAMES, HEIGHT, WIDTH)
    plain = inference_sample(video, keep, video[:, 0], "first-frame", PROMPT)
    (sample,) = encode_samples([plain], model, cache)
    (unwanted,) = encode_cues([model.unwanted(Cue(PROMPT, video[:, 0]), NEGATIVE)], model, cache)
    noise = draw_noise((16, *sample.condition_CTHW.shape[1:]), seed=7)
    run = Denoising(model, sample, unwanted, noise, Inference(steps=8, guidance=guidance))
    steps = [run.advance(model.load_transformer(expert), expert) for expert in model.experts]
    assert all(steps), "both experts take part"
    with model.vae() as vae:
        ours = (vae.decode(run.result()) / 2 + 0.5).clamp(0, 1)
    pipe = WanImageToVideoPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe(
        Image.fromarray(clip[0]), prompt=PROMPT, negative_prompt=NEGATIVE, height=HEIGHT,
        width=WIDTH, num_frames=FRAMES, num_inference_steps=8, guidance_scale=guidance,
        generator=torch.Generator().manual_seed(7), output_type="pt",
    ).frames[0]  # fmt: skip
    assert theirs.std() > 0.05, "the comparison must be about a picture"
    assert (ours.transpose(0, 1) - theirs).abs().max() <= TOLERANCE


def test_the_border_between_the_experts_is_the_checkpoints(folder: Path, model: VideoModel) -> None:
    high, low = model.experts
    assert (low.lowest, low.highest, high.lowest, high.highest) == (0.0, 0.9, 0.9, 1.0)
    index = folder / "model_index.json"
    written = index.read_text()
    try:
        index.write_text(json.dumps({**json.loads(written), "boundary_ratio": 1.5}))
        with pytest.raises(UserError, match=r"boundary_ratio is 1\.5"):
            open_model("wan2.2-i2v", folder, "float32", "cpu")
    finally:
        index.write_text(written)


class Asked:
    """The real model, keeping which transformer was asked at which timestep."""

    def __init__(self, model: VideoModel) -> None:
        self._model = model
        self.asked: list[tuple[Any, float]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def predict(self, transformer: Any, noisy: Tensor, timestep: Tensor, inputs: Any) -> Tensor:
        self.asked.append((transformer, timestep[0].item()))
        return self._model.predict(transformer, noisy, timestep, inputs)


def test_experts_of_a_seed_may_be_loaded_one_after_the_other(model: VideoModel) -> None:
    """The second expert's steps are those that the first has left, and no step is taken twice."""
    noise = noisy_sample()
    watched, sample = Asked(model), replace(noise, context={"text": noise.context["text"]})
    run = Denoising(
        watched, sample, sample.context, draw_noise(SHAPE, 0), Inference(steps=8, guidance=1.0)
    )
    high, low = (model.load_transformer(expert) for expert in model.experts)
    taken = [
        run.advance(transformer, expert)
        for transformer, expert in zip((high, low), model.experts, strict=True)
    ]
    timesteps = model.scheduler(8, None).timesteps.tolist()
    noisy = [timestep for timestep in timesteps if timestep >= 900]
    assert 0 < len(noisy) < 8
    assert taken == [len(noisy), 8 - len(noisy)]
    asked = [(high, timestep) for timestep in noisy]
    asked += [(low, timestep) for timestep in timesteps if timestep < 900]
    assert watched.asked == asked
    assert run.result().isfinite().all()


def test_a_checkpoint_of_the_other_kind_is_refused_with_what_to_use(
    folder: Path, tiny_model: Path
) -> None:
    with pytest.raises(UserError, match=r"no image tokens.*use Wan2\.1-I2V-14B-480P"):
        open_model("wan2.1-i2v", folder, "float32", "cpu")
    with pytest.raises(UserError, match=r"and image tokens; wan2.2-i2v takes 36 and no image"):
        open_model("wan2.2-i2v", tiny_model, "float32", "cpu")


def test_fun_shows_nothing_where_everything_is_masked_and_else_what_wan_shows(
    tiny_model: Path,
) -> None:
    fun, wan = (
        open_model(f, tiny_model, "float32", "cpu") for f in ("wan2.1-fun-inp", "wan2.1-i2v")
    )
    latents = torch.randn(16, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    nothing, something = torch.zeros(1, 32, 32), torch.zeros(1, 32, 32)
    something[0, :8] = 1
    assert torch.equal(
        fun.pack_condition(something, latents), wan.pack_condition(something, latents)
    )
    assert not fun.pack_condition(nothing, latents).any()
    assert torch.equal(wan.pack_condition(nothing, latents)[4:], latents)
