"""train: what the stages learn from, what trains again, and what happens without memory."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from maskora import lora
from maskora.app.captions import source_caption
from maskora.app.edits import load_clip, load_edit
from maskora.app.fingerprints import stage_run
from maskora.app.train import appearance_samples, motion_samples, train_stages
from maskora.app.workspace import Workspace
from maskora.config import load_config
from maskora.errors import UserError
from maskora.latents import EncodedSample, TensorCache, encode_samples
from maskora.masks.files import read_labels, write_labels
from maskora.method.conditioning import (
    COLOUR_ORDERS,
    Sample,
    anchored,
    appearance_sample,
    motion_sample,
    recoloured,
    to_unit,
)
from maskora.models.registry import Expert, VideoModel
from maskora.models.wan.model import Wan21
from maskora.training import loop
from maskora.training.loop import choose_uniformly, train, train_step
from maskora.training.report import read_metrics
from maskora.training.run_folder import RunFolder
from tests.app.conftest import Prepared, Run, at, ok, refused, repaint, sets
from tests.app.small import CAPTION, configured, small_clip, small_edit, unit
from tests.simulated import OUT_OF_MEMORY
from tests.training.conftest import injected

ADAPTER = Path("runs/motion/step-00003/adapter.safetensors")
STEPS = sets("motion.steps=3", "training.checkpoint_every=3")


@pytest.fixture(scope="module")
def windows(model: VideoModel, tmp_path_factory: pytest.TempPathFactory) -> list[EncodedSample]:
    """Two motion windows of the small clip, encoded."""
    samples = motion_samples(small_clip(), CAPTION, configured(motion={"window": 5}))
    return encode_samples(samples, model, TensorCache(tmp_path_factory.mktemp("cache")))


def alike(samples: list[Sample], expected: list[Sample]) -> None:
    for ours, other in zip(samples, expected, strict=True):
        for field in fields(Sample):
            one, two = getattr(ours, field.name), getattr(other, field.name)
            assert torch.equal(one, two) if isinstance(two, Tensor) else one == two, field.name


@pytest.mark.parametrize("how", ["masked", "first-frame"])
def test_motion_samples_are_windows_with_token_and_caption(how: str) -> None:
    clip, prompt = small_clip(), {"token": "s0me0ne"}
    video, motion = to_unit(torch.from_numpy(clip.frames_THWC)), {"window": 5, "conditioning": how}
    windows = [
        motion_sample(video, clip.keep(), start, 5, how, f"s0me0ne {CAPTION}") for start in (0, 4)
    ]
    alike(motion_samples(clip, CAPTION, configured(prompt=prompt, motion=motion)), windows)
    colours = configured(prompt=prompt, motion=motion | {"augment": "colour"})
    orders = [recoloured(window, order) for window in windows for order in COLOUR_ORDERS]
    alike(motion_samples(clip, CAPTION, colours), orders)
    grid = configured(prompt=prompt, motion=motion | {"masking": "grid"})
    sampled = motion_samples(clip, CAPTION, grid)
    alike(sampled[:2], windows)
    assert len(sampled) == (4 if how == "masked" else 2)
    for sample, window in zip(sampled[2:], windows, strict=how == "masked"):
        assert torch.equal(sample.target_CTHW, window.target_CTHW)
        assert sample.keep_THW[0].all()
        assert 0.4 < sample.keep_THW[1:].mean() < 0.6
    assert configured(prompt={"token": ""}).prompt.with_token(CAPTION) == CAPTION


def test_a_removal_is_learned_from_masks_beside_the_object() -> None:
    clip, motion = small_clip(), {"window": 5, "task": "remove", "masking": "grid"}
    samples = motion_samples(clip, CAPTION, configured(motion=motion))
    inside = clip.keep() == 0
    for sample in samples:
        start = int(sample.name.split()[1].partition("-")[0])
        own = inside[start : start + 5]
        assert sample.ignored_THW is not None
        assert torch.equal(sample.ignored_THW, own)
        assert not sample.keep_THW[own].any()
        assert sample.prompt.endswith(CAPTION)
    moved = [sample for sample in samples if "moved" in sample.name]
    assert {sample.name.partition(" moved")[0] for sample in moved} == {"motion 0-4", "motion 4-8"}
    assert len(samples) - len(moved) == 2  # of the grid
    again = motion_samples(clip, CAPTION, configured(motion=motion))
    assert [one.name for one in again] == [one.name for one in samples]


def test_where_the_mask_cannot_be_moved_is_told(caplog: pytest.LogCaptureFixture) -> None:
    clip, config = small_clip(), configured(motion={"window": 5, "task": "remove"})
    clip.labels_THW[6:] = 1
    samples = motion_samples(clip, CAPTION, config)
    assert all(sample.name.startswith("motion 0-4") for sample in samples)
    assert "no free place" in caplog.text
    assert "motion 4-8" in caplog.text
    clip.labels_THW[:] = 1
    with pytest.raises(UserError, match="free place"):
        motion_samples(clip, CAPTION, config)


@pytest.mark.parametrize("reference", ["edited-first-frame", "source", "masked"])
@pytest.mark.parametrize("how", ["masked", "anchored", "first-frame"])
def test_a_keyframe_has_its_own_mask_source_and_caption(how: str, reference: str) -> None:
    clip, edit = small_clip(), small_edit()
    first, expected = unit(edit.first.image_HWC), []
    for frame, edited in edit.keyframes.items():
        source, keep = unit(clip.frames_THWC[frame]), clip.keep()[frame]
        assert not torch.equal(keep, clip.keep()[0])
        shown = {
            "edited-first-frame": first,
            "source": source,
            "masked": torch.where(keep > 0, source, 0.0),
        }[reference]
        answer, prompt = unit(edited.image_HWC), f"s0me0ne {edited.caption}"
        sample = appearance_sample(frame, answer, source, keep, shown, how, prompt)
        expected.append(anchored(sample, first, frame, 4) if how == "anchored" else sample)
    appearance = {"conditioning": how, "reference": reference}
    config = configured(prompt={"token": "s0me0ne"}, appearance=appearance)
    alike(appearance_samples(clip, edit, config, 4), expected)


@pytest.mark.parametrize(("how", "warned"), [("anchored", True), ("masked", False)])
def test_anchored_keyframes_of_one_latent_frame_are_told(
    caplog: pytest.LogCaptureFixture, how: str, warned: bool
) -> None:
    clip, edit = small_clip(), small_edit()
    config = configured(appearance={"conditioning": how})
    appearance_samples(clip, edit, config, 4)
    assert not caplog.messages
    appearance_samples(clip, edit, config, 8)
    told = "edited frames 4 and 8 are in one latent frame"
    assert [told in message for message in caplog.messages] == [True] * warned


def test_every_number_reaches_the_stages_run() -> None:
    config = configured(
        motion={"steps": 3},
        appearance={"steps": 4},
        optimizer={"type": "adamw", "lr": 0.125, "weight_decay": 0.25},
        training={
            "seed": 5, "timestep_sample_method": "logit_normal", "shift": 6.0,
            "inside_weight": 7.0, "gradient_clipping": 8.0, "gradient_accumulation_steps": 9,
            "checkpoint_every": 10,
        },
    )  # fmt: skip
    for stage, steps, seed in (("motion", 3, 5), ("appearance", 4, 6)):
        run = stage_run(config, stage, Expert())
        assert (run.title, run.steps, run.seed) == (stage, steps, seed)
        assert (run.optimizer, run.training) == (config.optimizer, config.training)


def test_weight_decay_shrinks_what_has_no_gradient(
    model: VideoModel, windows: list[EncodedSample], tmp_path: Path
) -> None:
    """While B is zero, A has no gradient: the first step only decays it."""
    config = configured(
        optimizer={"type": "adamw", "lr": 0.5, "weight_decay": 0.25}, motion={"steps": 1}
    )
    transformer, run = injected(model), RunFolder(tmp_path)
    start = {n: p.detach().clone() for n, p in transformer.named_parameters() if "lora_A" in n}
    plan = stage_run(config, "motion", Expert())
    train(model, transformer, choose_uniformly(windows), plan, run, {}, {})
    trained = dict(transformer.named_parameters())
    assert start
    for name, before in start.items():
        assert before.abs().max() > 0.01
        assert torch.allclose(trained[name], before * (1 - 0.5 * 0.25), atol=1e-6)


@pytest.mark.parametrize("clipping", [1e-3, 1e6])
def test_a_step_is_no_longer_than_the_largest_gradient(
    model: VideoModel, windows: list[EncodedSample], clipping: float
) -> None:
    """Plain gradient descent at rate 1 moves by the gradient itself."""
    transformer = injected(model)
    parameters = lora.trainable(transformer)
    start = [parameter.detach().clone() for parameter in parameters]
    optimizer = torch.optim.SGD(parameters, lr=1.0)
    config = configured(training={"gradient_clipping": clipping})
    plan = stage_run(config, "motion", Expert())
    entry = train_step(model, transformer, optimizer, choose_uniformly(windows), plan, 1).read()
    moves = [(now - old).flatten() for now, old in zip(parameters, start, strict=True)]
    assert entry.gradient_norm > 2e-3, "the metrics tell the norm before clipping"
    expected = min(clipping, entry.gradient_norm)
    assert torch.cat(moves).norm().item() == pytest.approx(expected, rel=1e-3)


def test_appearance_goes_on_from_the_motion_lora(prepared: Prepared) -> None:
    """One step at rate r moves no weight much further than r; fresh weights lie further apart."""
    rate = 1e-3
    root = prepared(*sets("motion.steps=6", "appearance.steps=1", f"optimizer.lr={rate}"))
    (root / "edits" / "00008.png").write_bytes((root / "edits" / "00000.png").read_bytes())
    workspace, config = Workspace(root), load_config(root / "edit.toml")
    train_stages(config, workspace, "all", None, resume=False)
    motion = lora.read(RunFolder(workspace.run_dir("motion")).adapter(6)).tensors
    appearance = lora.read(RunFolder(workspace.run_dir("appearance")).adapter(1)).tensors
    assert motion.keys() == appearance.keys()
    for name, learned in motion.items():
        assert learned.abs().max() > 3 * rate
        assert (appearance[name] - learned).abs().max() < 1.1 * rate
    assert any(not torch.equal(appearance[name], motion[name]) for name in motion)


def test_source_and_edit_have_captions_of_their_own(prepared: Prepared) -> None:
    root = prepared()
    workspace, config = Workspace(root), load_config(root / "edit.toml")
    edit = load_edit(workspace, config, load_clip(workspace, config), None)
    assert source_caption(workspace, config) == "a blue ball"
    assert edit.first.caption == "an orange ball"


def test_what_is_done_is_not_done_again(done: Path, run: Run) -> None:
    answer = run("train", *at(done))
    assert "motion: done already" in answer.err
    assert "appearance: done already" in answer.err


def test_a_changed_keyframe_trains_appearance_alone(copied: Path, run: Run) -> None:
    repaint(copied, 8, (44, 44, 20, 20))
    answer = run("infer", *at(copied))
    assert "the LoRA was trained before keyframes changed" in answer.err
    answer = run("train", *at(copied))
    assert "motion: done already" in answer.err
    assert "appearance: retraining: keyframes changed" in answer.err


def test_more_steps_continue_what_is_there(copied: Path, run: Run) -> None:
    answer = ok(run("train", *at(copied, "motion.steps=3"), "--stage", "motion", "--resume"))
    assert "motion: continues after step 2 of 3" in answer.err
    assert (copied / ADAPTER).is_file()


def test_a_changed_caption_and_new_masks_train_motion_again(copied: Path, run: Run) -> None:
    mask = copied / "masks" / "00004.png"
    before = read_labels(mask) > 0
    changed = at(copied, "mask.margin=0.4", "prompt.caption=a green ball")
    answer = run("train", *changed, "--stage", "motion")
    after = read_labels(mask) > 0
    assert "masks: made anew" in answer.err
    assert "motion: retraining: caption, masks changed" in answer.err
    assert after.sum() > before.sum()
    assert (after | ~before).all()


def test_masks_changed_by_hand_are_kept(copied: Path, run: Run) -> None:
    mask = copied / "masks" / "00004.png"
    labels = read_labels(mask)
    labels[:8, :8] = 1
    write_labels(mask, labels)
    answer = run("train", *at(copied, "mask.margin=0.4"), "--stage", "motion")
    assert "changed by hand" in answer.err
    assert np.array_equal(read_labels(mask), labels)


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
    run: Run, prepared: Prepared, deep_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut, whole = (prepared(*sets(f"model.path={deep_model}"), *STEPS) for _ in range(2))
    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", failing(loop.train_step, lambda call: call > 1))
        answer = run("train", *at(cut))
    assert answer.status == 1
    assert "5 of 5 blocks are streamed from now on" in answer.err
    assert "step 1 is saved; train with --resume continues there" in answer.err
    *_, message = answer.err.partition("What would need less:\n")
    assert "  to end what else uses the GPU" in message  # of so small a base nothing else helps
    ok(run("train", *at(cut), "--resume"))
    ok(run("train", *at(whole)))
    ours, others = (lora.read(root / ADAPTER).tensors for root in (cut, whole))
    assert all(torch.equal(ours[name], others[name]) for name in others)


def test_what_was_given_back_stays_so_for_the_run_and_is_no_measure_for_plans(
    run: Run, prepared: Prepared, deep_model: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    root = prepared("--set", f"model.path={deep_model}", *STEPS)
    monkeypatch.setattr(loop, "train_step", failing(loop.train_step, lambda call: call in (2, 3)))
    ok(run("train", *at(root)))
    assert not (tmp_path / "home-cache" / "maskora" / "timings.json").exists()
    monkeypatch.setattr(Wan21, "predict", failing(Wan21.predict, lambda call: call == 2))
    answer = ok(run("infer", *at(root)))
    assert "what is denoised together goes one after the other" in answer.err


def test_what_needs_less_is_told_of_an_encoder_too(
    run: Run, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of an encoder can be given back: all its layers are streamed anyway."""
    root = prepared(*STEPS)

    def full(*_: Any) -> None:
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate")

    monkeypatch.setattr("maskora.app.train.encode_together", full)
    answer = run("train", *at(root))
    assert answer.status == 1
    assert "CUBLAS_STATUS_ALLOC_FAILED" in answer.err
    assert "What would need less:\n" in answer.err


def flip(path: Path) -> None:
    """One other bit of a file's content, as a disk has it."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["adapter.safetensors", "optimizer.pt"])
def test_resuming_goes_on_from_the_step_before_a_damaged_one(
    run: Run, prepared: Prepared, name: str
) -> None:
    settings = sets("motion.steps=4", "training.checkpoint_every=1")
    root, adapter = prepared(*settings), Path("runs/motion/step-00004/adapter.safetensors")
    whole = prepared(*settings)
    ok(run("train", *at(whole)))
    ok(run("train", *at(root, "motion.steps=3")))
    flip(root / f"runs/motion/step-00003/{name}")
    answer = ok(run("train", *at(root), "--resume"))
    assert f"step-00003/{name} is damaged" in answer.err
    assert "motion: continues after step 2 of 4" in answer.err
    assert (root / adapter).read_bytes() == (whole / adapter).read_bytes()
    losses = [
        [entry.loss for entry in read_metrics(one / "runs/motion/metrics.jsonl")]
        for one in (root, whole)
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 4


def test_a_damaged_lora_is_never_done_already_and_never_used(run: Run, prepared: Prepared) -> None:
    root = prepared(*STEPS)
    ok(run("train", *at(root)))
    expected = (root / ADAPTER).read_bytes()
    flip(root / ADAPTER)
    refused(run("infer", *at(root)), f"{ADAPTER} is damaged: train --resume makes it again")
    refused(run("export", root, root / "lora.safetensors"), f"{ADAPTER} is damaged")
    answer = ok(run("train", *at(root)))
    assert f"starts again because {root / ADAPTER} is damaged" in answer.err
    assert (root / ADAPTER).read_bytes() == expected
    assert "done already" in ok(run("train", *at(root))).err


def test_a_loss_that_was_not_drawn_is_drawn_when_the_run_is_done(
    run: Run, prepared: Prepared
) -> None:
    """As after a kill between the last checkpoint and the drawing."""
    root = prepared(*STEPS)
    ok(run("train", *at(root)))
    picture = root / "runs/motion/loss.png"
    drawn = picture.read_bytes()
    picture.unlink()
    assert "done already" in ok(run("train", *at(root))).err
    assert picture.read_bytes() == drawn


def test_other_tiles_of_the_vae_are_told_and_no_reason_to_train_again(
    copied: Path, run: Run, small_tiles: None
) -> None:
    command = ["train", *at(copied, "motion.steps=3"), "--stage", "motion", "--resume"]
    earlier = copied / "runs" / "motion" / "step-00002" / "adapter.safetensors"
    assert lora.read_metadata(earlier)["vae_tiling"] == "whole pictures"
    answer = ok(run(*command))
    assert "motion: continues after step 2" in answer.err
    assert (
        f"note: {earlier} was trained on latents that the VAE made of whole pictures, and here, as "
        f"the memory allows, it takes tiles of 128 pixels"
    ) in answer.err
    newer = copied / "runs" / "motion" / "step-00003" / "adapter.safetensors"
    both = "whole pictures, then tiles of 128 pixels"
    assert lora.read_metadata(newer)["vae_tiling"] == both
    assert "motion: done already" in ok(run(*command)).err
    answer = ok(run("infer", *at(copied), "--lora", newer))
    assert f"note: {newer} was trained on latents that the VAE made of {both}" in answer.err
