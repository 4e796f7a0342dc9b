"""The commands with little memory: the same results, failing disks, LoRAs of another storage."""

import errno
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from maskora import lora
from maskora import system as ram_module
from maskora.app import open_base as opening
from maskora.streaming.placement import GIB
from maskora.video.probe import probe
from maskora.video.read import read_frames

STREAMED = [
    "--set", "memory.blocks_to_swap=5", "--set", "memory.weights=mapped",
    "--set", "motion.steps=4",
]  # fmt: skip
ADAPTER = Path("runs/motion/step-00004/adapter.safetensors")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Timings and converted weights go to a folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home-cache"))


def same_lora(a: Path, b: Path) -> bool:
    one, other = lora.read(a).tensors, lora.read(b).tensors
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def test_a_streamed_edit_is_the_resident_one(
    run: Callable, prepared: Callable, deep_model: Path
) -> None:
    workspaces = [prepared("--set", f"model.path={deep_model}") for _ in range(2)]
    for root, memory in zip(workspaces, (STREAMED, STREAMED[-2:]), strict=True):
        for command in ("train", "infer"):
            answer = run(command, "--config", root / "edit.toml", *memory)
            assert answer.status == 0, answer.err
    streamed, resident = workspaces
    assert same_lora(streamed / ADAPTER, resident / ADAPTER)
    one, other = (
        np.stack(list(read_frames(probe(root / "output/edited.mkv"), 0, 9, 1)))
        for root in workspaces
    )
    assert np.array_equal(one, other)


def test_a_disk_that_fails_in_mid_run_leaves_a_checkpoint_that_resumes(
    run: Callable, prepared: Callable, deep_model: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(deep_model, tmp_path / "model")
    weights = model / "transformer" / "diffusion_pytorch_model.safetensors"
    whole, steps = weights.read_bytes(), 0

    def fail_after_two(*_: object) -> None:
        nonlocal steps
        steps += 1
        if steps == 2:
            os.truncate(weights, 5000)

    root = prepared("--set", f"model.path={model}")
    hook = register_optimizer_step_post_hook(fail_after_two)
    try:
        answer = run("train", "--config", root / "edit.toml", *STREAMED)
    finally:
        hook.remove()
    assert answer.status == 1
    assert f"{weights} ends early" in answer.err
    assert "--resume" in answer.err
    saved = sorted(path.name for path in (root / "runs/motion").glob("step-*"))
    assert saved == ["step-00001", "step-00002"]
    weights.write_bytes(whole)
    answer = run("train", "--config", root / "edit.toml", "--resume", *STREAMED)
    assert answer.status == 0, answer.err
    assert "continues after step 2" in answer.err
    again = prepared("--set", f"model.path={model}")
    assert run("train", "--config", again / "edit.toml", *STREAMED).status == 0
    assert same_lora(root / ADAPTER, again / ADAPTER)


def test_a_full_disk_in_mid_run_leaves_a_checkpoint_that_resumes(
    run: Callable, prepared: Callable, deep_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = prepared("--set", f"model.path={deep_model}")
    write = Path.write_bytes

    def full_at_step_three(path: Path, data: bytes) -> int:
        if "step-00003" in str(path):
            write(path, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full_at_step_three)
    answer = run("train", "--config", root / "edit.toml", *STREAMED)
    assert answer.status == 1
    assert "No space left on device" in answer.err
    assert not list((root / "runs/motion/step-00003").iterdir())
    monkeypatch.undo()
    answer = run("train", "--config", root / "edit.toml", "--resume", *STREAMED)
    assert answer.status == 0, answer.err
    assert "continues after step 2" in answer.err


def test_a_lora_trained_against_compressed_weights_says_so(
    run: Callable, prepared: Callable, deep_model: Path
) -> None:
    root = prepared("--set", f"model.path={deep_model}")
    config, compressed = root / "edit.toml", ["--set", "model.transformer_dtype=float8"]
    assert run("train", "--config", config, *compressed).status == 0
    adapter = root / "runs/motion/step-00002/adapter.safetensors"
    assert lora.read(adapter).metadata["storage"] == "float8"
    told = run("infer", "--config", config)
    assert told.status == 0
    assert "was trained against float8 weights, and this run uses uncompressed" in told.err
    assert 'model.transformer_dtype = "float8" would match' in told.err
    assert "trained against" not in run("infer", "--config", config, *compressed).err
    again = run("train", "--config", config)
    assert "retraining: model.transformer_dtype changed" in again.err


def test_ram_that_others_hold_is_told_before_anything_loads(
    run: Callable, prepared: Callable, deep_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 GB are installed, but a quarter of one, with what this process has, can be had."""
    root = prepared("--set", f"model.path={deep_model}")
    held = SimpleNamespace(total=64 * GIB, available=GIB // 4)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: held)
    monkeypatch.setattr(ram_module, "GROUPS", Path("nowhere"))
    monkeypatch.setattr(opening, "own_bytes", lambda: GIB // 8)
    answer = run("train", "--config", root / "edit.toml")
    assert answer.status == 2
    assert "GB of RAM, and 0.4 of 64.0 GB of RAM are available: end other programs" in answer.err
    assert 'memory.weights = "mapped"' in answer.err
    assert "loading" not in answer.err
    told = run("plan", "--config", root / "edit.toml")
    assert (told.status, "0.2 of 64.0 GB of RAM are available" in told.out) == (0, True)


def test_the_plan_comes_first_and_how_far_it_was_off_last(
    run: Callable, prepared: Callable, deep_model: Path
) -> None:
    root = prepared("--set", f"model.path={deep_model}")
    for command in ("train", "infer"):
        told = run(command, "--config", root / "edit.toml", *STREAMED).err
        assert told.index("5 of 5 blocks are swapped, as set") < told.index("loading the")
        assert re.search(r"planned \d+\.\d GB of RAM, used \d+\.\d \(\d+ % (more|less)\)", told)
    plan = run("plan", "--config", root / "edit.toml", *STREAMED).out
    assert "unknown" not in plan
    assert re.search(r"training step of 5 frames: \d+\.\d s, as measured before", plan)
    assert "unknown until the first step" in run("plan", "--config", root / "edit.toml").out
