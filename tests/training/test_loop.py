"""The loop on a tiny real transformer: it learns, repeats itself, and continues exactly."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from maskora import lora
from maskora.config.tables import Optimizer, Training
from maskora.errors import Fault, UserError
from maskora.latents import EncodedSample
from maskora.models.registry import VideoModel
from maskora.training import loop
from maskora.training.loop import (
    Chooser,
    StageRun,
    choose_mixed,
    choose_uniformly,
    sample_loss,
    train,
)
from maskora.training.report import read_metrics
from maskora.training.run_folder import RunFolder

PLAN = StageRun("motion", 6, Training(seed=3, checkpoint_every=3), Optimizer(type="adamw", lr=1e-2))


def run(
    model: VideoModel, choose: Chooser, plan: StageRun, folder: Path
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Train as the command does; answer the losses and the LoRA."""
    transformer = model.load_transformer()
    lora.inject(transformer, 4, 4.0, model.lora_targets("attention"), plan.seed)
    runs = RunFolder(folder)
    if adapter := runs.newest_adapter():
        lora.fill(transformer, lora.read(adapter), adapter)
    train(model, transformer, choose, plan, runs, {"all": "the same"}, {"stage": "motion"})
    losses = [entry.loss for entry in read_metrics(runs.metrics)]
    return losses, lora.read(runs.adapter(plan.steps)).tensors


def test_two_runs_of_one_seed_are_the_same_and_another_seed_is_not(
    model: VideoModel, windows: list[EncodedSample], tmp_path: Path
) -> None:
    choose = choose_uniformly(windows)
    losses_a, lora_a = run(model, choose, PLAN, tmp_path / "a")
    losses_b, lora_b = run(model, choose, PLAN, tmp_path / "b")
    losses_c, _ = run(model, choose, replace(PLAN, training=Training(seed=4)), tmp_path / "c")
    assert losses_a == losses_b
    assert len(losses_a) == 6
    assert all(torch.equal(lora_a[name], lora_b[name]) for name in lora_a)
    assert losses_a != losses_c
    files = [RunFolder(tmp_path / name).adapter(PLAN.steps).read_bytes() for name in "abc"]
    assert files[0] == files[1]
    assert files[0] != files[2]


def test_a_resumed_run_equals_an_uninterrupted_one(
    model: VideoModel, windows: list[EncodedSample], tmp_path: Path
) -> None:
    choose = choose_uniformly(windows)
    losses, whole = run(model, choose, PLAN, tmp_path / "whole")
    run(model, choose, replace(PLAN, steps=4), tmp_path / "parts")
    resumed_losses, resumed = run(model, choose, PLAN, tmp_path / "parts")
    assert resumed_losses == losses
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    kept = sorted(path.parent.name for path in (tmp_path / "parts").glob("step-*/optimizer.pt"))
    assert kept == ["step-00006"]


@pytest.mark.parametrize("moment", ["before the update", "after the update"])
def test_ctrl_c_finishes_and_saves_the_step_in_hand(
    model: VideoModel, windows: list[EncodedSample], tmp_path: Path, moment: str
) -> None:
    seen = 0

    def interrupt_in_step_four(*_: object) -> None:
        nonlocal seen
        seen += 1
        if seen == 4:
            signal.raise_signal(signal.SIGINT)

    def choose(generator: torch.Generator) -> EncodedSample:
        if moment == "before the update":
            interrupt_in_step_four()
        return choose_uniformly(windows)(generator)

    before = signal.getsignal(signal.SIGINT)
    hook = register_optimizer_step_post_hook(
        interrupt_in_step_four if moment == "after the update" else lambda *_: None
    )
    try:
        with pytest.raises(KeyboardInterrupt):
            run(model, choose, PLAN, tmp_path / "cut")
    finally:
        hook.remove()
    assert signal.getsignal(signal.SIGINT) is before
    record = RunFolder(tmp_path / "cut").read()
    assert record is not None
    assert record.step == 4
    resumed_losses, resumed = run(model, choose_uniformly(windows), PLAN, tmp_path / "cut")
    losses, whole = run(model, choose_uniformly(windows), PLAN, tmp_path / "whole")
    assert resumed_losses == losses
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_ctrl_c_just_after_a_step_was_not_saved_saves_the_next_one(
    model: VideoModel, windows: list[EncodedSample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Late(loop.Interruption):
        looks = 0

        @property
        def asked(self) -> bool:
            self.looks += 1
            return self.looks > 1

        @asked.setter
        def asked(self, value: bool) -> None:
            pass

    monkeypatch.setattr(loop, "Interruption", Late)
    with pytest.raises(KeyboardInterrupt):
        run(model, choose_uniformly(windows), PLAN, tmp_path / "cut")
    record = RunFolder(tmp_path / "cut").read()
    assert record is not None
    assert record.step == 2


def test_a_second_ctrl_c_stops_at_once_and_what_was_saved_stays_whole(
    model: VideoModel, windows: list[EncodedSample], tmp_path: Path
) -> None:
    seen = 0

    def choose(generator: torch.Generator) -> EncodedSample:
        nonlocal seen
        seen += 1
        if seen == 5:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return choose_uniformly(windows)(generator)

    with pytest.raises(KeyboardInterrupt):
        run(model, choose, PLAN, tmp_path / "cut")
    record = RunFolder(tmp_path / "cut").read()
    assert record is not None
    assert record.step == 3
    resumed_losses, _ = run(model, choose_uniformly(windows), PLAN, tmp_path / "cut")
    losses, _ = run(model, choose_uniformly(windows), PLAN, tmp_path / "whole")
    assert resumed_losses == losses


def test_a_renewed_run_that_fails_leaves_the_earlier_one(
    model: VideoModel, windows: list[EncodedSample], tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    _, before = run(model, choose_uniformly(windows), PLAN, folder.root)

    def failing(generator: torch.Generator) -> EncodedSample:
        raise RuntimeError("out of memory, say")

    with pytest.raises(RuntimeError, match="out of memory"), folder.renewed():
        run(model, failing, PLAN, folder.root)
    record = folder.read()
    assert record is not None
    assert record.step == 6
    after = lora.read(folder.adapter(6)).tensors
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert len(read_metrics(folder.metrics)) == 6


def test_a_renewed_run_replaces_the_earlier_one_once_it_has_saved(
    model: VideoModel, windows: list[EncodedSample], tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    (folder.root / "named-edit").mkdir(parents=True)
    run(model, choose_uniformly(windows), PLAN, folder.root)
    with folder.renewed():
        run(
            model,
            choose_uniformly(windows),
            replace(PLAN, steps=2, training=Training(seed=8)),
            folder.root,
        )
    assert sorted(p.name for p in folder.root.glob("step-*")) == ["step-00002"]
    assert (folder.root / "named-edit").is_dir()
    assert not (folder.root / ".earlier").exists()
    assert len(read_metrics(folder.metrics)) == 2


def test_a_run_cannot_go_on_with_another_or_a_damaged_optimizer(
    model: VideoModel, windows: list[EncodedSample], tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    run(model, choose_uniformly(windows), replace(PLAN, steps=3), folder.root)
    with pytest.raises(UserError, match="written by adamw, and adamw8bit would run"):
        folder.load_optimizer(3, "adamw8bit")
    state = folder.root / "step-00003" / "optimizer.pt"
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(UserError, match=r"optimizer\.pt is damaged"):
        folder.load_optimizer(3, "adamw")
    state.unlink()
    with pytest.raises(UserError, match=r"optimizer\.pt is missing"):
        folder.load_optimizer(3, "adamw")
    os.truncate(folder.adapter(3), 50)
    assert folder.read() is None, "a run whose LoRA is damaged is no run"


def test_a_gradient_that_is_not_finite_stops_before_it_does_harm(
    model: VideoModel, windows: list[EncodedSample], tmp_path: Path
) -> None:
    context = {name: tensor * float("nan") for name, tensor in windows[0].context.items()}
    broken = replace(windows[0], context=context)
    with pytest.raises(Fault, match="step 1: the gradient is not finite"):
        run(model, lambda _: broken, PLAN, tmp_path / "run")


def test_training_lowers_the_loss_on_its_windows(
    model: VideoModel, windows: list[EncodedSample], tmp_path: Path
) -> None:
    def loss_with(tensors: dict[str, torch.Tensor] | None) -> float:
        transformer = model.load_transformer()
        lora.inject(transformer, 4, 4.0, model.lora_targets("attention"), 3)
        if tensors:
            path = tmp_path / "runs" / "step-00040" / "adapter.safetensors"
            lora.fill(transformer, lora.read(path), path)
        total = 0.0
        with torch.no_grad():
            for index, sample in enumerate(windows):
                noise = torch.randn(
                    sample.target_CTHW.shape, generator=torch.Generator().manual_seed(90 + index)
                )
                level = torch.tensor([0.5])
                total += sample_loss(model, transformer, sample, noise, level, 1.0).item()
        return total

    _, tensors = run(
        model,
        choose_uniformly(windows),
        replace(PLAN, steps=40, training=Training(seed=3, checkpoint_every=40)),
        tmp_path / "runs",
    )
    assert loss_with(tensors) < 0.97 * loss_with(None)


def test_accumulated_gradients_are_the_mean_over_their_samples(
    model: VideoModel, windows: list[EncodedSample], tmp_path: Path
) -> None:
    losses, _ = run(
        model,
        choose_uniformly(windows),
        replace(PLAN, steps=2, training=Training(gradient_accumulation_steps=3)),
        tmp_path / "a",
    )
    entries = read_metrics(RunFolder(tmp_path / "a").metrics)
    assert [len(entry.samples) for entry in entries] == [3, 3]
    assert all(loss > 0 for loss in losses)


def test_mixing_draws_the_motion_share(windows: list[EncodedSample]) -> None:
    keyframe, motion = windows[:1], windows[1:]
    choose = choose_mixed(keyframe, motion, 0.25)
    generator = torch.Generator().manual_seed(0)
    names = [choose(generator).name for _ in range(2000)]
    assert names.count(motion[0].name) / 2000 == pytest.approx(0.25, abs=0.03)


def test_a_lora_of_another_rank_does_not_fill(
    model: VideoModel, windows: list[EncodedSample], tmp_path: Path
) -> None:
    run(model, choose_uniformly(windows), replace(PLAN, steps=1), tmp_path / "a")
    path = RunFolder(tmp_path / "a").adapter(1)
    transformer = model.load_transformer()
    lora.inject(transformer, 8, 8.0, model.lora_targets("attention"), 0)
    with pytest.raises(UserError, match="does not fit"):
        lora.fill(transformer, lora.read(path), path)


def test_the_loss_picture_and_the_tensorboard_files_are_there(
    model: VideoModel, windows: list[EncodedSample], tmp_path: Path
) -> None:
    run(model, choose_uniformly(windows), PLAN, tmp_path / "a")
    folder = RunFolder(tmp_path / "a")
    assert folder.loss_picture.stat().st_size > 5000
    assert list(folder.tensorboard.glob("events.*"))
