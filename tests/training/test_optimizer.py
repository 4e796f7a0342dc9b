"""Which optimizer really runs, and gradients that float16 can hold."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from maskora import lora
from maskora.config.tables import Optimizer
from maskora.latents import EncodedSample
from maskora.models.registry import VideoModel, open_model
from maskora.training import loop, optimizer
from maskora.training.loop import choose_uniformly, sample_loss, train_step
from tests.training.conftest import injected
from tests.training.test_loop import PLAN

GPU = torch.device("cuda")
HEIGHT, WIDTH = 30, 52  # latent cells of 416x240 pixels


def gradients(folder: Path, dtype: str, scale: float) -> Tensor:
    """A LoRA's gradients, one after another, in float32."""
    numbers = torch.Generator().manual_seed(0)
    sample = EncodedSample(
        "window",
        torch.randn(16, 2, HEIGHT, WIDTH, generator=numbers),
        torch.randn(20, 2, HEIGHT, WIDTH, generator=numbers),
        torch.ones(5, 8 * HEIGHT, 8 * WIDTH),
        {
            "text": torch.randn(512, 32, generator=numbers),
            "image": torch.randn(257, 32, generator=numbers),
        },
    )
    model = open_model("wan2.1-i2v", folder, dtype, "cpu")
    transformer = injected(model)
    for parameter in lora.trainable(transformer):
        torch.nn.init.normal_(parameter, std=0.02, generator=numbers)
    noise = torch.randn(16, 2, HEIGHT, WIDTH, generator=numbers)
    (scale * sample_loss(model, transformer, sample, noise, torch.tensor([0.6]), 1.0)).backward()
    return torch.cat([(p.grad / scale).flatten() for p in lora.trainable(transformer)])


def test_float16_holds_small_gradients_of_a_scaled_loss(deep_model: Path) -> None:
    exact = gradients(deep_model, "float32", 1.0)
    plain, scaled = (
        gradients(deep_model, "float16", scale) for scale in (1.0, loop.loss_scale(torch.float16))
    )
    assert (plain == 0).any()  # too small for float16
    assert (scaled != 0).all()
    errors = [float((one - exact).norm() / exact.norm()) for one in (plain, scaled)]
    assert errors[1] < 0.002
    assert errors[0] > 4 * errors[1]


def test_a_scaled_loss_trains_the_same_lora(
    model: VideoModel, windows: list[EncodedSample], monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(scale: float) -> list[Tensor]:
        monkeypatch.setattr(loop, "loss_scale", lambda dtype: scale)
        transformer = injected(model)
        parameters = lora.trainable(transformer)
        adamw = optimizer.make_optimizer(PLAN.optimizer, parameters)
        for step in (1, 2):
            train_step(model, transformer, adamw, choose_uniformly(windows), PLAN, step)
        return parameters

    pairs = zip(trained(1.0), trained(2.0**14), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_8_bit_adamw_is_tried_before_it_is_counted_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "maskora")
    wanted = Optimizer(type="adamw8bit")
    assert optimizer.available(wanted, torch.device("cpu")).type == "adamw"
    assert "needs an NVIDIA GPU" in caplog.text
    monkeypatch.setattr(optimizer, "failed_trial", lambda device: None)
    assert optimizer.available(wanted, GPU) is wanted
    monkeypatch.setattr(optimizer, "failed_trial", lambda device: "no library for CUDA 13")
    assert optimizer.available(wanted, GPU).type == "adamw"
    assert "bitsandbytes does not work here: no library for CUDA 13" in caplog.text
    assert optimizer.available(PLAN.optimizer, GPU) is PLAN.optimizer


def test_a_library_that_fails_at_its_first_step_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from bitsandbytes.optim import AdamW8bit

    def fail(self: object) -> None:
        raise RuntimeError("\nconfigured CUDA binary not found\nsee the documentation")

    monkeypatch.setattr(AdamW8bit, "step", fail)
    trial = optimizer.failed_trial.__wrapped__
    assert trial(torch.device("cpu")) == "configured CUDA binary not found"
    monkeypatch.setattr(AdamW8bit, "step", lambda self: None)
    assert trial(torch.device("cpu")) == "a step changed nothing"


@pytest.mark.parametrize("fused", [True, None])
def test_a_state_from_elsewhere_does_not_decide_how_updates_are_computed(
    fused: bool | None,
) -> None:
    def stepped(fused: bool | None) -> torch.optim.AdamW:
        parameter = torch.nn.Parameter(torch.ones(8))
        parameter.grad = torch.ones(8)
        adamw = torch.optim.AdamW([parameter], fused=fused)
        adamw.step()
        return adamw

    ours, other = stepped(fused), stepped(None if fused else True)
    optimizer.restore(ours, other.state_dict())
    assert ours.param_groups[0]["fused"] is fused
    ours.step()
    assert [float(state["step"]) for state in ours.state.values()] == [2.0]


def test_an_update_that_is_not_finite_is_left_out_on_the_device_and_all_later_ones() -> None:
    """Their numbers are read only when the next step computes already."""
    parameter = torch.nn.Parameter(torch.ones(8))
    adamw = torch.optim.AdamW([parameter], lr=0.1, fused=True)
    assert optimizer.leaves_out(adamw)
    kept = []
    for step in range(4):
        parameter.grad = torch.full((8,), float("nan") if step == 2 else 1.0)
        optimizer.update(adamw, [parameter], parameter.grad.isfinite().all())
        state = adamw.state[parameter]
        kept.append([parameter.detach().clone(), *(state[name].clone() for name in sorted(state))])
    assert not torch.equal(kept[0][0], kept[1][0])
    for later in kept[2:]:
        assert all(torch.equal(one, other) for one, other in zip(later, kept[1], strict=True))
