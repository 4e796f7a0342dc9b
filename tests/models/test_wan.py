"""Wan2.1, Wan2.1-Fun and Wan2.2 as bases: schedulers, experts, what they refuse, their LoRA."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from torch import Tensor

from maskora.config.tables import Inference
from maskora.errors import UserError
from maskora.models.registry import VideoModel, open_model
from maskora.sampling import Denoising, draw_noise
from tests.models import published
from tests.models.bases import FUN, WAN, WAN22, copied, opened, update
from tests.models.conftest import Tiny
from tests.models.plain import lora_carriers
from tests.test_sampling import SHAPE, noisy_sample

FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
OTHERS = {"shift": 3.0, "flow_shift": 3.0}  # one of the two is another class's


@pytest.mark.parametrize("kind", [UniPCMultistepScheduler, FlowMatchEulerDiscreteScheduler])
@pytest.mark.parametrize("more", [{}, OTHERS])
def test_the_shift_reaches_either_scheduler(
    tiny: Tiny, tmp_path: Path, kind: type, more: dict[str, float]
) -> None:
    folder = copied(tiny(WAN), tmp_path)
    config = {"_class_name": kind.__name__, **FLOW, **more}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    model = opened(folder)
    levels = {}
    for shift in (1.0, 5.0):
        scheduler = model.scheduler(4, shift)
        assert isinstance(scheduler, kind)
        levels[shift] = scheduler.sigmas[1].item()
    s = levels[1.0]
    assert levels[5.0] == pytest.approx(5 * s / (1 + 4 * s), rel=0.02)


def test_the_border_between_the_experts_is_the_checkpoints(tiny: Tiny, tmp_path: Path) -> None:
    high, low = opened(tiny(WAN22)).experts
    assert (low.lowest, low.highest, high.lowest, high.highest) == (0.0, 0.9, 0.9, 1.0)
    copy = copied(tiny(WAN22), tmp_path)
    update(copy / "model_index.json", boundary_ratio=1.5)
    with pytest.raises(UserError, match=r"boundary_ratio is 1\.5"):
        opened(copy)


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


def test_experts_of_a_seed_may_be_loaded_one_after_the_other(tiny: Tiny) -> None:
    """The second expert's steps are those that the first has left, and no step is taken twice."""
    model, noise = opened(tiny(WAN22)), noisy_sample()
    watched, sample = Asked(model), replace(noise, context={"text": noise.context["text"]})
    run = Denoising(
        watched, sample, sample.context, draw_noise(SHAPE, 0), Inference(steps=8, guidance=1.0)
    )
    high, low = (model.load_transformer(expert) for expert in model.experts)
    taken = [run.advance(high, model.experts[0]), run.advance(low, model.experts[1])]
    timesteps = model.scheduler(8, None).timesteps.tolist()
    noisy = [timestep for timestep in timesteps if timestep >= 900]
    assert 0 < len(noisy) < 8
    assert taken == [len(noisy), 8 - len(noisy)]
    asked = [(high, timestep) for timestep in noisy]
    asked += [(low, timestep) for timestep in timesteps if timestep < 900]
    assert watched.asked == asked
    assert run.result().isfinite().all()


def test_a_checkpoint_of_the_other_kind_is_refused_with_what_to_use(tiny: Tiny) -> None:
    with pytest.raises(UserError, match=r"no image tokens.*use Wan2\.1-I2V-14B-480P"):
        open_model(WAN, tiny(WAN22), "float32", "cpu")
    with pytest.raises(UserError, match=r"and image tokens; wan2.2-i2v takes 36 and no image"):
        open_model(WAN22, tiny(WAN), "float32", "cpu")


def test_fun_shows_nothing_where_everything_is_masked_and_else_what_wan_shows(tiny: Tiny) -> None:
    fun, wan = (open_model(family, tiny(WAN), "float32", "cpu") for family in (FUN, WAN))
    latents = torch.randn(16, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    nothing, something = torch.zeros(1, 32, 32), torch.zeros(1, 32, 32)
    something[0, :8] = 1
    assert torch.equal(
        fun.pack_condition(something, latents), wan.pack_condition(something, latents)
    )
    assert not fun.pack_condition(nothing, latents).any()
    assert torch.equal(wan.pack_condition(nothing, latents)[4:], latents)


@pytest.mark.parametrize(
    ("name", "billions"), [("Wan2.1-I2V-14B", 16.4), ("Wan2.1-Fun-1.3B-InP", 1.56)]
)
def test_the_published_size_takes_our_packed_input_and_lora_on_every_attention(
    tiny: Tiny, name: str, billions: float
) -> None:
    transformer, layers = published.transformer(name), published.SHAPES[name]["num_layers"]
    assert sum(p.numel() for p in transformer.parameters()) / 1e9 == pytest.approx(
        billions, rel=0.02
    )
    model = opened(tiny(WAN))
    assert lora_carriers(model, transformer) == (layers * 2 * 4, layers * (2 * 4 + 2))
    frames, height, width = 3, 60, 104  # latents of 9 frames at 832x480
    with torch.device("meta"):
        answer = transformer(
            hidden_states=torch.empty(1, 16 + 4 + 16, frames, height, width),
            timestep=torch.empty(1),
            encoder_hidden_states=torch.empty(1, 512, 4096),
            encoder_hidden_states_image=torch.empty(1, 257, 1280),
            return_dict=False,
        )[0]
    assert answer.shape == (1, 16, frames, height, width)
