"""The GPU's memory runs out in a command: it goes on, or stops with its state and advice."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from maskora import lora
from maskora.models.wan.model import Wan21
from maskora.training import loop
from tests.simulated import OUT_OF_MEMORY

ADAPTER = Path("runs/motion/step-00003/adapter.safetensors")
STEPS = ["--set", "motion.steps=3", "--set", "training.checkpoint_every=3"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home-cache"))


def failing(works: Callable[..., Any], fails: Callable[[int], bool]) -> Callable[..., Any]:
    """A function whose n-th call finds no memory where `fails(n)`."""
    calls = 0

    def call(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if fails(calls):
            raise torch.OutOfMemoryError(OUT_OF_MEMORY)
        return works(*arguments, **options)

    return call


def test_training_stops_with_its_state_and_what_would_need_less(
    run: Callable, prepared: Callable, deep_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut, whole = (prepared("--set", f"model.path={deep_model}", *STEPS) for _ in range(2))
    config = cut / "edit.toml"
    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", failing(loop.train_step, lambda call: call > 1))
        answer = run("train", "--config", config)
    assert answer.status == 1
    assert "5 of 5 blocks are streamed from now on" in answer.err
    assert "step 1 is saved; train with --resume continues there" in answer.err
    *_, message = answer.err.partition("What would need less:\n")
    assert '  video.size = "' in message
    assert "  to end what else uses the GPU" in message
    assert run("train", "--config", config, "--resume").status == 0
    assert run("train", "--config", whole / "edit.toml").status == 0
    ours, others = (lora.read(root / ADAPTER).tensors for root in (cut, whole))
    assert all(torch.equal(ours[name], others[name]) for name in others)


def test_what_was_given_back_stays_so_for_the_run_and_is_no_measure_for_plans(
    run: Callable, prepared: Callable, deep_model: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    root = prepared("--set", f"model.path={deep_model}", *STEPS)
    monkeypatch.setattr(loop, "train_step", failing(loop.train_step, lambda call: call in (2, 3)))
    assert run("train", "--config", root / "edit.toml").status == 0
    assert not (tmp_path / "home-cache" / "maskora" / "timings.json").exists()
    monkeypatch.setattr(Wan21, "predict", failing(Wan21.predict, lambda call: call == 2))
    answer = run("infer", "--config", root / "edit.toml")
    assert answer.status == 0, answer.err
    assert "the guidance branches run one after the other" in answer.err


def test_what_needs_less_is_told_of_an_encoder_too(
    run: Callable, prepared: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of an encoder can be given back: all its layers are streamed anyway."""
    root = prepared(*STEPS)

    def full(*_: Any) -> None:
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate")

    monkeypatch.setattr("maskora.app.train.encode_samples", full)
    answer = run("train", "--config", root / "edit.toml")
    assert answer.status == 1
    assert "CUBLAS_STATUS_ALLOC_FAILED" in answer.err
    assert "What would need less:\n" in answer.err
