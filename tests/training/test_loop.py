"""The loop on a tiny real transformer: it learns, repeats itself, and continues exactly."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from maskora import lora
from maskora.config.tables import Optimizer, Training
from maskora.errors import Fault, UserError
from maskora.latents import EncodedSample
from maskora.method.objective import draw_noise_level
from maskora.models.registry import Expert, VideoModel
from maskora.training import loop
from maskora.training.loop import Chooser, StageRun, choose_uniformly, train, train_step
from maskora.training.report import read_metrics
from maskora.training.run_folder import RunFolder
from tests.training.conftest import injected

PLAN = StageRun("motion", 6, Training(seed=3, checkpoint_every=3), Optimizer(type="adamw", lr=1e-2))
Losses = list[float]
Run = Callable[..., tuple[Losses, dict[str, Tensor]]]


@pytest.fixture
def run(model: VideoModel, windows: list[EncodedSample]) -> Run:
    """Train in a folder as the command does, with changes of the plan; the losses and the LoRA."""

    def call(
        folder: Path, choose: Chooser | None = None, **changes: object
    ) -> tuple[Losses, dict[str, Tensor]]:
        plan, runs = replace(PLAN, **changes), RunFolder(folder)
        transformer = injected(model, plan.seed)
        if adapter := runs.newest_adapter():
            lora.fill(transformer, lora.read(adapter), adapter)
        choose = choose or choose_uniformly(windows)
        train(model, transformer, choose, plan, runs, {"all": "the same"}, {"stage": "motion"})
        losses = [entry.loss for entry in read_metrics(runs.metrics)]
        return losses, lora.read(runs.adapter(plan.steps)).tensors

    return call


def same(ours: dict[str, Tensor], others: dict[str, Tensor]) -> bool:
    return all(torch.equal(ours[name], others[name]) for name in ours)


def test_two_runs_of_one_seed_are_the_same_and_another_seed_is_not(
    run: Run, tmp_path: Path
) -> None:
    losses_a, lora_a = run(tmp_path / "a")
    losses_b, lora_b = run(tmp_path / "b")
    losses_c, _ = run(tmp_path / "c", training=Training(seed=4))
    assert losses_a == losses_b
    assert len(losses_a) == 6
    assert same(lora_a, lora_b)
    assert losses_a != losses_c
    files = [RunFolder(tmp_path / name).adapter(PLAN.steps).read_bytes() for name in "abc"]
    assert files[0] == files[1]
    assert files[0] != files[2]
    assert RunFolder(tmp_path / "a").loss_picture.stat().st_size > 5000
    assert list(RunFolder(tmp_path / "a").tensorboard.glob("events.*"))


def test_a_resumed_run_equals_an_uninterrupted_one(run: Run, tmp_path: Path) -> None:
    losses, whole = run(tmp_path / "whole")
    run(tmp_path / "parts", steps=4)
    resumed_losses, resumed = run(tmp_path / "parts")
    assert resumed_losses == losses
    assert same(whole, resumed)
    kept = sorted(path.parent.name for path in (tmp_path / "parts").glob("step-*/optimizer.pt"))
    assert kept == ["step-00004", "step-00006"]


@pytest.mark.parametrize("moment", ["before the update", "after the update"])
def test_ctrl_c_finishes_and_saves_the_step_in_hand(
    run: Run, windows: list[EncodedSample], tmp_path: Path, moment: str
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
            run(tmp_path / "cut", choose)
    finally:
        hook.remove()
    assert signal.getsignal(signal.SIGINT) is before
    assert RunFolder(tmp_path / "cut").read().step == 4
    resumed_losses, resumed = run(tmp_path / "cut")
    losses, whole = run(tmp_path / "whole")
    assert resumed_losses == losses
    assert same(whole, resumed)


def test_ctrl_c_just_after_a_step_was_not_saved_saves_the_next_one(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
        run(tmp_path / "cut")
    assert RunFolder(tmp_path / "cut").read().step == 2


def test_ctrl_c_while_the_last_step_is_saved_ends_the_command(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the stage after it would begin."""

    def finish_step(folder: RunFolder, step: int, depends_on: dict[str, str]) -> None:
        finished(folder, step, depends_on)
        if step == PLAN.steps:
            signal.raise_signal(signal.SIGINT)

    finished = RunFolder.finish_step
    monkeypatch.setattr(RunFolder, "finish_step", finish_step)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut")
    assert RunFolder(tmp_path / "cut").read().step == PLAN.steps


def test_a_second_ctrl_c_stops_at_once_and_what_was_saved_stays_whole(
    run: Run, windows: list[EncodedSample], tmp_path: Path
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
        run(tmp_path / "cut", choose)
    assert RunFolder(tmp_path / "cut").read().step == 3
    assert run(tmp_path / "cut")[0] == run(tmp_path / "whole")[0]


def test_a_renewed_run_that_fails_leaves_the_earlier_one(run: Run, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    _, before = run(folder.root)

    def failing(generator: torch.Generator) -> EncodedSample:
        raise RuntimeError("out of memory, say")

    with pytest.raises(RuntimeError, match="out of memory"), folder.renewed():
        run(folder.root, failing)
    assert folder.read().step == 6
    assert same(before, lora.read(folder.adapter(6)).tensors)
    assert len(read_metrics(folder.metrics)) == 6


def test_a_renewed_run_replaces_the_earlier_one_once_it_has_saved(run: Run, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    (folder.root / "named-edit").mkdir(parents=True)
    run(folder.root)
    with folder.renewed():
        run(folder.root, steps=2, training=Training(seed=8))
    assert sorted(p.name for p in folder.root.glob("step-*")) == ["step-00002"]
    assert (folder.root / "named-edit").is_dir()
    assert not (folder.root / ".earlier").exists()
    assert len(read_metrics(folder.metrics)) == 2


def test_a_run_cannot_go_on_with_another_or_a_damaged_optimizer(run: Run, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    run(folder.root, steps=3)
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
    with pytest.raises(UserError, match=r"adapter\.safetensors is damaged: train --resume"):
        folder.newest_adapter()


@pytest.mark.parametrize("step", [1, 2, 5])
def test_a_gradient_that_is_not_finite_stops_and_the_last_good_lora_is_saved(
    run: Run, windows: list[EncodedSample], tmp_path: Path, step: int
) -> None:
    context = {name: tensor * float("nan") for name, tensor in windows[0].context.items()}
    broken, seen = replace(windows[0], name="broken", context=context), 0

    def choose(generator: torch.Generator) -> EncodedSample:
        nonlocal seen
        seen += 1
        chosen = choose_uniformly(windows)(generator)
        return broken if seen == step else chosen

    folder = RunFolder(tmp_path / "run")
    words = rf"step {step}: the gradient is not finite \(broken: loss nan.* a lower optimizer\.lr"
    with pytest.raises(Fault, match=words):
        run(folder.root, choose)
    if step == 1:
        assert folder.read() is None
        return
    assert folder.read().step == step - 1
    losses, whole = run(tmp_path / "whole")
    assert run(folder.root)[0] == losses
    assert same(lora.read(folder.adapter(6)).tensors, whole)


def test_an_interruption_that_python_has_ignored_is_seen_before_the_first_step(
    run: Run, tmp_path: Path, ignored_interruption: None
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run")
    assert RunFolder(tmp_path / "run").read() is None


def test_training_lowers_the_loss_on_its_windows(
    run: Run, model: VideoModel, windows: list[EncodedSample], tmp_path: Path
) -> None:
    def loss_with(adapter: Path | None) -> float:
        transformer = injected(model, 3)
        if adapter:
            lora.fill(transformer, lora.read(adapter), adapter)
        total = 0.0
        with torch.no_grad():
            for index, sample in enumerate(windows):
                generator = torch.Generator().manual_seed(90 + index)
                noise = torch.randn(sample.target_CTHW.shape, generator=generator)
                level = torch.tensor([0.5])
                total += loop.sample_loss(model, transformer, sample, noise, level, 1.0).item()
        return total

    run(tmp_path, steps=40, training=Training(seed=3, checkpoint_every=40))
    assert loss_with(RunFolder(tmp_path).adapter(40)) < 0.97 * loss_with(None)


def test_accumulated_gradients_are_the_mean_over_their_samples(run: Run, tmp_path: Path) -> None:
    losses, _ = run(tmp_path, steps=2, training=Training(gradient_accumulation_steps=3))
    entries = read_metrics(RunFolder(tmp_path).metrics)
    assert [len(entry.samples) for entry in entries] == [3, 3]
    assert all(loss > 0 for loss in losses)


def test_a_step_draws_its_level_and_weighs_its_loss_as_set(
    model: VideoModel, windows: list[EncodedSample]
) -> None:
    settings = Training(seed=5, timestep_sample_method="logit_normal", shift=6.0, inside_weight=7.0)
    plan = replace(PLAN, stage="appearance", training=settings, expert=Expert("high", lowest=0.9))
    transformer, sample = model.load_transformer(), windows[0]
    lora.inject(transformer, 4, 4.0, model.lora_targets("attention"), 0)
    generator = torch.Generator().manual_seed(6 * 1_000_003 + 2)
    level = draw_noise_level("logit_normal", 6.0, generator, 0.9, 1.0)
    noise = torch.randn(sample.target_CTHW.shape, generator=generator)
    with torch.no_grad():
        loss = loop.sample_loss(model, transformer, sample, noise, level, 7.0).item()
    optimizer = torch.optim.SGD(lora.trainable(transformer), lr=1.0)
    entry = train_step(model, transformer, optimizer, lambda _: sample, plan, 2).read()
    assert entry.noise_level == level.item()
    assert entry.loss == pytest.approx(loss, rel=1e-5)


def test_mixing_draws_the_motion_share(windows: list[EncodedSample]) -> None:
    keyframe, motion = windows[:1], windows[1:]
    choose = loop.choose_mixed(keyframe, motion, 0.25)
    generator = torch.Generator().manual_seed(0)
    names = [choose(generator).name for _ in range(2000)]
    assert names.count(motion[0].name) / 2000 == pytest.approx(0.25, abs=0.03)


def test_a_lora_of_another_rank_does_not_fill(run: Run, model: VideoModel, tmp_path: Path) -> None:
    run(tmp_path, steps=1)
    path = RunFolder(tmp_path).adapter(1)
    transformer = injected(model, rank=8)
    with pytest.raises(UserError, match="does not fit"):
        lora.fill(transformer, lora.read(path), path)
