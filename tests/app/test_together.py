"""Several processes through DeepSpeed on gloo: the same LoRA, weights held once, clean ends."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from maskora.models.tiny import write_tiny_model
from maskora.training.report import StepMetrics, read_metrics
from tests.app.conftest import Prepared, Run, at, frames_of, ok, repaint, sets

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("deepspeed") is None or not hasattr(os, "memfd_create"),
        reason="needs DeepSpeed (the multigpu extra) and Linux",
    ),
]
STEPS = sets(
    "training.gradient_accumulation_steps=4", "motion.steps=4", "training.checkpoint_every=1",
    "memory.blocks_to_swap=2", "memory.weights=pageable",
)  # fmt: skip
# Losses and norms of two processes and of one: sums of float32 in another order.
TOLERANCE = 1e-5


def environment() -> dict[str, str]:
    return {
        **os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip


def start(*words: object, processes: int = 2) -> "subprocess.Popen[str]":
    """`torchrun` with some processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*launcher, "--nproc-per-node", str(processes), *map(str, words)]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip


def finish(process: "subprocess.Popen[str]", status: int | None = 0) -> str:
    """What it has printed, at its end."""
    out = process.communicate(timeout=200)[0]
    assert status is None or process.returncode == status, out
    return out


def train(root: Path, *options: object) -> "subprocess.Popen[str]":
    return start("train.py", *at(root), *STEPS, "--stage", "motion", *options)


def metrics(root: Path) -> list[StepMetrics]:
    return read_metrics(root / "runs" / "motion" / "metrics.jsonl")


def alike(root: Path, other: Path) -> None:
    """Losses, gradients and the LoRA of two runs differ by rounding alone."""
    ours, theirs = metrics(root), metrics(other)
    assert len(ours) == len(theirs) == 4
    for one, two in zip(ours, theirs, strict=True):
        assert (one.step, one.samples, one.noise_level) == (two.step, two.samples, two.noise_level)
        assert one.loss == pytest.approx(two.loss, rel=TOLERANCE)
        assert one.gradient_norm == pytest.approx(two.gradient_norm, rel=TOLERANCE)
    name = "runs/motion/step-00004/adapter.safetensors"
    first, second = load_file(root / name), load_file(other / name)
    assert first.keys() == second.keys()
    for key in first:
        torch.testing.assert_close(first[key], second[key], rtol=1e-3, atol=1e-5)


@pytest.fixture(scope="module")
def lone(prepared: Prepared, run: Run) -> Path:
    """Trained by one process."""
    root = prepared()
    ok(run("train", *at(root), *STEPS, "--stage", "motion"))
    return root


def test_two_processes_train_as_one_does_and_seeds_are_shared(
    lone: Path, prepared: Prepared, run: Run
) -> None:
    root = prepared()
    out = finish(train(root))
    alike(root, lone)
    assert out.count("motion: done") == 1
    log = (root / "runs" / "rank-1.log").read_text()
    assert "process 1 of 2" in log
    assert "motion: done" in log
    finish(start("infer.py", *at(root), *STEPS, "--seed", "1,2"))
    ok(run("infer", *at(lone), *STEPS, "--seed", "1,2"))
    for seed in ("", "seed-2"):
        assert (root / "output" / seed / "edited.mp4").is_file()
        assert (root / "output" / seed / "run.json").is_file()


def test_both_stages_with_fewer_samples_than_processes_and_then_nothing_to_do(
    prepared: Prepared,
) -> None:
    """The second process has nothing to encode of the one window; what is done is so for both."""
    root = prepared()
    repaint(root, 4)
    few = sets("motion.window=full", "motion.steps=2", "appearance.steps=2")
    out = finish(start("train.py", *at(root), *STEPS, *few))
    assert out.count("motion: done") == out.count("appearance: done") == 1
    runs = [root / "runs" / stage / "run.json" for stage in ("motion", "appearance")]
    written = [path.read_bytes() for path in runs]
    out = finish(start("train.py", *at(root), *STEPS, *few))
    assert out.count("motion: done already") == out.count("appearance: done already") == 1
    assert [path.read_bytes() for path in runs] == written


def test_what_one_process_alone_refuses_is_said(prepared: Prepared) -> None:
    """The first would else wait for it, and nobody would say why that is in vain."""
    out = finish(start("tests/app/refusing.py", "train", *at(prepared()), *STEPS), status=1)
    assert out.count("maskora (process 1 of 2): this one's GPU is full") == 1


def test_a_killed_process_ends_the_job_and_another_number_goes_on(
    lone: Path, prepared: Prepared, run: Run
) -> None:
    root = prepared()
    process = train(root, "--set", "motion.steps=400")
    record = root / "runs" / "motion" / "run.json"
    wait_for(process, lambda: record.is_file())
    victim = next(
        child for child in psutil.Process(process.pid).children()
        if child.environ().get("RANK") == "1"
    )  # fmt: skip
    victim.kill()
    out = finish(process, status=1)
    assert "another process of this run has ended" in out
    assert "--resume" in out
    saved = len(metrics(root))
    assert saved >= 1
    assert not any(one.is_running() for one in [victim])
    ok(run("train", *at(root), *STEPS, "--set", f"motion.steps={saved + 3}", "--resume"))
    assert [entry.step for entry in metrics(root)] == [*range(1, saved + 4)]
    for ours, theirs in zip(metrics(root), metrics(lone), strict=False):
        assert ours.loss == pytest.approx(theirs.loss, rel=TOLERANCE)


def test_an_interruption_is_saved_once_and_two_go_on_after_one(
    lone: Path, prepared: Prepared, run: Run
) -> None:
    root = prepared()
    ok(run("train", *at(root), *STEPS, "--set", "motion.steps=2", "--stage", "motion"))
    process = train(root, "--resume", "--set", "motion.steps=400", "--set",
                    "training.checkpoint_every=400")  # fmt: skip
    wait_for(process, lambda: len(metrics(root)) > 4)
    process.send_signal(signal.SIGTERM)
    out = finish(process, status=None)
    assert out.count("is saved; train with --resume") == 1, out
    steps = [entry.step for entry in metrics(root)]
    folder = root / "runs" / "motion" / f"step-{steps[-1]:05d}"
    assert (folder / "optimizer.pt").is_file()
    for ours, theirs in zip(metrics(root), metrics(lone), strict=False):
        assert ours.loss == pytest.approx(theirs.loss, rel=TOLERANCE)


def test_blocks_that_wait_are_held_once() -> None:
    out = finish(start("tests/app/sharing.py", 64))
    words = out[out.index("FILLED") :].split()
    assert words[1] == "4"
    assert int(words[3]) == pytest.approx(64 * 2**20, rel=0.01)


def test_blocks_that_wait_in_inference_are_held_once_however_often_they_are_loaded(
    tmp_path: Path,
) -> None:
    """One process reads each block, for both, and for the second time that each loads them."""
    write_tiny_model(tmp_path / "model", layers=8)
    out = finish(start("tests/app/sharing.py", tmp_path / "model"))
    words = out[out.index("FILLED") :].split()
    assert words[1] == "8"
    assert int(words[3]) == pytest.approx(int(words[5]), rel=0.01)


def test_two_processes_share_runs_of_segments(two_shots: Callable[[], Path], run: Run) -> None:
    alone, shared = two_shots(), two_shots()
    ok(run("infer", *at(alone), *STEPS, "--lora", "none"))
    out = finish(start("infer.py", *at(shared), *STEPS, "--lora", "none"))
    assert "2 runs of segments that need nothing of one another" in out
    for place, own in enumerate((("1", "2"), ("3", "4"))):
        log = (shared / "runs" / f"rank-{place}.log").read_text().splitlines()
        began = next(n for n, line in enumerate(log) if "runs of segments" in line)
        sampled = [
            line.split("segment ")[1][0]
            for line, after in pairwise(log[began:])
            if "segment " in line and "was sampled before" not in after
        ]
        assert tuple(sampled) == own, log
    ours, theirs = (root / "output" / "edited.mkv" for root in (shared, alone))
    assert ours.read_bytes() == theirs.read_bytes()


def test_four_processes_share_both_runs_of_segments_and_branches(
    two_shots: Callable[[], Path], run: Run
) -> None:
    alone, shared = two_shots(), two_shots()
    ok(run("infer", *at(alone), *STEPS, "--lora", "none"))
    words = "infer.py", *at(shared), *STEPS, "--lora", "none"
    out = finish(start(*words, processes=4))
    assert "2 runs of segments that need nothing of one another" in out
    assert "of every two processes each computes a guidance branch" in out
    assert "nothing to do" not in out
    assert abs(frames_of(shared)[:9].astype(int) - frames_of(alone)[:9]).max() <= 1


def test_two_processes_compute_a_guidance_branch_each(prepared: Prepared, run: Run) -> None:
    """Beside the inverted source, whose attention both take: sums are rounded in another order."""
    alone, shared = prepared(), prepared()
    settings = [*STEPS, "--lora", "none", *sets(
        "inference.guidance=3", 'transfer.start="inverted"', 'transfer.attention="qk"',
    )]  # fmt: skip
    ok(run("infer", *at(alone), *settings))
    out = finish(start("infer.py", *at(shared), *settings))
    assert out.count("of every two processes each computes a guidance branch") == 1
    apart = frames_of(shared).astype(int) - frames_of(alone)
    assert abs(apart).max() <= 1


def test_deepspeeds_own_launcher_starts_it(prepared: Prepared, lone: Path) -> None:
    root = prepared()
    command = ["deepspeed", "--num_gpus=2", "--master_port=29513", "train.py", *at(root), *STEPS,
               "--stage", "motion"]  # fmt: skip
    process = subprocess.Popen(
        [*map(str, command)], cwd=ROOT, env={**environment(), "LOCAL_SIZE": "2"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    finish(process)
    alike(root, lone)


def test_fewer_samples_than_processes_are_refused_once(prepared: Prepared) -> None:
    root = prepared()
    out = finish(train(root, "--set", "training.gradient_accumulation_steps=1"), status=1)
    assert out.count("maskora: [training] gradient_accumulation_steps is 1") == 1


def wait_for(process: "subprocess.Popen[str]", there: Callable[[], bool]) -> None:
    """Wait until something is so, while the process runs."""
    deadline = time.monotonic() + 150
    while not there():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
