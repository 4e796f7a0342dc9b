"""Previews while training: they show the LoRA as it is, and change nothing of what is trained."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from maskora.app import plan, preview, training_previews
from maskora.app.workspace import Workspace
from maskora.config import Config, load_config
from maskora.errors import Fault, OutOfMemory
from maskora.files import sha256_file
from maskora.models.registry import Expert
from maskora.training.report import read_metrics
from maskora.training.run_folder import RunFolder
from maskora.video.probe import probe
from tests.app.conftest import Prepared, Run, at, frames_of, ok, refused, repaint, sets
from tests.app.small import small_clip, small_edit

STEPS = ("motion.steps=4", "appearance.steps=3", "training.checkpoint_every=4")
EVERY = (*STEPS, "training.preview_every=2")
SWAPPED = ("memory.blocks_to_swap=1", "memory.weights=pageable")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The workspaces of the tests are as small as it gets, and halved all the same."""
    monkeypatch.setattr(plan, "SMALLEST", 1)


def trained(root: Path) -> dict[str, object]:
    """What both stages have learned: the last LoRA and every step's loss."""
    found: dict[str, object] = {}
    for stage in ("motion", "appearance"):
        folder = RunFolder(root / "runs" / stage)
        adapter = folder.newest_adapter()
        assert adapter is not None
        found[stage] = sha256_file(adapter)
        found[f"{stage} optimizer"] = sha256_file(adapter.with_name("optimizer.pt"))
        found[f"{stage} losses"] = [
            (e.loss, e.gradient_norm, e.noise_level) for e in read_metrics(folder.metrics)
        ]
    return found


@pytest.mark.parametrize("how", [(), SWAPPED], ids=["resident", "swapped"])
def test_training_is_the_same_to_the_bit_with_previews_and_without(
    prepared: Prepared, run: Run, how: tuple[str, ...]
) -> None:
    plain, shown = prepared(), prepared()
    for root in (plain, shown):
        repaint(root, 8, (40, 40, 40, 30))
    torch.manual_seed(7)
    ok(run("train", *at(plain, *STEPS, *how)))
    after = torch.get_rng_state()
    torch.manual_seed(7)
    ok(run("train", *at(shown, *EVERY, *how)))
    assert torch.equal(torch.get_rng_state(), after), "random numbers of their own"
    assert trained(shown) == trained(plain)

    previews = Workspace(shown).previews(None)
    names = ["motion-00002.mp4", "motion-00004.mp4", "appearance-00002.mp4"]
    assert [path.name for path in previews] == names
    video = probe(previews[0])
    assert (video.width, video.height, video.frames) == (3 * 80, 48, 9)
    contents = [sha256_file(path) for path in previews]
    assert len(set(contents)) == 3, "the LoRA is another one each time"
    assert "done already" in ok(run("train", *at(shown, *STEPS, *how))).err, "it is no other run"


def test_a_preview_shows_what_the_lora_makes(prepared: Prepared, run: Run) -> None:
    """It is the clip that `maskora preview` makes with the LoRA of that step."""
    root = prepared()
    ok(run("train", *at(root, *EVERY)))
    shown = frames_of(Workspace(root).training_preview(None, "motion", 4))
    ok(run("preview", *at(root, *EVERY)))
    assert np.array_equal(frames_of(root / "output" / "preview.mp4"), shown)


def test_previews_go_with_the_steps_that_they_show(prepared: Prepared, run: Run) -> None:
    root = prepared()
    ok(run("train", *at(root, "motion.steps=2", *EVERY[1:])))
    first = Workspace(root).training_preview(None, "motion", 2)
    before = first.stat().st_mtime_ns
    ok(run("train", *at(root, *EVERY), "--resume"))
    names = [path.name for path in Workspace(root).previews(None)]
    assert names == ["motion-00002.mp4", "motion-00004.mp4"]
    assert first.stat().st_mtime_ns == before, "what goes on keeps its own"
    ok(run("train", *at(root, "motion.steps=2", "training.seed=1", *EVERY[1:])))
    assert [path.name for path in Workspace(root).previews(None)] == ["motion-00002.mp4"]
    assert first.stat().st_mtime_ns != before


@pytest.mark.parametrize("failure", [OutOfMemory("no room"), Fault("odd"), OSError(28, "full")])
def test_one_that_fails_is_told_of_and_training_goes_on(
    prepared: Prepared, run: Run, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    plain, shown = prepared(), prepared()
    for root in (plain, shown):
        repaint(root, 8, (40, 40, 40, 30))
    ok(run("train", *at(plain, *STEPS)))

    def fail(*_: object) -> None:
        raise failure

    monkeypatch.setattr(training_previews, "decode_video", fail)
    answer = ok(run("train", *at(shown, *EVERY)))
    assert answer.err.count("could not be made, and training goes on") == 3
    assert trained(shown) == trained(plain)


def test_without_an_edited_frame_there_is_nothing_to_show(prepared: Prepared, run: Run) -> None:
    root = prepared()
    (root / "edits" / "00000.png").unlink()
    answer = ok(run("train", *at(root, *EVERY), "--stage", "motion"))
    assert "training.preview_every has no effect here: the edited first frame" in answer.err
    assert Workspace(root).previews(None) == []


def test_a_named_edit_has_previews_of_its_own(prepared: Prepared, run: Run) -> None:
    root = prepared()
    (root / "edits" / "cap").mkdir()
    (root / "edits" / "00000.png").rename(root / "edits" / "cap" / "00000.png")
    ok(run("train", *at(root, *EVERY), "--edit", "cap", "--stage", "motion"))
    assert Workspace(root).previews(None) == []
    assert len(Workspace(root).previews("cap")) == 2


def test_the_plan_counts_their_memory_and_their_time(prepared: Prepared, run: Run) -> None:
    root = prepared()
    ok(run("train", *at(root, *EVERY)))
    ok(run("infer", *at(root)))
    text = ok(run("plan", *at(root, *EVERY), "--device", "cpu")).out
    assert "denoising step of a preview, 9 frames of 80x48: " in text
    assert "as measured before" in text.partition("of a preview")[2].splitlines()[0]
    assert "preview" not in ok(run("plan", *at(root, *STEPS), "--device", "cpu")).out
    parts = plan.plan_times(configured(root, EVERY), Workspace(root), None, "cpu")
    steps = {part.task: part.steps for part in parts}
    assert steps == {"motion": 4, "preview": 2 * 2, "denoise": 2}
    assert all(part.seconds is not None for part in parts)


def test_one_of_two_transformers_alone_makes_no_clip(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    model = SimpleNamespace(experts=(Expert("high"), Expert("low")))
    config = Config.model_validate({"training": {"preview_every": 2}})
    inputs = (config, Workspace(tmp_path), small_clip(), small_edit(), None)
    found = training_previews.open_previews(*inputs, SimpleNamespace(model=model))  # type: ignore[arg-type]
    assert found is None
    assert "no effect here: this base has two transformers" in caplog.text


def configured(root: Path, settings: tuple[str, ...]) -> Config:
    return load_config(root / "edit.toml", list(settings))


@pytest.mark.parametrize(("lora", "used"), [("newest", True), ("none", False), ("FILE", True)])
def test_the_lora_of_a_preview_is_chosen(copied: Path, run: Run, lora: str, used: bool) -> None:
    file = RunFolder(copied / "runs" / "motion").newest_adapter()
    answer = ok(run("preview", *at(copied), "--lora", file if lora == "FILE" else lora))
    expected = {"newest": copied / "runs" / "appearance", "FILE": file}.get(lora, "none")
    assert f"LoRA: {expected}" in answer.err
    assert ("invert:" in answer.err) == (not used), "without a LoRA: instant"


def test_half_trained_is_newest_too_and_nothing_trained_is_told(
    prepared: Prepared, run: Run
) -> None:
    """An edit with keyframes whose look is not learned yet has the motion's LoRA."""
    root = prepared()
    refused(run("preview", *at(root), "--lora", "newest"), "has not been trained")
    assert "LoRA: none" in ok(run("preview", *at(root))).err
    ok(run("train", *at(root)))
    repaint(root, 8, (40, 40, 40, 30))
    assert f"LoRA: {root / 'runs' / 'motion'}" in ok(run("preview", *at(root))).err


def test_a_step_distilled_lora_is_used_as_it_works(copied: Path, run: Run) -> None:
    adapter = RunFolder(copied / "runs" / "motion").newest_adapter()
    assert adapter is not None
    (copied / "fast.safetensors").write_bytes(adapter.read_bytes())
    named = sets("preview.distilled=fast.safetensors", "inference.guidance=3.0")
    answer = ok(run("preview", *at(copied), *named))
    assert "in 4 steps" in answer.err
    assert f"LoRA: {copied / 'fast.safetensors'}" in answer.err
    assert f"LoRA: {copied / 'runs' / 'appearance'}" in answer.err
    wrong = sets("preview.distilled=slow.safetensors")
    refused(run("check", *at(copied), *wrong), "slow.safetensors does not exist", lines=2)
    config = configured(copied, ("preview.distilled=fast.safetensors",))
    used = preview._settings(config, None).inference
    assert (used.steps, used.guidance) == (4, 1.0)
    assert json.loads((copied / "output" / "run.json").read_text())["config"]["preview"]
